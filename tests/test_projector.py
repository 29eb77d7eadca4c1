"""Views hold exactly what the events say, whoever folds them and however often."""

import asyncio
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import msgspec
import pytest

from chimera import Event, Service, Unavailable, batchfold, projector
from chimera.body import Body
from chimera.feed import Batch
from chimera.messages import Message, partition_of
from chimera.metrics import Metrics
from chimera.ports import Checkpoint, Document, Move, ViewStore
from chimera.projections import CopyProjection, ViewProjection
from chimera.projector import Projector
from chimera.setaside import failures_of, kept_views, lines_of
from chimera.sharing import SharedChange
from chimera.signals import Signal
from chimera.testing.broken import WrappedViews
from tests.support import (
    PARTITIONS,
    TIME,
    Bank,
    Card,
    Close,
    Deposit,
    Engines,
    Withdraw,
    direct,
    eventually,
    journal_of,
    opened,
    project,
    projector_of,
    recomputed,
    running,
    stored,
)


async def batches(body: Body, partition: int, size: int) -> list[Batch]:
    """A partition's journal in batches."""
    page = await body.store.journal(partition, 0, 100_000)
    return [
        Batch(
            page[start : start + size],
            [Move("accounts", partition, start, Checkpoint(min(start + size, len(page))))],
        )
        for start in range(0, len(page), size)
    ]


async def is_right(body: Body, bank: Bank) -> bool:
    events = await journal_of(body.store)
    return all([await stored(body.views, view.name) == recomputed(view, events) for view in (bank.balance, bank.total)])


async def fill(body: Body) -> None:
    keys = [f"k{n}" for n in range(12)]
    await direct(body, *(Deposit(key, 10) for key in keys))
    await direct(body, *(Withdraw(key, 1) for key in keys[:5]), *(Close(key) for key in keys[3:6]))
    await direct(body, *(Deposit(key, 2) for key in keys[4:9]))


async def test_a_view_equals_the_fold_of_its_events(body: Body, bank: Bank) -> None:
    await fill(body)
    await project(body, bank.balance, size=3)
    await project(body, bank.total, size=3)
    assert await is_right(body, bank)
    assert (await stored(body.views, "total"))["all"]["events"] == 22


async def test_a_deleted_document_is_gone_and_may_come_back(body: Body, bank: Bank) -> None:
    await direct(body, Deposit("a", 5), Close("a"))
    await project(body, bank.balance)
    assert await stored(body.views, "balance") == {}
    await direct(body, Deposit("a", 7))
    await project(body, bank.balance)
    assert (await stored(body.views, "balance"))["a"]["balance"] == 7


async def test_a_batch_that_was_applied_is_refused_the_second_time(body: Body, bank: Bank) -> None:
    await fill(body)
    projector = projector_of(body, bank.total)
    [batch, *_] = await batches(body, 0, 100)
    assert await projector.apply(batch)
    before = await stored(body.views, "total")
    assert not await projector.apply(batch)
    assert await stored(body.views, "total") == before


async def test_several_partitions_feed_one_document_concurrently_and_nothing_is_lost(body: Body, bank: Bank) -> None:
    await fill(body)
    projectors = {partition: projector_of(body, bank.total) for partition in range(PARTITIONS)}

    async def apply_all(partition: int) -> None:
        for batch in await batches(body, partition, 1):
            assert await projectors[partition].apply(batch)
            await asyncio.sleep(0)

    await asyncio.gather(*map(apply_all, range(PARTITIONS)))
    assert await stored(body.views, "total") == recomputed(bank.total, await journal_of(body.store))


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


async def test_what_a_projector_has_just_written_it_does_not_read_again(body: Body, bank: Bank) -> None:
    await direct(body, *(Deposit("a", amount) for amount in range(1, 6)))
    views = Reading(body.views)
    projector = projector_of(body, bank.balance, views)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(body, p, 1))]
    for batch in part:
        assert await projector.apply(batch)
    assert sorted(views.read) == ["balance.waiting", "balance/a"]
    assert (await stored(body.views, "balance"))["a"] == {"account_id": "a", "events": 5, "balance": 15}


class Told:
    """A feed that gives these batches, and then ends."""

    def __init__(self, given: Sequence[Batch]) -> None:
        self.source, self.partitions = "accounts", range(PARTITIONS)
        self._given = list(given)

    async def next(self) -> Batch:
        if not self._given:
            raise Unavailable("it was given in whole")
        return self._given.pop(0)

    def reset(self, checkpoints: object) -> None: ...


