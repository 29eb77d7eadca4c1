"""Many callers, one call."""

import asyncio
import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chimera.core.aio.coalesce import Coalescer


class Calls:
    """What is run, with a gate that holds each call back until it is opened."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, items: list[Any]) -> Sequence[Any]:
        self.batches.append(items)
        await self.gate.wait()
        return [ValueError(item) if item == "bad" else f"{item}!" for item in items]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_asked_for_in_one_turn_is_one_call_answered_in_order() -> None:
    calls = Calls()
    coalescer: Coalescer[str, str] = Coalescer(calls.run)
    assert await asyncio.gather(*(coalescer.submit(item) for item in "abca")) == ["a!", "b!", "c!", "a!"]
    assert calls.batches == [["a", "b", "c", "a"]]


async def test_while_a_call_runs_the_others_gather_for_the_next() -> None:
    calls = Calls()
    calls.gate.clear()
    coalescer: Coalescer[str, str] = Coalescer(calls.run)
    futures = [coalescer.submit("a")]
    await turns()
    for item in "bcd":
        futures.append(coalescer.submit(item))
        await turns()
    assert calls.batches == [["a"]]
    assert len(coalescer) == 3
    calls.gate.set()
    assert await asyncio.gather(*futures) == ["a!", "b!", "c!", "d!"]
    assert calls.batches == [["a"], ["b", "c", "d"]]


async def test_as_many_calls_run_at_once_as_are_allowed() -> None:
    calls = Calls()
    calls.gate.clear()
    coalescer: Coalescer[str, str] = Coalescer(calls.run, concurrency=2)
    futures = []
    for item in "abcd":
        futures.append(coalescer.submit(item))
        await turns()
    assert calls.batches == [["a"], ["b"]]
    calls.gate.set()
    await asyncio.gather(*futures)
    assert calls.batches == [["a"], ["b"], ["c", "d"]]


async def test_a_call_takes_no_more_than_its_limit() -> None:
    calls = Calls()
    coalescer: Coalescer[int, str] = Coalescer(calls.run, limit=3)
    await asyncio.gather(*(coalescer.submit(item) for item in range(8)))
    assert [len(batch) for batch in calls.batches] == [3, 3, 2]
    assert [item for batch in calls.batches for item in batch] == list(range(8))


async def test_an_item_that_fails_fails_for_its_caller_only() -> None:
    coalescer: Coalescer[str, str] = Coalescer(Calls().run)
    results = await asyncio.gather(*(coalescer.submit(item) for item in ["a", "bad", "b"]), return_exceptions=True)
    assert results[0::2] == ["a!", "b!"]
    assert isinstance(results[1], ValueError)


async def test_a_call_that_fails_fails_for_all_its_callers_and_the_next_goes_on() -> None:
    fails = [True]

    async def run(items: list[str]) -> list[str]:
        if fails.pop():
            fails.append(False)
            raise ConnectionError("gone")
        fails.append(False)
        return items

    coalescer: Coalescer[str, str] = Coalescer(run)
    results = await asyncio.gather(coalescer.submit("a"), coalescer.submit("b"), return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError, ConnectionError]
    assert await coalescer.submit("c") == "c"


@pytest.mark.parametrize("answer", [lambda items: items[1:], lambda items: [*items, "more"], lambda items: None])
async def test_an_answer_of_another_length_leaves_nobody_waiting(answer: Callable[[list[str]], Any]) -> None:
    async def run(items: list[str]) -> Any:
        return answer(items)

    coalescer: Coalescer[str, str] = Coalescer(run)
    async with asyncio.timeout(1):
        results = await asyncio.gather(coalescer.submit("a"), coalescer.submit("b"), return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)


async def test_a_caller_that_is_cancelled_disturbs_neither_the_call_nor_the_others() -> None:
    calls = Calls()
    calls.gate.clear()
    coalescer: Coalescer[str, str] = Coalescer(calls.run)

    async def ask(item: str) -> str:
        return await coalescer.submit(item)

    first, second = asyncio.ensure_future(ask("a")), asyncio.ensure_future(ask("b"))
    await turns()
    first.cancel()
    await turns()
    calls.gate.set()
    assert await second == "b!"
    assert first.cancelled()
    assert calls.batches == [["a", "b"]]


async def test_draining_waits_for_what_waits_and_what_runs() -> None:
    calls = Calls()
    calls.gate.clear()
    coalescer: Coalescer[str, str] = Coalescer(calls.run)
    futures = [coalescer.submit("a")]
    await turns()
    futures.append(coalescer.submit("b"))
    draining = asyncio.ensure_future(coalescer.drain())
    await turns()
    assert not draining.done()
    calls.gate.set()
    await draining
    assert all(future.done() for future in futures)


async def test_a_failure_that_nobody_waits_for_any_more_makes_no_noise() -> None:
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
    calls = Calls()
    calls.gate.clear()
    coalescer: Coalescer[str, str] = Coalescer(calls.run)
    future = coalescer.submit("bad")
    await turns()
    future.cancel()
    calls.gate.set()
    await coalescer.drain()
    del future
    gc.collect()
    assert noise == []
