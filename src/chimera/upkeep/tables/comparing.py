"""Comparing the tables of two generations, of whatever columns they are: as sets of rows, at one moment.

Numbers that an engine gives to rows by itself differ between generations, and are no part of the comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from chimera.core.aio.turns import Turns
from chimera.entities import Key, Table
from chimera.ports import Session
from chimera.upkeep.tables.naming import renamed_table, table_in
from chimera.upkeep.tables.state import Built
from chimera.views.comparison import SAMPLES, Comparison, Sample
from chimera.views.lists.sums import Balance, bucket_of

AT_ONCE = 100_000
PAGE = 1_000

_COLUMNS = {
    "sqlite": (
        "SELECT name, pk, lower(type) = 'integer' AND pk = 1 AND (SELECT count(*) FROM pragma_table_info('{0}') "
        "WHERE pk > 0) = 1 FROM pragma_table_info('{0}') ORDER BY cid"
    ),
    "postgresql": (
        "SELECT c.column_name::text, coalesce(k.ordinal_position, 0)::int, "
        "c.is_identity = 'YES' OR coalesce(c.column_default, '') LIKE 'nextval(%' FROM information_schema.columns c "
        "LEFT JOIN (information_schema.key_column_usage k JOIN information_schema.table_constraints t "
        "USING (constraint_schema, constraint_name)) ON t.constraint_type = 'PRIMARY KEY' "
        "AND k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.column_name = c.column_name "
        "WHERE c.table_schema = current_schema() AND c.table_name = '{0}' ORDER BY c.ordinal_position"
    ),
    "mysql": (
        "SELECT c.column_name, coalesce(k.seq_in_index, 0), c.extra LIKE '%auto_increment%' "
        "FROM information_schema.columns c LEFT JOIN information_schema.statistics k ON k.index_name = 'PRIMARY' "
        "AND k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.column_name = c.column_name "
        "WHERE c.table_schema = DATABASE() AND c.table_name = '{0}' ORDER BY c.ordinal_position"
    ),
}
"""By dialect, a table's columns: name, place in the primary key (0: none), whether the engine numbers it."""
_QUOTES = {"mysql": "`"}


Read = Callable[[], AsyncIterator[bytes]]
"""Reads rows as JSON of what is compared."""


class _Columns(NamedTuple):
    key: list[str]
    compared: list[str]


class ComparedTables(NamedTuple):
    """Tables of a reaction, by name, in two generations; `entities` are those whose rows are entities."""

    names: Sequence[str]
    entities: Mapping[str, Table]
    old: Built
    new: Built


async def compare_tables(session: Session, tables: ComparedTables, *, at_rest: bool) -> Comparison:
    """How the rows of both generations differ, in a session; what differs is in flight where they are not `at_rest`."""
    found = Comparison(tables.old.number, tables.new.number)
    for name in tables.names:
        rows = await _readers(session, tables, name)
        balance = Balance()
        for read, sign in rows:
            async for row in read():
                balance.add(row, sign)
                found.equal += sign > 0
        for buckets in balance.passes(AT_ONCE):
            left: Counter[bytes] = Counter()
            for read, sign in rows:
                async for row in read():
                    if bucket_of(row) in buckets:
                        left[row] += sign
            _count(found, name, left, at_rest=at_rest)
    return found


async def _readers(session: Session, tables: ComparedTables, name: str) -> list[tuple[Read, int]]:
    """What reads the rows of a table in the old generation (1) and in the new one (-1); none where there is none."""
    numbers = [tables.old.number_of(name), tables.new.number_of(name)]
    if name in tables.entities:
        table = tables.entities[name]
        read = [partial(_entities, session, renamed_table(table, number)) for number in numbers]
        return list(zip(read, (1, -1), strict=True))
    columns = await _columns_of(session, table_in(name, numbers[1]))
    if columns is None:
        return []
    found = [partial(_rows, session, table_in(name, number), columns) for number in numbers]
    return list(zip(found, (1, -1), strict=True))


async def _entities(session: Session, table: Table) -> AsyncIterator[bytes]:
    """The rows of an entity's table as JSON."""
    after: Key = ()
    turns = Turns()
    while page := await session.scan(table, after, PAGE):
        for row in page:
            data = msgspec.json.encode(row)
            await turns.after(len(data))
            yield data
        after = table.key_of(page[-1])


def _count(found: Comparison, table: str, left: Counter[bytes], *, at_rest: bool) -> None:
    """Note rows that only the old generation has (above 0), or only the new one; the old one's counted as equal."""
    for row, times in left.items():
        if times > 0:
            found.equal -= times
        if not at_rest:
            found.in_flight += abs(times)
        elif times:
            kind = "missing" if times > 0 else "new"
            setattr(found, kind, getattr(found, kind) + abs(times))
            if sum(sample.kind == kind for sample in found.samples) < SAMPLES:
                shown, nothing = msgspec.Raw(row), msgspec.Raw(b"null")
                pair = (shown, nothing) if times > 0 else (nothing, shown)
                found.samples.append(Sample("missing" if times > 0 else "new", table, *pair))


async def _columns_of(session: Session, table: str) -> _Columns | None:
    """The columns of a table; None where this engine has none of that name."""
    rows = await session.execute(_COLUMNS[session.dialect].format(table)) if session.dialect else []
    if not rows:
        return None
    key = [name for name, place, _ in sorted(rows, key=lambda row: row[1]) if place]
    compared = [name for name, _, is_numbered in rows if not is_numbered]
    return _Columns(key, compared or [name for name, _, _ in rows])


async def _rows(session: Session, table: str, columns: _Columns) -> AsyncIterator[bytes]:
    """The rows of a table as JSON of what is compared."""
    quote = _QUOTES.get(session.dialect, '"')
    key = [f"{quote}{name}{quote}" for name in columns.key] or (["rowid"] if session.dialect == "sqlite" else [])
    wanted = ", ".join(f"{quote}{name}{quote}" for name in columns.compared)
    order, turns = ", ".join(key), Turns()
    last: Sequence[Any] = ()
    while True:
        where = f" WHERE ({order}) > ({_marks(session.dialect, len(last))})" if last else ""
        page = f" ORDER BY {order} LIMIT {PAGE}" if key else ""
        extra = f", {order}" if key else ""
        rows = await session.execute(f"SELECT {wanted}{extra} FROM {table}{where}{page}", last)  # noqa: S608 - names
        for row in rows:
            data = msgspec.json.encode(row[: len(columns.compared)], enc_hook=str)
            await turns.after(len(data))
            yield data
        if not key or len(rows) < PAGE:
            return
        last = rows[-1][len(columns.compared) :]


def _marks(dialect: str, count: int) -> str:
    mark = {"postgresql": "${}", "mysql": "%s"}.get(dialect, "?")
    return ", ".join(mark.format(number) for number in range(1, count + 1))
