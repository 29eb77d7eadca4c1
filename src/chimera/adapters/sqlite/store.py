"""A store in SQLite: entities and journal in one file, each commit flushed to the disk."""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from chimera.adapters.rows import (
    COUNT_TYPES,
    WindowSQL,
    check_columns,
    distinct,
    events_of,
    given,
    in_parts,
    journal_rows,
    new_chain,
    other_partitions,
    quoted,
    tips_of,
    unbroken,
    windowed,
)
from chimera.adapters.sqlite.files import (
    FEATURES,
    LOCK_S,
    MAX_PARAMETERS,
    READERS,
    SQLiteConnection,
    SQLiteFile,
    question_marks,
)
from chimera.adapters.sqlite.tables import add_columns, is_one_of, prepare, statements_of, to_held, to_text
from chimera.core.paging import pages
from chimera.entities import Key, Range, Row, Table, Where, Window
from chimera.messages import Message
from chimera.ports import PAGE_BYTES, Session, Tip, WriteSession

_STORE_SCHEMA = """
CREATE TABLE IF NOT EXISTS heads (
    partition INTEGER PRIMARY KEY, number INTEGER NOT NULL, chain TEXT, trimmed INTEGER, anchor TEXT) STRICT;
CREATE TABLE IF NOT EXISTS journal (
    partition INTEGER, number INTEGER, source TEXT, type TEXT, key TEXT, time TEXT, data BLOB, traceparent TEXT,
    chain TEXT, metadata TEXT, PRIMARY KEY (partition, number)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS journal_by_key ON journal (partition, key, number)
"""
_HEADS = "SELECT partition, number FROM heads ORDER BY partition"
_ADDED = (
    ("heads", "chain TEXT"),
    ("heads", "trimmed INTEGER"),
    ("heads", "anchor TEXT"),
    ("journal", "chain TEXT"),
    ("journal", "metadata TEXT"),
)
_COLUMNS = "partition, number, source, type, key, time, data, traceparent, chain, metadata"
_CHAIN = """
SELECT CASE ?2 WHEN number THEN chain WHEN trimmed THEN anchor
    ELSE (SELECT chain FROM journal WHERE partition = ?1 AND number = ?2) END
FROM heads WHERE partition = ?1
"""
_TRIM = """
UPDATE heads SET trimmed = j.number, anchor = j.chain
FROM journal j WHERE heads.partition = ?1 AND j.partition = ?1 AND j.number = ?2
"""
_OLDEST = """
SELECT partition, coalesce((SELECT min(number) FROM journal WHERE partition = heads.partition), number + 1)
FROM heads ORDER BY partition
"""


class SQLiteStore:
    """Entities and journal in one file; a commit is on disk when `transaction` is left.

    `lock_s`: seconds that the file is waited for while another process writes. `readers`: how many that are not in use
    stay open.
    """

    features = FEATURES

    def __init__(self, path: str | Path, *, lock_s: float = LOCK_S, readers: int = READERS) -> None:
        self._file = SQLiteFile(Path(path), "FULL", lock_s=lock_s, readers=readers)

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Adds optional columns that a table lacks. Raises SettingsError where tables or partitions differ."""
        await self._file.open()
        async with self._file.writing() as connection:
            connection.run_script(_STORE_SCHEMA)
            add_columns(connection, _ADDED)
            self._number_partitions(connection, partitions)
            for table in tables:
                prepare(connection, table)
            for statement in statements.get(SQLiteSession.dialect, ()):
                connection.run(statement)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._file.writing() as connection:
            session = SQLiteWriteSession(connection)
            try:
                yield session
            finally:
                session.end()

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        if once:
            single = SQLiteLook(self._file)
            try:
                yield single
            finally:
                single.end()
            return
        connection = self._file.take_reader()
        session = SQLiteSession(connection)
        connection.run("BEGIN")
        try:
            yield session
        finally:
            session.end()
            connection.leave()
            self._file.give_back(connection)

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        async def read() -> list[Message]:
            return events_in(self._file.reader, partition, "number > ?", (after, limit), size=PAGE_BYTES)

        return await unbroken(read, self.heads, partition, after)

    async def heads(self) -> Mapping[int, int]:
        return dict(self._file.reader.run(_HEADS))

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        found = {partition: _chain(self._file.reader, partition, number) for partition, number in at.items()}
        return {partition: chain for partition, chain in found.items() if chain}

    async def oldest(self) -> Mapping[int, int]:
        return dict(self._file.reader.run(_OLDEST))

    async def types(self) -> Mapping[str, int]:
        return dict(self._file.reader.run(COUNT_TYPES))

    def listen(self, heard: Callable[[], None]) -> None:
        self._file.listen(heard)

    async def close(self) -> None:
        await self._file.close()

    def _number_partitions(self, connection: SQLiteConnection, partitions: int) -> None:
        [(found,)] = connection.run("SELECT count(*) FROM heads")
        if found == 0:
            connection.run_many(
                "INSERT INTO heads (partition, number) VALUES (?, 0)", [(p,) for p in range(partitions)]
            )
        elif found != partitions:
            raise other_partitions(f"the journal in {self._file.path}", found, partitions)
        begun = "UPDATE heads SET trimmed = number, chain = ?1, anchor = ?1 WHERE chain IS NULL"
        connection.run(begun, (new_chain(),))


class SQLiteSession:
    """Statements on a connection, until the session ends."""

    dialect = "sqlite"

    def __init__(self, connection: SQLiteConnection) -> None:
        self._connection: SQLiteConnection | None = connection

    def end(self) -> None:
        """Let go of the connection: whoever uses the session from now on gets RuntimeError."""
        self._connection = None

    @property
    def _open(self) -> SQLiteConnection:
        if self._connection is None:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        self._connection.check_transaction()
        return self._connection

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        sql = statements_of(table)
        rows: list[Row] = []
        key_marks = f"({question_marks(len(table.key))})"
        for chunk in pages(distinct(keys), MAX_PARAMETERS // len(table.key)):
            values = [value for key in sql.to_keys(chunk) for value in key]
            rows += self._open.run(sql.load.format(", ".join([key_marks] * len(chunk))), values)
        return sql.from_rows(rows)

    async def find(self, table: Table, where: Where) -> Sequence[Row]:
        check_columns(table, where)
        sql = statements_of(table)
        parts = in_parts({name: list(map(to_held, distinct(values))) for name, values in where.items()}, MAX_PARAMETERS)
        rows: list[Row] = []
        for part in parts:
            condition = " AND ".join(is_one_of(name, values) for name, values in part.items()) or "true"
            rows += self._open.run(f"{sql.select} WHERE {condition} ORDER BY {sql.key}", given(part))
        return sql.from_rows(rows if len(parts) == 1 else sorted(rows, key=table.key_of))

    async def page(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        check_columns(table, [*where, *window.ranges, *dict(window.order)])
        if any(len(values) > MAX_PARAMETERS // 2 for values in where.values()):
            return windowed(table, await self.find(table, where), window)
        sql, (conditions, values) = statements_of(table), _conditions(where)
        found = _window_sql(table, window)
        condition = " AND ".join(filter(None, [*conditions, found.condition])) or "true"
        select = f"{sql.select} WHERE {condition} ORDER BY {found.order}{found.limit}"
        return sql.from_rows(self._open.run(select, [*values, *map(to_held, found.values)]))

    async def count(self, table: Table, where: Where, ranges: Mapping[str, Range] = MappingProxyType({})) -> int:
        check_columns(table, [*where, *ranges])
        if any(len(values) > MAX_PARAMETERS // 2 for values in where.values()):
            return len(windowed(table, await self.find(table, where), Window(ranges)))
        conditions, values = _conditions(where)
        found = _window_sql(table, Window(ranges))
        condition = " AND ".join(filter(None, [*conditions, found.condition])) or "true"
        select = f"SELECT count(*) FROM {quoted(table.name)} WHERE {condition}"
        [(count,)] = self._open.run(select, [*values, *map(to_held, found.values)])
        return int(count)

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        sql = statements_of(table)
        rows = self._open.run(sql.next if after else sql.first, (*map(to_held, after), limit))
        return sql.from_rows(rows)

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Times among the parameters become text as in time columns; rows come as SQLite holds them."""
        return self._open.run(sql, [to_held(value) for value in parameters])

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return events_in(self._open, partition, "key = ? AND number > ?", (key, after, -1))

    async def heads(self) -> Mapping[int, int]:
        return dict(self._open.run(_HEADS))


