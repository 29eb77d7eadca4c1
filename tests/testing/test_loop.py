"""The simulator's event loop: virtual time, processes that are killed, one order from one seed, nothing real."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from chimera.testing.virtual.clock import EPOCH_S, SimClock
from chimera.testing.virtual.fence import fenced
from chimera.testing.virtual.loop import SimLoop, SimulationError, Unraised, new_loop


def ran(work: Coroutine[Any, Any, Any], seed: int = 1) -> Any:
    loop = new_loop(seed)
    try:
        with fenced(loop):
            return loop.run(work)
    finally:
        loop.scrap()


def test_time_begins_at_zero_and_goes_on_only_when_nobody_can_run() -> None:
    async def work() -> float:
        loop = asyncio.get_running_loop()
        assert loop.time() < 0.001
        await asyncio.sleep(3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7200):
                await loop.create_future()
        return loop.time()

    began = time.perf_counter()
    assert ran(work()) == pytest.approx(10_800, abs=0.01)
    assert time.perf_counter() - began < 5


def test_what_never_happens_is_said() -> None:
    async def work() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(SimulationError, match="nothing will ever happen"):
        ran(work())


async def tick(seen: list[str], name: str, times: int = 5) -> None:
    try:
        for number in range(times):
            seen.append(f"{name}{number}")
            await asyncio.sleep(0.01)
    finally:
        seen.append(f"{name} ended")


def test_who_is_killed_runs_no_finally_and_nothing_more() -> None:
    seen: list[str] = []

    async def work(loop: SimLoop) -> None:
        process = loop.process("a/write/0#1")
        process.spawn(tick(seen, "a"))
        other = loop.process("b/write/0#1").spawn(tick(seen, "b"))
        await asyncio.sleep(0.025)
        process.kill()
        await other

    loop = new_loop(1)
    with fenced(loop):
        loop.run(work(loop))
    loop.scrap()
    assert "b ended" in seen
    assert "a2" in seen
    assert "a4" not in seen
    assert "a ended" not in seen
    with Unraised():
        del loop


def test_who_is_paused_goes_on_later() -> None:
    seen: list[str] = []

    async def work(loop: SimLoop) -> None:
        process = loop.process("a/write/0#1")
        task = process.spawn(tick(seen, "a"))
        await asyncio.sleep(0.025)
        process.pause()
        await asyncio.sleep(10)
        assert "a4" not in seen
        process.resume()
        await task

    loop = new_loop(1)
    loop.run(work(loop))
    loop.scrap()
    assert seen[-1] == "a ended"


async def crowd(loop: SimLoop) -> list[str]:
    seen: list[str] = []
    processes = [loop.process(f"{name}/write/0#1") for name in "abc"]
    tasks = {process.spawn(tick(seen, process.name[0] + twin)) for process in processes for twin in "xy"}
    done, _ = await asyncio.wait(tasks)
    return [*seen, *(str(task.number) for task in done)]


def crowded(seed: int, *, shuffle: bool = False) -> tuple[list[str], int]:
    loop = new_loop(seed, shuffle=shuffle)
    try:
        return loop.run(crowd(loop)), loop.digest
    finally:
        loop.scrap()


def test_a_seed_is_one_order_and_another_seed_another_one() -> None:
    assert crowded(1) == crowded(1)
    assert crowded(1)[0] != crowded(2)[0]
    assert crowded(1)[1] != crowded(1, shuffle=True)[1]


def test_time_and_chance_come_from_the_seed() -> None:
    async def work() -> list[object]:
        return [time.time(), time.monotonic(), uuid.uuid4(), random.random(), SimClock(loop).new_id()]

    loop = new_loop(5)
    with fenced(loop):
        first = loop.run(work())
    loop.scrap()
    loop = new_loop(5)
    with fenced(loop):
        assert loop.run(work()) == first
    loop.scrap()
    assert first[0] == pytest.approx(EPOCH_S, abs=1)
    assert time.time() > EPOCH_S


def test_a_process_may_have_a_wrong_clock() -> None:
    async def look() -> float:
        return time.time()

    async def work(loop: SimLoop) -> tuple[float, float]:
        process = loop.process("a/write/0#1")
        process.skew(12.5)
        return await process.spawn(look()), await look()

    loop = new_loop(1)
    with fenced(loop):
        skewed, right = loop.run(work(loop))
    loop.scrap()
    assert skewed - right == pytest.approx(12.5, abs=0.01)


async def sleeps() -> None:
    time.sleep(0.01)  # noqa: ASYNC251 - this is what is refused


async def opens_a_socket() -> None:
    socket.socket()


async def starts_a_thread() -> None:
    threading.Thread(target=print).start()


async def goes_to_a_thread() -> None:
    await asyncio.to_thread(print)


async def connects() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def listens() -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


@pytest.mark.parametrize("work", [sleeps, opens_a_socket, starts_a_thread, goes_to_a_thread, connects, listens])
def test_what_reaches_out_is_refused(work: Any) -> None:
    with pytest.raises(SimulationError, match="world"):
        ran(work())


def test_outside_of_a_simulation_nothing_is_refused() -> None:
    ran(asyncio.sleep(0))
    time.sleep(0)
    socket.socket().close()


def test_a_generator_that_is_left_is_closed_by_its_process() -> None:
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0.1)
            closed.append("closed")

    async def work() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(1)

    ran(work())
    assert closed == ["closed"]
