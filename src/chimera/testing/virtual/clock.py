"""Time and chance of a simulated process."""

from __future__ import annotations

from chimera.core.clock import Clock
from chimera.testing.virtual.loop import PROCESS, SimLoop

EPOCH_S = 1_767_225_600.0
"""The wall time at which every simulation begins: 2026-01-01T00:00:00Z."""


class SimClock(Clock):
    """The loop's time, and the chance of whichever process asks. The wall clock of a process may be wrong."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def time(self) -> float:
        return EPOCH_S + self._loop.now + PROCESS.get(self._loop.world).skew_s

    def random(self) -> float:
        return PROCESS.get(self._loop.world).chance.random()

    def random_bytes(self, count: int) -> bytes:
        return PROCESS.get(self._loop.world).chance.randbytes(count)
