"""The contract of the port `Store`: what a transaction has read holds until it commits, what it did not find included.

Each test runs two transactions that both read before either writes, as far as the engine lets them; they are run again
after a conflict. Whichever came first, the other has to have seen what it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest

from chimera.entities import Range, Row, Window
from chimera.ports import Store, WriteSession
from chimera.testing.contracts.bank import ACCOUNTS, PAIRS, PARTITIONS, TABLES, Undo, committed, emit, put
from chimera.testing.contracts.suite import EngineSuite, event

Step = Callable[[WriteSession, "Meeting"], Awaitable[None]]

MEETING_S = 0.3
"""How long the first one waits for the second, which an engine with one writer does not let in."""


class Meeting:
    """Transactions wait here for each other once, when they have read; those that are run again do not."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = asyncio.Event()

    async def come(self) -> None:
        """Wait until all are here, or long enough."""
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()
        await asyncio.wait([asyncio.ensure_future(self._complete.wait())], timeout=MEETING_S)
        self._complete.set()


class IsolationGuarantees(EngineSuite):
    """The part of `StoreContract` about transactions that read what others change, on one engine and on two."""

    async def test_two_who_find_room_for_one_do_not_both_take_it(self, engine: Store) -> None:
        """Where nothing matched, and where something did, found by a column or by two."""
        for taken in (0, 1, 3):
            await put(engine, *((f"{taken} {at}", taken, "here") for at in range(taken)))
            steps = [_take_place(f"{taken} {name}", taken, taken + 1) for name in ("new", "newer")]
            await _side_by_side([engine], steps)
            assert len(await _found(engine, balance=[taken])) == taken + 1

    async def test_two_who_count_or_page_the_same_rows_do_not_both_add_one(self, engine: Store) -> None:
        """Whether they count those in a range, or look at the first in an order."""
        await put(engine, ("a", 5, None))
        for turn, seen in enumerate((_in_range, _at_the_top)):
            steps = [partial(_add_to_seen, seen=seen, name=f"{turn} {name}") for name in ("new", "newer")]
            await _side_by_side([engine], steps)
            async with engine.snapshot() as session:
                found = sorted(row[1] for row in await session.find(ACCOUNTS, {}))
            assert len(found) == len(set(found)), "both have seen the same"

    async def test_two_engines_that_find_room_for_one_do_not_both_take_it(
        self, engine: Store, reopen: Callable[[], Store]
    ) -> None:
        """For engines that are shared: as on one; a row that is moved to where it counts is one more."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        other = reopen()
        await put(engine, ("old", 7, None), ("older", 8, None))
        await other.create(TABLES, PARTITIONS)
        await _side_by_side([engine, other], [_take_place(name, 1, 1) for name in ("old", "older")])
        assert len(await _found(engine, balance=[1])) == 1
        await other.close()

    async def test_who_reads_the_whole_table_sees_every_row_that_counts(self, engine: Store) -> None:
        """Two that find nothing at all do not both insert."""
        await engine.create(TABLES, PARTITIONS)

        async def first_of_all(tx: WriteSession, meeting: Meeting, name: str) -> None:
            rows = await tx.find(ACCOUNTS, {})
            await meeting.come()
            if not rows:
                await tx.save(ACCOUNTS, [(name, 1, None)])

        await _side_by_side([engine], [partial(first_of_all, name=name) for name in ("a", "b")])
        assert len(await _found(engine)) == 1

    async def test_a_key_that_was_not_there_is_not_there_until_the_commit(self, engine: Store) -> None:
        """Two that each insert a row unless the other's is there do not both insert it."""
        await engine.create(TABLES, PARTITIONS)

        async def unless(tx: WriteSession, meeting: Meeting, name: str, other: str) -> None:
            rows = await tx.load(ACCOUNTS, [(other,)])
            await meeting.come()
            if not rows:
                await tx.save(ACCOUNTS, [(name, 1, None)])

        await _side_by_side([engine], [partial(unless, name=a, other=b) for a, b in ("ab", "ba")])
        assert len(await _found(engine)) == 1

    async def test_what_is_found_in_one_table_holds_while_another_is_written(self, engine: Store) -> None:
        """Two that each write one table unless there is something in the other do not both write."""
        await engine.create(TABLES, PARTITIONS)

        async def account_unless_pair(tx: WriteSession, meeting: Meeting) -> None:
            pairs = await tx.find(PAIRS, {"left": ["a"]})
            await meeting.come()
            if not pairs:
                await tx.save(ACCOUNTS, [("a", 1, None)])

        async def pair_unless_account(tx: WriteSession, meeting: Meeting) -> None:
            accounts = await tx.find(ACCOUNTS, {"balance": [1]})
            await meeting.come()
            if not accounts:
                await tx.save(PAIRS, [("a", 1)])

        await _side_by_side([engine], [account_unless_pair, pair_unless_account])
        async with engine.snapshot() as session:
            rows = [*await session.find(ACCOUNTS, {}), *await session.find(PAIRS, {})]
        assert len(rows) == 1

    async def test_who_only_loads_a_row_adds_nothing_to_what_its_changer_found(self, engine: Store) -> None:
        """One closes an account that has no pair, one adds a pair to an account that is open."""
        await put(engine, ("a", 1, None))

        async def close(tx: WriteSession, meeting: Meeting) -> None:
            pairs = await tx.find(PAIRS, {"left": ["a"]})
            await meeting.come()
            if not pairs:
                await tx.save(ACCOUNTS, [("a", 0, "closed")])

        async def add(tx: WriteSession, meeting: Meeting) -> None:
            rows = await tx.load(ACCOUNTS, [("a",)])
            await meeting.come()
            if rows[0][1]:
                await tx.save(PAIRS, [("a", 1)])

        await _side_by_side([engine], [close, add])
        async with engine.snapshot() as session:
            pairs = await session.find(PAIRS, {})
            [(_, is_open, _)] = await session.load(ACCOUNTS, [("a",)])
        assert is_open or not pairs

    async def test_a_row_that_came_after_a_look_never_passes_for_one_seen(self, engine: Store) -> None:
        """It is found, loaded or saved later in the same transaction: that is a conflict, or it was there before."""

        async def look_twice(tx: WriteSession, meeting: Meeting, way: str) -> None:
            first = {row[0] for row in await tx.find(ACCOUNTS, {"balance": [2]})}
            await meeting.come()
            if way == "find":
                assert {row[0] for row in await tx.find(ACCOUNTS, {"nickname": [None]})} - {"old"} == first
            elif way == "load":
                assert {row[0] for row in await tx.load(ACCOUNTS, [("new",)])} == first
            await tx.save(ACCOUNTS, [("new", 2 + len(first), None)])

        async def come(tx: WriteSession, meeting: Meeting) -> None:
            await meeting.come()
            if not await tx.load(ACCOUNTS, [("new",)]):
                await tx.save(ACCOUNTS, [("new", 2, None)])

        for way in ("find", "load", "save"):
            await put(engine, ("old", 1, None))
            await _side_by_side([engine], [partial(look_twice, way=way), come])
            assert await _found(engine, account_id=["new"]) in ([("new", 2, None)], [("new", 3, None)])
            await committed(engine, lambda tx: tx.delete(ACCOUNTS, [("new",)]))

    async def test_its_own_changes_are_in_nobodys_way(self, engine: Store) -> None:
        """A transaction that changes, adds and deletes what it has found commits at once when it is alone."""
        await put(engine, ("a", 1, None), ("b", 1, None), ("c", 2, None))
        async with engine.transaction() as tx:
            assert [row[0] for row in await tx.find(ACCOUNTS, {"balance": [1]})] == ["a", "b"]
            assert await tx.load(ACCOUNTS, [("x",)]) == []
            assert await tx.load(ACCOUNTS, [("y",)]) == []
            await tx.save(ACCOUNTS, [("c", 1, None), ("d", 1, None), ("x", 1, None)])
            await tx.delete(ACCOUNTS, [("a",), ("nobody",)])
            assert [row[0] for row in await tx.find(ACCOUNTS, {"balance": [1]})] == ["b", "c", "d", "x"]
            await tx.delete(ACCOUNTS, [("d",)])
            assert await tx.load(ACCOUNTS, [("d",)]) == []
            await tx.save(ACCOUNTS, [("a", 1, "again"), ("d", 1, "again")])
            assert len(await tx.find(ACCOUNTS, {})) == 5
            await emit(tx, 0, "a")
            await tx.save(PAIRS, [("a", 1)])
        assert len(await _found(engine, balance=[1])) == 5

    async def test_sql_of_its_own_is_in_nobodys_way(self, engine: Store) -> None:
        """For engines with SQL: rows that it inserts, changes and deletes by SQL after it has looked for them."""
        await put(engine, ("a", 1, None), ("b", 1, None))
        async with engine.transaction() as tx:
            if not tx.dialect:
                return
            assert len(await tx.find(ACCOUNTS, {"balance": [1]})) == 2
            assert await tx.load(ACCOUNTS, [("new",)]) == []
            await tx.execute("INSERT INTO contract_accounts (account_id, balance) VALUES ('new', 1), ('newer', 1)")
            await tx.execute("DELETE FROM contract_accounts WHERE account_id = 'b'")
        assert [row[0] for row in await _found(engine, balance=[1])] == ["a", "new", "newer"]

    async def test_what_sql_of_somebody_else_adds_is_noticed(self, engine: Store) -> None:
        """For engines with SQL: by who finds, also when it has run some of its own."""
        await engine.create(TABLES, PARTITIONS)

        async def by_sql(tx: WriteSession, meeting: Meeting) -> None:
            await meeting.come()
            if tx.dialect and not await tx.find(ACCOUNTS, {"balance": [1]}):
                await tx.execute("INSERT INTO contract_accounts (account_id, balance) VALUES ('sql', 1)")

        async def by_row(tx: WriteSession, meeting: Meeting, own_sql: bool) -> None:
            rows = await tx.find(ACCOUNTS, {"balance": [1]})
            if own_sql and tx.dialect:
                await tx.execute("SELECT 1")
            await meeting.come()
            if not rows:
                await tx.save(ACCOUNTS, [("row", 1, None)])

        for own_sql in (False, True):
            await _side_by_side([engine], [partial(by_row, own_sql=own_sql), by_sql])
            assert len(await _found(engine, balance=[1])) == 1
            await committed(engine, lambda tx: tx.delete(ACCOUNTS, [("row",), ("sql",)]))

    async def test_many_who_want_the_last_places_all_come_to_an_end(
        self, engine: Store, reopen: Callable[[], Store]
    ) -> None:
        """For engines that are shared: twelve, of whom five find a place."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        other = reopen()
        await put(engine, ("first", 1, None))
        await other.create(TABLES, PARTITIONS)
        steps = [_take_place(f"n{at}", 1, 6) for at in range(12)]
        await _side_by_side([engine, other], steps)
        assert len(await _found(engine, balance=[1])) == 6
        await other.close()

    async def test_who_emits_nothing_holds_the_head_and_leaves_no_hole(self, engine: Store) -> None:
        """Two that each emit to one partition unless there is something in the other do not both emit."""
        await engine.create(TABLES, PARTITIONS)

        async def unless(tx: WriteSession, meeting: Meeting, own: int, other: int) -> None:
            await meeting.come()
            assert (await tx.hold([own, other]))[own].number == 0
            if not await tx.history(other, "key"):
                await tx.append([event(own, 1)])
            else:
                raise Undo

        steps = [partial(unless, own=a, other=b) for a, b in ((0, 1), (1, 0))]
        with pytest.raises(Undo):
            await _side_by_side([engine], steps)
        assert sorted((await engine.heads()).values()) == [0, 0, 0, 1]

    async def test_a_transaction_that_is_cancelled_in_a_statement_holds_nobody_up(self, engine: Store) -> None:
        """It waits for a row that somebody else holds; what it holds itself is free at once, and nothing is kept."""
        await put(engine, ("a", 1, None), ("b", 1, None))
        entered = asyncio.Event()

        async def wait_for_a() -> None:
            async with engine.transaction() as tx:
                await tx.load(ACCOUNTS, [("b",)])
                await tx.save(ACCOUNTS, [("b", 2, None)])
                entered.set()
                await tx.load(ACCOUNTS, [("a",)])
                await asyncio.Event().wait()

        async with engine.transaction() as tx:
            await tx.load(ACCOUNTS, [("a",)])
            waiting = asyncio.create_task(wait_for_a())
            await asyncio.wait([asyncio.create_task(entered.wait())], timeout=MEETING_S)
            await asyncio.wait([waiting], timeout=MEETING_S)
            waiting.cancel()
            async with asyncio.timeout(self.patience_s / 2):
                await asyncio.wait([waiting])
                assert await tx.load(ACCOUNTS, [("b",)]) == [("b", 1, None)]
            await tx.save(ACCOUNTS, [("b", 3, None)])
        assert await _found(engine, account_id=["b"]) == [("b", 3, None)]


def _take_place(name: str, balance: int, most: int) -> Step:
    """Have this balance, unless as many as may have it do."""

    async def step(tx: WriteSession, meeting: Meeting) -> None:
        found = await tx.find(ACCOUNTS, {"balance": [balance], "nickname": ["here", None]})
        await meeting.come()
        if len(found) < most:
            await tx.save(ACCOUNTS, [(name, balance, None)])

    return step


async def _side_by_side(engines: Sequence[Store], steps: Sequence[Step]) -> None:
    """All of these at once, on these engines in turn, each again for as long as there is a conflict."""
    meeting = Meeting(len(steps))
    async with asyncio.timeout(90):
        await asyncio.gather(
            *(
                committed(engines[at % len(engines)], partial(_step, step=step, meeting=meeting))
                for at, step in enumerate(steps)
            )
        )


async def _step(tx: WriteSession, step: Step, meeting: Meeting) -> None:
    await step(tx, meeting)


async def _found(engine: Store, **where: Sequence[object]) -> list[Row]:
    async with engine.snapshot() as session:
        return list(await session.find(ACCOUNTS, where))


async def _in_range(tx: WriteSession) -> int:
    return 5 + await tx.count(ACCOUNTS, {}, {"balance": Range(ge=5)})


async def _at_the_top(tx: WriteSession) -> int:
    rows = await tx.page(ACCOUNTS, {}, Window(order=[("balance", True)], limit=1))
    return 1 + int(rows[0][1])


async def _add_to_seen(
    tx: WriteSession, meeting: Meeting, seen: Callable[[WriteSession], Awaitable[int]], name: str
) -> None:
    """Add an account whose balance follows from those that were seen."""
    balance = await seen(tx)
    await meeting.come()
    await tx.save(ACCOUNTS, [(name, balance, None)])
