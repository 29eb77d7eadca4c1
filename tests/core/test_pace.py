"""Pauses that grow while nothing happens, and end when something does."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from chimera.core.aio.pace import Pace
from chimera.core.aio.signals import Signal
from chimera.testing.virtual.clock import SimClock
from chimera.testing.virtual.loop import new_loop


def times(told_at: float, *, quiet: bool = True, count: int = 12) -> list[float]:
    """When so many looks come, where something is told at a time."""
    loop = new_loop(1)
    found: list[float] = []

    async def work() -> None:
        signal = Signal()
        pace = Pace(1.0, 60.0, signal, SimClock(loop))
        loop.call_later(told_at, signal.notify)
        for _ in range(count):
            found.append(loop.time())
            await pace.pause(quiet=quiet)

    try:
        loop.run(work())
    finally:
        loop.scrap()
    return found


def test_pauses_grow_up_to_the_longest() -> None:
    found = times(1e6)
    pauses = [after - before for before, after in pairwise(found)]
    assert pauses[0] < 1.1
    assert all(45 <= pause <= 75 for pause in pauses[7:])


def test_they_do_not_while_there_is_something_new() -> None:
    assert times(1e6, quiet=False)[-1] < 11.5


def test_what_is_told_ends_a_long_pause_and_the_next_ones_are_short() -> None:
    found = times(100.3)
    after = [at for at in found if at >= 100.3]
    assert after[0] < 100.4
    assert after[1] < after[0] + 1.1


def test_what_is_told_during_a_look_is_looked_at() -> None:
    loop = new_loop(1)

    async def work() -> float:
        signal = Signal()
        pace = Pace(1.0, 60.0, signal, SimClock(loop))
        for _ in range(5):
            await pace.pause(quiet=True)
        await asyncio.sleep(0.1)
        signal.notify()
        before = loop.time()
        await pace.pause(quiet=True)
        return loop.time() - before

    try:
        assert loop.run(work()) < 1.1
    finally:
        loop.scrap()
