"""The contract of the port `Store`: transactions and snapshots; rows, isolation, … have files of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from chimera.errors import SettingsError
from chimera.ports import Store, WriteSession
from chimera.testing.contracts.bank import (
    ACCOUNTS,
    PARTITIONS,
    TABLES,
    VISITS,
    Undo,
    churn,
    committed,
    crossed,
    emit,
    emitted,
    expired,
    get,
    numbers,
    put,
)
from chimera.testing.contracts.isolation import IsolationGuarantees
from chimera.testing.contracts.journal import JournalGuarantees
from chimera.testing.contracts.rows import RowGuarantees
from chimera.testing.contracts.suite import MEBIBYTE, event
from chimera.testing.contracts.unique import ReservationGuarantees, UniqueGuarantees


class StoreContract(RowGuarantees, IsolationGuarantees, UniqueGuarantees, ReservationGuarantees, JournalGuarantees):
    """Every guarantee of `Store`. A subclass provides the fixture `engine`, and `reopen` if it is durable or shared."""

    async def test_creating_twice_changes_nothing(self, engine: Store) -> None:
        """Rows and events are as they were."""
        await put(engine, ("a", 1, None))
        await emitted(engine, 0, "a")
        await engine.create(TABLES, PARTITIONS)
        assert await get(engine, "a") == ("a", 1, None)
        assert await numbers(engine, 0) == [1]

    async def test_a_transaction_sees_its_own_changes(self, engine: Store) -> None:
        """By `load`, `find` and `history`, before it commits."""
        await put(engine, ("a", 1, None), ("b", 1, None))
        async with engine.transaction() as tx:
            await tx.save(ACCOUNTS, [("a", 2, None), ("c", 2, None)])
            await tx.delete(ACCOUNTS, [("b",)])
            events = await emit(tx, 1, "a")
            assert await tx.load(ACCOUNTS, [("a",), ("b",)]) == [("a", 2, None)]
            assert [row[0] for row in await tx.find(ACCOUNTS, {"balance": [2]})] == ["a", "c"]
            assert await tx.history(1, "a") == events

    async def test_nothing_of_an_open_transaction_is_visible_and_then_all_of_it(self, engine: Store) -> None:
        """Rows, events and heads."""
        await put(engine, ("a", 1, None))
        async with engine.transaction() as tx:
            await tx.save(ACCOUNTS, [("a", 2, None), ("b", 2, None)])
            await emit(tx, 0, "a")
            assert await get(engine, "a") == ("a", 1, None)
            assert await get(engine, "b") is None
            assert await numbers(engine, 0) == []
            assert (await engine.heads())[0] == 0
        assert await get(engine, "a") == ("a", 2, None)
        assert await get(engine, "b") == ("b", 2, None)
        assert await numbers(engine, 0) == [1]

    async def test_a_rolled_back_transaction_leaves_nothing(self, engine: Store) -> None:
        """Its numbers are given again."""
        await put(engine, ("a", 1, None))

        async def work(tx: WriteSession) -> None:
            await tx.save(ACCOUNTS, [("a", 2, None), ("b", 2, None)])
            await emit(tx, 0, "a")
            raise Undo

        with pytest.raises(Undo):
            await committed(engine, work)
        assert await get(engine, "a") == ("a", 1, None)
        assert await get(engine, "b") is None
        assert dict(await engine.heads()) == dict.fromkeys(range(PARTITIONS), 0)
        await emitted(engine, 0, "a")
        assert await numbers(engine, 0) == [1]

    async def test_a_cancelled_transaction_leaves_nothing_and_blocks_nobody(self, engine: Store) -> None:
        """The next one may take its locks and numbers at once."""
        await put(engine, ("a", 1, None))
        entered = asyncio.Event()

        async def hang() -> None:
            async with engine.transaction() as tx:
                await tx.save(ACCOUNTS, [("a", 2, None)])
                await emit(tx, 0, "a")
                entered.set()
                await asyncio.Event().wait()

        hanging = asyncio.create_task(hang())
        await entered.wait()
        hanging.cancel()
        await asyncio.wait([hanging])
        async with asyncio.timeout(self.patience_s):
            await emitted(engine, 0, "b")
        assert await get(engine, "a") == ("a", 1, None)
        assert await numbers(engine, 0) == [1]

    async def test_cancelling_at_any_moment_is_all_or_nothing(self, engine: Store) -> None:
        """After so many turns of the loop: a row is saved exactly when its event is there."""
        await engine.create(TABLES, PARTITIONS)
        for turns in range(12):
            task = asyncio.create_task(_save_and_emit(engine, f"k{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None
        async with engine.snapshot() as session:
            saved = {row[0] for row in await session.find(ACCOUNTS, {})}
        found = await engine.journal(0, 0, 100)
        assert {message.key for message in found} == saved
        assert [message.number for message in found] == list(range(1, len(found) + 1))

    async def test_concurrent_changes_of_a_row_lose_no_update(self, engine: Store) -> None:
        """Whoever comes second waits, or gets Conflict and runs again."""
        await put(engine, ("a", 0, None))

        async def increment(tx: WriteSession) -> None:
            [(_, balance, _)] = await tx.load(ACCOUNTS, [("a",)])
            await asyncio.sleep(0)
            await tx.save(ACCOUNTS, [("a", balance + 1, None)])

        await asyncio.gather(*(committed(engine, increment) for _ in range(20)))
        assert await get(engine, "a") == ("a", 20, None)

    async def test_transactions_that_cross_each_other_all_succeed_when_run_again(self, engine: Store) -> None:
        """They take the same rows and partitions in all orders."""
        await crossed(engine)

    async def test_a_snapshot_is_one_moment(self, engine: Store) -> None:
        """Of all tables and the journal, whatever is committed meanwhile."""
        await put(engine, ("a", 10, None), ("b", 0, None))
        async with engine.snapshot() as session, engine.snapshot() as other:
            assert await session.load(ACCOUNTS, [("a",)]) == [("a", 10, None)]
            await put(engine, ("a", 4, None), ("b", 6, None))
            await emitted(engine, 0, "a")
            assert await session.load(ACCOUNTS, [("b",)]) == [("b", 0, None)]
            assert await session.history(0, "a") == []
            assert sum(row[1] for row in await other.find(ACCOUNTS, {})) == 10
        assert await get(engine, "b") == ("b", 6, None)

    async def test_the_oldest_rows_expire_so_many_at_a_time_and_those_without_a_time_stay(self, engine: Store) -> None:
        """A row of exactly the time asked for stays."""
        await engine.create(TABLES, PARTITIONS)
        noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
        visits = [(f"v{minute}", noon + timedelta(minutes=minute, microseconds=1)) for minute in (3, 1, 4, 0, 2)]
        async with engine.transaction() as tx:
            await tx.save(VISITS, [*visits, ("never", None)])
        assert await expired(engine, noon, 10) == 0
        before = noon + timedelta(minutes=3, microseconds=1)
        assert await expired(engine, before, 2) == 2
        assert await visits_of(engine) == ["never", "v2", "v3", "v4"]
        assert await expired(engine, before, 2) == 1
        assert await expired(engine, before, 2) == 0
        assert await visits_of(engine) == ["never", "v3", "v4"]

    async def test_a_mebibyte_passes(self, engine: Store) -> None:
        """In a row's text and in an event's data."""
        await engine.create(TABLES, PARTITIONS)
        text = MEBIBYTE.decode()
        async with engine.transaction() as tx:
            await tx.save(ACCOUNTS, [("a", 1, text)])
            await tx.hold([0])
            await tx.append([event(0, 1, data=MEBIBYTE)])
        assert await get(engine, "a") == ("a", 1, text)
        assert list(await engine.journal(0, 0, 1)) == [event(0, 1, data=MEBIBYTE)]

    async def test_creating_runs_the_statements_of_its_own_dialect(self, engine: Store) -> None:
        """Statements of other dialects are left out; an engine without SQL runs none."""
        await put(engine, ("a", 1, None))
        async with engine.snapshot() as session:
            dialect = session.dialect
        statements = {dialect: ["UPDATE contract_accounts SET balance = 7"], "klingon": ["yIDoghQo'"]}
        await engine.create(TABLES, PARTITIONS, statements)
        assert await get(engine, "a") == ("a", 7 if dialect else 1, None)

    async def test_another_number_of_partitions_is_refused(self, engine: Store) -> None:
        """With SettingsError."""
        await engine.create(TABLES, PARTITIONS)
        with pytest.raises(SettingsError):
            await engine.create(TABLES, PARTITIONS + 1)

    async def test_what_was_committed_outlives_the_engine(self, engine: Store, reopen: Callable[[], Store]) -> None:
        """For engines that are durable: another one goes on with its rows and numbers."""
        if not engine.features.durable:
            pytest.skip("the engine does not promise durability")
        await put(engine, ("a", 1, None))
        await emitted(engine, 2, "a", "b")
        await engine.close()
        again = reopen()
        await put(again, ("b", 2, None))
        await emitted(again, 2, "c")
        assert await get(again, "a") == ("a", 1, None)
        assert [message.key for message in await again.journal(2, 0, 10)] == ["a", "b", "c"]
        await again.close()

    async def test_two_engines_share_rows_and_numbers(self, engine: Store, reopen: Callable[[], Store]) -> None:
        """For engines that are shared: writers on both leave no hole."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        other = reopen()
        for each in (engine, other):
            await put(each, ("a", 1, None))
        async with asyncio.timeout(self.patience_s):
            counts = await asyncio.gather(*(churn((engine, other)[writer % 2], writer) for writer in range(4)))
        for each in (engine, other):
            found = [await numbers(each, partition) for partition in range(PARTITIONS)]
            assert found == [list(range(1, len(seen) + 1)) for seen in found]
            assert sum(map(len, found)) == sum(counts)
        await other.close()

    async def test_transactions_of_two_engines_that_cross_each_other_all_succeed_when_run_again(
        self, engine: Store, reopen: Callable[[], Store]
    ) -> None:
        """For engines that are shared: as on one."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        other = reopen()
        await crossed(engine, other)
        await other.close()


async def visits_of(engine: Store) -> list[str]:
    """The ids of all visits, in order."""
    async with engine.snapshot() as session:
        return [row[0] for row in await session.find(VISITS, {})]


async def _save_and_emit(engine: Store, key: str) -> None:
    async with engine.transaction() as tx:
        await tx.save(ACCOUNTS, [(key, 1, None)])
        await asyncio.sleep(0)
        await emit(tx, 0, key)
