"""Time that goes on by itself, and can be moved on."""

from __future__ import annotations

import asyncio
import time

from chimera.core.clock import Clock


class MovedClock(Clock):
    """The system's time, as far ahead as it was moved; whoever sleeps wakes when her time has come."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._moved = asyncio.Event()

    def advance(self, *, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0) -> None:
        """Move on by so much. What is due by then begins at once; waits with a limit of their own go on."""
        self._ahead_s += seconds + 60 * (minutes + 60 * (hours + 24 * days))
        self._second = (-1, "")
        self._moved.set()
        self._moved = asyncio.Event()

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def time(self) -> float:
        return time.time() + self._ahead_s

    async def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        if seconds <= 0:
            await asyncio.sleep(0)
        while (left := until - self.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._moved.wait()
            except TimeoutError:
                return
