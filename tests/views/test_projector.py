"""Views hold exactly what the events say, whoever folds them and however often."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

import msgspec
import pytest

from chimera import Event, Service, Unavailable
from chimera.core.aio.signals import Signal
from chimera.core.context import Context
from chimera.core.metrics import Metrics
from chimera.core.names import all_of
from chimera.core.timing import Limits
from chimera.journal.feed import Batch, Feed
from chimera.messages import Message, partition_of
from chimera.ports import Checkpoint, Document, Listing, Move, ViewStore
from chimera.share.digests import SharedChange
from chimera.testing.broken import WrappedViews
from chimera.testing.kit.balance import recomputed
from chimera.testing.waiting import eventually, running
from chimera.views.parked import parked_events_of, spans_of
from chimera.views.projections import CopyProjection, ViewProjection
from chimera.views.projector import Projector
from tests.support import (
    PARTITIONS,
    TIME,
    Bank,
    Card,
    Close,
    Deposit,
    Engines,
    Shop,
    Withdraw,
    direct,
    journal_of,
    opened,
    project,
    projector_of,
    stored,
)


async def batches(context: Context, partition: int, size: int) -> list[Batch]:
    """A partition's journal in batches."""
    page = await context.store.journal(partition, 0, 100_000)
    return [
        Batch(
            page[start : start + size],
            [Move("accounts", partition, start, Checkpoint(min(start + size, len(page))))],
        )
        for start in range(0, len(page), size)
    ]


async def is_right(context: Context, bank: Bank) -> bool:
    events = await journal_of(context.store)
    return all(
        [await stored(context.views, view.name) == recomputed(view, events) for view in (bank.balance, bank.total)]
    )


async def fill(context: Context) -> None:
    keys = [f"k{n}" for n in range(12)]
    await direct(context, *(Deposit(key, 10) for key in keys))
    await direct(context, *(Withdraw(key, 1) for key in keys[:5]), *(Close(key) for key in keys[3:6]))
    await direct(context, *(Deposit(key, 2) for key in keys[4:9]))


async def test_a_view_equals_the_fold_of_its_events(context: Context, bank: Bank) -> None:
    await fill(context)
    await project(context, bank.balance, size=3)
    await project(context, bank.total, size=3)
    assert await is_right(context, bank)
    assert (await stored(context.views, "total"))["all"]["events"] == 22


async def test_a_deleted_document_is_gone_and_may_come_back(context: Context, bank: Bank) -> None:
    await direct(context, Deposit("a", 5), Close("a"))
    await project(context, bank.balance)
    assert await stored(context.views, "balance") == {}
    await direct(context, Deposit("a", 7))
    await project(context, bank.balance)
    assert (await stored(context.views, "balance"))["a"]["balance"] == 7


async def test_a_batch_that_was_applied_is_refused_the_second_time(context: Context, bank: Bank) -> None:
    await fill(context)
    projector = projector_of(context, bank.total)
    [batch, *_] = await batches(context, 0, 100)
    assert await projector.apply(batch)
    before = await stored(context.views, "total")
    assert not await projector.apply(batch)
    assert await stored(context.views, "total") == before


async def test_several_partitions_feed_one_document_concurrently_and_nothing_is_lost(
    context: Context, bank: Bank
) -> None:
    await fill(context)
    projectors = {partition: projector_of(context, bank.total) for partition in range(PARTITIONS)}

    async def apply_all(partition: int) -> None:
        for batch in await batches(context, partition, 1):
            assert await projectors[partition].apply(batch)
            await asyncio.sleep(0)

    await asyncio.gather(*map(apply_all, range(PARTITIONS)))
    assert await stored(context.views, "total") == recomputed(bank.total, await journal_of(context.store))


class Reading(WrappedViews):
    """A view store that notes what is read of it."""

    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self.read: list[str] = []

    async def get(self, view: str, keys: Sequence[str]) -> Any:
        self.read += [f"{view}/{key}" for key in keys]
        return await super().get(view, keys)

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        self.read.append(view)
        return await super().scan(view, after, limit)


