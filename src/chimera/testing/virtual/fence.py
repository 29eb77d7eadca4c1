"""A fence around a simulation: within it time and chance come from the seed, and what reaches out of it raises.

Chimera's own code takes both from its `Clock`. This is for the services' code: `time.time()`, `random.random()` or
`uuid.uuid4()` in a handler give what the simulation says. `datetime.now()` can't be replaced in that way; where a run
depends on it, two runs of a seed differ, which `simulate` finds and says.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from chimera.testing.virtual.clock import SimClock
from chimera.testing.virtual.loop import PROCESS, SimLoop, SimulationError

_REACHING_OUT = {
    "socket.__new__": "opens a socket",
    "socket.getaddrinfo": "looks up a host",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.fork": "starts a process",
    "_thread.start_new_thread": "starts a thread",
    "time.sleep": "sleeps with time.sleep",
}
"""The audit events of what can't be repeated, in words."""

_fences: list[SimLoop] = []
"""The simulation that runs now. An audit hook can't be taken back, so the only one looks here whether it matters."""


@contextmanager
def fenced(loop: SimLoop) -> Iterator[None]:
    """Time and chance are the simulation's, and real I/O, threads and sleeps raise SimulationError, in this block."""
    if not _fences:
        _install()
    clock = SimClock(loop)
    state = random.getstate()
    random.seed(loop.world.chance.getrandbits(64))
    replaced: list[tuple[Any, str, Any]] = [
        (time, "time", clock.time),
        (time, "time_ns", lambda: int(clock.time() * 1e9)),
        (time, "monotonic", clock.monotonic),
        (time, "monotonic_ns", lambda: int(clock.monotonic() * 1e9)),
        (time, "perf_counter", clock.monotonic),
        (time, "perf_counter_ns", lambda: int(clock.monotonic() * 1e9)),
        (time, "sleep", _slept),
        (threading.Thread, "start", _started),
        (os, "urandom", clock.random_bytes),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, value in replaced:
        setattr(module, name, value)
    _fences.append(loop)
    try:
        yield
    finally:
        _fences.pop()
        for module, name, value in kept:
            setattr(module, name, value)
        random.setstate(state)


_installed: list[bool] = []


def _install() -> None:
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_audit)


def _audit(event: str, _: tuple[object, ...]) -> None:
    if _fences and event in _REACHING_OUT:
        _refuse(_REACHING_OUT[event])


def _slept(_: float) -> NoReturn:
    _refuse(_REACHING_OUT["time.sleep"])


def _started(_: threading.Thread) -> NoReturn:
    _refuse(_REACHING_OUT["_thread.start_new_thread"])


def _refuse(what: str) -> NoReturn:
    process = PROCESS.get(_fences[-1].world)
    raise SimulationError(
        f"{process.name} {what}: in a simulation nothing waits for the real world; await asyncio.sleep, or replace "
        "what calls it"
    )
