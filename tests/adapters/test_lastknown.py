"""The in-process store keeps the contract of last known values; patience with a server that fails."""

import asyncio

import pytest

from chimera.adapters.last_known import Patience
from chimera.borrow.last_known import MemoryLastKnown
from chimera.core.clock import Clock
from chimera.testing.contracts.lastknown import LastKnownContract
from chimera.testing.waiting import eventually


class TestMemoryLastKnown(LastKnownContract):
    @pytest.fixture
    def engine(self) -> MemoryLastKnown:
        return MemoryLastKnown(Clock())

    @pytest.fixture
    def fleeting(self) -> MemoryLastKnown:
        return MemoryLastKnown(Clock(), ttl_s=1)


async def test_the_least_recently_used_is_forgotten_first() -> None:
    store = MemoryLastKnown(Clock(), limit=2)
    await store.put_many({"a": b"1", "b": b"1"})
    await store.get_many(["a"])
    await store.put_many({"c": b"1"})
    assert set(await store.get_many(["a", "b", "c"])) == {"a", "c"}


async def test_a_late_answer_is_not_waited_for_and_nothing_is_asked_meanwhile() -> None:
    patience, asked, answers = Patience("test", wait_s=0.01), [], asyncio.Event()

    async def slow() -> int:
        asked.append(1)
        await answers.wait()
        return 1

    assert [await patience.ask(slow, 0) for _ in range(5)] == [0] * 5
    assert len(asked) == 1
    answers.set()
    await eventually(lambda: not patience._late)
    patience._wait_s = 60
    assert await patience.ask(slow, 0) == 1


async def test_after_a_failure_nothing_is_asked_for_a_pause() -> None:
    patience, asked = Patience("test", wait_s=60, pause_s=0.5), []

    async def failing() -> int:
        asked.append(1)
        raise OSError("down")

    assert [await patience.ask(failing, 0) for _ in range(5)] == [0] * 5
    assert len(asked) == 1
    await asyncio.sleep(0.6)
    assert await patience.ask(failing, 0) == 0
    assert len(asked) == 2


async def test_closing_stops_what_is_late() -> None:
    patience = Patience("test", wait_s=0.001)
    await patience.ask(lambda: asyncio.sleep(60), None)
    await asyncio.wait_for(patience.close(), 30)
