"""Telling what one message causes from an engine that is away: what fails together is tried apart, down to one alone.

One that fails alone again and again, while the engine does other work in between, is set aside; the others go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from chimera.core.context import Context
from chimera.core.timing import pause_s
from chimera.errors import ChimeraError, CutShort, Unfit

Item = TypeVar("Item")

Work = Callable[[Sequence[Item]], Awaitable[bool]]
"""Does something with all of these items, or with none and raises. False: there is nothing more to be done now."""
SetAside = Callable[[Item, Exception, int], Awaitable[bool]]
"""Goes on without an item, that failed with this error after so many tries. As `Work` otherwise."""
Answers = Callable[[], Awaitable[object]]
"""Has the engine do something small. Raises Unavailable where it is away."""


def may_be_its_own(error: Exception) -> bool:
    """True for an error that the work itself may have caused; an engine that is away says Unavailable."""
    return not isinstance(error, ChimeraError) or isinstance(error, CutShort | Unfit)


class Apart(Generic[Item]):
    """Does a work on items, in order, and finds those that can't be done."""

    def __init__(self, context: Context, work: Work[Item], set_aside: SetAside[Item], answers: Answers) -> None:
        self._clock = context.clock
        self._timing = context.timing
        self._most = context.retry.cuts
        self._work = work
        self._set_aside = set_aside
        self._answers = answers

    async def run(self, items: Sequence[Item], error: Exception | None = None) -> bool:
        """Do the work on the items: together, or apart where that fails, or has failed with `error`.

        Raises what says that the engine is away.
        """
        if error is None:
            try:
                return await self._work(items)
            except Exception as failed:
                if not may_be_its_own(failed) or not items:
                    raise
                error = failed
        await self._answers()
        if len(items) == 1:
            return await self._alone(items[0], error)
        middle = len(items) // 2
        return await self.run(items[:middle]) and await self.run(items[middle:])

    async def _alone(self, item: Item, error: Exception) -> bool:
        tries = 1
        while tries < self._most and not isinstance(error, Unfit):
            await self._clock.sleep(pause_s(tries, self._timing.restart_first_s, self._timing.restart_longest_s))
            tries += 1
            try:
                return await self._work([item])
            except Exception as again:
                if not may_be_its_own(again):
                    raise
                error = again
            await self._answers()
        return await self._set_aside(item, error, tries)