async def test_a_projector_with_nothing_to_do_keeps_no_documents(body: Body, bank: Bank) -> None:
    await direct(body, Deposit("a", 1), Deposit("a", 2))
    views = Reading(body.views)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(body, p, 100))]
    idle = Batch([], [])
    [first, second, *_] = await batches(body, part[0].moves[0].partition, 1)
    feed: Any = Told([first, idle, second])
    with pytest.raises(Unavailable):
        await projector_of(body, bank.balance, views).run(feed)
    assert views.read.count("balance/a") == 2


async def test_projectors_that_take_turns_at_one_document_lose_nothing(body: Body, bank: Bank) -> None:
    await fill(body)
    parts = [await batches(body, partition, 1) for partition in range(PARTITIONS)]
    projectors = [projector_of(body, bank.total) for _ in parts]
    for turn in zip_longest(*parts):
        for one, batch in zip(projectors, turn, strict=True):
            assert batch is None or await one.apply(batch)
    assert await stored(body.views, "total") == recomputed(bank.total, await journal_of(body.store))


async def test_an_event_that_fails_after_others_did_not_holds_up_those_of_its_key(body: Body, bank: Bank) -> None:
    await direct(body, *(Deposit("a", amount) for amount in range(1, 5)))
    projector = projector_of(body, bank.balance)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(body, p, 1))]
    for batch in part:
        bank.failing_views = {"a"} if b'"amount":2' in batch.messages[0].data else set()
        assert await projector.apply(batch)
    assert (await stored(body.views, "balance"))["a"]["balance"] == 1
    assert [tries for _, tries in (await parked(body, "balance"))["a"]] == [1, 0, 0]


class Interrupted(WrappedViews):
    """A view store in which somebody else writes between this projector's read and its write."""

    def __init__(self, views: ViewStore, between: list[Any]) -> None:
        super().__init__(views)
        self._between = between

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        if self._between:
            await self._between.pop(0)()
        return await super().write(consumer, documents, moves)


async def test_a_conflict_with_another_partition_is_folded_again(body: Body, bank: Bank) -> None:
    await fill(body)
    parts = {partition: await batches(body, partition, 100) for partition in range(PARTITIONS)}
    used = [partition for partition, part in parts.items() if part]
    other = projector_of(body, bank.total)
    views = Interrupted(body.views, [lambda p=p: other.apply(parts[p][0]) for p in used[1:]])
    assert await projector_of(body, bank.total, views).apply(parts[used[0]][0])
    assert await stored(body.views, "total") == recomputed(bank.total, await journal_of(body.store))


async def test_a_projector_whose_checkpoint_was_moved_by_another_writes_nothing(body: Body, bank: Bank) -> None:
    await fill(body)
    [batch] = await batches(body, 0, 100)
    other = projector_of(body, bank.total)
    views = Interrupted(body.views, [lambda: other.apply(batch)])
    assert not await projector_of(body, bank.total, views).apply(batch)


async def test_two_projectors_on_the_same_partitions_fold_everything_once(body: Body, bank: Bank) -> None:
    await fill(body)
    projectors = [projector_of(body, bank.balance) for _ in range(2)]
    feeds = [body.feed("accounts", dict.fromkeys(range(PARTITIONS), Checkpoint())) for _ in range(2)]
    async with running(*(p.run(f) for p, f in zip(projectors, feeds, strict=True))):
        await body.log.append("accounts.events", await journal_of(body.store))
        events = await journal_of(body.store)
        await eventually(lambda: _equals(body, bank, events))
        await direct(body, Deposit("late", 3))
        await eventually(lambda: _has(body, "balance", "late", 3))
    for feed in feeds:
        await feed.close()


async def _equals(body: Body, bank: Bank, events: Sequence[Message]) -> bool:
    return await stored(body.views, "balance") == recomputed(bank.balance, events)


async def _has(body: Body, view: str, key: str, balance: int) -> bool:
    return (await stored(body.views, view)).get(key, {}).get("balance") == balance


async def test_a_view_that_is_dropped_while_its_projector_idles_is_filled_again(body: Body, bank: Bank) -> None:
    await fill(body)
    projector = projector_of(body, bank.balance)
    feed = body.feed("accounts", dict.fromkeys(range(PARTITIONS), Checkpoint()))
    events = await journal_of(body.store)
    async with running(projector.run(feed)):
        await eventually(lambda: _equals(body, bank, events))
        await body.views.drop("balance", kept_views("balance"))
        await eventually(lambda: _equals(body, bank, events))
    await feed.close()


