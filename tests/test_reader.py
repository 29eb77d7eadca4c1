"""Read your own writes (invariant 6), and many reads in one."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import pytest

from chimera import Position, Reader
from chimera.borrow.reads import BorrowedReads
from chimera.commands.execute import Task
from chimera.core.context import Context
from chimera.core.names import copy_name
from chimera.parts import Mode
from chimera.ports import Checkpoint, Document, Move, ViewStore
from chimera.reader import Notes
from chimera.testing.broken import WrappedViews
from chimera.testing.engines import memory_engines
from chimera.views.documents import Documents, ProjectedTables, Waiting
from chimera.views.generations import GenerationReads
from tests.support import (
    PARTITIONS,
    Account,
    Bank,
    Deposit,
    Deposited,
    Engines,
    Ledger,
    Shop,
    direct,
    journal_of,
    opened,
    positions_of,
    project,
    projector_of,
    reaction_of,
)


def waiting_for(context: Context, after: Sequence[Position], budget: float) -> Waiting:
    return Waiting(context, documents_of(context), Notes(after), budget)


def documents_of(context: Context) -> Documents:
    return Documents(context, GenerationReads(context))


async def test_a_read_that_brings_back_its_position_sees_its_own_write(context: Context, bank: Bank) -> None:
    [outcome] = await direct(context, Deposit("a", 5))
    waiting = waiting_for(context, positions_of(outcome), budget=5.0)

    async def later() -> None:
        await asyncio.sleep(0.02)
        await project(context, bank.balance)

    projecting = asyncio.ensure_future(later())
    await waiting.reach("balance", {"accounts"})
    assert waiting.notes.behind == []
    [document] = (await context.views.get("balance", ["a"])).values()
    assert b'"balance":5' in (document.data or b"")
    await projecting


async def test_a_read_whose_view_is_there_already_does_not_wait(context: Context, bank: Bank) -> None:
    [outcome] = await direct(context, Deposit("a", 5))
    await project(context, bank.balance)
    started = time.monotonic()
    waiting = waiting_for(context, positions_of(outcome), budget=60.0)
    await waiting.reach("balance", {"accounts"})
    assert time.monotonic() - started < 50.0
    assert waiting.notes.behind == []


async def test_a_view_that_is_not_there_in_time_is_told_with_how_far_it_is(context: Context, bank: Bank) -> None:
    await direct(context, Deposit("a", 5))
    await project(context, bank.balance)
    [outcome] = await direct(context, Deposit("a", 5))
    [position] = positions_of(outcome)
    started = time.monotonic()
    waiting = waiting_for(context, [position], budget=0.05)
    await waiting.reach("balance", {"accounts"})
    assert 0.04 < time.monotonic() - started < 50.0
    assert waiting.notes.behind == [Position("accounts", position.partition, 2)]


async def test_one_budget_holds_for_the_whole_request(context: Context) -> None:
    started = time.monotonic()
    waiting = waiting_for(context, [Position("accounts", p, 99) for p in range(4)], budget=0.05)
    for view in ("balance", "total", "balance"):
        await waiting.reach(view, {"accounts"})
    assert time.monotonic() - started < 50.0
    assert len(waiting.notes.behind) >= 4


async def test_positions_of_sources_that_do_not_feed_the_view_are_no_reason_to_wait(context: Context) -> None:
    waiting = waiting_for(context, [Position("orders", 0, 99)], budget=60.0)
    await asyncio.wait_for(waiting.reach("balance", {"accounts"}), 50.0)
    assert waiting.notes.behind == []


async def test_a_position_in_a_partition_that_does_not_exist_is_not_reached(context: Context) -> None:
    waiting = waiting_for(context, [Position("accounts", 77, 1)], budget=0.01)
    await waiting.reach("balance", {"accounts"})
    assert waiting.notes.behind == [Position("accounts", 77, 0)]


class Counting(WrappedViews):
    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self.gets: list[list[str]] = []

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        self.gets.append(list(keys))
        return await super().get(view, keys)


async def test_documents_asked_for_in_one_loop_turn_are_one_multi_get_per_view(bank: Bank, engines: Engines) -> None:
    views = Counting(engines.views)
    context = await opened(bank.service, engines._replace(views=views))
    await direct(context, Deposit("a", 1), Deposit("b", 1))
    await project(context, bank.balance)
    documents = documents_of(context)
    await documents("balance", "a")  # the first read looks which generation serves
    views.gets.clear()
    found = await asyncio.gather(*(documents("balance", key) for key in ["a", "b", "none", "a"]))
    assert [data is not None for data in found] == [True, True, False, True]
    assert views.gets == [["a", "b", "none"]]


@pytest.mark.parametrize("mode", ["sync", "async", "hybrid"])
async def test_a_borrowed_read_whose_owner_is_down_waits_for_its_copy_or_says_what_it_lacks(mode: Mode) -> None:
    shop = Shop(mode=mode, budget=5.0)
    context = await opened(shop.service, memory_engines())
    documents = documents_of(context)
    reads = BorrowedReads(context, shop.cards, documents)
    waiting = waiting_for(context, [Position("accounts", 0, 1)], budget=5.0)

    async def later() -> None:
        await asyncio.sleep(0.02)
        if mode != "sync":
            await context.views.write(
                copy_name(shop.cards.name, reads.mode), [], [Move("accounts", 0, 0, Checkpoint(1))]
            )

    moving = asyncio.ensure_future(later())
    async with context.store.snapshot() as session:
        reader = Reader(context.service, session, documents, {"cards": reads}, waiting)
        found = await reader.borrowed_many(shop.cards, ["a", "b", "a"])
    await moving
    assert set(found) == {"a", "b"}
    assert waiting.notes.behind == ([Position("accounts", 0, 0)] if mode == "sync" else [])


async def test_a_view_without_a_document_is_none_or_empty_as_declared(context: Context, bank: Bank) -> None:
    async with context.store.snapshot() as session:
        reader = Reader(context.service, session, documents_of(context), {}, waiting_for(context, [], 0.0))
        assert await reader.view(bank.balance, "nobody") is None
        empty = await reader.view(bank.total, "all")
    assert empty is not None
    assert (empty.name, empty.total) == ("all", 0)


async def enter(context: Context) -> None:
    """Project the journal into the ledger."""
    executor, _ = reaction_of(context, "enter")
    for partition in range(PARTITIONS):
        if events := await context.store.journal(partition, 0, 100):
            entered = [each for each in events if each.type == "accounts.Deposited"]
            move = Move("accounts", partition, 0, Checkpoint(events[-1].number))
            await executor.run([Task(each, each.number) for each in entered], [move])


async def test_a_page_of_projected_rows_waits_for_what_its_reader_has_seen(context: Context, bank: Bank) -> None:
    [outcome] = await direct(context, Deposit("a", 5))
    tables, notes = ProjectedTables(context), Notes(positions_of(outcome))
    waiting = Waiting(context, documents_of(context), notes, 5.0, tables)

    async def later() -> None:
        await asyncio.sleep(0.02)
        await enter(context)

    projecting = asyncio.ensure_future(later())
    async with context.store.snapshot() as session:
        reader = Reader(context.service, session, documents_of(context), {}, waiting)
        await waiting.reach_tables()
        await projecting
        assert await reader.load(Account, "a")
    async with context.store.snapshot() as session:
        reader = Reader(context.service, session, documents_of(context), {}, waiting)
        assert await reader.load(Ledger, "a")
        await waiting.cover_tables(session)
    assert notes.behind == []
    assert {str(each) for each in positions_of(outcome)} <= {str(each) for each in notes.seen}


async def test_projected_rows_that_are_not_there_in_time_are_told_with_how_far_they_are(context: Context) -> None:
    [outcome] = await direct(context, Deposit("a", 5))
    notes = Notes(positions_of(outcome))
    waiting = Waiting(context, documents_of(context), notes, 0.02, ProjectedTables(context))
    async with context.store.snapshot() as session:
        reader = Reader(context.service, session, documents_of(context), {}, waiting)
        assert await reader.find(Ledger) == []
        assert await reader.load(Account, "a")
    assert [each.number for each in notes.behind] == [0]


async def test_who_brings_nothing_waits_for_no_table_and_is_given_nothing(context: Context) -> None:
    notes = Notes()
    waiting = Waiting(context, documents_of(context), notes, 60.0, ProjectedTables(context))
    async with context.store.snapshot() as session:
        reader = Reader(context.service, session, documents_of(context), {}, waiting)
        assert await asyncio.wait_for(reader.find(Ledger), 50.0) == []
        await waiting.cover_tables(session)
    assert (notes.behind, notes.seen) == ([], [])


# documents that lack events


async def read_of(context: Context, bank: Bank, view: str, key: str, after: Sequence[Position] = ()) -> Notes:
    """The notes of one who reads a view's document."""
    notes = Notes(after)
    waiting = Waiting(context, documents_of(context), notes, 0.05)
    async with context.store.snapshot() as session:
        await Reader(context.service, session, documents_of(context), {}, waiting).view(bank.service.views[view], key)
    return notes