async def test_what_a_projector_has_just_written_it_does_not_read_again(context: Context, bank: Bank) -> None:
    await direct(context, *(Deposit("a", amount) for amount in range(1, 6)))
    views = Reading(context.views)
    projector = projector_of(context, bank.balance, views)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(context, p, 1))]
    for batch in part:
        assert await projector.apply(batch)
    assert sorted(views.read) == ["balance.waiting", "balance/a"]
    assert (await stored(context.views, "balance"))["a"] == {"account_id": "a", "events": 5, "balance": 15}


class Told(Feed):
    """A feed that gives these batches, and then ends."""

    def __init__(self, context: Context, given: Sequence[Batch]) -> None:
        super().__init__(context, "accounts", dict.fromkeys(range(PARTITIONS), Checkpoint()))
        self._given = list(given)

    async def next(self) -> Batch:
        if not self._given:
            raise Unavailable("it was given in whole")
        return self._given.pop(0)

    def reset(self, checkpoints: Mapping[int, Checkpoint]) -> None: ...


async def test_a_projector_with_nothing_to_do_keeps_no_documents(context: Context, bank: Bank) -> None:
    await direct(context, Deposit("a", 1), Deposit("a", 2))
    views = Reading(context.views)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(context, p, 100))]
    idle = Batch([], [])
    [first, second, *_] = await batches(context, part[0].moves[0].partition, 1)
    feed = Told(context, [first, idle, second])
    with pytest.raises(Unavailable):
        await projector_of(context, bank.balance, views).run(feed)
    assert views.read.count("balance/a") == 2


async def test_projectors_that_take_turns_at_one_document_lose_nothing(context: Context, bank: Bank) -> None:
    await fill(context)
    parts = [await batches(context, partition, 1) for partition in range(PARTITIONS)]
    projectors = [projector_of(context, bank.total) for _ in parts]
    for turn in zip_longest(*parts):
        for one, batch in zip(projectors, turn, strict=True):
            assert batch is None or await one.apply(batch)
    assert await stored(context.views, "total") == recomputed(bank.total, await journal_of(context.store))


async def test_an_event_that_fails_after_others_did_not_holds_up_those_of_its_key(context: Context, bank: Bank) -> None:
    await direct(context, *(Deposit("a", amount) for amount in range(1, 5)))
    projector = projector_of(context, bank.balance)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(context, p, 1))]
    for batch in part:
        bank.failing_views = {"a"} if b'"amount":2' in batch.messages[0].data else set()
        assert await projector.apply(batch)
    assert (await stored(context.views, "balance"))["a"]["balance"] == 1
    assert [tries for _, tries in (await parked(context, "balance"))["a"]] == [1, 0, 0]


class Interrupted(WrappedViews):
    """A view store in which somebody else writes between this projector's read and its write."""

    def __init__(self, views: ViewStore, between: Sequence[Callable[[], Awaitable[object]]]) -> None:
        super().__init__(views)
        self._between = list(between)

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        if self._between:
            await self._between.pop(0)()
        return await super().write(consumer, documents, moves, listings)


async def test_a_conflict_with_another_partition_is_folded_again(context: Context, bank: Bank) -> None:
    await fill(context)
    parts = {partition: await batches(context, partition, 100) for partition in range(PARTITIONS)}
    used = [partition for partition, part in parts.items() if part]
    other = projector_of(context, bank.total)
    views = Interrupted(context.views, [partial(other.apply, parts[p][0]) for p in used[1:]])
    assert await projector_of(context, bank.total, views).apply(parts[used[0]][0])
    assert await stored(context.views, "total") == recomputed(bank.total, await journal_of(context.store))


async def test_a_projector_whose_checkpoint_was_moved_by_another_writes_nothing(context: Context, bank: Bank) -> None:
    await fill(context)
    [batch] = await batches(context, 0, 100)
    other = projector_of(context, bank.total)
    views = Interrupted(context.views, [lambda: other.apply(batch)])
    assert not await projector_of(context, bank.total, views).apply(batch)


