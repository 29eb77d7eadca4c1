"""What is old and behind everybody is dropped; what somebody still needs is not."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from chimera import Command, Entity, Event, Reads, Rejected, Service, SettingsError, Transaction
from chimera.borrow.copies import CopyKeeper
from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor, direct_executor, parking_of
from chimera.core.clock import Clock, stamp_of
from chimera.core.context import Context
from chimera.core.names import COMMANDS, RELAY, copy_name, looked_through, reaction_consumer
from chimera.core.tables import Handled, Parked, Progress, ReportedConsumer
from chimera.core.timing import Limits, Retention, Timing
from chimera.entities import table_of
from chimera.errors import Trimmed
from chimera.journal.feed import Feed
from chimera.messages import Message, partition_of
from chimera.ports import Checkpoint, ConsumerAt, Move, Record, WriteSession
from chimera.run.settings import Settings, read_settings
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedSession, WrappedStore
from chimera.testing.contracts.bank import trimmed
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.drift.share_audit import complete
from chimera.upkeep.positions import floors, keep_reporting, keeps_events
from chimera.upkeep.retention import Trimming
from chimera.upkeep.status import parked_counts, service_status
from chimera.web.wire.answers import RetentionShown
from tests.support import QUICK, Bank, Deposit, Engines, all_of, direct, handled, opened, project, read_all, stored

PARTITIONS = 2
ALL = frozenset(range(PARTITIONS))
START = datetime(2026, 1, 2, tzinfo=UTC)
MONTH = Retention(journal_days=30)


class Item(Entity, key="item_id", table="items"):
    item_id: str
    puts: int = 0


class Put(Command, key="item_id"):
    item_id: str


class Take(Command, key="item_id"):
    item_id: str


class Placed(Event, source="shelf", key="item_id"):
    item_id: str


class Taken(Event, source="shelf", key="item_id"):
    item_id: str


class Tally(msgspec.Struct):
    item_id: str
    events: int = 0


class Seen(Entity, key="item_id", table="seen"):
    item_id: str
    count: int = 0


class Shown(msgspec.Struct):
    item_id: str
    puts: int


class Shelf:
    """A service with everything that consumes a journal, and another one that does so from outside."""

    def __init__(self) -> None:
        self.broken_for: set[str] = set()
        self.service = Service("shelf", partitions=PARTITIONS)
        self.service.entity(Item)
        self.service.entity(Seen)
        self.tally = self.service.view(Tally, key="item_id")
        self.window = Service("window", partitions=PARTITIONS)
        self.counts = self.window.view(Tally, key="item_id", name="counts")
        self.borrow = self.window.borrow("items", Shown, owner="shelf", mode="async")

        @self.service.handle()
        async def put(command: Put, tx: Transaction) -> None:
            if command.item_id == "broken":
                raise ValueError("it breaks")
            item = await tx.load(Item, command.item_id) or Item(command.item_id)
            tx.save(Item(item.item_id, item.puts + 1))
            tx.emit(Placed(command.item_id))

        @self.service.handle()
        async def take(command: Take, tx: Transaction) -> None:
            if not await tx.load(Item, command.item_id):
                raise Rejected("no_item")
            tx.delete(Item(command.item_id))
            tx.emit(Taken(command.item_id))

        @self.service.on(Placed)
        async def see(event: Placed, tx: Transaction) -> None:
            seen = await tx.load(Seen, event.item_id) or Seen(event.item_id)
            tx.save(Seen(event.item_id, seen.count + 1))

        @self.service.share("items", key="item_id", changed_by=[Placed, Taken])
        async def items(keys: list[str], tx: Reads) -> dict[str, Shown]:
            return {item.item_id: Shown(item.item_id, item.puts) for item in await tx.find(Item, item_id=keys)}

        for view in (self.tally, self.counts):

            @view.on(Placed)
            def placed(tally: Tally, event: Placed) -> None:
                tally.events += 1
                if event.item_id in self.broken_for:
                    raise ValueError("it breaks the view")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def context(shelf: Shelf, engines: Engines) -> Context:
    return await opened(shelf.service, engines)


_count = itertools.count()


def message_of(command: Command, day: float = 0.0, command_id: str = "") -> Message:
    """A command that was accepted so many days after START."""
    time, name = stamp_of(START + timedelta(days=day)), f"shelf.{type(command).__name__}"
    place = command_id or f"{command.key}-{day}-{next(_count)}"
    data = msgspec.json.encode(command)
    return Message(place, "shelf", name, command.key, time, data, partition_of(command.key, PARTITIONS))


async def place(context: Context, day: float, count: int = 20) -> None:
    """So many events in each partition, on one day."""
    keys = [key for part in range(PARTITIONS) for key in keys_of(part)[:count]]
    await direct_executor(context).run([Task(message_of(Put(key), day)) for key in keys])


def keys_of(partition: int) -> list[str]:
    return [key for key in (f"k{n}" for n in range(400)) if partition_of(key, PARTITIONS) == partition]


async def at(context: Context, **numbers: int) -> None:
    """Put consumers' checkpoints to these numbers, in every partition; `others` is a service that has told so."""
    for name, number in numbers.items():
        in_store = {
            "relay": RELAY,
            "reaction": reaction_consumer("see", "shelf"),
            "share": looked_through("items"),
        }
        for part in range(PARTITIONS):
            if name in in_store:
                row = Progress(in_store[name], "shelf", part, number, number)
                async with context.store.transaction() as session:
                    await session.save(table_of(Progress), [table_of(Progress).to_row(row)])
            elif name == "view":
                now = (await context.views.checkpoints("tally")).get(("shelf", part), Checkpoint())
                move = Move("shelf", part, now.number, Checkpoint(number, number))
                assert await context.views.write("tally", [], [move])
            else:
                await heard_of(context, ConsumerAt("window counts", part, number, number), START + timedelta(days=100))