async def test_a_document_whose_event_is_set_aside_says_what_it_lacks(context: Context, bank: Bank) -> None:
    await direct(context, Deposit("a", 5), Deposit("b", 5))
    bank.failing_views.add("a")
    [outcome] = await direct(context, Deposit("a", 6))
    await project(context, bank.balance)
    [first] = [each.position for each in await journal_of(context.store) if each.key == "a"][:1]
    [position] = positions_of(outcome)
    assert (await read_of(context, bank, "balance", "a")).lacking == [first]
    assert (await read_of(context, bank, "balance", "b")).lacking == []
    followed = await read_of(context, bank, "balance", "a", [position])
    assert followed.lacking == [first]
    assert followed.behind == [Position("accounts", first.partition, first.number - 1)]
    assert (await read_of(context, bank, "balance", "a", [Position("accounts", 77, 0)])).behind == []
    bank.failing_views.clear()
    assert await projector_of(context, bank.balance).redrive("a")
    followed = await read_of(context, bank, "balance", "a", [position])
    assert (followed.lacking, followed.behind) == ([], [])


async def test_a_document_of_many_keys_lacks_what_any_of_them_has_set_aside(context: Context, bank: Bank) -> None:
    await direct(context, Deposit("a", 5))
    await direct(context, Deposit("b", 5))
    total = bank.service.views["total"]
    event, step = next((event, step) for event, step in total.steps.items() if event.__name__ == "Deposited")

    def failing(document: object, happened: Deposited) -> None:
        if happened.account_id == "b":
            raise ValueError("as told")

    total.steps[event] = (step[0], failing)
    await project(context, bank.total)
    [parked] = [e.position for e in await journal_of(context.store) if (e.key, e.type) == ("b", "accounts.Deposited")]
    assert (await read_of(context, bank, "total", "all")).lacking == [parked]
    assert (await read_of(context, bank, "total", "other")).lacking == []
    assert (await read_of(context, bank, "total", "all", [parked])).behind == [
        Position("accounts", parked.partition, parked.number - 1)
    ]
