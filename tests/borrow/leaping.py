"""A loop whose time is only what is waited for: budgets are kept or not whatever else the machine does.

For tests on engines in memory. With threads, sockets or processes its time would run ahead of them.
"""

from __future__ import annotations

import asyncio
import selectors

from chimera.core.clock import Clock

EPOCH_S = 1_767_225_600.0


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: so long is passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(timeout)
        found = super().select(0)
        if not found:
            self.passed_s += timeout
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop; when nobody has anything to do, time goes on to the next timer."""

    def __init__(self) -> None:
        self._leaping = _Selector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.passed_s


class LoopClock(Clock):
    """The time of the loop that runs."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        return EPOCH_S + self.monotonic()