async def heard_of(context: Context, consumer: ConsumerAt, seen: datetime) -> None:
    row = ReportedConsumer(consumer.consumer, consumer.partition, consumer.number, consumer.offset, seen)
    async with context.store.transaction() as session:
        await session.save(table_of(ReportedConsumer), [table_of(ReportedConsumer).to_row(row)])


class At(Clock):
    """A clock at which it is always the same moment."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def time(self) -> float:
        return self._moment.timestamp()


def trimming(context: Context, day: float, keeping: Retention = MONTH, held: frozenset[int] = ALL) -> Trimming:
    """What drops what is old, so many days after START."""
    return Trimming(replace(context, retention=keeping, clock=At(START + timedelta(days=day))), held)


def trimming_in(context: Context, days: float, keeping: Retention) -> Trimming:
    """What will drop what is old, so many days from now."""
    return Trimming(replace(context, retention=keeping, clock=At(datetime.now(UTC) + timedelta(days=days))), ALL)


async def oldest(context: Context) -> list[int]:
    return list((await context.store.oldest()).values())


FAR = 1_000


async def everybody_at(context: Context, number: int = FAR) -> None:
    await at(context, relay=number, reaction=number, share=1, view=number, others=number)


async def test_old_events_are_dropped_and_young_ones_are_not(context: Context) -> None:
    for day in (0, 1, 60):
        await place(context, day)
    heads = await context.store.heads()
    await everybody_at(context)
    await trimming(context, 100 - 70.5).trim_store()
    assert await oldest(context) == [1, 1]
    await trimming(context, 62).trim_store()
    # each put is two events: its own and the share's
    assert await oldest(context) == [81, 81]
    assert await context.store.heads() == heads
    await trimming(context, 100).trim_store()
    assert await oldest(context) == [121, 121]
    await place(context, 100)
    assert [event.number for event in await context.store.journal(0, 120, 2)] == [121, 122]


async def test_by_default_the_journal_and_what_is_parked_are_kept_for_ever(context: Context) -> None:
    await place(context, 0)
    await direct_executor(context).run([])
    await everybody_at(context)
    await park_broken(context)
    await trimming(context, 36_500, Retention()).trim_store()
    assert await oldest(context) == [1, 1]
    assert len(await all_of(context.store, Parked)) == 1


@pytest.mark.parametrize("last", ["relay", "reaction", "view", "others"])
async def test_no_event_is_dropped_that_somebody_has_not_passed(context: Context, last: str) -> None:
    await place(context, 0)
    await everybody_at(context)
    await behind(context, last, 7)
    await trimming(context, 100).trim_store()
    assert await oldest(context) == [8, 8]
    if last == "view":
        assert await context.views.write("tally", [], [Move("shelf", p, 7, Checkpoint(FAR, FAR)) for p in ALL])
    else:
        await at(context, **{last: FAR})
    await trimming(context, 100).trim_store()
    assert await oldest(context) == [41, 41]


async def behind(context: Context, last: str, number: int) -> None:
    if last == "view":
        await context.views.drop("tally", [])
    await at(context, **{last: number})


async def test_no_event_is_dropped_before_the_shares_have_been_looked_through(context: Context, shelf: Shelf) -> None:
    await place(context, 0)
    await at(context, relay=FAR, reaction=FAR, view=FAR)
    await trimming(context, 100).trim_store()
    assert await oldest(context) == [1, 1]
    await complete(context, shelf.service.shares["items"], ALL)
    await trimming(context, 100).trim_store()
    assert await oldest(context) == [41, 41]


async def test_a_view_that_has_never_moved_holds_the_journal_back(context: Context) -> None:
    await place(context, 0)
    await at(context, relay=FAR, reaction=FAR, share=1)
    await trimming(context, 100).trim_store()
    assert await oldest(context) == [1, 1]


async def test_a_worker_drops_only_from_the_partitions_that_it_holds(context: Context) -> None:
    await place(context, 0)
    await everybody_at(context)
    await trimming(context, 100, held=frozenset({1})).trim_store()
    assert await oldest(context) == [1, 41]


async def test_a_consumer_that_is_silent_for_too_long_holds_nothing_back_and_is_named_once(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    await place(context, 0)
    await everybody_at(context)
    for part in ALL:
        await heard_of(context, ConsumerAt("gone view", part, 3, 3), START + timedelta(days=95))
    trimmer = trimming(context, 100)
    await trimmer.trim_store()
    assert await oldest(context) == [4, 4]
    assert "gone view" not in caplog.text
    later = trimming(context, 102.5)
    for _ in range(2):
        await later.trim_store()
    assert await oldest(context) == [41, 41]
    named = [record.getMessage() for record in caplog.records if "gone view" in record.getMessage()]
    assert len(named) == 2, named
    assert "not heard of" in named[0]
    assert "trimmed" in named[1]


async def test_a_consumer_that_needs_what_is_gone_holds_nothing_back(context: Context) -> None:
    await place(context, 0)
    await everybody_at(context, 20)
    await trimming(context, 100).trim_store()
    assert await oldest(context) == [21, 21]
    for part in ALL:
        await heard_of(context, ConsumerAt("new view", part, 0, 0), START + timedelta(days=100))
        await heard_of(context, ConsumerAt("just there", part, 20, 20), START + timedelta(days=100))
    for name in ("relay", "reaction", "others"):
        await at(context, **{name: FAR})
    assert await context.views.write("tally", [], [Move("shelf", p, 20, Checkpoint(FAR, FAR)) for p in ALL])
    found = await floors(context, START + timedelta(days=100))
    assert [found[part].number for part in ALL] == [20, 20]


async def test_a_consumer_that_is_silent_for_very_long_is_forgotten(context: Context) -> None:
    for name, day in (("gone", 0), ("silent", 80)):
        await heard_of(context, ConsumerAt(name, 0, 1, 1), START + timedelta(days=day))
    await trimming(context, 100).trim_store()
    assert [row.consumer for row in await all_of(context.store, ReportedConsumer)] == ["silent"]


async def test_the_journal_of_event_sourced_entities_is_never_trimmed(engines: Engines, bank: Bank) -> None:
    context = await opened(bank.service, engines)
    await direct(context, *(Deposit(f"k{n}", 1) for n in range(20)))
    await trimming(context, 100).trim_store()
    assert set((await context.store.oldest()).values()) == {1}
    assert keeps_events(replace(context, retention=MONTH))


@pytest.mark.parametrize("odd", ["9999-01-01T00:00:00Z", "", "yesterday"])
async def test_a_message_with_an_odd_time_does_not_hold_up_the_others(context: Context, odd: str) -> None:
    await place(context, 0)
    message = message_of(Put(keys_of(0)[0]))
    await direct_executor(context).run([Task(msgspec.structs.replace(message, time=odd))])
    await place(context, 1)
    await everybody_at(context)
    await trimming(context, 100).trim_store()
    heads = await context.store.heads()
    assert await oldest(context) == [heads[0] + 1, heads[1] + 1]


async def test_dropping_while_events_are_appended_and_folded_loses_none(context: Context, shelf: Shelf) -> None:
    """Thousands of old events go, pages at a time, while new ones come and every consumer follows."""
    for _ in range(15):
        await place(context, 0, 100)
    await complete(context, shelf.service.shares["items"], ALL)
    before = await context.store.heads()
    trimmed_soon = replace(
        context,
        retention=Retention(journal_days=1 / 86_400),
        timing=msgspec.structs.replace(QUICK, floors_s=0.0, trim_s=0.005),
        limits=Limits(trim_page=50),
    )
    async with running(WriteHead(trimmed_soon, "one").run()):
        for _ in range(5):
            await place(context, 0.1, 100)
        await eventually(lambda: _is_trimmed(context, before), 60)
        await eventually(lambda: _has_folded(context, 20))
    heads = await context.store.heads()
    seen = {row.item_id: row.count for row in await all_of(context.store, Seen)}
    assert set(seen.values()) == {20}
    tallies = await stored(context.views, "tally")
    assert {tally["events"] for tally in tallies.values()} == {20}
    assert sum(heads.values()) == 2 * 20 * 200


async def _is_trimmed(context: Context, before: Mapping[int, int]) -> bool:
    return all(first > before[part] for part, first in (await context.store.oldest()).items())


async def _has_folded(context: Context, count: int) -> bool:
    tallies = await stored(context.views, "tally")
    seen = await all_of(context.store, Seen)
    return {each["events"] for each in tallies.values()} == {row.count for row in seen} == {count}


async def test_outcomes_are_forgotten_after_their_time_but_not_of_what_is_parked(context: Context) -> None:
    await direct_executor(context).run([Task(message_of(Put("a"), command_id="a1"))])
    await park_broken(context)
    for days, known in ((6.9, ["a1", "b1"]), (7.1, ["b1"])):
        await trimming_in(context, days, Retention(inbox_days=7)).trim_store()
        assert sorted(row.command_id for row in await all_of(context.store, Handled)) == known
    [again] = handled(await direct_executor(context).run([Task(message_of(Put("a"), command_id="a1"))]))
    assert not again.duplicate


async def park_broken(context: Context) -> None:
    await commands_executor(context).run([Task(message_of(Put("broken"), command_id="b1"), 1, 1)])
    async with asyncio.timeout(60):
        while [row.state for row in await all_of(context.store, Parked)] != ["parked"]:
            for key in await parking_of(context, COMMANDS).due(commands_executor(context), datetime.now(UTC)):
                await parking_of(context, COMMANDS).redrive(commands_executor(context), key)


async def test_what_is_parked_is_given_up_after_its_time_and_those_behind_it_run(
    context: Context, shelf: Shelf
) -> None:
    await park_broken(context)
    for days, left in ((9.9, 1), (10.1, 0)):
        await trimming_in(context, days, Retention(parked_days=10)).trim_store()
        assert len(await all_of(context.store, Parked)) == left
    [handled] = [row for row in await all_of(context.store, Handled) if row.command_id == "b1"]
    assert (handled.state, handled.reason) == ("rejected", "dropped")


async def test_what_a_view_has_parked_is_given_up_after_its_time_and_those_behind_it_are_folded(
    context: Context, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.broken_for.update(("poison", "young"))
    await direct_executor(context).run([Task(message_of(Put("poison"))) for _ in range(3)])
    await project(context, shelf.tally)
    shelf.broken_for.discard("poison")
    for days, waiting in ((9.9, 3), (10.1, 0)):
        await trimming_in(context, days, Retention(parked_days=10)).trim_store()
        assert await parked_counts(context) == ({"tally": waiting} if waiting else {})
    assert (await stored(context.views, "tally"))["poison"]["events"] == 2
    assert "was parked by tally for 10 days and is dropped" in caplog.text


async def test_a_worker_that_lost_a_partition_while_it_looked_trims_its_others(context: Context) -> None:
    """The one that holds the partition now has trimmed more meanwhile: there is nothing to do, and nothing wrong."""
    await place(context, 0)
    await everybody_at(context)

    class HandedOver(WrappedStore):
        async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
            if partition == 0 and after == 0:
                await trimmed(self._store, 0, 10)
            return await super().journal(partition, after, limit)

    await trimming(replace(context, store=HandedOver(context.store)), 100).trim_store()
    assert await oldest(context) == [11, 41]


async def test_the_status_says_what_is_kept_since_when_and_who_holds_it_back(context: Context) -> None:
    context = replace(context, retention=MONTH)
    await place(context, 0)
    await everybody_at(context)
    await behind(context, "view", 7)
    await heard_of(context, ConsumerAt("gone view", 0, 3, 3), datetime(2020, 1, 1, tzinfo=UTC))
    found = (await service_status(context))["retention"]
    assert {name: found[name] for name in ("journal_days", "inbox_days", "log_days", "parked_days")} == {
        "journal_days": 30,
        "inbox_days": 7,
        "log_days": 7,
        "parked_days": 0,
    }
    since = message_of(Put("a")).time
    assert found["journal"] == [
        {"partition": p, "oldest": 1, "newest": 40, "kept": 40, "since": since, "held_back_by": "shelf tally"}
        for p in ALL
    ]
    silent = next(each for each in found["consumers"] if each["consumer"] == "gone view")
    assert (silent["holds_back"], silent["why_not"]) == (False, "silent for too long")
    assert next(each for each in found["consumers"] if each["consumer"] == "shelf tally")["holds_back"]
    assert msgspec.convert(found, RetentionShown)
    await trimming(context, 100).trim_store()
    journal = (await service_status(context))["retention"]["journal"]
    assert [(each["oldest"], each["kept"]) for each in journal] == [(8, 33)] * 2
    for part in ALL:
        await trimmed(context.store, part, 40)
    [first, _] = (await service_status(context))["retention"]["journal"]
    assert (first["kept"], first["since"]) == (0, None)


async def test_a_share_that_is_not_looked_through_and_a_relay_are_named_when_they_hold_a_journal_back(
    context: Context,
) -> None:
    await place(context, 0)
    await at(context, relay=3, reaction=FAR, view=FAR)
    assert [each.holder for each in (await floors(context, START)).values()] == ["share items"] * 2
    await at(context, share=1)
    assert [each.holder for each in (await floors(context, START)).values()] == [RELAY] * 2


async def test_only_executed_commands_leave_the_log(context: Context) -> None:
    await context.log.append(context.commands_topic, [message_of(Put(key), 0) for key in keys_of(0)[:10]])
    await context.log.append(context.commands_topic, [message_of(Put(key), 99) for key in keys_of(0)[:10]])
    await trimming(context, 100).trim_log()
    assert len(await commands_of(context)) == 20
    await commands_executor(context).run([], [Move(context.commands_topic, 0, 0, Checkpoint(4, 4))])
    await trimming(context, 5).trim_log()
    assert len(await commands_of(context)) == 20
    await trimming(context, 100).trim_log()
    assert len(await commands_of(context)) == 16
    await commands_executor(context).run([], [Move(context.commands_topic, 0, 4, Checkpoint(20, 20))])
    await trimming(context, 1_000, Retention(log_days=0)).trim_log()
    assert len(await commands_of(context)) == 16
    await trimming(context, 1_000).trim_log()
    assert len(await commands_of(context)) == 1
    assert (await context.log.ends(context.commands_topic))[0] == 20


async def commands_of(context: Context) -> Sequence[Record]:
    return await read_all(context.log, context.commands_topic, {0: 0})


async def test_events_stay_in_the_log_for_who_has_not_read_them(context: Context) -> None:
    await place(context, 0, 5)
    for part in ALL:
        await context.log.append(context.events_topic, await context.store.journal(part, 0, 100))
    await everybody_at(context)
    for part in ALL:
        await heard_of(context, ConsumerAt("slow view", part, 6, 6), START + timedelta(days=100))
    await trimming(context, 100).trim_log()
    left = await read_all(context.log, context.events_topic, dict.fromkeys(ALL, 0))
    assert sorted((each.message.partition, each.offset) for each in left) == [(p, n) for p in ALL for n in range(7, 11)]


async def window_of(shelf: Shelf, context: Context, timing: Timing) -> Context:
    """The other service, on the same log and with a store and views of its own."""
    engines = memory_engines()._replace(log=context.log)
    return await opened(shelf.window, engines, owners={"shelf": context.owners["shelf"]}, timing=timing)


async def test_consumers_elsewhere_tell_the_owner_where_they_are(shelf: Shelf, context: Context) -> None:
    window = await window_of(shelf, context, msgspec.structs.replace(QUICK, report_s=0.005))
    await place(context, 0, 3)
    await window.views.write("counts", [], [Move("shelf", 1, 0, Checkpoint(4, 9))])
    async with running(keep_reporting(window, "shelf", ALL)):
        await eventually(lambda: _told(context, {("window counts", 0): (0, 0), ("window counts", 1): (4, 9)}))
        copy = copy_name(shelf.borrow.name, "async")
        await window.views.write(copy, [], [Move("shelf", 0, 0, Checkpoint(6, 0))])
        await window.views.write("counts", [], [Move("shelf", 1, 4, Checkpoint(5, 10))])
        await eventually(
            lambda: _told(
                context,
                {("window counts", 0): (0, 0), ("window counts", 1): (5, 10), (f"window {copy}", 0): (6, 0)},
            )
        )
    found = await floors(context, datetime.now(UTC))
    assert found[1].number == 0


async def _told(context: Context, expected: Mapping[tuple[str, int], tuple[int, int]]) -> bool:
    rows = await all_of(context.store, ReportedConsumer)
    return {(row.consumer, row.partition): (row.number, row.offset) for row in rows} == expected


async def test_a_copy_that_is_older_than_the_journal_is_filled_from_the_documents(
    shelf: Shelf, context: Context
) -> None:
    await complete(context, shelf.service.shares["items"], ALL)
    window = await window_of(shelf, context, msgspec.structs.replace(QUICK, keep_s=0.002))
    name = copy_name(shelf.borrow.name, "async")
    await direct_executor(context).run([Task(message_of(Put(key))) for key in ("kept", "gone", "same")])
    async with running(CopyKeeper(window, shelf.borrow, ALL).run()):
        await eventually(lambda: _keys(window, name, {"kept", "gone", "same"}))
    await direct_executor(context).run([Task(message_of(Take("gone")))])
    await direct_executor(context).run([Task(message_of(Put("kept"))), Task(message_of(Put("new")))])
    for part, head in (await context.store.heads()).items():
        await trimmed(context.store, part, head)
    async with running(CopyKeeper(window, shelf.borrow, ALL).run()):
        await eventually(lambda: _keys(window, name, {"kept", "new", "same"}))
        await eventually(lambda: _puts(window, name, {"kept": 2, "new": 1, "same": 1}))
        await direct_executor(context).run([Task(message_of(Put("same")))])
        await eventually(lambda: _puts(window, name, {"kept": 2, "new": 1, "same": 2}))


async def _keys(context: Context, view: str, expected: set[str]) -> bool:
    return {document.key for document in await context.views.scan(view)} == expected


async def _puts(context: Context, view: str, expected: Mapping[str, int]) -> bool:
    return {key: document["puts"] for key, document in (await stored(context.views, view)).items()} == expected


async def test_a_view_that_needs_events_that_are_gone_says_so_and_keeps_what_it_has(
    shelf: Shelf, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    await place(context, 0, 1)
    await project(context, shelf.tally)
    before = await stored(context.views, "tally")
    await place(context, 0, 3)
    for part, head in (await context.store.heads()).items():
        await trimmed(context.store, part, head)
    await place(context, 0, 1)
    with pytest.raises(Trimmed, match="the journal of shelf has trimmed"):
        await read_on(Feed(context, "shelf", {0: Checkpoint(2)}))
    with caplog.at_level(logging.ERROR):
        async with running(WriteHead(context, "one").run()):
            await eventually(lambda: "the journal of shelf has trimmed" in caplog.text)
    [error] = {record.levelno for record in caplog.records if "the journal of shelf" in record.getMessage()}
    assert error == logging.ERROR
    assert await stored(context.views, "tally") == before


async def read_on(feed: Feed) -> None:
    try:
        async with asyncio.timeout(60):
            while True:
                await feed.next()
    finally:
        await feed.close()


async def test_a_gap_in_the_commands_is_an_error_in_the_log(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    await context.log.append(context.commands_topic, [message_of(Put(key)) for key in keys_of(0)[:10]])
    await context.log.trim(context.commands_topic, {0: 5})
    async with running(WriteHead(context, "one").run()):
        await eventually(lambda: "goes on at offset 6 after 0" in caplog.text)


async def test_no_step_is_larger_than_a_page(context: Context) -> None:
    await place(context, 0, 40)
    await everybody_at(context)
    spans: list[int] = []

    class WatchingSession(WrappedSession):
        async def trim(self, partition: int, through: int) -> None:
            spans.append(through + 1 - (await context.store.oldest())[partition])
            await super().trim(partition, through)

    class WatchingStore(WrappedStore):
        @asynccontextmanager
        async def transaction(self) -> AsyncIterator[WriteSession]:
            async with super().transaction() as session:
                yield WatchingSession(session)

    watched = replace(context, store=WatchingStore(context.store), limits=Limits(trim_page=10))
    await trimming(watched, 100).trim_store()
    assert await oldest(context) == [81, 81]
    assert spans == [10] * 16


async def test_trimming_is_a_work_of_the_write_head(context: Context) -> None:
    timing = msgspec.structs.replace(QUICK, trim_s=0.005)
    await place(context, 0)
    await complete(context, context.service.shares["items"], ALL)
    context = replace(context, retention=Retention(journal_days=1), timing=timing)
    async with running(WriteHead(context, "one").run()):
        await eventually(lambda: _is_trimmed(context, dict.fromkeys(ALL, 1)))
    assert b'chimera_trimmed_total{service="shelf",what="journal"}' in context.metrics.exposition()


SERVICES = '[services.a]\napp = "a:a"\n[services.b-c]\napp = "b:b"\n'


def settings_of(tmp_path: Path, text: str, **environment: str) -> Settings:
    path = tmp_path / "chimera.toml"
    path.write_text(text + SERVICES)
    return read_settings(path, environment)


def test_retention_is_set_for_all_services_or_for_one(tmp_path: Path) -> None:
    assert settings_of(tmp_path, "").retention_of("a") == Retention(
        journal_days=0, inbox_days=7, parked_days=0, log_days=7, consumer_days=7
    )
    settings = settings_of(
        tmp_path,
        "[retention]\njournal_days = 30\n",
        CHIMERA_RETENTION__INBOX_DAYS="14",
        CHIMERA_SERVICES__B_C__RETENTION__JOURNAL_DAYS="0.5",
    )
    assert settings.retention_of("a") == Retention(journal_days=30, inbox_days=14)
    assert settings.retention_of("b-c") == Retention(journal_days=0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inbox_days = 3", "set inbox_days to at least log_days"),
        ("journal_days = -1", r"\[retention\] journal_days"),
        ("consumer_days = 0", r"\[retention\] consumer_days"),
        ("jounal_days = 1", "jounal_days"),
    ],
)
def test_settings_that_would_lose_something_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings_of(tmp_path, f"[retention]\n{text}\n")