async def test_two_projectors_on_the_same_partitions_fold_everything_once(context: Context, bank: Bank) -> None:
    await fill(context)
    projectors = [projector_of(context, bank.balance) for _ in range(2)]
    feeds = [Feed(context, "accounts", dict.fromkeys(range(PARTITIONS), Checkpoint())) for _ in range(2)]
    async with running(*(p.run(f) for p, f in zip(projectors, feeds, strict=True))):
        await context.log.append("accounts.events", await journal_of(context.store))
        events = await journal_of(context.store)
        await eventually(lambda: _equals(context, bank, events))
        await direct(context, Deposit("late", 3))
        await eventually(lambda: _has(context, "balance", "late", 3))
    for feed in feeds:
        await feed.close()


async def _equals(context: Context, bank: Bank, events: Sequence[Message]) -> bool:
    return await stored(context.views, "balance") == recomputed(bank.balance, events)


async def _has(context: Context, view: str, key: str, balance: int) -> bool:
    return bool((await stored(context.views, view)).get(key, {}).get("balance") == balance)


async def test_a_view_that_is_dropped_while_its_projector_idles_is_filled_again(context: Context, bank: Bank) -> None:
    await fill(context)
    projector = projector_of(context, bank.balance)
    feed = Feed(context, "accounts", dict.fromkeys(range(PARTITIONS), Checkpoint()))
    events = await journal_of(context.store)
    async with running(projector.run(feed)):
        await eventually(lambda: _equals(context, bank, events))
        await context.views.drop("balance", all_of("balance"))
        await eventually(lambda: _equals(context, bank, events))
    await feed.close()


async def test_a_view_that_is_dropped_while_its_projector_works_is_right_in_the_end(
    context: Context, bank: Bank
) -> None:
    projector = projector_of(context, bank.balance)
    feed = Feed(context, "accounts", dict.fromkeys(range(PARTITIONS), Checkpoint()))
    async with running(projector.run(feed)):
        for turn in range(8):
            await fill(context)
            await context.log.append("accounts.events", (await journal_of(context.store))[-5:])
            await asyncio.sleep(0.001)
            if turn % 3 == 1:
                await context.views.drop("balance", all_of("balance"))
        events = await journal_of(context.store)
        await eventually(lambda: _equals(context, bank, events))
    await feed.close()


# What fails (invariant 5)


async def parked(context: Context, view: str) -> dict[str, list[tuple[str, int]]]:
    keys = [key async for key, _ in spans_of(context.views, view)]
    return {
        key: [(each.cause, each.tries) async for each in parked_events_of(context.views, view, key)] for key in keys
    }


async def test_a_failing_event_is_parked_and_its_document_is_as_before_while_other_keys_fold(
    context: Context, bank: Bank
) -> None:
    await direct(context, Deposit("a", 5), Deposit("b", 5))
    await project(context, bank.balance)
    bank.failing_views.add("a")
    await direct(context, Deposit("a", 7), Deposit("b", 7), Deposit("a", 8), Deposit("c", 1))
    await project(context, bank.balance)
    found = await stored(context.views, "balance")
    assert {key: document["balance"] for key, document in found.items()} == {"a": 5, "b": 12, "c": 1}
    assert found["a"]["events"] == 1
    aside = (await parked(context, "balance"))["a"]
    assert aside == [("ValueError: a breaks the view", 1), ("waits behind an earlier event of its key", 0)]


async def test_later_batches_queue_behind_what_is_parked_and_are_folded_in_order_afterwards(
    context: Context, bank: Bank
) -> None:
    bank.failing_views.add("a")
    for amount in (1, 2, 3):
        await direct(context, Deposit("a", amount), Deposit("b", amount))
        await project(context, bank.balance)
    await direct(context, Close("a"), Deposit("a", 40))
    bank.failing_views.clear()
    await project(context, bank.balance)
    assert "a" not in await stored(context.views, "balance")
    assert len((await parked(context, "balance"))["a"]) == 5
    results = await projector_of(context, bank.balance).redrive("a")
    assert [settled for _, settled in results] == [True] * 5
    assert await parked(context, "balance") == {}
    assert await stored(context.views, "balance") == recomputed(bank.balance, await journal_of(context.store))
    assert (await stored(context.views, "balance"))["a"]["balance"] == 40


