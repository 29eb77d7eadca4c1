"""The journal gets into the log, in order, at least once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import msgspec
import pytest

from chimera import Unavailable
from chimera.core.context import Context
from chimera.core.names import RELAY
from chimera.core.timing import Timing
from chimera.errors import CutShort, Unfit
from chimera.journal.checkpoints import read_checkpoints
from chimera.journal.feed import Feed
from chimera.journal.relay import Relay
from chimera.messages import Message
from chimera.ports import Checkpoint, Log, Record, Store, WriteSession
from chimera.testing.broken import NarrowLog, WrappedLog, WrappedStore
from chimera.testing.waiting import eventually, running
from chimera.upkeep.parked import Wanted, drop_key, parked_keys, parked_messages, retry_key
from chimera.upkeep.status import parked_counts
from tests.support import (
    PARTITIONS,
    QUICK,
    Advise,
    Bank,
    Deposit,
    Engines,
    direct,
    journal_of,
    make_context,
    parked_of,
    read_all,
)

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


LARGE = "x" * 3000


@pytest.mark.parametrize("error", [lambda: Unfit("too large"), lambda: CutShort("it ended"), lambda: KeyError("odd")])
async def test_what_the_log_can_not_carry_stays_in_the_journal_and_is_told(
    context: Context, error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else is held up, nor is it sent again for ever; consumers get it from the journal, at the tail too."""
    log = NarrowLog(context.log, error, 2000)
    await direct(context, *(Deposit(f"k{n}", 1) for n in range(10)), Advise("k3", LARGE), Deposit("k3", 1))
    await direct(context, Advise("k4", LARGE))
    events = await journal_of(context.store)
    large = {event.id for event in events if len(event.data) > 2000}
    assert len(large) == 4, "two advices, and the cards that they change"
    async with running(relay_of(context, log=log).run(range(PARTITIONS))):
        await eventually(lambda: relayed_all_but(context, large))
        await eventually(lambda: is_left(context, large))
    refused = log.refused
    async with running(relay_of(context, log=log).run(range(PARTITIONS))):
        await direct(context, Deposit("k9", 1))
        await eventually(lambda: relayed_all_but(context, large))
    assert log.refused == refused, "it was sent again"
    assert {row.id for row in await parked_of(context)} == large
    assert all(type(error()).__name__ in row.cause for row in await parked_of(context))
    assert "the log can't carry" in caplog.text
    assert b'chimera_left_in_journal_total{service="accounts"} 4.0' in context.metrics.exposition()
    feed = Feed(context, "accounts", dict.fromkeys(range(PARTITIONS), Checkpoint()))
    taken = list[str]()
    async with asyncio.timeout(60):
        while len(taken) < len(await journal_of(context.store)):
            taken += [message.id for message in (await feed.next()).messages]
    await feed.close()
    assert sorted(taken) == sorted(event.id for event in await journal_of(context.store))


async def relayed_all_but(context: Context, left: set[str]) -> bool:
    return set(await relayed(context)) == {event.id for event in await journal_of(context.store)} - left


async def is_left(context: Context, ids: set[str]) -> bool:
    return {row.id for row in await parked_of(context)} == ids


async def test_a_log_that_is_away_is_not_blamed_on_an_event(context: Context) -> None:
    log = NarrowLog(context.log, lambda: CutShort("it ended"), -1)
    await direct(context, Deposit("a", 1))
    work = asyncio.ensure_future(relay_of(context, log=log).run(range(PARTITIONS)))
    await eventually(lambda: log.refused >= 2)
    log.away = True
    with pytest.raises(Unavailable, match="nobody answers"):
        await work
    assert await parked_of(context) == []


async def test_what_was_left_in_the_journal_is_shown_sent_once_more_and_forgotten(context: Context) -> None:
    await direct(context, Advise("a", LARGE), Advise("b", LARGE))
    narrow = replace(context, log=NarrowLog(context.log, lambda: Unfit("too large"), 2000))
    async with running(relay_of(narrow).run(range(PARTITIONS))):
        await eventually(lambda: parked_counts(context))
    [first, second] = await parked_keys(context, Wanted(consumer=RELAY))
    assert [each.message.data[:30] != b"" for each in await parked_messages(context, first)] == [True]
    assert [done.state for done in await retry_key(narrow, first)] == ["Unfit: too large"]
    assert [done.state for done in await retry_key(context, first)] == ["settled"]
    assert [done.state for done in await drop_key(context, second, [second.first.message.id])] == [
        "forgotten; it stays in the journal"
    ]
    assert await parked_counts(context) == {}
    assert first.first.message.id in await relayed(context)
    assert second.first.message.id not in await relayed(context)
