"""The switch: how all read heads of a service go over to another setting without anybody seeing less.

A borrow's mode and a view's generation are switched in the same way:

1. The setting is a small document. That something else is *wanted* (a generation: *ready*) is written into it first.
2. Read heads look at it now and then (`Follower`). While a switch is under way they are careful: a read is valid only
   if what it read from was still in force at its end, or had all that the other side had.
3. When it has been wanted for so long that every read head has seen it (`Settling`), and all that it needs is there, it
   flips.
4. A read head that sees the flip reads nothing from the new side before that has what the old one had (`reach`).
5. Once nobody can be reading the old side any more (`Timing.switch_grace_s`), it is dropped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from chimera.core.aio.coalesce import Coalescer
from chimera.core.clock import Clock

Setting = TypeVar("Setting")


class Seen(NamedTuple, Generic[Setting]):
    """A setting as it was looked at; `at`: when the look began (monotonic seconds)."""

    at: float
    setting: Setting


class Follower(Generic[Setting]):
    """A setting as a read head knows it; `read` reads it, `latest` is the newest that was seen.

    At most `concurrency` looks are under way: where it is 1, `read` is never called while it runs.
    """

    def __init__(
        self, read: Callable[[], Awaitable[Setting]], first: Setting, clock: Clock, *, concurrency: int = 1
    ) -> None:
        self._read = read
        self._clock = clock
        self._looks: Coalescer[None, Seen[Setting]] = Coalescer(self._look, concurrency=concurrency)
        self.latest = Seen(float("-inf"), first)

    async def look(self) -> Seen[Setting]:
        """Look now, once however many want to. Raises ChimeraError when the setting can't be read."""
        return await self._looks.submit(None)

    def looked_within(self, seconds: float) -> bool:
        """True when the newest look is at most so many seconds old."""
        return self._clock.monotonic() <= self.latest.at + seconds

    async def _look(self, askers: Sequence[None]) -> Sequence[Seen[Setting]]:
        at = self._clock.monotonic()
        seen = Seen(at, await self._read())
        if at > self.latest.at:
            self.latest = seen
        return [seen] * len(askers)


class Settling(Generic[Setting]):
    """Since when a setting is the same, as far as this process has seen: after `settle_s` every read head follows."""

    def __init__(self, settle_s: float, clock: Clock) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._seen: Setting | None = None
        self._since = clock.monotonic()

    def see(self, setting: Setting) -> bool:
        """Note what is seen now; says whether every read head follows this setting by now."""
        if setting != self._seen:
            self._seen, self._since = setting, self._clock.monotonic()
        return self._clock.monotonic() > self._since + self._settle_s
