"""Rows and SQL as every engine with SQL has them: SQLite, PostgreSQL, MySQL."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from chimera.core.paging import pages
from chimera.entities import Column, Row, Table, family_of
from chimera.errors import SettingsError, Trimmed
from chimera.messages import Message

Item = TypeVar("Item")
Converter = Callable[[Sequence[Row]], Sequence[Row]]
Where = Mapping[str, Sequence[object]]
"""The values that each column may have."""


def converter(kinds: Sequence[str], by_kind: Mapping[str, Callable[[Any], Any]]) -> Converter:
    """Converts the values of rows with columns of these kinds, where there is something to convert."""
    special = [(at, by_kind[kind]) for at, kind in enumerate(kinds) if kind in by_kind]

    def converted(row: Row) -> Row:
        values = list(row)
        for at, convert in special:
            if values[at] is not None:
                values[at] = convert(values[at])
        return tuple(values)

    return (lambda rows: [converted(row) for row in rows]) if special else (lambda rows: rows)


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


def check_columns(table: Table, where: Where) -> None:
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


def text_literal(text: str) -> str:
    """A text as standard SQL writes it, for schemas: their statements take no values."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name as standard SQL quotes it."""
    return '"' + name.replace('"', '""') + '"'