async def test_a_redrive_that_fails_again_keeps_the_order_and_counts_the_try(context: Context, bank: Bank) -> None:
    bank.failing_views.add("a")
    await direct(context, Deposit("a", 1), Deposit("a", 2))
    await project(context, bank.balance)
    results = await projector_of(context, bank.balance).redrive("a")
    assert [settled for _, settled in results] == [False]
    assert [tries for _, tries in (await parked(context, "balance"))["a"]] == [2, 0]
    bank.failing_views.clear()
    await projector_of(context, bank.balance).redrive("a")
    assert await stored(context.views, "balance") == recomputed(bank.balance, await journal_of(context.store))


async def test_dropping_gives_up_the_first_event_only(context: Context, bank: Bank) -> None:
    bank.failing_views.add("a")
    await direct(context, Deposit("a", 1), Deposit("a", 20))
    await direct(context, Deposit("a", 300))
    await project(context, bank.balance)
    bank.failing_views.clear()
    [first, *_] = [event for event in await journal_of(context.store) if event.type == "accounts.Deposited"]
    assert await projector_of(context, bank.balance).redrive("a", drop=["another"]) == []
    results = await projector_of(context, bank.balance).redrive("a", drop=[first.id])
    assert [settled for _, settled in results] == [True] * 3
    assert (await stored(context.views, "balance"))["a"]["balance"] == 320


async def test_a_redrive_of_nothing_changes_nothing(context: Context, bank: Bank) -> None:
    assert await projector_of(context, bank.balance).redrive("nobody") == []


async def test_a_redrive_that_meets_a_running_projector_loses_nothing(context: Context, bank: Bank) -> None:
    bank.failing_views.add("a")
    await direct(context, Deposit("a", 1))
    await project(context, bank.balance)
    bank.failing_views.clear()
    await direct(context, Deposit("a", 20))
    views = Interrupted(context.views, [lambda: project(context, bank.balance)])
    await projector_of(context, bank.balance, views).redrive("a")
    assert await parked(context, "balance") == {}
    assert (await stored(context.views, "balance"))["a"]["balance"] == 21


class Written(WrappedViews):
    """A view store that notes the sizes of the documents of each write."""

    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self.sizes: list[list[int]] = []

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        self.sizes.append([len(document.data or b"") for document in documents])
        return await super().write(consumer, documents, moves, listings)


async def test_an_event_behind_a_poisoned_one_costs_as_much_however_many_wait_before_it(
    context: Context, bank: Bank
) -> None:
    bank.failing_views.add("a")
    await direct(context, *(Deposit("a", 1) for _ in range(120)))
    views = Written(context.views)
    projector = projector_of(context, bank.balance, views)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(context, p, 1))]
    for batch in part:
        assert await projector.apply(batch)
    costs = [(len(sizes), sum(sizes)) for sizes in views.sizes if sizes]
    assert len(costs) == 120
    assert max(costs[60:]) <= (2, costs[1][1] + 20), costs
    assert [tries for _, tries in (await parked(context, "balance"))["a"]] == [1] + [0] * 119


async def test_a_line_is_folded_again_a_page_at_a_time_and_in_order(context: Context, bank: Bank) -> None:
    context = replace(context, limits=Limits(parked_page=4))
    bank.failing_views.add("a")
    await direct(context, *(Deposit("a", amount) for amount in range(1, 11)))
    await direct(context, Close("a"), Deposit("a", 40))
    await project(context, bank.balance)
    bank.failing_views.clear()
    views = Written(context.views)
    results = await projector_of(context, bank.balance, views).redrive("a")
    assert [settled for _, settled in results] == [True] * 12
    assert len(views.sizes) == 3
    assert [failure.message.number for failure, _ in results] == sorted(f.message.number for f, _ in results)
    assert [await context.views.scan(view) for view in all_of("balance")[1:3]] == [[], []]
    assert await stored(context.views, "balance") == recomputed(bank.balance, await journal_of(context.store))


