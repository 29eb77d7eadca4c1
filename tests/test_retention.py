"""What is old and behind everybody is dropped; what somebody still needs is not."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera import (
    Command,
    Entity,
    Event,
    Reads,
    Rejected,
    Service,
    SettingsError,
    Transaction,
    copies,
    retention,
)
from chimera.announce import complete
from chimera.body import Body
from chimera.copies import CopyKeeper, copy_name
from chimera.entities import table_of
from chimera.errors import Trimmed
from chimera.execution import Task
from chimera.feed import Feed
from chimera.messages import Message, partition_of
from chimera.ports import Checkpoint, ConsumerAt, Move
from chimera.records import Handled, Known, Parked, Progress
from chimera.relay import CONSUMER as RELAY
from chimera.retention import Trimming, floors, keep_reporting
from chimera.settings import Retention, read_settings
from chimera.status import parked_counts, service_status
from chimera.testing.broken import WrappedSession, WrappedStore
from chimera.testing.contracts.bank import trimmed
from chimera.web.answers import RetentionShown
from chimera.write_head import WriteHead
from tests.support import (
    Bank,
    Deposit,
    Engines,
    all_of,
    direct,
    eventually,
    memory_engines,
    opened,
    project,
    read_all,
    running,
    stored,
)

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
async def body(shelf: Shelf, engines: Engines) -> Body:
    return await opened(shelf.service, engines)


def message_of(command: Command, day: float = 0.0, command_id: str = "") -> Message:
    """A command that was accepted so many days after START."""
    time = (START + timedelta(days=day)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    name = f"shelf.{type(command).__name__}"
    place = command_id or f"{command.key}-{day}-{message_of.count}"  # type: ignore[attr-defined]
    message_of.count += 1  # type: ignore[attr-defined]
    data = msgspec.json.encode(command)
    return Message(place, "shelf", name, command.key, time, data, partition_of(command.key, PARTITIONS))


message_of.count = 0  # type: ignore[attr-defined]


async def place(body: Body, day: float, count: int = 20) -> None:
    """So many events in each partition, on one day."""
    keys = [key for part in range(PARTITIONS) for key in keys_of(part)[:count]]
    await body.direct.run([Task(message_of(Put(key), day)) for key in keys])


def keys_of(partition: int) -> list[str]:
    return [key for key in (f"k{n}" for n in range(400)) if partition_of(key, PARTITIONS) == partition]


async def at(body: Body, **numbers: int) -> None:
    """Put consumers' checkpoints to these numbers, in every partition; `others` is a service that has told so."""
    for name, number in numbers.items():
        reaction, _ = body.reaction(body.service.reactions["see"], "shelf")
        in_store = {"relay": RELAY, "reaction": reaction.consumer, "share": "share.items"}
        for part in range(PARTITIONS):
            if name in in_store:
                row = Progress(in_store[name], "shelf", part, number, number)
                async with body.store.transaction() as session:
                    await session.save(table_of(Progress), [table_of(Progress).to_row(row)])
            elif name == "view":
                now = (await body.views.checkpoints("tally")).get(("shelf", part), Checkpoint())
                move = Move("shelf", part, now.number, Checkpoint(number, number))
                assert await body.views.write("tally", [], [move])
            else:
                await heard_of(body, ConsumerAt("window counts", part, number, number), START + timedelta(days=100))


async def heard_of(body: Body, consumer: ConsumerAt, seen: datetime) -> None:
    row = Known(consumer.consumer, consumer.partition, consumer.number, consumer.offset, seen)
    async with body.store.transaction() as session:
        await session.save(table_of(Known), [table_of(Known).to_row(row)])


def trimming(body: Body, day: float, keeping: Retention = MONTH, held: frozenset[int] = ALL) -> Trimming:
    body.retention = keeping
    return Trimming(body, held, clock=lambda: START + timedelta(days=day))