async def test_a_view_that_is_dropped_while_its_projector_works_is_right_in_the_end(body: Body, bank: Bank) -> None:
    projector = projector_of(body, bank.balance)
    feed = body.feed("accounts", dict.fromkeys(range(PARTITIONS), Checkpoint()))
    async with running(projector.run(feed)):
        for turn in range(8):
            await fill(body)
            await body.log.append("accounts.events", (await journal_of(body.store))[-5:])
            await asyncio.sleep(0.001)
            if turn % 3 == 1:
                await body.views.drop("balance", kept_views("balance"))
        events = await journal_of(body.store)
        await eventually(lambda: _equals(body, bank, events))
    await feed.close()


# What fails (invariant 5)


async def parked(body: Body, view: str) -> dict[str, list[tuple[str, int]]]:
    keys = [key async for key, _ in lines_of(body.views, view)]
    return {key: [(each.cause, each.tries) async for each in failures_of(body.views, view, key)] for key in keys}


async def test_a_failing_event_is_parked_and_its_document_is_as_before_while_other_keys_fold(
    body: Body, bank: Bank
) -> None:
    await direct(body, Deposit("a", 5), Deposit("b", 5))
    await project(body, bank.balance)
    bank.failing_views.add("a")
    await direct(body, Deposit("a", 7), Deposit("b", 7), Deposit("a", 8), Deposit("c", 1))
    await project(body, bank.balance)
    found = await stored(body.views, "balance")
    assert {key: document["balance"] for key, document in found.items()} == {"a": 5, "b": 12, "c": 1}
    assert found["a"]["events"] == 1
    aside = (await parked(body, "balance"))["a"]
    assert aside == [("ValueError: a breaks the view", 1), ("waits behind an earlier event of its key", 0)]


async def test_later_batches_queue_behind_what_is_parked_and_are_folded_in_order_afterwards(
    body: Body, bank: Bank
) -> None:
    bank.failing_views.add("a")
    for amount in (1, 2, 3):
        await direct(body, Deposit("a", amount), Deposit("b", amount))
        await project(body, bank.balance)
    await direct(body, Close("a"), Deposit("a", 40))
    bank.failing_views.clear()
    await project(body, bank.balance)
    assert "a" not in await stored(body.views, "balance")
    assert len((await parked(body, "balance"))["a"]) == 5
    results = await projector_of(body, bank.balance).redrive("a")
    assert [settled for _, settled in results] == [True] * 5
    assert await parked(body, "balance") == {}
    assert await stored(body.views, "balance") == recomputed(bank.balance, await journal_of(body.store))
    assert (await stored(body.views, "balance"))["a"]["balance"] == 40


async def test_a_redrive_that_fails_again_keeps_the_order_and_counts_the_try(body: Body, bank: Bank) -> None:
    bank.failing_views.add("a")
    await direct(body, Deposit("a", 1), Deposit("a", 2))
    await project(body, bank.balance)
    results = await projector_of(body, bank.balance).redrive("a")
    assert [settled for _, settled in results] == [False]
    assert [tries for _, tries in (await parked(body, "balance"))["a"]] == [2, 0]
    bank.failing_views.clear()
    await projector_of(body, bank.balance).redrive("a")
    assert await stored(body.views, "balance") == recomputed(bank.balance, await journal_of(body.store))


async def test_dropping_gives_up_the_first_event_only(body: Body, bank: Bank) -> None:
    bank.failing_views.add("a")
    await direct(body, Deposit("a", 1), Deposit("a", 20))
    await direct(body, Deposit("a", 300))
    await project(body, bank.balance)
    bank.failing_views.clear()
    [first, *_] = [event for event in await journal_of(body.store) if event.type == "accounts.Deposited"]
    assert await projector_of(body, bank.balance).redrive("a", drop=["another"]) == []
    results = await projector_of(body, bank.balance).redrive("a", drop=[first.id])
    assert [settled for _, settled in results] == [True] * 3
    assert (await stored(body.views, "balance"))["a"]["balance"] == 320


async def test_a_redrive_of_nothing_changes_nothing(body: Body, bank: Bank) -> None:
    assert await projector_of(body, bank.balance).redrive("nobody") == []


