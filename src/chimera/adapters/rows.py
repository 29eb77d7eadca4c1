"""Rows and SQL as every engine with SQL has them: SQLite, PostgreSQL, MySQL."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from operator import ge, gt, le, lt
from typing import Any, TypeVar

from chimera.core.paging import pages
from chimera.entities import Column, Range, Row, Table, Where, Window, family_of, to_utc
from chimera.errors import ChimeraError, SettingsError, Trimmed
from chimera.messages import Message
from chimera.ports import WITHIN

Item = TypeVar("Item")
Converter = Callable[[Sequence[Row]], Sequence[Row]]


def converter(kinds: Sequence[str], by_kind: Mapping[str, Callable[[Any], Any]]) -> Converter:
    """Converts the values of rows with columns of these kinds, where there is something to convert."""
    special = [(at, by_kind[kind]) for at, kind in enumerate(kinds) if kind in by_kind]

    def converted(rows: Sequence[Row]) -> Sequence[Row]:
        made = [list(row) for row in rows]
        for at, convert in special:
            for values in made:
                if values[at] is not None:
                    values[at] = convert(values[at])
        return list(map(tuple, made))

    return converted if special else (lambda rows: rows)


def events_of(partition: int, rows: Iterable[Row]) -> list[Message]:
    """Journal rows (number, source, type, key, time, data, traceparent, chain, metadata) as messages."""
    return [
        Message(
            f"{source}/{partition}@{number}",
            source,
            kind,
            key,
            moment,
            data,
            partition,
            number,
            traceparent,
            chain or "",
            metadata=metadata or "",
        )
        for number, source, kind, key, moment, data, traceparent, chain, metadata in rows
    ]


def journal_rows(events: Iterable[Message]) -> list[Row]:
    """Messages as rows (partition, number, source, type, key, time, data, traceparent, chain, metadata)."""
    return [
        (e.partition, e.number, e.source, e.type, e.key, e.time, e.data, e.traceparent, e.chain, e.metadata or None)
        for e in events
    ]


def tips_of(events: Iterable[Message]) -> list[Row]:
    """The last of these events of each partition, as rows (partition, number, chain) of `heads`."""
    return list({e.partition: (e.partition, e.number, e.chain) for e in events}.values())


def new_chain() -> str:
    """A digest for a chain to begin with."""
    return secrets.token_hex(16)


async def unbroken(
    read: Callable[[], Awaitable[list[Message]]],
    heads: Callable[[], Awaitable[Mapping[int, int]]],
    partition: int,
    after: int,
) -> list[Message]:
    """The events that `read` finds after a number. Raises Trimmed where they do not begin with the next one.

    Where it finds nothing, `heads` say whether there was something; it is read again, since it may have come meanwhile.
    """
    events = await read()
    if not events and (await heads()).get(partition, 0) > after:
        events = await read()
        if not events:
            raise Trimmed(partition, after)
    if events and events[0].number != after + 1:
        raise Trimmed(partition, after)
    return events


def check_columns(table: Table, where: Iterable[str]) -> None:
    """Raises ValueError when a condition names a column that the table does not have."""
    names = [column.name for column in table.columns]
    if unknown := [name for name in where if name not in names]:
        raise ValueError(f"table {table.name} has no column {', '.join(unknown)}; it has: {', '.join(names)}")


def in_parts(where: Where, size: int) -> list[Where]:
    """The conditions, several times: each with a part of the longest list, of at most `size` values."""
    longest = max(where, key=lambda name: len(where[name]), default=None)
    if longest is None:
        return [where]
    return [{**where, longest: chunk} for chunk in pages(where[longest], size)]


def given(where: Where) -> list[object]:
    """The values of conditions, in order, without None: that is no value in SQL."""
    return [value for values in where.values() for value in values if value is not None]


COUNT_TYPES = "SELECT type, count(*) FROM journal GROUP BY type"
"""The query for `Store.types`, in every dialect."""


def index_name(table: Table, column: str) -> str:
    """The name of the index on a column."""
    return f"{table.name}_by_{column}"


def other_partitions(what: str, found: int, asked: int) -> SettingsError:
    """The error of a journal or topic, `what`, that was created with another number of partitions."""
    return SettingsError(f"{what} has {found} partitions, not {asked}; their number can't change")


def too_few_partitions(topic: str, found: int, asked: int) -> SettingsError:
    """The error of a `topic`, as it is called, that was created with fewer partitions than are needed."""
    return SettingsError(
        f"{topic} has {found} partitions, and {asked} are needed; "
        f"set partitions={found} where the service is declared, or take another prefix"
    )


def distinct(items: Collection[Item]) -> list[Item]:
    """The items, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(items))


