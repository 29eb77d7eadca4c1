"""A clock that jumps: the wall clock of a process, as Chimera and Python code read it; the monotonic one stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from typing import Any

from chimera import execution, messages, parking, write_head
from chimera.leases import Leases


def install(offset_s: Callable[[], float]) -> None:
    """Set this process's wall clock forward by whatever `offset_s` says at that moment, in seconds."""
    real = time.time

    def shifted() -> float:
        return real() + offset_s()

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=offset_s())

    time.time = shifted
    assert Leases.__init__.__kwdefaults__ is not None
    Leases.__init__.__kwdefaults__["clock"] = shifted
    reading: tuple[Any, ...] = (execution, messages, parking, write_head)
    for module in reading:
        module.datetime = Shifted