async def test_a_redrive_that_meets_a_running_projector_loses_nothing(body: Body, bank: Bank) -> None:
    bank.failing_views.add("a")
    await direct(body, Deposit("a", 1))
    await project(body, bank.balance)
    bank.failing_views.clear()
    await direct(body, Deposit("a", 20))
    views = Interrupted(body.views, [lambda: project(body, bank.balance)])
    await projector_of(body, bank.balance, views).redrive("a")
    assert await parked(body, "balance") == {}
    assert (await stored(body.views, "balance"))["a"]["balance"] == 21


class Written(WrappedViews):
    """A view store that notes the sizes of the documents of each write."""

    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self.sizes: list[list[int]] = []

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        self.sizes.append([len(document.data or b"") for document in documents])
        return await super().write(consumer, documents, moves)


async def test_an_event_behind_a_poisoned_one_costs_as_much_however_many_wait_before_it(body: Body, bank: Bank) -> None:
    bank.failing_views.add("a")
    await direct(body, *(Deposit("a", 1) for _ in range(120)))
    views = Written(body.views)
    projector = projector_of(body, bank.balance, views)
    [part] = [part for p in range(PARTITIONS) if (part := await batches(body, p, 1))]
    for batch in part:
        assert await projector.apply(batch)
    costs = [(len(sizes), sum(sizes)) for sizes in views.sizes if sizes]
    assert len(costs) == 120
    assert max(costs[60:]) <= (2, costs[1][1] + 20), costs
    assert [tries for _, tries in (await parked(body, "balance"))["a"]] == [1] + [0] * 119


async def test_a_line_is_folded_again_a_page_at_a_time_and_in_order(
    body: Body, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "PAGE", 4)
    bank.failing_views.add("a")
    await direct(body, *(Deposit("a", amount) for amount in range(1, 11)))
    await direct(body, Close("a"), Deposit("a", 40))
    await project(body, bank.balance)
    bank.failing_views.clear()
    views = Written(body.views)
    results = await projector_of(body, bank.balance, views).redrive("a")
    assert [settled for _, settled in results] == [True] * 12
    assert len(views.sizes) == 3
    assert [failure.message.number for failure, _ in results] == sorted(f.message.number for f, _ in results)
    assert [await body.views.scan(view) for view in kept_views("balance")[1:3]] == [[], []]
    assert await stored(body.views, "balance") == recomputed(bank.balance, await journal_of(body.store))


async def test_a_line_of_more_than_a_page_may_be_dropped_in_whole_and_no_further_than_it_is_named(
    body: Body, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "PAGE", 4)
    bank.failing_views.add("a")
    await direct(body, *(Deposit("a", 10**n) for n in range(7)))
    await project(body, bank.balance)
    ids = [failure.message.id async for failure in failures_of(body.views, "balance", "a")]
    assert await projector_of(body, bank.balance).redrive("a", drop=ids[1:]) == []
    bank.failing_views.clear()
    results = await projector_of(body, bank.balance).redrive("a", drop=ids[:6])
    assert [settled for _, settled in results] == [True] * 7
    assert (await stored(body.views, "balance"))["a"]["balance"] == 1_000_000


async def test_a_line_that_is_full_holds_its_view_up_and_loses_nothing(
    body: Body, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batchfold, "LONGEST", 3)
    bank.failing_views.add("a")
    await direct(body, *(Deposit("a", 1) for _ in range(3)))
    await project(body, bank.balance)
    before = await body.views.checkpoints("balance")
    await direct(body, Deposit("a", 1), Deposit("b", 1))
    with pytest.raises(Unavailable, match=r"set aside 3 events of key 'a'.*chimera parked list"):
        await project(body, bank.balance, size=1)
    after = await body.views.checkpoints("balance")
    place = ("accounts", partition_of("a", PARTITIONS))
    assert after[place] == before[place]
    assert len((await parked(body, "balance"))["a"]) == 3
    bank.failing_views.clear()
    await projector_of(body, bank.balance).redrive("a")
    await project(body, bank.balance)
    assert await stored(body.views, "balance") == recomputed(bank.balance, await journal_of(body.store))