def marks(count: int, mark: str) -> str:
    """So many parameters in a list; NULL, which nothing equals, for none."""
    return ", ".join([mark] * count) or "NULL"


_ALSO: Mapping[str, Collection[str]] = {
    "boolean": ("integer",),
    "uuid": ("char", "varchar", "text"),
    "json": ("text", "jsonb"),
    "jsonb": ("text", "json"),
    "timestamp": ("timestamptz",),
    "timestamptz": ("timestamp",),
}
"""The families that engines with fewer types have instead."""


def is_kind_of(existing: str, column: Column, *, strictly: bool = False) -> bool:
    """True where a column of an existing type can be what was declared; `strictly` where the engine has all types."""
    family, also = family_of(existing), _ALSO.get(column.family, ())
    return family == column.family or (family in also and (not strictly or column.kind == "time"))


def entry_of(place: bytes) -> tuple[bytes, bytes]:
    """A filter, and a place in it, as they stand in one: both empty for the beginning of a view's lists."""
    return place[:WITHIN], place[WITHIN:]


def text_literal(text: str) -> str:
    """A text as standard SQL writes it, for schemas: their statements take no values."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name as standard SQL quotes it."""
    return '"' + name.replace('"', '""') + '"'


def windowed(table: Table, rows: Iterable[Row], window: Window) -> list[Row]:
    """The rows of a window, as every engine finds them."""
    places = [_place(table, name, descends) for name, descends in columns_in_order(table, window.order)]
    kept = [row for row in rows if all(_is_within(table, row, name, each) for name, each in window.ranges.items())]
    ordered = sorted(kept, key=lambda row: tuple(place(row) for place in places))
    if window.after is not None:
        names = [name for name, _ in columns_in_order(table, window.order)]
        before = tuple(place(_row_of(table, names, window.after)) for place in places)
        ordered = [row for row in ordered if tuple(place(row) for place in places) > before]
    return ordered[: window.limit]