async def test_a_line_of_more_than_a_page_may_be_dropped_in_whole_and_no_further_than_it_is_named(
    context: Context, bank: Bank
) -> None:
    context = replace(context, limits=Limits(parked_page=4))
    bank.failing_views.add("a")
    await direct(context, *(Deposit("a", 10**n) for n in range(7)))
    await project(context, bank.balance)
    ids = [failure.message.id async for failure in parked_events_of(context.views, "balance", "a")]
    assert await projector_of(context, bank.balance).redrive("a", drop=ids[1:]) == []
    bank.failing_views.clear()
    results = await projector_of(context, bank.balance).redrive("a", drop=ids[:6])
    assert [settled for _, settled in results] == [True] * 7
    assert (await stored(context.views, "balance"))["a"]["balance"] == 1_000_000


async def test_a_line_that_is_full_holds_its_view_up_and_loses_nothing(context: Context, bank: Bank) -> None:
    context = replace(context, limits=Limits(parked_line=3))
    bank.failing_views.add("a")
    await direct(context, *(Deposit("a", 1) for _ in range(3)))
    await project(context, bank.balance)
    before = await context.views.checkpoints("balance")
    await direct(context, Deposit("a", 1), Deposit("b", 1))
    with pytest.raises(Unavailable, match=r"set aside 3 events of key 'a'.*chimera parked list"):
        await project(context, bank.balance, size=1)
    after = await context.views.checkpoints("balance")
    place = ("accounts", partition_of("a", PARTITIONS))
    assert after[place] == before[place]
    assert len((await parked(context, "balance"))["a"]) == 3
    bank.failing_views.clear()
    await projector_of(context, bank.balance).redrive("a")
    await project(context, bank.balance)
    assert await stored(context.views, "balance") == recomputed(bank.balance, await journal_of(context.store))


