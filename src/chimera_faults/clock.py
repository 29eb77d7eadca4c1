"""A clock that jumps: the wall clock of a process, as Chimera reads it; the monotonic one stays."""

from __future__ import annotations

import time
from collections.abc import Callable

from chimera.core.clock import Clock


def install(offset_s: Callable[[], float]) -> None:
    """Set this process's wall clock forward by whatever `offset_s` says at that moment, in seconds."""
    real = time.time

    def shifted(clock: Clock | None = None) -> float:
        return real() + offset_s()

    time.time = shifted
    Clock.time = shifted