async def test_of_a_line_only_the_event_that_failed_is_told_in_the_log_and_once(
    body: Body, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    bank.failing_views.add("a")
    await direct(body, *(Deposit("a", 1) for _ in range(5)), Deposit("b", 1))
    await project(body, bank.balance, size=2)
    told = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert len(told) == 1, told


async def test_events_that_can_not_be_decoded_are_parked(body: Body, bank: Bank) -> None:
    good = Message("1", "accounts", "accounts.Deposited", "a", TIME, b'{"account_id":"a","amount":1}', 0, 1)
    bad = msgspec.structs.replace(good, id="2", key="b", data=b'{"account_id":"b","amount":"many"}', number=2)
    worse = msgspec.structs.replace(good, id="3", key="c", data=b'{"account_id":"c","amount":nonsense', number=3)
    batch = Batch([good, bad, worse], [Move("accounts", 0, 0, Checkpoint(3))])
    assert await projector_of(body, bank.balance).apply(batch)
    assert set(await stored(body.views, "balance")) == {"a"}
    aside = await parked(body, "balance")
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

    body = await opened(service, engines)
    batch = Batch([odd(1, "a"), odd(2, "b", 1), odd(3, "c")], [Move("odd", 0, 0, Checkpoint(3))])
    assert await projector_of(body, view).apply(batch)
    assert set(await stored(body.views, "odd")) == {"a", "c"}
    assert set(await parked(body, "odd")) == {"b"}


async def test_a_projection_may_name_several_documents_and_each_gets_the_event_once(engines: Engines) -> None:
    service = Service("odd")
    view = service.view(Pairs, key="name")

    @view.on(Counted, key=lambda event: [event.name, "all", event.name])
    def counted(document: Pairs, event: Counted) -> None:
        document.count += 1

    body = await opened(service, engines)
    batch = Batch([odd(1, "a"), odd(2, "b"), odd(3, "all")], [Move("odd", 0, 0, Checkpoint(3))])
    assert await projector_of(body, view).apply(batch)
    found = {key: document["count"] for key, document in (await stored(body.views, "pairs")).items()}
    assert found == {"a": 1, "b": 1, "all": 3}


async def test_an_event_that_fails_on_its_second_document_leaves_the_first_untouched(engines: Engines) -> None:
    service = Service("odd")
    view = service.view(Pairs, key="name")

    @view.on(Counted, key=lambda event: ["first", event.name])
    def counted(document: Pairs, event: Counted) -> None:
        document.count += 1
        if document.name == "bad":
            raise ValueError("as told")

    body = await opened(service, engines)
    batch = Batch([odd(1, "a"), odd(2, "bad"), odd(3, "c")], [Move("odd", 0, 0, Checkpoint(3))])
    assert await projector_of(body, view).apply(batch)
    found = {key: document["count"] for key, document in (await stored(body.views, "pairs")).items()}
    assert found == {"first": 2, "a": 1, "c": 1}


def copying(body: Body, *, keys_only: bool = False) -> Projector:
    projection = CopyProjection("copy", "accounts.share.cards", Card, keys_only=keys_only)
    return Projector("shop", projection, body.views, metrics=Metrics(), moved=Signal())


def change(number: int, key: str, document: bytes) -> Message:
    data = msgspec.json.encode(SharedChange(key, msgspec.Raw(document)))
    return Message(f"accounts/0@{number}", "accounts", "accounts.share.cards", key, TIME, data, 0, number)


@pytest.mark.parametrize("keys_only", [False, True])
async def test_a_copy_keeps_good_documents_parks_garbage_and_forgets_what_was_removed(
    body: Body, keys_only: bool
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
    assert await copying(body, keys_only=keys_only).apply(Batch(messages, [Move("accounts", 0, 0, Checkpoint(6))]))
    found = await body.views.get("copy", ["a", "b", "c"])
    assert {key: d.data for key, d in found.items()} == dict.fromkeys("ac", b"true" if keys_only else good)
    aside = await parked(body, "copy")
    assert {key: len(failures) for key, failures in aside.items()} == {"a": 2}
    [first, *_] = [failure async for failure in failures_of(body.views, "copy", "a")]
    await copying(body, keys_only=keys_only).redrive("a", drop=[first.message.id])
    assert await parked(body, "copy") == {}


def test_a_copy_takes_only_the_changes_of_its_own_share() -> None:
    projection = CopyProjection("copy", "accounts.share.cards", Card, keys_only=False)
    assert projection.wanted(change(1, "a", b"null"))
    assert not projection.wanted(msgspec.structs.replace(change(1, "a", b"null"), type="accounts.share.other"))


def test_a_view_takes_only_the_events_that_it_folds(bank: Bank) -> None:
    projection = ViewProjection(bank.balance)
    assert not projection.wanted(change(1, "a", b"null"))


async def test_who_waits_for_a_view_is_woken_when_it_has_moved(body: Body, bank: Bank) -> None:
    await direct(body, Deposit("a", 1))
    waiting = asyncio.ensure_future(body.moved.wait(5.0))
    await asyncio.sleep(0)
    await project(body, bank.balance)
    assert await waiting
