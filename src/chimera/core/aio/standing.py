"""The works of a process that stand still: which, since when, after how many tries, and why."""

from __future__ import annotations

from datetime import datetime
from operator import itemgetter
from typing import NamedTuple

from chimera.core.clock import Clock

TOLD_S = 30.0
"""For how long a process tells of something that has happened: a few looks of whoever asks whether it is ready."""


class Stuck(NamedTuple):
    """A work that does not get on: its name, since when, how often it was tried, and what it failed with last.

    With no `tries`, the `cause` is what somebody else sees of it, or what happened to it that a person has to know.
    """

    work: str
    since: datetime
    tries: int
    cause: str


class _Trouble:
    def __init__(self, clock: Clock) -> None:
        self.began, self.since = clock.monotonic(), clock.now()
        self.tries = 0
        self.cause = ""
        self.tried_at = self.began


class Troubles:
    """What fails again and again in this process. A work that fails now and then is none of it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], _Trouble] = {}
        self._told: dict[str, tuple[float, Stuck]] = {}

    def tell(self, what: Stuck, clock: Clock) -> None:
        """Something has happened to a work: it is among what stands still for TOLD_S seconds."""
        self._told[what.cause] = clock.monotonic(), what

    def failed(self, work: str, cause: str, clock: Clock, who: int = 0) -> None:
        """A work has failed once more, since it last got on. `who`: which of several that do it."""
        trouble = self._found.setdefault((work, who), _Trouble(clock))
        trouble.tries += 1
        trouble.cause = cause
        trouble.tried_at = clock.monotonic()

    def gets_on(self, work: str, who: int = 0) -> None:
        """A work gets on, or is not wanted any more."""
        self._found.pop((work, who), None)

    def failed_within(self, clock: Clock, seconds: float) -> bool:
        """True where any work has failed within the last so many seconds."""
        now = clock.monotonic()
        return any(now - each.tried_at < seconds for each in self._found.values())

    def standing(self, clock: Clock, after_s: float) -> list[Stuck]:
        """The works that have failed for at least so many seconds, and no longer ago; and what was told just now."""
        now = clock.monotonic()
        self._told = {cause: (at, what) for cause, (at, what) in self._told.items() if now < at + TOLD_S}
        return [what for _, what in self._told.values()] + [
            Stuck(work, each.since, each.tries, each.cause)
            for (work, _), each in sorted(self._found.items(), key=itemgetter(0))
            if each.tried_at - each.began >= after_s >= now - each.tried_at
        ]
