"""A thread that names the handlers, reactions and queries that keep the event loop, and with it everybody else."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import CodeType, FrameType

from chimera.core.clock import Clock
from chimera.service import Service

logger = logging.getLogger("chimera")

BEAT_S = 0.1
"""Seconds between two signs of life of the event loop."""
LONG_S = 0.25
"""A loop that was silent for longer was kept by somebody."""


class Watchdog:
    """Looks at the event loop from a thread. `beat` is to be called by the loop; `look` by the thread."""

    def __init__(self, services: Sequence[Service], clock: Clock, thread: int) -> None:
        self._known = _functions_of(services)
        self._clock = clock
        self._thread = thread
        self._last = clock.monotonic()
        self._at = ""

    def beat(self) -> None:
        """The loop goes on. Tells who kept it, if anybody was seen."""
        now = self._clock.monotonic()
        silent_s, self._last = now - self._last, now
        if self._at and silent_s > LONG_S:
            logger.warning("%s, and kept everything in this process waiting for %.2f s", self._at, silent_s)
        self._at = ""

    def look(self) -> None:
        """See who keeps the loop, once it was silent for long."""
        if not self._at and self._clock.monotonic() - self._last > LONG_S:
            self._at = self._who(sys._current_frames().get(self._thread))  # noqa: SLF001 - the only way to see a thread

    def _who(self, frame: FrameType | None) -> str:
        at = "" if frame is None else f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
        while frame is not None:
            if frame.f_code in self._known:
                place = f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
                return f"{self._known[frame.f_code]} did not let go at {place}{f' (in {at})' if at != place else ''}"
            frame = frame.f_back
        return ""


@asynccontextmanager
async def watched(services: Sequence[Service], clock: Clock) -> AsyncIterator[None]:
    """Have the running event loop watched, and who keeps it named in the log."""
    watchdog, over, loop = (
        Watchdog(services, clock, threading.get_ident()),
        threading.Event(),
        asyncio.get_running_loop(),
    )

    def watch() -> None:
        while not over.wait(BEAT_S):
            watchdog.look()

    async def live() -> None:
        while True:
            watchdog.beat()
            await clock.sleep(BEAT_S)

    living = loop.create_task(live())
    thread = threading.Thread(target=watch, name="chimera-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        living.cancel()


def _functions_of(services: Sequence[Service]) -> Mapping[CodeType, str]:
    found: dict[CodeType, str] = {}
    for service in services:
        for kind, declared in (
            ("handler", service.handlers),
            ("reaction", service.reactions),
            ("query", service.queries),
            ("upload", service.uploads),
        ):
            for each in declared.values():
                if isinstance(code := getattr(each.function, "__code__", None), CodeType):
                    found[code] = f"{service.name}: the {kind} {each.function.__name__}"
    return found