async def test_of_a_line_only_the_event_that_failed_is_told_in_the_log_and_once(
    context: Context, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    bank.failing_views.add("a")
    await direct(context, *(Deposit("a", 1) for _ in range(5)), Deposit("b", 1))
    await project(context, bank.balance, size=2)
    told = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert len(told) == 1, told


async def test_events_that_can_not_be_decoded_are_parked(context: Context, bank: Bank) -> None:
    good = Message("1", "accounts", "accounts.Deposited", "a", TIME, b'{"account_id":"a","amount":1}', 0, 1)
    bad = msgspec.structs.replace(good, id="2", key="b", data=b'{"account_id":"b","amount":"many"}', number=2)
    worse = msgspec.structs.replace(good, id="3", key="c", data=b'{"account_id":"c","amount":nonsense', number=3)
    batch = Batch([good, bad, worse], [Move("accounts", 0, 0, Checkpoint(3))])
    assert await projector_of(context, bank.balance).apply(batch)
    assert set(await stored(context.views, "balance")) == {"a"}
    aside = await parked(context, "balance")
    assert set(aside) == {"b", "c"}
    assert "amount" in aside["b"][0][0]


class Counted(Event, source="odd", key="name"):
    name: str
    value: int = 0


class Odd(msgspec.Struct):
    name: str
    value: Any = None


class Pairs(msgspec.Struct):
    name: str
    count: int = 0


def odd(number: int, name: str, value: int = 0) -> Message:
    return Message(
        f"odd/0@{number}", "odd", "odd.Counted", name, TIME, msgspec.json.encode(Counted(name, value)), 0, number
    )


@pytest.mark.parametrize("value", [object(), "\ud800", {1, object()}], ids=["object", "surrogate", "set"])
async def test_a_document_that_can_not_be_written_parks_its_event_and_no_other(engines: Engines, value: Any) -> None:
    service = Service("odd")
    view = service.view(Odd, key="name")

    @view.on(Counted)
    def counted(document: Odd, event: Counted) -> None:
        document.value = value if event.value else "fine"

    context = await opened(service, engines)
    batch = Batch([odd(1, "a"), odd(2, "b", 1), odd(3, "c")], [Move("odd", 0, 0, Checkpoint(3))])
    assert await projector_of(context, view).apply(batch)
    assert set(await stored(context.views, "odd")) == {"a", "c"}
    assert set(await parked(context, "odd")) == {"b"}


async def test_a_projection_may_name_several_documents_and_each_gets_the_event_once(engines: Engines) -> None:
    service = Service("odd")
    view = service.view(Pairs, key="name")

    @view.on(Counted, key=lambda event: [event.name, "all", event.name])
    def counted(document: Pairs, event: Counted) -> None:
        document.count += 1

    context = await opened(service, engines)
    batch = Batch([odd(1, "a"), odd(2, "b"), odd(3, "all")], [Move("odd", 0, 0, Checkpoint(3))])
    assert await projector_of(context, view).apply(batch)
    found = {key: document["count"] for key, document in (await stored(context.views, "pairs")).items()}
    assert found == {"a": 1, "b": 1, "all": 3}


async def test_an_event_that_fails_on_its_second_document_leaves_the_first_untouched(engines: Engines) -> None:
    service = Service("odd")
    view = service.view(Pairs, key="name")

    @view.on(Counted, key=lambda event: ["first", event.name])
    def counted(document: Pairs, event: Counted) -> None:
        document.count += 1
        if document.name == "bad":
            raise ValueError("as told")

    context = await opened(service, engines)
    batch = Batch([odd(1, "a"), odd(2, "bad"), odd(3, "c")], [Move("odd", 0, 0, Checkpoint(3))])
    assert await projector_of(context, view).apply(batch)
    found = {key: document["count"] for key, document in (await stored(context.views, "pairs")).items()}
    assert found == {"first": 2, "a": 1, "c": 1}


def copying(context: Context, *, keys_only: bool = False) -> Projector:
    projection = CopyProjection("copy", "accounts.share.cards", Card, keys_only=keys_only)
    return Projector(replace(context, service=Shop().service, metrics=Metrics(), moved=Signal()), projection)


def change(number: int, key: str, document: bytes) -> Message:
    data = msgspec.json.encode(SharedChange(key, msgspec.Raw(document)))
    return Message(f"accounts/0@{number}", "accounts", "accounts.share.cards", key, TIME, data, 0, number)


@pytest.mark.parametrize("keys_only", [False, True])
async def test_a_copy_keeps_good_documents_parks_garbage_and_forgets_what_was_removed(
    context: Context, keys_only: bool
) -> None:
    good = b'{"account_id":"a","balance":1}'
    messages = [
        change(1, "a", good),
        change(2, "b", good),
        change(3, "a", b'{"account_id":"a","balance":"much"}'),
        change(4, "a", good),
        change(5, "b", b"null"),
        change(6, "c", good),
    ]
    assert await copying(context, keys_only=keys_only).apply(Batch(messages, [Move("accounts", 0, 0, Checkpoint(6))]))
    found = await context.views.get("copy", ["a", "b", "c"])
    assert {key: d.data for key, d in found.items()} == dict.fromkeys("ac", b"true" if keys_only else good)
    aside = await parked(context, "copy")
    assert {key: len(failures) for key, failures in aside.items()} == {"a": 2}
    [first, *_] = [failure async for failure in parked_events_of(context.views, "copy", "a")]
    await copying(context, keys_only=keys_only).redrive("a", drop=[first.message.id])
    assert await parked(context, "copy") == {}


def test_a_copy_takes_only_the_changes_of_its_own_share() -> None:
    projection = CopyProjection("copy", "accounts.share.cards", Card, keys_only=False)
    assert projection.wanted(change(1, "a", b"null"))
    assert not projection.wanted(msgspec.structs.replace(change(1, "a", b"null"), type="accounts.share.other"))


def test_a_view_takes_only_the_events_that_it_folds(bank: Bank) -> None:
    projection = ViewProjection(bank.balance)
    assert not projection.wanted(change(1, "a", b"null"))


async def test_who_waits_for_a_view_is_woken_when_it_has_moved(context: Context, bank: Bank) -> None:
    await direct(context, Deposit("a", 1))
    waiting = asyncio.ensure_future(context.moved.wait(5.0))
    await asyncio.sleep(0)
    await project(context, bank.balance)
    assert await waiting