def columns_in_order(table: Table, order: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The columns that rows are ordered by, those of the key at the end, and whether they descend."""
    named = [name for name, _ in order]
    return [*order, *((name, False) for name in table.key if name not in named)]


class _Descending:
    """A value, the greater the less."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __lt__(self, other: _Descending) -> bool:
        return bool(other._value < self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and bool(other._value == self._value)

    def __hash__(self) -> int:
        return hash(self._value)


def _place(table: Table, name: str, descends: bool) -> Callable[[Row], Any]:
    at = [column.name for column in table.columns].index(name)

    def place(row: Row) -> Any:
        value = (row[at] is not None, _compared(row[at]) if row[at] is not None else 0)
        return _Descending(value) if descends else value

    return place


def _compared(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else to_utc(value) if isinstance(value, datetime) else value


def _is_within(table: Table, row: Row, name: str, wanted: Range) -> bool:
    found = row[[column.name for column in table.columns].index(name)]
    if found is None:
        return wanted == Range()
    value = _compared(found)
    return all(
        bound is None or compare(value, _compared(bound))
        for bound, compare in ((wanted.gt, gt), (wanted.ge, ge), (wanted.lt, lt), (wanted.le, le))
    )


def _row_of(table: Table, names: Sequence[str], values: Sequence[object]) -> Row:
    known = dict(zip(names, values, strict=True))
    return tuple(known.get(column.name) for column in table.columns)


class WindowSQL:
    """A window in SQL: `condition` (empty for none), `order` and `limit` as they stand there, and the values in it.

    `column` spells a column as it is compared, `mark` the parameter of a number that counts from `first`. `nulls`: it
    has to be said where None comes.
    """

    def __init__(
        self,
        table: Table,
        window: Window,
        column: Callable[[Column], str],
        mark: Callable[[int], str],
        *,
        first: int = 1,
        nulls: bool = False,
    ) -> None:
        self.values: list[Any] = []
        self._columns = {each.name: each for each in table.columns}
        self._column = column
        self._mark = mark
        self._first = first
        ordered = columns_in_order(table, window.order)
        conditions = [part for name, wanted in window.ranges.items() for part in self._within(name, wanted)]
        if window.after is not None:
            conditions.append(self._beyond(ordered, window.after))
        self.condition = " AND ".join(conditions)
        self.order = ", ".join(self._ordered(name, descends, nulls=nulls) for name, descends in ordered)
        self.limit = "" if window.limit is None else f" LIMIT {window.limit:d}"

    def _within(self, name: str, wanted: Range) -> list[str]:
        bounds = ((">", wanted.gt), (">=", wanted.ge), ("<", wanted.lt), ("<=", wanted.le))
        return [self._compared(name, sign, value) for sign, value in bounds if value is not None]

    def _beyond(self, ordered: Sequence[tuple[str, bool]], after: Sequence[object]) -> str:
        """Rows behind another one: equal in the first columns, and behind it in the next."""
        ways = []
        for at, (name, descends) in enumerate(ordered):
            value, spelt = after[at], self._column(self._columns[name])
            if value is None and descends:
                continue
            equal = [self._equal(*pair) for pair in zip(ordered[:at], after[:at], strict=True)]
            behind = f"{spelt} IS NOT NULL" if value is None else self._compared(name, "<" if descends else ">", value)
            if descends and self._columns[name].optional:
                behind = f"({behind} OR {spelt} IS NULL)"
            ways.append(f"({' AND '.join([*equal, behind])})")
        return f"({' OR '.join(ways)})" if ways else "1 = 0"

    def _equal(self, ordered: tuple[str, bool], value: object) -> str:
        name = ordered[0]
        return f"{self._column(self._columns[name])} IS NULL" if value is None else self._compared(name, "=", value)

    def _compared(self, name: str, sign: str, value: object) -> str:
        self.values.append(value)
        return f"{self._column(self._columns[name])} {sign} {self._mark(self._first + len(self.values) - 1)}"

    def _ordered(self, name: str, descends: bool, *, nulls: bool) -> str:
        column = self._columns[name]
        where = (" NULLS LAST" if descends else " NULLS FIRST") if nulls and column.optional else ""
        return f"{self._column(column)}{' DESC' if descends else ''}{where}"


PREFIX = "chimera_"
"""How the tables of Chimera's own begin in a store that was made since they do; in earlier ones some are bare."""
_BARE = re.compile(r"(?<![\w'])(?:heads|journal|documents|checkpoints|revisions)\b|(?<=nextval\(')revisions\b")

_RENAMED = {"checkpoints": "view_checkpoints"}
"""Those of a store are an entity's table, `chimera_checkpoints`."""


@lru_cache(4096)
def own(sql: str, prefix: str) -> str:
    """SQL on Chimera's own tables, which are written bare, as a store has them: with this prefix, or without."""
    return _BARE.sub(lambda found: prefix + _RENAMED.get(found[0], found[0]), sql) if prefix else sql


def wanted_prefix(options: dict[str, str], where: str) -> str | None:
    """Remove the option `tables`, to which those of a store of before move; None without it. Raises SettingsError."""
    prefix = options.pop("tables", None)
    if prefix not in (None, PREFIX):
        raise SettingsError(f"{where}: tables={prefix} is not known; tables={PREFIX} renames Chimera's own tables so")
    return prefix


def lending_of(dialect: str) -> Any:
    """What lends a database's connections to SQLAlchemy. Raises ChimeraError where that is not installed."""
    try:
        import_module("greenlet")  # which SQLAlchemy's asyncio needs, and does not ask for
        lending = import_module("chimera.adapters.relational.lending")
    except ImportError as error:
        raise ChimeraError(f"{error}: type pip install 'chimera-kit[sqlalchemy]'") from error
    return lending.Lending(dialect)