async def oldest(body: Body) -> list[int]:
    return list((await body.store.oldest()).values())


FAR = 1_000


async def everybody_at(body: Body, number: int = FAR) -> None:
    await at(body, relay=number, reaction=number, share=1, view=number, others=number)


async def test_old_events_are_dropped_and_young_ones_are_not(body: Body) -> None:
    for day in (0, 1, 60):
        await place(body, day)
    heads = await body.store.heads()
    await everybody_at(body)
    await trimming(body, 100 - 70.5).trim_store()
    assert await oldest(body) == [1, 1]
    await trimming(body, 62).trim_store()
    # each put is two events: its own and the share's
    assert await oldest(body) == [81, 81]
    assert await body.store.heads() == heads
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [121, 121]
    await place(body, 100)
    assert [event.number for event in await body.store.journal(0, 120, 2)] == [121, 122]


async def test_by_default_the_journal_and_what_is_parked_are_kept_for_ever(body: Body) -> None:
    await place(body, 0)
    await body.direct.run([])
    await everybody_at(body)
    await park_broken(body)
    await trimming(body, 36_500, Retention()).trim_store()
    assert await oldest(body) == [1, 1]
    assert len(await all_of(body.store, Parked)) == 1


@pytest.mark.parametrize("last", ["relay", "reaction", "view", "others"])
async def test_no_event_is_dropped_that_somebody_has_not_passed(body: Body, last: str) -> None:
    await place(body, 0)
    await everybody_at(body)
    await behind(body, last, 7)
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [8, 8]
    if last == "view":
        assert await body.views.write("tally", [], [Move("shelf", p, 7, Checkpoint(FAR, FAR)) for p in ALL])
    else:
        await at(body, **{last: FAR})
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [41, 41]


async def behind(body: Body, last: str, number: int) -> None:
    if last == "view":
        await body.views.drop("tally", [])
    await at(body, **{last: number})


async def test_no_event_is_dropped_before_the_shares_have_been_looked_through(body: Body, shelf: Shelf) -> None:
    await place(body, 0)
    await at(body, relay=FAR, reaction=FAR, view=FAR)
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [1, 1]
    await complete(body, shelf.service.shares["items"], ALL)
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [41, 41]


async def test_a_view_that_has_never_moved_holds_the_journal_back(body: Body) -> None:
    await place(body, 0)
    await at(body, relay=FAR, reaction=FAR, share=1)
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [1, 1]


async def test_a_worker_drops_only_from_the_partitions_that_it_holds(body: Body) -> None:
    await place(body, 0)
    await everybody_at(body)
    await trimming(body, 100, held=frozenset({1})).trim_store()
    assert await oldest(body) == [1, 41]


async def test_a_consumer_that_is_silent_for_too_long_holds_nothing_back_and_is_named_once(
    body: Body, caplog: pytest.LogCaptureFixture
) -> None:
    await place(body, 0)
    await everybody_at(body)
    for part in ALL:
        await heard_of(body, ConsumerAt("gone view", part, 3, 3), START + timedelta(days=95))
    trimmer = trimming(body, 100)
    await trimmer.trim_store()
    assert await oldest(body) == [4, 4]
    assert "gone view" not in caplog.text
    later = trimming(body, 102.5)
    for _ in range(2):
        await later.trim_store()
    assert await oldest(body) == [41, 41]
    named = [record.getMessage() for record in caplog.records if "gone view" in record.getMessage()]
    assert len(named) == 2, named
    assert "not heard of" in named[0]
    assert "trimmed" in named[1]


async def test_a_consumer_that_needs_what_is_gone_holds_nothing_back(body: Body) -> None:
    await place(body, 0)
    await everybody_at(body, 20)
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [21, 21]
    for part in ALL:
        await heard_of(body, ConsumerAt("new view", part, 0, 0), START + timedelta(days=100))
        await heard_of(body, ConsumerAt("just there", part, 20, 20), START + timedelta(days=100))
    for name in ("relay", "reaction", "others"):
        await at(body, **{name: FAR})
    assert await body.views.write("tally", [], [Move("shelf", p, 20, Checkpoint(FAR, FAR)) for p in ALL])
    found = await floors(body, START + timedelta(days=100))
    assert [found[part].number for part in ALL] == [20, 20]


