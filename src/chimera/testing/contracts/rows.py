"""The contract of the port `Store`: rows and what is asked of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from chimera.adapters.rows import windowed
from chimera.entities import Key, Range, Row, Table, Window
from chimera.errors import Conflict
from chimera.ports import Session, Store, WriteSession
from chimera.testing.contracts.bank import ACCOUNTS, EVERYTHING, PAIRS, PARTITIONS, TABLES, Undo, committed, get, put
from chimera.testing.contracts.suite import NAMES, EngineSuite


class RowGuarantees(EngineSuite):
    """The part of `StoreContract` about rows: saved, loaded, found, deleted."""

    @pytest.mark.parametrize("more", [0, 200])
    async def test_rows_of_every_kind_load_as_they_were_saved(self, engine: Store, more: int) -> None:
        """Also the extremes of each kind, with their types; `more` rows may take another way in."""
        await engine.create(TABLES, PARTITIONS)
        early, late = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
        rows: list[Row] = [
            (-(2**63), "", -0.5, False, b"", early, "[]", None, None, None),
            (2**63 - 1, "🦁 'x' \"y\"", 1e300, True, b"\x00\xff\x00", late, '["ü"]', "", True, early),
            (0, "\n", 0.1, True, b"{}", datetime(2024, 5, 1, tzinfo=UTC), "[]", "z", False, late),
        ]
        rows += [(number, *rows[number % 3][1:]) for number in range(1, more)]
        await committed(engine, partial(_save_new, table=EVERYTHING, rows=rows))
        async with engine.snapshot() as session:
            found = await session.load(EVERYTHING, [(row[0],) for row in rows])
        assert sorted(found) == sorted(rows)
        assert [list(map(type, row)) for row in sorted(found)] == [list(map(type, row)) for row in sorted(rows)]

    async def test_a_page_of_rows_is_in_one_order_on_every_engine(self, engine: Store) -> None:
        """By each kind of column, up and down, from each row on, within ranges: as in Python, None before all else."""
        await engine.create(TABLES, PARTITIONS)
        noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
        texts = ["", "a", "Z", "é", "\uffff", "\U0001f981", "\U0001f981" * 255, "a\u0301", "10", "9"]
        rows: list[Row] = [
            (
                *(at - 5, text, (at % 3) / 2 or -0.0, at % 2 == 0, b"", noon + timedelta(microseconds=at % 4), "[]"),
                *(None if at % 3 == 0 else text, None if at % 4 == 0 else at % 2 == 0, None if at % 5 == 0 else noon),
            )
            for at, text in enumerate(texts)
        ]
        await committed(engine, lambda tx: tx.save(EVERYTHING, rows))
        async with engine.snapshot() as session:
            await _pages_are_right(session, rows)
        async with engine.transaction() as tx:
            await _pages_are_right(tx, rows, steps=4)

    async def test_a_page_sees_what_its_transaction_has_changed(self, engine: Store) -> None:
        """And a count does."""
        await put(engine, ("a", 1, None), ("b", 5, None), ("c", 3, None))
        async with engine.transaction() as tx:
            await tx.save(ACCOUNTS, [("d", 4, None), ("b", 0, None)])
            await tx.delete(ACCOUNTS, [("a",)])
            found = await tx.page(ACCOUNTS, {}, Window(order=[("balance", True)], limit=2))
            assert [row[:2] for row in found] == [("d", 4), ("c", 3)]
            assert await tx.count(ACCOUNTS, {}, {"balance": Range(ge=3)}) == 2
            assert await tx.count(ACCOUNTS, {"account_id": ["b", "c", "z"]}) == 2

    async def test_saving_replaces_the_row_of_the_same_key(self, engine: Store) -> None:
        """The whole row, columns that were set before too."""
        await put(engine, ("a", 1, "x"), ("b", 2, None))
        await put(engine, ("a", 3, None), ("c", 4, None))
        async with engine.snapshot() as session:
            assert await session.find(ACCOUNTS, {}) == [("a", 3, None), ("b", 2, None), ("c", 4, None)]

    async def test_unknown_keys_are_left_out_and_deleting_them_is_no_error(self, engine: Store) -> None:
        """Loading no key at all gives no row."""
        await put(engine, ("a", 1, None), ("b", 2, None))
        await committed(engine, lambda tx: tx.delete(ACCOUNTS, [("a",), ("nobody",)]))
        async with engine.snapshot() as session:
            assert await session.load(ACCOUNTS, [("a",), ("b",), ("nobody",)]) == [("b", 2, None)]
            assert await session.load(ACCOUNTS, []) == []

    async def test_a_single_look_sees_what_was_committed_before_and_nothing_else(self, engine: Store) -> None:
        """A snapshot with `once`, beside an open transaction and after it."""
        await put(engine, ("a", 1, "x"), ("b", 2, None))
        async with engine.transaction() as tx:
            await tx.save(ACCOUNTS, [("a", 3, None), ("c", 4, None)])
            assert await _read_once(engine, "a", "b", "c", "nobody") == [("a", 1, "x"), ("b", 2, None)]
        assert await _read_once(engine, "a", "c") == [("a", 3, None), ("c", 4, None)]
        assert await _read_once(engine) == []

    async def test_keys_may_be_any_text(self, engine: Store) -> None:
        """Keys differ in every byte: none is folded, trimmed or cut."""
        await put(engine, *((name, at, name) for at, name in enumerate(NAMES)))
        for at, name in enumerate(NAMES):
            assert await get(engine, name) == (name, at, name)

    async def test_a_key_of_several_columns_is_matched_whole(self, engine: Store) -> None:
        """A row with a part of the key is another row, when it is loaded, saved or deleted."""
        await engine.create(TABLES, PARTITIONS)
        await committed(engine, lambda tx: tx.save(PAIRS, [("a", 1), ("a", 2), ("b", 1)]))
        await committed(engine, lambda tx: tx.save(PAIRS, [("b", 1)]))
        await committed(engine, lambda tx: tx.delete(PAIRS, [("a", 2)]))
        async with engine.snapshot() as session:
            assert await session.load(PAIRS, [("a", 2), ("b", 1), ("b", 2)]) == [("b", 1)]
            assert await session.find(PAIRS, {}) == [("a", 1), ("b", 1)]

    async def test_thousands_of_keys_load_and_are_found_at_once(self, engine: Store) -> None:
        """Twelve thousand in one call."""
        names = [f"k{at:05}" for at in range(12_000)]
        await put(engine, *((name, at, None) for at, name in enumerate(names)))
        async with engine.snapshot() as session:
            rows = await session.load(ACCOUNTS, [(name,) for name in names])
            assert await _read_once(engine, *names) == sorted(rows)
            found = await session.find(ACCOUNTS, {"account_id": names[::-1], "balance": [3, 11_000, -1]})
        assert len(rows) == len(names)
        assert [row[0] for row in found] == ["k00003", "k11000"]

    async def test_find_matches_every_column_given_and_orders_by_key(self, engine: Store) -> None:
        """A column matches any of its values, None too; no value matches nothing."""
        await put(engine, ("c", 1, "x"), ("a", 1, None), ("d", 2, "x"), ("b", 3, "y"))
        async with engine.snapshot() as session:
            assert [row[0] for row in await session.find(ACCOUNTS, {"balance": [1, 3]})] == ["a", "b", "c"]
            both = await session.find(ACCOUNTS, {"balance": [1, 2], "nickname": ["x"]})
            assert [row[0] for row in both] == ["c", "d"]
            assert [row[0] for row in await session.find(ACCOUNTS, {"nickname": [None, "y"]})] == ["a", "b"]
            assert await session.find(ACCOUNTS, {"balance": []}) == []

    async def test_a_scan_gives_every_row_once_in_the_order_of_keys(self, engine: Store) -> None:
        """In pages of any size, by keys of one column and of two; a page begins after a key that need not be there."""
        await put(engine, *((name, at, None) for at, name in enumerate(NAMES)))
        pairs: list[Row] = [(left, right) for left in ("a", "b", "ä") for right in (-2, 0, 7)]
        await committed(engine, lambda tx: tx.save(PAIRS, pairs))
        async with engine.snapshot() as session:
            for table, keys in ((ACCOUNTS, sorted((name,) for name in NAMES)), (PAIRS, sorted(pairs))):
                for size in (1, 2, 4, 100):
                    assert await _scanned(session, table, size) == keys
            assert await session.scan(PAIRS, ("a", 1), 2) == [("a", 7), ("b", -2)]
            assert await session.scan(PAIRS, ("ä", 7), 2) == []
        async with engine.transaction() as tx:
            await tx.delete(PAIRS, [("b", 0)])
            assert await tx.scan(PAIRS, ("b", -2), 1) == [("b", 7)]

    @pytest.mark.parametrize("more", [0, 200])
    async def test_a_value_that_does_not_fit_is_refused_and_nothing_is_kept(self, engine: Store, more: int) -> None:
        """An integer over 64 bits, a lone surrogate, a missing value; the error is no Conflict."""
        await engine.create(TABLES, PARTITIONS)
        rows: list[Row] = [("a", 1, None), *((f"c{number}", 1, None) for number in range(more))]
        for row in (("b", 2**63, None), ("\ud800", 1, None), ("b", None, None)):
            with pytest.raises(Exception, match=r".") as refused:
                await committed(engine, partial(_save_new, table=ACCOUNTS, rows=[*rows, row]))
            assert not isinstance(refused.value, Conflict)
            assert await get(engine, "a") is None
        await put(engine, ("a", 1, None))

    async def test_sql_runs_inside_the_session(self, engine: Store) -> None:
        """It sees the transaction, and is undone with it; an engine without SQL raises RuntimeError."""
        await put(engine, ("a", 1, None))
        query = "SELECT balance FROM contract_accounts WHERE account_id = 'a'"
        async with engine.snapshot() as session:
            if not session.dialect:
                with pytest.raises(RuntimeError, match="no SQL"):
                    await session.execute(query)
                return
            assert [tuple(row) for row in await session.execute(query)] == [(1,)]
        with pytest.raises(Undo):
            await committed(engine, _undone("UPDATE contract_accounts SET balance = 2 WHERE account_id = 'a'", query))
        assert await get(engine, "a") == ("a", 1, None)


async def _read_once(engine: Store, *names: str) -> Sequence[Row]:
    async with engine.snapshot(once=True) as session:
        return sorted(await session.load(ACCOUNTS, [(name,) for name in names]))


async def _scanned(session: Session, table: Table, size: int) -> list[Key]:
    """The keys of all rows, in pages of this size."""
    keys: list[Key] = []
    while page := await session.scan(table, keys[-1] if keys else (), size):
        assert len(page) <= size
        keys += map(table.key_of, page)
    return keys


async def _save_new(tx: WriteSession, table: Table, rows: Sequence[Row]) -> None:
    """Save rows that were asked for before, as handlers do: an engine may add them in another way."""
    with suppress(UnicodeError):
        assert await tx.load(table, [table.key_of(row) for row in rows]) == []
    await tx.save(table, rows)


def _undone(statement: str, query: str) -> Callable[[Session], Awaitable[None]]:
    async def work(session: Session) -> None:
        await session.execute(statement)
        assert [tuple(row) for row in await session.execute(query)] == [(2,)]
        raise Undo

    return work


async def _pages_are_right(session: Session, rows: Sequence[Row], steps: int = 1) -> None:
    names = ["number", "text", "real", "flag", "moment", "maybe_text", "maybe_flag", "maybe_moment"]
    columns = [column.name for column in EVERYTHING.columns]
    for name, descends in [(name, descends) for name in names for descends in (False, True)]:
        order = [(name, descends), ("flag", not descends)][: 1 if name == "flag" else 2]
        named = [each for each, _ in order]
        for row in [None, *rows[::steps]]:
            known = dict(zip(columns, row or (), strict=False))
            place = [known.get(each) for each in (*named, *({"number"} - {*named}))]
            window = Window({}, order, None if row is None else place, 4)
            assert await session.page(EVERYTHING, {}, window) == windowed(EVERYTHING, rows, window), window
        bound = next(value for row in rows[3:] if (value := row[columns.index(name)]) is not None)
        for wanted in (Range(gt=bound), Range(ge=bound), Range(lt=bound), Range(ge=bound, le=bound)):
            window = Window({name: wanted}, order)
            found = windowed(EVERYTHING, [row for row in rows if row[3]], window)
            assert await session.page(EVERYTHING, {"flag": [True]}, window) == found, window
            assert await session.count(EVERYTHING, {"flag": [True]}, {name: wanted}) == len(found), window