def _conditions(where: Where) -> tuple[list[str], list[object]]:
    wanted = {name: list(map(to_held, distinct(values))) for name, values in where.items()}
    return [is_one_of(name, values) for name, values in wanted.items()], given(wanted)


def _window_sql(table: Table, window: Window) -> WindowSQL:
    return WindowSQL(table, window, lambda column: quoted(column.name), lambda number: "?")


class SQLiteLook(SQLiteSession):
    """Single statements outside any transaction, on whichever connection is free."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file: SQLiteFile | None = file

    def end(self) -> None:
        self._file = None

    @property
    def _looked_at(self) -> SQLiteFile:
        if self._file is None:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        return self._file

    @property
    def _open(self) -> SQLiteConnection:
        return self._looked_at.reader

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        return self._looked_at.own_reader.run(sql, [to_held(value) for value in parameters])


class SQLiteWriteSession(SQLiteSession):
    """A session whose connection is the file's writer."""

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        sql = statements_of(table)
        self._open.run_many(sql.upsert, sql.to_rows(rows))

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        sql = statements_of(table)
        self._open.run_many(sql.delete, sql.to_keys(keys))

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        return {partition: self._tip(partition) for partition in partitions}

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        return len(self._open.run(statements_of(table).expire.format(quoted(column)), (to_text(before), limit)))

    async def trim(self, partition: int, through: int) -> None:
        self._open.run(_TRIM, (partition, through))
        self._open.run("DELETE FROM journal WHERE partition = ? AND number <= ?", (partition, through))

    async def append(self, events: Sequence[Message]) -> None:
        added = f"INSERT INTO journal ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._open.run_many(added, journal_rows(events))
        self._open.run_many("UPDATE heads SET number = ?2, chain = ?3 WHERE partition = ?1", tips_of(events))

    def _tip(self, partition: int) -> Tip:
        rows = self._open.run("SELECT number, chain FROM heads WHERE partition = ?", (partition,))
        if not rows:
            raise ValueError(f"the journal has no partition {partition}")
        return Tip(*rows[0])


def _chain(connection: SQLiteConnection, partition: int, number: int) -> str:
    rows = connection.run(_CHAIN, (partition, number))
    return str(rows[0][0] or "") if rows else ""


def events_in(
    connection: SQLiteConnection, at: int, which: str, parameters: Row, size: float = math.inf
) -> list[Message]:
    """The events of partition `at`, in order, up to the one with which their data have come to `size` bytes.

    `which` is a condition in SQL, `parameters` are its values and then a limit, -1 for none.
    """
    columns = "number, source, type, key, time, data, traceparent, chain, metadata"
    sql = f"SELECT {columns} FROM journal WHERE partition = ? AND {which} ORDER BY number LIMIT ?"
    return events_of(at, connection.page(sql, (at, *parameters), data=5, size=size))