async def test_a_consumer_that_is_silent_for_very_long_is_forgotten(body: Body) -> None:
    for name, day in (("gone", 0), ("silent", 80)):
        await heard_of(body, ConsumerAt(name, 0, 1, 1), START + timedelta(days=day))
    await trimming(body, 100).trim_store()
    assert [row.consumer for row in await all_of(body.store, Known)] == ["silent"]


async def test_the_journal_of_event_sourced_entities_is_never_trimmed(engines: Engines, bank: Bank) -> None:
    body = await opened(bank.service, engines)
    await direct(body, *(Deposit(f"k{n}", 1) for n in range(20)))
    await trimming(body, 100).trim_store()
    assert set((await body.store.oldest()).values()) == {1}
    assert retention.keeps_events(body)


@pytest.mark.parametrize("odd", ["9999-01-01T00:00:00Z", "", "yesterday"])
async def test_a_message_with_an_odd_time_does_not_hold_up_the_others(body: Body, odd: str) -> None:
    await place(body, 0)
    message = message_of(Put(keys_of(0)[0]))
    message = msgspec.structs.replace(message, time=odd) if hasattr(message, "__struct_fields__") else message
    await body.direct.run([Task(message)])
    await place(body, 1)
    await everybody_at(body)
    await trimming(body, 100).trim_store()
    heads = await body.store.heads()
    assert await oldest(body) == [heads[0] + 1, heads[1] + 1]


