"""The journal gets into the log, in order, at least once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from chimera import Unavailable
from chimera import relay as relays
from chimera.body import Body
from chimera.execution import read_checkpoints
from chimera.messages import Message
from chimera.metrics import Metrics
from chimera.relay import Relay
from chimera.testing.broken import WrappedLog, WrappedStore
from tests.support import (
    PARTITIONS,
    Bank,
    Deposit,
    Engines,
    direct,
    eventually,
    journal_of,
    make_body,
    read_all,
    running,
)

TOPIC = "accounts.events"


def relay_of(body: Body, *, log: Any = None, store: Any = None) -> Relay:
    return Relay(body.service, store or body.store, log or body.log, TOPIC, committed=body.committed, metrics=Metrics())


async def relayed(body: Body) -> list[str]:
    return [record.message.id for record in await read_all(body.log, TOPIC, dict.fromkeys(range(PARTITIONS), 0))]


async def all_relayed(body: Body) -> bool:
    return set(await relayed(body)) == {event.id for event in await journal_of(body.store)}


async def test_every_event_gets_into_its_partition_of_the_log_in_order(body: Body) -> None:
    await direct(body, *(Deposit(f"k{n}", 1) for n in range(30)))
    async with running(relay_of(body).run(range(PARTITIONS))):
        await eventually(lambda: all_relayed(body))
        await direct(body, *(Deposit(f"k{n}", 1) for n in range(30)))
        await eventually(lambda: all_relayed(body))
    records = await read_all(body.log, TOPIC, dict.fromkeys(range(PARTITIONS), 0))
    for partition in range(PARTITIONS):
        numbers = [record.message.number for record in records if record.message.partition == partition]
        assert numbers == list(range(1, len(numbers) + 1))
    assert sorted(map(_content, records)) == sorted(map(_content_of, await journal_of(body.store)))


def _content(record: Any) -> tuple[str, bytes]:
    return record.message.id, record.message.data


def _content_of(message: Message) -> tuple[str, bytes]:
    return message.id, message.data


async def test_a_relay_takes_only_its_own_partitions(body: Body) -> None:
    await direct(body, *(Deposit(f"k{n}", 1) for n in range(30)))
    mine = {event.id for event in await journal_of(body.store) if event.partition == 2}
    async with running(relay_of(body).run([2])):
        await eventually(lambda: _has(body, mine))
    assert set(await relayed(body)) == mine


async def _has(body: Body, ids: set[str]) -> bool:
    return set(await relayed(body)) >= ids


async def test_after_a_restart_it_goes_on_where_it_stopped(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "REMEMBER_S", 0.0)
    await direct(body, *(Deposit(f"k{n}", 1) for n in range(10)))
    for turn in (1, 2):
        async with running(relay_of(body).run(range(PARTITIONS))):
            await eventually(lambda turn=turn: _remembers(body, turn * 20))
        assert await all_relayed(body)
        await direct(body, *(Deposit(f"k{n}", 1) for n in range(10)))
    assert len(await relayed(body)) == len(set(await relayed(body)))


async def test_it_remembers_where_it_is_now_and_then(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "REMEMBER_S", 0.0)
    await direct(body, Deposit("a", 1))
    async with running(relay_of(body).run(range(PARTITIONS))):
        await eventually(lambda: _remembers(body, 2))


async def _remembers(body: Body, total: int) -> bool:
    at = await read_checkpoints(body.store, relays.CONSUMER, "accounts", range(PARTITIONS))
    return sum(checkpoint.number for checkpoint in at.values()) == total


class Moody(WrappedLog):
    """A log that fails before or after it kept what was appended."""

    def __init__(self, log: Any, fails: list[str]) -> None:
        super().__init__(log)
        self.fails = fails

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        how = self.fails.pop(0) if self.fails else ""
        if how == "before":
            raise Unavailable("no broker")
        await super().append(topic, messages)
        if how == "after":
            raise Unavailable("no confirm")


async def test_what_the_log_did_not_confirm_is_sent_again(body: Body) -> None:
    await direct(body, *(Deposit(f"k{n}", 1) for n in range(10)))
    log = Moody(body.log, ["before", "after", "before"])
    for _ in range(3):
        with pytest.raises(Unavailable):
            await relay_of(body, log=log).run(range(PARTITIONS))
    async with running(relay_of(body, log=log).run(range(PARTITIONS))):
        await eventually(lambda: all_relayed(body))
        await eventually(lambda: _length(body, 40))


async def _length(body: Body, length: int) -> bool:
    return len(await relayed(body)) == length


async def test_two_relays_on_the_same_partitions_lose_nothing(body: Body, bank: Bank) -> None:
    other = make_body(bank.service, Engines(body.log, body.store, body.views))
    async with running(relay_of(body).run(range(PARTITIONS)), relay_of(other).run(range(PARTITIONS))):
        for n in range(10):
            await direct(body, Deposit(f"k{n}", 1))
        await eventually(lambda: all_relayed(body))


class Gone(WrappedStore):
    """A store that can't be written any more."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        raise Unavailable("the store is gone")
        yield


async def test_cancelling_it_ends_it_even_when_it_can_not_remember_where_it_is(body: Body) -> None:
    await direct(body, Deposit("a", 1))
    relaying = asyncio.ensure_future(relay_of(body, store=Gone(body.store)).run(range(PARTITIONS)))
    await eventually(lambda: all_relayed(body))
    relaying.cancel()
    with suppress(Unavailable):
        await asyncio.wait([relaying])
    assert relaying.cancelled()
