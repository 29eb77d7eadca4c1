"""A store in SQLite: entities and journal in one file, each commit flushed to the disk."""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chimera.adapters.rows import (
    COUNT_TYPES,
    PREFIX,
    WindowSQL,
    check_columns,
    distinct,
    events_of,
    given,
    in_parts,
    journal_rows,
    lending_of,
    new_chain,
    other_partitions,
    own,
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
_TIP = "SELECT number, chain FROM heads WHERE partition = ?"
_MOVE_HEADS = "UPDATE heads SET number = ?2, chain = ?3 WHERE partition = ?1"
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

    def __init__(
        self, path: str | Path, prefix: str | None = None, *, lock_s: float = LOCK_S, readers: int = READERS
    ) -> None:
        self._wanted = prefix
        self._file = SQLiteFile(Path(path), "FULL", lock_s=lock_s, readers=readers)
        self._lending = cache(partial(lending_of, SQLiteSession.dialect))

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Adds optional columns that a table lacks. Raises SettingsError where tables or partitions differ."""
        await self._file.open()
        async with self._file.writing() as connection:
            self._name_tables(connection)
            connection.run_script(connection.own(_STORE_SCHEMA))
            add_columns(connection, [(connection.own(table), column) for table, column in _ADDED])
            self._number_partitions(connection, partitions)
            for table in tables:
                prepare(connection, table)
            for statement in statements.get(SQLiteSession.dialect, ()):
                connection.run(statement)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._file.writing() as connection:
            session = SQLiteWriteSession(connection, self._lending)
            try:
                yield session
                session.check_whole()
            finally:
                await session.give_back()
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
        return dict(self._own_rows(_HEADS))

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        found = {partition: _chain(self._file.reader, partition, number) for partition, number in at.items()}
        return {partition: chain for partition, chain in found.items() if chain}

    async def oldest(self) -> Mapping[int, int]:
        return dict(self._own_rows(_OLDEST))

    async def types(self) -> Mapping[str, int]:
        return dict(self._own_rows(COUNT_TYPES))

    def _own_rows(self, sql: str) -> list[Row]:
        return self._file.reader.run(own(sql, self._file.prefix))

    def listen(self, heard: Callable[[], None]) -> None:
        self._file.listen(heard)

    async def close(self) -> None:
        await self._file.close()

    def _name_tables(self, connection: SQLiteConnection) -> None:
        """Know what Chimera's own tables are called here; rename those of before where that is wanted."""
        columns = {name for _, name, *_ in connection.run("PRAGMA table_info(heads)")}
        is_bare = {"partition", "number"} <= columns and not connection.run(f"PRAGMA table_info({PREFIX}heads)")
        self._file.name_tables(connection, "" if is_bare and self._wanted is None else PREFIX)
        for table in ("heads", "journal") if is_bare and self._wanted else ():
            connection.run(f"ALTER TABLE {table} RENAME TO {connection.own(table)}")

    def _number_partitions(self, connection: SQLiteConnection, partitions: int) -> None:
        [(found,)] = connection.run(connection.own("SELECT count(*) FROM heads"))
        if found == 0:
            connection.run_many(
                connection.own("INSERT INTO heads (partition, number) VALUES (?, 0)"), [(p,) for p in range(partitions)]
            )
        elif found != partitions:
            raise other_partitions(f"the journal in {self._file.path}", found, partitions)
        begun = "UPDATE heads SET trimmed = number, chain = ?1, anchor = ?1 WHERE chain IS NULL"
        connection.run(connection.own(begun), (new_chain(),))


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
        return dict(self._open.run(self._open.own(_HEADS)))


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
    """A session whose connection is the file's writer. `lending` is what lends it."""

    def __init__(self, connection: SQLiteConnection, lending: Callable[[], Any]) -> None:
        super().__init__(connection)
        self._lending = lending
        self._loan: Any = None
        self._failure: Exception | None = None

    async def sqlalchemy(self) -> Any:
        """As `Lends.sqlalchemy`."""
        self._loan = self._loan or await self._lending().lend(self._open, self)
        return self._loan.session()

    def check(self) -> None:
        """Raises RuntimeError when the session has ended."""
        _ = self._open

    def meaning(self, error: Exception) -> Exception:
        """An error of SQLite as it is told."""
        return self._open.meaning_of(error)

    def failed(self, error: Exception) -> None:
        """Note why the transaction can't commit any more."""
        self._failure = self._failure or error

    def check_whole(self) -> None:
        """Raises what made the transaction fail, if something did."""
        if self._failure is not None:
            raise self._failure

    async def give_back(self) -> None:
        """End what is lent."""
        if self._loan is not None:
            await self._loan.give_back()

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
        self._open.run(self._open.own(_TRIM), (partition, through))
        self._open.run(self._open.own("DELETE FROM journal WHERE partition = ? AND number <= ?"), (partition, through))

    async def append(self, events: Sequence[Message]) -> None:
        added = f"INSERT INTO journal ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._open.run_many(self._open.own(added), journal_rows(events))
        self._open.run_many(self._open.own(_MOVE_HEADS), tips_of(events))

    def _tip(self, partition: int) -> Tip:
        rows = self._open.run(self._open.own(_TIP), (partition,))
        if not rows:
            raise ValueError(f"the journal has no partition {partition}")
        return Tip(*rows[0])


def _chain(connection: SQLiteConnection, partition: int, number: int) -> str:
    rows = connection.run(connection.own(_CHAIN), (partition, number))
    return str(rows[0][0] or "") if rows else ""


def events_in(
    connection: SQLiteConnection, at: int, which: str, parameters: Row, size: float = math.inf
) -> list[Message]:
    """The events of partition `at`, in order, up to the one with which their data have come to `size` bytes.

    `which` is a condition in SQL, `parameters` are its values and then a limit, -1 for none.
    """
    columns = "number, source, type, key, time, data, traceparent, chain, metadata"
    sql = f"SELECT {columns} FROM journal WHERE partition = ? AND {which} ORDER BY number LIMIT ?"
    return events_of(at, connection.page(connection.own(sql), (at, *parameters), data=5, size=size))
