"""The journal gets into the log, in order, at least once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import msgspec
import pytest

from chimera import Unavailable
from chimera.core.context import Context
from chimera.core.names import RELAY
from chimera.core.timing import Timing
from chimera.journal.checkpoints import read_checkpoints
from chimera.journal.relay import Relay
from chimera.messages import Message
from chimera.ports import Log, Record, Store, WriteSession
from chimera.testing.broken import WrappedLog, WrappedStore
from chimera.testing.waiting import eventually, running
from tests.support import PARTITIONS, QUICK, Bank, Deposit, Engines, direct, journal_of, make_context, read_all

TOPIC = "accounts.events"
REMEMBERING = msgspec.structs.replace(QUICK, relayed_s=0.0)


def relay_of(context: Context, *, log: Log | None = None, store: Store | None = None, timing: Timing = QUICK) -> Relay:
    return Relay(replace(context, log=log or context.log, store=store or context.store, timing=timing))


async def relayed(context: Context) -> list[str]:
    return [record.message.id for record in await read_all(context.log, TOPIC, dict.fromkeys(range(PARTITIONS), 0))]


async def all_relayed(context: Context) -> bool:
    return set(await relayed(context)) == {event.id for event in await journal_of(context.store)}


async def test_every_event_gets_into_its_partition_of_the_log_in_order(context: Context) -> None:
    await direct(context, *(Deposit(f"k{n}", 1) for n in range(30)))
    async with running(relay_of(context).run(range(PARTITIONS))):
        await eventually(lambda: all_relayed(context))
        await direct(context, *(Deposit(f"k{n}", 1) for n in range(30)))
        await eventually(lambda: all_relayed(context))
    records = await read_all(context.log, TOPIC, dict.fromkeys(range(PARTITIONS), 0))
    for partition in range(PARTITIONS):
        numbers = [record.message.number for record in records if record.message.partition == partition]
        assert numbers == list(range(1, len(numbers) + 1))
    assert sorted(map(_content, records)) == sorted(map(_content_of, await journal_of(context.store)))


def _content(record: Record) -> tuple[str, bytes]:
    return record.message.id, record.message.data


def _content_of(message: Message) -> tuple[str, bytes]:
    return message.id, message.data


async def test_a_relay_takes_only_its_own_partitions(context: Context) -> None:
    await direct(context, *(Deposit(f"k{n}", 1) for n in range(30)))
    mine = {event.id for event in await journal_of(context.store) if event.partition == 2}
    async with running(relay_of(context).run([2])):
        await eventually(lambda: _has(context, mine))
    assert set(await relayed(context)) == mine


async def _has(context: Context, ids: set[str]) -> bool:
    return set(await relayed(context)) >= ids


async def test_after_a_restart_it_goes_on_where_it_stopped(context: Context) -> None:
    await direct(context, *(Deposit(f"k{n}", 1) for n in range(10)))
    for turn in (1, 2):
        async with running(relay_of(context, timing=REMEMBERING).run(range(PARTITIONS))):
            await _until_remembered(context, turn * 20)
        assert await all_relayed(context)
        await direct(context, *(Deposit(f"k{n}", 1) for n in range(10)))
    assert len(await relayed(context)) == len(set(await relayed(context)))


async def test_it_remembers_where_it_is_now_and_then(context: Context) -> None:
    await direct(context, Deposit("a", 1))
    async with running(relay_of(context, timing=REMEMBERING).run(range(PARTITIONS))):
        await _until_remembered(context, 2)


async def _until_remembered(context: Context, total: int) -> None:
    async def is_remembered() -> bool:
        at = await read_checkpoints(context.store, RELAY, "accounts", range(PARTITIONS))
        return sum(checkpoint.number for checkpoint in at.values()) == total

    await eventually(is_remembered)


class Moody(WrappedLog):
    """A log that fails before or after it kept what was appended."""

    def __init__(self, log: Log, fails: list[str]) -> None:
        super().__init__(log)
        self.fails = fails

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        how = self.fails.pop(0) if self.fails else ""
        if how == "before":
            raise Unavailable("no broker")
        await super().append(topic, messages)
        if how == "after":
            raise Unavailable("no confirm")


async def test_what_the_log_did_not_confirm_is_sent_again(context: Context) -> None:
    await direct(context, *(Deposit(f"k{n}", 1) for n in range(10)))
    log = Moody(context.log, ["before", "after", "before"])
    for _ in range(3):
        with pytest.raises(Unavailable):
            await relay_of(context, log=log).run(range(PARTITIONS))
    async with running(relay_of(context, log=log).run(range(PARTITIONS))):
        await eventually(lambda: all_relayed(context))
        await eventually(lambda: _length(context, 40))


async def _length(context: Context, length: int) -> bool:
    return len(await relayed(context)) == length


async def test_two_relays_on_the_same_partitions_lose_nothing(context: Context, bank: Bank) -> None:
    other = make_context(bank.service, Engines(context.log, context.store, context.views))
    async with running(relay_of(context).run(range(PARTITIONS)), relay_of(other).run(range(PARTITIONS))):
        for n in range(10):
            await direct(context, Deposit(f"k{n}", 1))
        await eventually(lambda: all_relayed(context))


class Gone(WrappedStore):
    """A store that can't be written any more."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        raise Unavailable("the store is gone")
        yield


async def test_cancelling_it_ends_it_even_when_it_can_not_remember_where_it_is(context: Context) -> None:
    await direct(context, Deposit("a", 1))
    relaying = asyncio.ensure_future(relay_of(context, store=Gone(context.store)).run(range(PARTITIONS)))
    await eventually(lambda: all_relayed(context))
    relaying.cancel()
    with suppress(Unavailable):
        await asyncio.wait([relaying])
    assert relaying.cancelled()
