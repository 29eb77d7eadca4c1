"""Entities' tables in SQLite: made, changed without losing anything, and the statements on them."""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from chimera.adapters.rows import (
    converter,
    index_name,
    is_kind_of,
    quoted,
    text_literal,
)
from chimera.adapters.sqlite.files import SQLiteConnection, question_marks
from chimera.entities import Column, ColumnKind, Table, to_utc
from chimera.errors import DeclarationError, SettingsError

_RESERVED = ("heads", "journal")
_TYPES: dict[ColumnKind, str] = {
    "text": "TEXT",
    "integer": "INTEGER",
    "real": "REAL",
    "boolean": "INTEGER",
    "bytes": "BLOB",
    "time": "TEXT",
    "json": "TEXT",
}


class SQLiteStatements:
    """A table's SQL, and its rows as SQLite holds them: only times and booleans differ."""

    def __init__(self, table: Table) -> None:
        names = [quoted(column.name) for column in table.columns]
        name, keys = quoted(table.name), [quoted(field) for field in table.key]
        self.key = ", ".join(keys)
        self.select = f"SELECT {', '.join(names)} FROM {name}"
        # A join, because SQLite finds no index for several columns IN a list; CROSS keeps the list on the outside.
        on = " AND ".join(f"kept.{key} = wanted.column{at}" for at, key in enumerate(keys, 1))
        columns = ", ".join(f"kept.{each}" for each in names)
        self.load = f"SELECT {columns} FROM (VALUES {{}}) wanted CROSS JOIN {name} kept ON {on}"
        after = f"WHERE ({self.key}) > ({question_marks(len(keys))}) "
        self.first = f"{self.select} ORDER BY {self.key} LIMIT ?"
        self.next = f"{self.select} {after}ORDER BY {self.key} LIMIT ?"
        changes = ", ".join(f"{each} = excluded.{each}" for each in names if each not in keys)
        self.upsert = (
            f"INSERT INTO {name} ({', '.join(names)}) VALUES ({question_marks(len(names))}) "
            f"ON CONFLICT ({self.key}) DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"
        )
        self.delete = f"DELETE FROM {name} WHERE ({self.key}) = ({question_marks(len(keys))})"
        self.expire = (
            f"DELETE FROM {name} WHERE ({self.key}) IN "
            f"(SELECT {self.key} FROM {name} WHERE {{0}} < ? ORDER BY {{0}} LIMIT ?) RETURNING 1"
        )
        kinds = {column.name: column.kind for column in table.columns}
        self.to_rows = converter(list(kinds.values()), {"time": to_text})
        self.to_keys = converter([kinds[field] for field in table.key], {"time": to_text})
        held = [column.sql or column.kind for column in table.columns]
        theirs = {column.sql: _from_theirs(column) for column in table.columns if column.sql}
        self.from_rows = converter(held, {"time": datetime.fromisoformat, "boolean": bool, **theirs})


@cache
def statements_of(table: Table) -> SQLiteStatements:
    """A table's statements, made once."""
    return SQLiteStatements(table)


@lru_cache(256)  # the rows of a batch have one time
def to_text(moment: datetime) -> str:
    """A time in UTC as text of a fixed width, so that text sorts as time does."""
    return to_utc(moment).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_held(value: object) -> object:
    """A value as SQLite holds it: only times are text."""
    return to_text(value) if isinstance(value, datetime) else value


def is_one_of(name: str, values: Collection[object]) -> str:
    """The condition that a column has one of these values, each but None being a parameter."""
    condition = f"{quoted(name)} IN ({question_marks(sum(value is not None for value in values))})"
    return f"({condition} OR {quoted(name)} IS NULL)" if None in values else condition


def add_columns(connection: SQLiteConnection, columns: Iterable[tuple[str, str]]) -> None:
    """Add these columns, each (table, declaration), to tables of Chimera's own that an earlier release has made."""
    for table, declaration in columns:
        found = {name for _, name, *_ in connection.run(f"PRAGMA table_info({quoted(table)})")}
        if declaration.partition(" ")[0] not in found:
            connection.run(f"ALTER TABLE {quoted(table)} ADD COLUMN {declaration}")


def prepare(connection: SQLiteConnection, table: Table) -> None:
    """Create the table, or check that it fits and add the optional columns that it lacks; then its indexes."""
    _fit(connection, table)
    for column in table.indexes:
        index = quoted(index_name(table, column))
        connection.run(f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(table.name)} ({quoted(column)})")


def _fit(connection: SQLiteConnection, table: Table) -> None:
    if table.name in map(connection.own, _RESERVED) or table.name.startswith("sqlite_"):
        raise DeclarationError(f"an entity's table can't be {table.name!r} on SQLite; choose another with table=…")
    found: dict[str, str] = {}
    needed: set[str] = set()
    for _, name, kind, is_needed, default, _ in connection.run(f"PRAGMA table_info({quoted(table.name)})"):
        found[name] = kind
        needed |= {name} if is_needed and default is None else set()
    if not found:
        columns = ", ".join(f"{_declaration(column)}{_default(column)}" for column in table.columns)
        key = ", ".join(map(quoted, table.key))
        connection.run(f"CREATE TABLE {quoted(table.name)} ({columns}, PRIMARY KEY ({key})) STRICT")
        return
    for column in table.columns:
        kind = found.get(column.name)
        if kind is None and (column.optional or column.default is not None):
            connection.run(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {_declaration(column)}{_default(column)}")
        elif kind is None:
            raise SettingsError(
                f"table {table.name} in {connection.path} lacks the column {column.name!r}: give its field a default, "
                "make it optional (`| None = None`), or add the column and fill it before starting"
            )
        elif kind != _TYPES[column.kind] and not (column.sql and is_kind_of(kind, column)):
            raise SettingsError(
                f"column {column.name!r} of table {table.name} in {connection.path} is {kind}, not "
                f"{_TYPES[column.kind]} as its field: say so with Annotated[…, InColumn(sql={kind!r})] if that "
                "holds it, give the field a new name, or convert the column"
            )

    for name in sorted(needed - {column.name for column in table.columns}):
        raise SettingsError(
            f"table {table.name} in {connection.path} has the column {name!r}, which its entity does not and no row "
            f"can go without: if the field has another name, type Annotated[…, InColumn({name!r})]; if it is gone, "
            f"drop the column once no older code runs: ALTER TABLE {quoted(table.name)} DROP COLUMN {quoted(name)}"
        )


def _from_theirs(column: Column) -> Callable[[Any], Any]:
    """What a row has of a value in a column of a declared type, in which SQLite may have made a number of a text."""
    if column.kind == "time":
        return lambda value: to_utc(datetime.fromisoformat(value))
    if column.kind == "boolean":
        return bool
    if column.family == "numeric" and "(" in column.sql:
        scale = int(column.sql.partition(",")[2].rstrip(") ") or 0)
        return lambda value: format(Decimal(str(value)), f".{scale}f")
    return str if column.kind in ("text", "json") else lambda value: value


def _declaration(column: Column) -> str:
    return f"{quoted(column.name)} {_TYPES[column.kind]}{'' if column.optional else ' NOT NULL'}"


def _default(column: Column) -> str:
    """What rows of before the column have there, in SQL."""
    value = to_held(column.default)
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f" DEFAULT X'{value.hex()}'"
    if isinstance(value, bool):
        return f" DEFAULT {int(value)}"
    return f" DEFAULT {value!r}" if isinstance(value, int | float) else f" DEFAULT {text_literal(str(value))}"
