"""Doing things again: works that must go on, and what is due now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from chimera.core.aio.signals import A_DAY_S
from chimera.core.aio.standing import Troubles
from chimera.core.aio.tasks import stop
from chimera.core.clock import Clock
from chimera.core.timing import Timing, pause_s
from chimera.errors import ChimeraError, Trimmed, Unavailable

logger = logging.getLogger("chimera")

LATE = 1.1
"""A work that is due every so many seconds may be a tenth of them late, or early: workers shall not do it together."""


async def persist(
    name: str, work: Callable[[], Awaitable[None]], clock: Clock, timing: Timing, troubles: Troubles
) -> None:
    """Do a work, and again whenever it ends, after a pause that grows when it fails. Ends only when cancelled."""
    try:
        await _persist(name, work, clock, timing, troubles)
    finally:
        troubles.gets_on(name)


async def _persist(
    name: str, work: Callable[[], Awaitable[None]], clock: Clock, timing: Timing, troubles: Troubles
) -> None:
    failures = 0
    while True:
        started = clock.monotonic()
        error = await _end_of(work())
        if error is None:
            continue
        if clock.monotonic() - started > timing.restart_longest_s:
            failures = 0
            troubles.gets_on(name)
        failures += 1
        troubles.failed(name, cause_of_all(error), clock)
        pause = pause_s(failures, timing.restart_first_s, timing.restart_longest_s)
        expected, gone = _are_all(error, Unavailable), _are_all(error, Trimmed)
        logger.log(
            logging.ERROR if gone else logging.INFO if failures < 4 and expected else logging.WARNING,
            "%s: %s; again in %.2f s",
            name,
            error,
            pause,
            exc_info=None if expected or gone else error,
        )
        await clock.sleep(pause)


async def rarely(held: Collection[int], every_s: float, work: Callable[[], Awaitable[object]], clock: Clock) -> None:
    """Do a work of a service in the worker that holds its first partition, until cancelled; others only wait.

    At times, as long as there was something to do; else more and more rarely, up to once a day.
    """
    if 0 in held:
        await at_times(every_s, work, clock, longest_s=max(A_DAY_S, every_s))
    else:
        await clock.sleep(A_DAY_S)


async def at_times(
    every_s: float, work: Callable[[], Awaitable[object]], clock: Clock, *, longest_s: float = 0.0
) -> None:
    """Do a work about every so many seconds, at times that differ between workers; what fails is left to the next.

    With `longest_s` the times between double, up to that, as long as the work returns false: nothing was to be done.
    """
    pause, first_s = every_s * clock.random(), every_s
    while True:
        await clock.sleep(pause)
        try:
            every_s = first_s if await work() else min(2 * every_s, max(longest_s, first_s))
        except Unavailable as error:
            logger.info("what is due has to wait: %s", error)
        pause = every_s * (2 - LATE + 2 * (LATE - 1) * clock.random())


async def _end_of(work: Awaitable[None]) -> BaseException | None:
    """Do the work and return what ended it. Cancelled, it stops the work and raises, whatever the work does."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait([working])
    finally:
        await stop(working)
    return asyncio.CancelledError("cancelled from within") if working.cancelled() else working.exception()


def cause_of_all(error: BaseException) -> str:
    """The first cause in a group of errors, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, ChimeraError) else f"{type(error).__name__}: {text}"


def _are_all(error: BaseException, kind: type[ChimeraError]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_are_all(inner, kind) for inner in error.exceptions)
    return isinstance(error, kind)
