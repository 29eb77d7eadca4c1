"""A circuit breaker: whoever has failed again and again is left alone for a while (Nygard, "Release It!", 2007)."""

from __future__ import annotations

from typing import Literal

from chimera.core.clock import Clock

Circuit = Literal["closed", "open", "half-open"]

FAILURES = 3
PAUSE_S = 0.5


class Breaker:
    """Says whether to call. Closed: yes. After `failures` in a row it is open: no, for `pause_s` seconds.

    Then it is half-open: one call may try, and closes it or opens it again.
    """

    def __init__(self, clock: Clock, *, failures: int = FAILURES, pause_s: float = PAUSE_S) -> None:
        self._most = failures
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._open_until = float("-inf")
        self._probing = False

    @property
    def state(self) -> Circuit:
        """The state now: `closed`, `open` or `half-open`."""
        if self._failures < self._most:
            return "closed"
        return "open" if self._probing or self._clock.monotonic() < self._open_until else "half-open"

    def admits(self) -> bool:
        """True when a call may be made now; who is told so must report `succeeded` or `failed`."""
        state = self.state
        self._probing = self._probing or state == "half-open"
        return state != "open"

    def succeeded(self) -> None:
        """A call was answered."""
        self._failures = 0
        self._probing = False

    def failed(self) -> None:
        """A call failed, or took too long."""
        self._failures += 1
        self._probing = False
        self._open_until = self._clock.monotonic() + self._pause_s
