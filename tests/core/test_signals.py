"""Waking those who wait."""

import asyncio

from chimera.core.aio.signals import Signal


async def test_everybody_who_waits_is_woken_once() -> None:
    signal = Signal()
    waiting = [asyncio.ensure_future(signal.wait(5.0)) for _ in range(3)]
    await asyncio.sleep(0)
    signal.notify()
    signal.notify()
    assert await asyncio.gather(*waiting) == [True, True, True]


async def test_who_waits_too_long_is_told_so() -> None:
    assert not await Signal().wait(0.001)


async def test_a_notification_before_the_waiting_is_not_remembered() -> None:
    signal = Signal()
    signal.notify()
    assert not await signal.wait(0.001)


async def test_waiting_can_be_cancelled_and_leaves_nothing_behind() -> None:
    signal = Signal()
    waiting = asyncio.ensure_future(signal.wait(60.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert not signal._waiters
    signal.notify()


async def test_a_waiter_that_waits_again_while_it_is_woken_waits_for_the_next_time() -> None:
    signal, woken = Signal(), []

    async def work() -> None:
        for _ in range(2):
            woken.append(await signal.wait(5.0))

    working = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    signal.notify()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert woken == [True]
    signal.notify()
    await working
    assert woken == [True, True]