async def test_dropping_while_events_are_appended_and_folded_loses_none(
    body: Body, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of old events go, pages at a time, while new ones come and every consumer follows."""
    monkeypatch.setattr(retention, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(retention, "EVERY_S", 0.005)
    monkeypatch.setattr(retention, "PAGE", 50)
    for _ in range(15):
        await place(body, 0, 100)
    await complete(body, shelf.service.shares["items"], ALL)
    before = await body.store.heads()
    body.retention = Retention(journal_days=1 / 86_400)
    head = WriteHead(body, "one")
    async with running(head.run()):
        for _ in range(5):
            await place(body, 0.1, 100)
        await eventually(lambda: _is_trimmed(body, before), 60)
        await eventually(lambda: _has_folded(body, 20))
    heads = await body.store.heads()
    seen = {row.item_id: row.count for row in await all_of(body.store, Seen)}
    assert set(seen.values()) == {20}
    tallies = await stored(body.views, "tally")
    assert {tally["events"] for tally in tallies.values()} == {20}
    assert sum(heads.values()) == 2 * 20 * 200


async def _is_trimmed(body: Body, before: Mapping[int, int]) -> bool:
    return all(first > before[part] for part, first in (await body.store.oldest()).items())


async def _has_folded(body: Body, count: int) -> bool:
    tallies = await stored(body.views, "tally")
    seen = await all_of(body.store, Seen)
    return {each["events"] for each in tallies.values()} == {row.count for row in seen} == {count}


async def test_outcomes_are_forgotten_after_their_time_but_not_of_what_is_parked(body: Body) -> None:
    await body.direct.run([Task(message_of(Put("a"), command_id="a1"))])
    await park_broken(body)
    body.retention = Retention(inbox_days=7)
    for days, known in ((6.9, ["a1", "b1"]), (7.1, ["b1"])):
        now = datetime.now(UTC) + timedelta(days=days)
        await Trimming(body, ALL, clock=lambda now=now: now).trim_store()
        assert sorted(row.command_id for row in await all_of(body.store, Handled)) == known
    [again] = await body.direct.run([Task(message_of(Put("a"), command_id="a1"))])
    assert not again.duplicate  # type: ignore[union-attr]


async def park_broken(body: Body) -> None:
    await body.commands.run([Task(message_of(Put("broken"), command_id="b1"), 1, 1)])
    async with asyncio.timeout(5):
        while [row.state for row in await all_of(body.store, Parked)] != ["parked"]:
            for key in await body.parking.due(body.commands, datetime.now(UTC)):
                await body.parking.redrive(body.commands, key)


async def test_what_is_parked_is_given_up_after_its_time_and_those_behind_it_run(body: Body, shelf: Shelf) -> None:
    await park_broken(body)
    body.retention = Retention(parked_days=10)
    for days, left in ((9.9, 1), (10.1, 0)):
        now = datetime.now(UTC) + timedelta(days=days)
        await Trimming(body, ALL, clock=lambda now=now: now).trim_store()
        assert len(await all_of(body.store, Parked)) == left
    [handled] = [row for row in await all_of(body.store, Handled) if row.command_id == "b1"]
    assert (handled.state, handled.reason) == ("rejected", "dropped")


async def test_what_a_view_has_parked_is_given_up_after_its_time_and_those_behind_it_are_folded(
    body: Body, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.broken_for.update(("poison", "young"))
    await body.direct.run([Task(message_of(Put("poison"))) for _ in range(3)])
    await project(body, shelf.tally)
    shelf.broken_for.discard("poison")
    body.retention = Retention(parked_days=10)
    for days, waiting in ((9.9, 3), (10.1, 0)):
        now = datetime.now(UTC) + timedelta(days=days)
        await Trimming(body, ALL, clock=lambda now=now: now).trim_store()
        assert await parked_counts(body) == ({"tally": waiting} if waiting else {})
    assert (await stored(body.views, "tally"))["poison"]["events"] == 2
    assert "was parked by tally for 10 days and is dropped" in caplog.text


async def test_a_worker_that_lost_a_partition_while_it_looked_trims_its_others(body: Body) -> None:
    """The one that holds the partition now has trimmed more meanwhile: there is nothing to do, and nothing wrong."""
    await place(body, 0)
    await everybody_at(body)

    class HandedOver(WrappedStore):
        async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
            if partition == 0 and after == 0:
                await trimmed(self._store, 0, 10)
            return await super().journal(partition, after, limit)

    body.store = HandedOver(body.store)
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [11, 41]


async def test_the_status_says_what_is_kept_since_when_and_who_holds_it_back(body: Body) -> None:
    body.retention = MONTH
    await place(body, 0)
    await everybody_at(body)
    await behind(body, "view", 7)
    await heard_of(body, ConsumerAt("gone view", 0, 3, 3), datetime(2020, 1, 1, tzinfo=UTC))
    found = (await service_status(body))["retention"]
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
    await trimming(body, 100).trim_store()
    journal = (await service_status(body))["retention"]["journal"]
    assert [(each["oldest"], each["kept"]) for each in journal] == [(8, 33)] * 2
    for part in ALL:
        await trimmed(body.store, part, 40)
    [first, _] = (await service_status(body))["retention"]["journal"]
    assert (first["kept"], first["since"]) == (0, None)


async def test_a_share_that_is_not_looked_through_and_a_relay_are_named_when_they_hold_a_journal_back(
    body: Body,
) -> None:
    await place(body, 0)
    await at(body, relay=3, reaction=FAR, view=FAR)
    assert [each.holder for each in (await floors(body, START)).values()] == ["share items"] * 2
    await at(body, share=1)
    assert [each.holder for each in (await floors(body, START)).values()] == [RELAY] * 2


async def test_only_executed_commands_leave_the_log(body: Body) -> None:
    await body.log.append(body.commands_topic, [message_of(Put(key), 0) for key in keys_of(0)[:10]])
    await body.log.append(body.commands_topic, [message_of(Put(key), 99) for key in keys_of(0)[:10]])
    await trimming(body, 100).trim_log()
    assert len(await commands_of(body)) == 20
    await body.commands.run([], [Move(body.commands_topic, 0, 0, Checkpoint(4, 4))])
    await trimming(body, 5).trim_log()
    assert len(await commands_of(body)) == 20
    await trimming(body, 100).trim_log()
    assert len(await commands_of(body)) == 16
    await body.commands.run([], [Move(body.commands_topic, 0, 4, Checkpoint(20, 20))])
    await trimming(body, 1_000, Retention(log_days=0)).trim_log()
    assert len(await commands_of(body)) == 16
    await trimming(body, 1_000).trim_log()
    assert len(await commands_of(body)) == 1
    assert (await body.log.ends(body.commands_topic))[0] == 20


async def commands_of(body: Body) -> Sequence[Any]:
    return await read_all(body.log, body.commands_topic, {0: 0})


async def test_events_stay_in_the_log_for_who_has_not_read_them(body: Body) -> None:
    await place(body, 0, 5)
    for part in ALL:
        await body.log.append(body.events_topic, await body.store.journal(part, 0, 100))
    await everybody_at(body)
    for part in ALL:
        await heard_of(body, ConsumerAt("slow view", part, 6, 6), START + timedelta(days=100))
    await trimming(body, 100).trim_log()
    left = await read_all(body.log, body.events_topic, dict.fromkeys(ALL, 0))
    assert sorted((each.message.partition, each.offset) for each in left) == [(p, n) for p in ALL for n in range(7, 11)]


async def test_consumers_elsewhere_tell_the_owner_where_they_are(
    shelf: Shelf, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "REPORT_S", 0.005)
    window = await opened(shelf.window, memory_engines()._replace(log=body.log), owners={"shelf": body.owner("shelf")})
    await place(body, 0, 3)
    await window.views.write("counts", [], [Move("shelf", 1, 0, Checkpoint(4, 9))])
    async with running(keep_reporting(window, "shelf", ALL)):
        await eventually(lambda: _told(body, {("window counts", 0): (0, 0), ("window counts", 1): (4, 9)}))
        copy = copy_name(shelf.borrow, "async")
        await window.views.write(copy, [], [Move("shelf", 0, 0, Checkpoint(6, 0))])
        await window.views.write("counts", [], [Move("shelf", 1, 4, Checkpoint(5, 10))])
        await eventually(
            lambda: _told(
                body,
                {("window counts", 0): (0, 0), ("window counts", 1): (5, 10), (f"window {copy}", 0): (6, 0)},
            )
        )
    found = await floors(body, datetime.now(UTC))
    assert found[1].number == 0


async def _told(body: Body, expected: Mapping[tuple[str, int], tuple[int, int]]) -> bool:
    rows = await all_of(body.store, Known)
    return {(row.consumer, row.partition): (row.number, row.offset) for row in rows} == expected


async def test_a_copy_that_is_older_than_the_journal_is_filled_from_the_documents(
    shelf: Shelf, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "LOOK_S", 0.002)
    await complete(body, shelf.service.shares["items"], ALL)
    window = await opened(shelf.window, memory_engines()._replace(log=body.log), owners={"shelf": body.owner("shelf")})
    name = copy_name(shelf.borrow, "async")
    await body.direct.run([Task(message_of(Put(key))) for key in ("kept", "gone", "same")])
    async with running(CopyKeeper(window, shelf.borrow, ALL).run()):
        await eventually(lambda: _keys(window, name, {"kept", "gone", "same"}))
    await body.direct.run([Task(message_of(Take("gone")))])
    await body.direct.run([Task(message_of(Put("kept"))), Task(message_of(Put("new")))])
    for part, head in (await body.store.heads()).items():
        await trimmed(body.store, part, head)
    async with running(CopyKeeper(window, shelf.borrow, ALL).run()):
        await eventually(lambda: _keys(window, name, {"kept", "new", "same"}))
        await eventually(lambda: _puts(window, name, {"kept": 2, "new": 1, "same": 1}))
        await body.direct.run([Task(message_of(Put("same")))])
        await eventually(lambda: _puts(window, name, {"kept": 2, "new": 1, "same": 2}))


async def _keys(body: Body, view: str, expected: set[str]) -> bool:
    return {document.key for document in await body.views.scan(view)} == expected


async def _puts(body: Body, view: str, expected: Mapping[str, int]) -> bool:
    return {key: document["puts"] for key, document in (await stored(body.views, view)).items()} == expected


async def test_a_view_that_needs_events_that_are_gone_says_so_and_keeps_what_it_has(
    shelf: Shelf, body: Body, caplog: pytest.LogCaptureFixture
) -> None:
    await place(body, 0, 1)
    await project(body, shelf.tally)
    before = await stored(body.views, "tally")
    await place(body, 0, 3)
    for part, head in (await body.store.heads()).items():
        await trimmed(body.store, part, head)
    await place(body, 0, 1)
    with pytest.raises(Trimmed, match="the journal of shelf has trimmed"):
        await read_on(body.feed("shelf", {0: Checkpoint(2)}))
    with caplog.at_level(logging.ERROR):
        async with running(WriteHead(body, "one").run()):
            await eventually(lambda: "the journal of shelf has trimmed" in caplog.text)
    [error] = {record.levelno for record in caplog.records if "the journal of shelf" in record.getMessage()}
    assert error == logging.ERROR
    assert await stored(body.views, "tally") == before


async def read_on(feed: Feed) -> None:
    try:
        async with asyncio.timeout(10):
            while True:
                await feed.next()
    finally:
        await feed.close()


async def test_a_gap_in_the_commands_is_an_error_in_the_log(body: Body, caplog: pytest.LogCaptureFixture) -> None:
    await body.log.append(body.commands_topic, [message_of(Put(key)) for key in keys_of(0)[:10]])
    await body.log.trim(body.commands_topic, {0: 5})
    async with running(WriteHead(body, "one").run()):
        await eventually(lambda: "goes on at offset 6 after 0" in caplog.text)


async def test_no_step_is_larger_than_a_page(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE", 10)
    await place(body, 0, 40)
    await everybody_at(body)
    spans: list[int] = []

    class WatchingSession(WrappedSession):
        async def trim(self, partition: int, through: int) -> None:
            spans.append(through + 1 - (await body.store.oldest())[partition])
            await super().trim(partition, through)

    class WatchingStore(WrappedStore):
        @asynccontextmanager
        async def transaction(self) -> AsyncIterator[Any]:
            async with super().transaction() as session:
                yield WatchingSession(session)

    body.store = WatchingStore(body.store)
    await trimming(body, 100).trim_store()
    assert await oldest(body) == [81, 81]
    assert spans == [10] * 16


async def test_trimming_is_a_work_of_the_write_head(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EVERY_S", 0.005)
    await place(body, 0)
    await complete(body, body.service.shares["items"], ALL)
    body.retention = Retention(journal_days=1)
    async with running(WriteHead(body, "one").run()):
        await eventually(lambda: _is_trimmed(body, dict.fromkeys(ALL, 1)))
    assert b'chimera_trimmed_total{service="shelf",what="journal"}' in body.metrics.exposition()


SERVICES = '[services.a]\napp = "a:a"\n[services.b-c]\napp = "b:b"\n'


def settings_of(tmp_path: Path, text: str, **environment: str) -> Any:
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
        ("journal_days = -1", "retention.journal_days"),
        ("consumer_days = 0", "retention.consumer_days"),
        ("jounal_days = 1", "jounal_days"),
    ],
)
def test_settings_that_would_lose_something_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings_of(tmp_path, f"[retention]\n{text}\n")
