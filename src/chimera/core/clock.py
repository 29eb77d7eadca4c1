"""Time and chance, handed in: the only place that asks the system for either (invariant 11)."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """Wall and monotonic time, sleep, and randomness, as the system has them.

    A simulation hands in a subclass, and everything that Chimera does follows that one. Timeouts (`asyncio.timeout`,
    `call_later`) follow the event loop, whose time must run with `monotonic`.
    """

    _second: tuple[int, str] = (-1, "")
    """The second that was written last, and how."""

    # The system's own functions, without one of ours around them: a page asks for the time several times.
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    """Seconds since some moment in the past; they never go back."""
    time: Callable[[], float] = staticmethod(time.time)
    """Wall time, in seconds since the epoch."""
    random: Callable[[], float] = staticmethod(random.Random().random)  # noqa: S311 - no secret
    """A random number from 0.0 to below 1.0; no secret. It leaves alone whoever has seeded the module's own."""
    random_bytes: Callable[[int], bytes] = staticmethod(os.urandom)
    """So many random bytes, that nobody can guess."""

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        await asyncio.sleep(seconds)

    def now(self) -> datetime:
        """Wall time, in UTC."""
        return datetime.fromtimestamp(self.time(), UTC)

    def stamp(self) -> str:
        """Wall time as messages carry it: RFC 3339 in UTC, to the microsecond."""
        moment = self.time()
        second = int(moment)
        if self._second[0] != second:  # written once a second: a process stamps every command
            self._second = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second[1]}.{min(999_999, round((moment - second) * 1_000_000)):06d}Z"

    def new_id(self) -> str:
        """A UUID of version 7 (RFC 9562): ordered by time, so that it is cheap to keep in an index."""
        moment, chance = f"{int(self.time() * 1000):012x}", self.random_bytes(10).hex()
        variant = "89ab"[int(chance[3], 16) & 0x3]
        return f"{moment[:8]}-{moment[8:]}-7{chance[:3]}-{variant}{chance[4:7]}-{chance[7:19]}"


def stamp_of(moment: datetime) -> str:
    """A moment in UTC as messages carry it: RFC 3339, to the microsecond. Such texts are ordered as their times are."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
