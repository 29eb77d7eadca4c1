"""Rows and keys as parameters of MySQL's statements.

The driver has a statement prepared once per connection, and then sends values in the protocol's binary form, not as
SQL. So few statements have to serve any number of rows and keys: rows travel in parts of a few sizes, and keys are
padded.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from typing import Any, TypeVar

from chimera.adapters import rows as shared
from chimera.adapters.rows import converter
from chimera.entities import Key, Row, Table, to_utc

Item = TypeVar("Item")

MAX_KEYS = 512
_SIZES = (250, 100, 50, 20, 8, 4, 2, 1)
"""How many rows a statement adds: few statements serve any number, and a full batch of commands, 500, takes two."""
_MAX_PARAMETERS = 2_500
"""The most of a statement that adds rows: kept prepared, each takes the server 650 bytes per connection."""
_MAX_TEXT = 2 * 1024 * 1024

_AS_TEXT = ("numeric", "date", "json", "jsonb", "uuid")
"""Types that the driver makes values of its own of."""

marks = partial(shared.marks, mark="%s")


class MySQLStatements:
    """A table's SQL, and its rows as MySQL holds them: only times and booleans differ."""

    def __init__(self, table: Table) -> None:
        names = [quoted(column.name) for column in table.columns]
        keys = [quoted(field) for field in table.key]
        kinds = [column.kind for column in table.columns]
        held = [column.family if column.family in _AS_TEXT else column.kind for column in table.columns]
        self.name = quoted(table.name)
        self.key = ", ".join(keys)
        self.select = f"SELECT {', '.join(names)} FROM {self.name}"
        after = f"WHERE {keys[0]} >= %s AND ({self.key}) > ({marks(len(keys))}) "  # an index has no range for several
        self.first = f"{self.select} ORDER BY {self.key} LIMIT %s"
        self.next = f"{self.select} {after}ORDER BY {self.key} LIMIT %s"
        self.insert = f"INSERT INTO {self.name} ({', '.join(names)}) VALUES "
        self.changes = [each for each in names if each not in keys]
        self.to_rows = converter(kinds, {"time": to_held})
        self.from_rows = converter(held, {"time": _with_zone, "boolean": bool, **dict.fromkeys(_AS_TEXT, to_text)})
        self._one = " AND ".join(f"{key} = %s" for key in keys)

    def has_key(self, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """A condition that finds these keys by the index, and its values."""
        keys = padded(keys)
        values = [to_held(value) for key in keys for value in key]
        if len(keys[0]) == 1:
            return f"{self.key} IN ({marks(len(keys))})", values
        return " OR ".join([f"({self._one})"] * len(keys)), values


@cache
def statements_of(table: Table) -> MySQLStatements:
    return MySQLStatements(table)


def _with_zone(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def to_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def to_held(value: Any) -> Any:
    return to_utc(value).replace(tzinfo=None) if isinstance(value, datetime) else value


def is_one_of(name: str, values: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """A condition that a column has one of these values, which may be None; and its parameters."""
    wanted = padded([value for value in values if value is not None])
    condition = f"{quoted(name)} IN ({marks(len(wanted))})" if wanted else "false"
    return f"({condition} OR {quoted(name)} IS NULL)" if None in values else condition, wanted


def padded(items: Sequence[Item]) -> Sequence[Item]:
    """As many as a power of two; the last is there several times."""
    room = 1 << (len(items) - 1).bit_length() if items else 0
    return [*items, *[items[-1]] * (room - len(items))] if room > len(items) else items


def parts(rows: Sequence[Row], *, parameters: int = _MAX_PARAMETERS, text: int = _MAX_TEXT) -> Iterator[Sequence[Row]]:
    """The rows in parts for a statement each, which stay far below the server's largest packet.

    `parameters` and `text` (characters and bytes): the most of a statement.
    """
    start = 0
    while start < len(rows):
        most = min(len(rows) - start, parameters // len(rows[0]))
        sizes = (size for size in _SIZES if size <= most and _text_in(rows[start : start + size]) <= text)
        size = next(sizes, 1)
        yield rows[start : start + size]
        start += size


@lru_cache(1024)
def adding(insert: str, columns: int, rows: int, otherwise: str) -> str:
    """A statement that adds so many rows."""
    row = f"({marks(columns)})"
    return f"{insert}{', '.join([row] * rows)}{otherwise}"


def _text_in(rows: Iterable[Row]) -> int:
    """How long the texts and bytes of these rows are together; each column is of one type."""
    columns = [
        column for column in zip(*rows, strict=True) if isinstance(next(filter(None, column), None), str | bytes)
    ]
    return sum(sum(map(len, filter(None, column))) for column in columns)


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"
