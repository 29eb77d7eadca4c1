"""SQLite behind the three ports: a file or a few, and no server. Several processes may use the same files.

Reads run inline on the event loop, because they take microseconds. Writes go through one connection per
file and process; what waits for the disk, the commit, runs in a thread.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

import asyncio
import math
import re
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import datetime
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, TypeVar

from chimera.adapters.pool import finished
from chimera.adapters.rows import (
    check_columns,
    chunks,
    converter,
    distinct,
    events_of,
    given,
    in_parts,
    index_name,
    journal_rows,
    marks,
    other_partitions,
    quoted,
    unbroken,
    within_page,
)
from chimera.entities import Column, ColumnKind, Key, Row, Table, to_utc
from chimera.errors import DeclarationError, SettingsError, Unavailable
from chimera.messages import Message
from chimera.ports import (
    PAGE_BYTES,
    Checkpoint,
    Document,
    Features,
    Log,
    Move,
    Record,
    Session,
    Store,
    ViewStore,
    WriteSession,
)
from chimera.signals import Signal

Result = TypeVar("Result")
_marks = partial(marks, mark="?")

_LOCK_WAIT_S = 10.0
_LOCK_POLL_S = 0.001
_WAKE_S = 1.0
_MAX_PARAMETERS = 1_000
# Readers are kept for as many requests as read at once; to open one costs more than a page.
_MOST_IDLE = 128
# There may be many readers. What they read is mapped, and only what is still in the write-ahead log is cached.
_READERS_PRAGMAS = ("query_only = ON", f"mmap_size = {256 << 20}", "cache_size = -256")
_FEATURES = Features(durable=True, shared=True, poll_s=0.01)
_TOPIC = re.compile(r"[a-z0-9.-]+")
_RESERVED = frozenset({"journal", "heads", "documents", "checkpoints", "revisions"})
_OUT_OF_REACH = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
    }
)

_LOG_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS records (
    partition INTEGER, offset INTEGER, id TEXT, source TEXT, type TEXT, key TEXT, time TEXT, data BLOB, number INTEGER,
    traceparent TEXT, PRIMARY KEY (partition, offset)) STRICT, WITHOUT ROWID
"""
_STORE_SCHEMA = """
CREATE TABLE IF NOT EXISTS heads (partition INTEGER PRIMARY KEY, number INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS journal (
    partition INTEGER, number INTEGER, source TEXT, type TEXT, key TEXT, time TEXT, data BLOB, traceparent TEXT,
    PRIMARY KEY (partition, number)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS journal_by_key ON journal (partition, key, number)
"""
_OLDEST = """
SELECT partition, coalesce((SELECT min(number) FROM journal WHERE partition = heads.partition), number + 1)
FROM heads ORDER BY partition
"""
_VIEWS_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    view TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (view, key)) STRICT;
CREATE TABLE IF NOT EXISTS checkpoints (
    consumer TEXT, source TEXT, partition INTEGER, number INTEGER NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (consumer, source, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revisions (last INTEGER NOT NULL) STRICT
"""
_TYPES: dict[ColumnKind, str] = {
    "text": "TEXT",
    "integer": "INTEGER",
    "real": "REAL",
    "boolean": "INTEGER",
    "bytes": "BLOB",
    "time": "TEXT",
    "json": "TEXT",
}


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log | Store | ViewStore:
    """The engine of a URL: `sqlite:///relative/path` or `sqlite:////absolute/path`; for a log, a directory.

    Nothing is opened before the engine's `create`, which also makes missing directories. Raises SettingsError.
    """
    scheme, slashes, path = url.partition(":///")
    if scheme != "sqlite" or not slashes or not path:
        raise SettingsError(f"{url!r} is not an address of SQLite; one looks like sqlite:///data/{kind}.db")
    match kind:
        case "log":
            return SQLiteLog(path)
        case "store":
            return SQLiteStore(path)
        case "views":
            return SQLiteViews(path)


class SQLiteLog:
    """A log of one file per topic, `<directory>/<topic>.db`. What is appended is on disk when `append` returns."""

    features = _FEATURES

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._topics: dict[str, _Topic] = {}

    async def create(self, topic: str, partitions: int) -> None:
        """Raises SettingsError when the topic exists with another number of partitions."""
        await self._topic(topic).open(partitions)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises ValueError, and adds nothing, when a message's partition is not one of the topic's."""
        await (await self._opened(topic)).append(messages)

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        opened = await self._opened(topic)
        offsets, turns = dict(after), deque(after)
        while opened.is_open:
            version = opened.version()
            if batch := opened.fetch(offsets, turns, limit):
                turns.rotate(-1)
                yield batch
                await asyncio.sleep(0)
            else:
                await opened.changed(version)

    async def ends(self, topic: str) -> Mapping[int, int]:
        return (await self._opened(topic)).ends()

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        await (await self._opened(topic)).trim(through)

    async def close(self) -> None:
        for topic in list(self._topics.values()):
            await topic.close()

    async def _opened(self, name: str) -> _Topic:
        topic = self._topic(name)
        if not topic.is_open:
            await topic.open()
        return topic

    def _topic(self, name: str) -> _Topic:
        if name not in self._topics:
            if not _TOPIC.fullmatch(name):
                raise SettingsError(f"{name!r} can't name a topic; use lower case letters, digits, dots and dashes")
            self._topics[name] = _Topic(self._directory / f"{name}.db")
        return self._topics[name]


class SQLiteStore:
    """Entities and journal in one file; a commit is on disk when `transaction` is left."""

    features = _FEATURES

    def __init__(self, path: str | Path) -> None:
        self._file = _File(Path(path), "FULL")

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Adds optional columns that a table lacks. Raises SettingsError where tables or partitions differ."""
        await self._file.open()
        async with self._file.writing() as connection:
            connection.run_script(_STORE_SCHEMA)
            self._number_partitions(connection, partitions)
            for table in tables:
                _prepare(connection, table)
            for statement in statements.get(_Session.dialect, ()):
                connection.run(statement)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._file.writing() as connection:
            session = _WriteSession(connection)
            try:
                yield session
            finally:
                session.end()

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        connection = self._file.reader if once else self._file.take_reader()
        session = _Session(connection, once=once)
        if not once:
            connection.run("BEGIN")
        try:
            yield session
        finally:
            session.end()
            if not once:
                connection.leave()
                self._file.give_back(connection)

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        async def read() -> list[Message]:
            return _events(self._file.reader, partition, "number > ?", (after, limit), size=PAGE_BYTES)

        return await unbroken(read, self.heads, partition, after)

    async def heads(self) -> Mapping[int, int]:
        return dict(self._file.reader.run("SELECT partition, number FROM heads ORDER BY partition"))

    async def oldest(self) -> Mapping[int, int]:
        return dict(self._file.reader.run(_OLDEST))

    async def close(self) -> None:
        await self._file.close()

    def _number_partitions(self, connection: _Connection, partitions: int) -> None:
        [(kept,)] = connection.run("SELECT count(*) FROM heads")
        if kept == 0:
            connection.run_many("INSERT INTO heads VALUES (?, 0)", [(partition,) for partition in range(partitions)])
        elif kept != partitions:
            raise other_partitions(f"the journal in {self._file.path}", kept, partitions)


class SQLiteViews:
    """Documents and checkpoints in one file.

    After a power cut the last writes may be gone, documents and checkpoints together: they are folded again.
    """

    features = _FEATURES

    def __init__(self, path: str | Path) -> None:
        self._file = _File(Path(path), "NORMAL")

    async def create(self) -> None:
        await self._file.open()
        async with self._file.writing() as connection:
            connection.run_script(_VIEWS_SCHEMA)
            connection.run("INSERT INTO revisions SELECT 0 WHERE NOT EXISTS (SELECT * FROM revisions)")

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        rows = _documents(self._file.reader, "key, data, revision", view, keys)
        return {key: Document(view, key, data, revision) for key, data, revision in rows}

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        async with self._file.writing() as connection:
            if not (self._are_at(connection, consumer, moves) and self._are_current(connection, documents)):
                return 0
            revision = self._put(connection, documents)
            connection.run_many(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)",
                [(consumer, move.source, move.partition, *move.after) for move in moves],
            )
            return revision

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        return _checkpoints(self._file.reader, consumer)

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        rows = self._file.reader.run(
            "SELECT view, key, data, revision FROM documents WHERE view = ? AND key > ? ORDER BY key LIMIT ?",
            (view, after, limit),
        )
        return [Document(*row) for row in rows]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._file.writing() as connection:
            connection.run("DELETE FROM checkpoints WHERE consumer = ?", (consumer,))
            connection.run_many("DELETE FROM documents WHERE view = ?", [(view,) for view in views])

    async def close(self) -> None:
        await self._file.close()

    def _are_at(self, connection: _Connection, consumer: str, moves: Sequence[Move]) -> bool:
        kept = _checkpoints(connection, consumer) if moves else {}
        return all(kept.get((move.source, move.partition), Checkpoint()).number == move.before for move in moves)

    def _are_current(self, connection: _Connection, documents: Sequence[Document]) -> bool:
        by_view: dict[str, dict[str, int]] = {}
        for document in documents:
            by_view.setdefault(document.view, {})[document.key] = document.revision
        for view, expected in by_view.items():
            kept: dict[str, int] = dict(_documents(connection, "key, revision", view, list(expected)))
            if any(kept.get(key, 0) != revision for key, revision in expected.items()):
                return False
        return True

    def _put(self, connection: _Connection, documents: Sequence[Document]) -> int:
        # One counter for the whole file: a key that is deleted and comes back never repeats a revision.
        [(revision,)] = connection.run("UPDATE revisions SET last = last + 1 RETURNING last")
        connection.run_many(
            "INSERT INTO documents VALUES (?, ?, ?, ?) "
            "ON CONFLICT (view, key) DO UPDATE SET revision = excluded.revision, data = excluded.data",
            [(view, key, revision, data) for view, key, data, _ in documents if data is not None],
        )
        connection.run_many(
            "DELETE FROM documents WHERE view = ? AND key = ?",
            [(view, key) for view, key, data, _ in documents if data is None],
        )
        return int(revision)


def _documents(connection: _Connection, columns: str, view: str, keys: Sequence[str]) -> list[Row]:
    if len(keys) > _MAX_PARAMETERS:
        parts = chunks(distinct(keys), _MAX_PARAMETERS)
        return [row for part in parts for row in _documents(connection, columns, view, part)]
    sql = f"SELECT {columns} FROM documents WHERE view = ? AND key IN ({_marks(len(keys))})"
    return connection.run(sql, (view, *keys))


def _checkpoints(connection: _Connection, consumer: str) -> dict[tuple[str, int], Checkpoint]:
    rows = connection.run("SELECT source, partition, number, offset FROM checkpoints WHERE consumer = ?", (consumer,))
    return {(source, partition): Checkpoint(number, offset) for source, partition, number, offset in rows}


class _Topic:
    """One topic's file, shared by all who read or append it in this process."""

    def __init__(self, path: Path) -> None:
        self._file = _File(path, "FULL")
        self._partitions = 0
        self._appended = Signal()
        self._waiting = 0
        self._polling: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._file.is_open and self._partitions > 0

    async def open(self, partitions: int | None = None) -> None:
        """Open the topic, and create it if `partitions` says how many it gets."""
        if partitions is None and not self._file.path.exists():
            raise Unavailable(f"there is no topic in {self._file.path} yet")
        await self._file.open()
        async with self._file.writing() as connection:
            connection.run_script(_LOG_SCHEMA)
            if partitions is not None:
                connection.run("INSERT OR IGNORE INTO meta VALUES ('partitions', ?)", (partitions,))
            rows = connection.run("SELECT value FROM meta WHERE name = 'partitions'")
        kept = int(rows[0][0]) if rows else 0
        if partitions is not None and kept != partitions:
            raise other_partitions(f"the topic in {self._file.path}", kept, partitions)
        self._partitions = kept

    async def append(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if not 0 <= message.partition < self._partitions:
                raise ValueError(f"{self._file.path} has {self._partitions} partitions, no number {message.partition}")
        async with self._file.writing() as connection:
            ends = {partition: _end(connection, partition) for partition in {message.partition for message in messages}}
            rows = list(_numbered(messages, ends))
            connection.run_many("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._appended.notify()

    def ends(self) -> Mapping[int, int]:
        return {partition: _end(self._file.reader, partition) for partition in range(self._partitions)}

    async def trim(self, through: Mapping[int, int]) -> None:
        """The newest record stays: offsets are counted on from it."""
        async with self._file.writing() as connection:
            for partition, offset in through.items():
                last = min(offset, _end(connection, partition) - 1)
                connection.run("DELETE FROM records WHERE partition = ? AND offset <= ?", (partition, last))

    async def close(self) -> None:
        await self._file.close()
        self._appended.notify()

    def version(self) -> int:
        [(version,)] = self._file.reader.run("PRAGMA data_version")
        return int(version)

    async def changed(self, since: int) -> None:
        """Wait until there may be more than at the version `since`. However many wait, one of them polls."""
        self._waiting += 1
        try:
            if self._polling is None:
                self._poll(since)
            while self.is_open and self.version() == since:
                await self._appended.wait(_WAKE_S)
        finally:
            self._waiting -= 1

    def _poll(self, seen: int) -> None:
        self._polling = None
        if self._waiting and self.is_open:
            version = self.version()
            if version != seen:
                self._appended.notify()
            self._polling = asyncio.get_running_loop().call_later(_FEATURES.poll_s, self._poll, version)

    def fetch(self, offsets: dict[int, int], turns: Iterable[int], limit: int) -> list[Record]:
        """The next records: every partition gets its part of the batch before any gets more."""
        batch: list[Record] = []
        for room in (limit // max(1, len(offsets)) or 1, limit):
            turns = [each for each in turns if self._fill(batch, offsets, each, min(room, limit - len(batch)))]
        return batch

    def _fill(self, batch: list[Record], offsets: dict[int, int], partition: int, room: int) -> bool:
        """Add at most `room` records of a partition, and its share of a page; says whether there may be more."""
        size = PAGE_BYTES // len(offsets)
        columns = "offset, id, source, type, key, time, data, partition, number, traceparent"
        sql = f"SELECT {columns} FROM records WHERE partition = ? AND offset > ? ORDER BY offset LIMIT ?"
        rows = self._file.reader.page(sql, (partition, offsets[partition], room), data=6, size=size)
        if rows:
            batch += [Record(row[0], Message(*row[1:])) for row in rows]
            offsets[partition] = rows[-1][0]
        return len(rows) == room > 0


def _end(connection: _Connection, partition: int) -> int:
    [(end,)] = connection.run("SELECT coalesce(max(offset), 0) FROM records WHERE partition = ?", (partition,))
    return int(end)


def _numbered(messages: Iterable[Message], ends: dict[int, int]) -> Iterator[Row]:
    for m in messages:
        ends[m.partition] += 1
        yield (m.partition, ends[m.partition], m.id, m.source, m.type, m.key, m.time, m.data, m.number, m.traceparent)


class _Session:
    """Statements on a connection, until the session ends."""

    dialect = "sqlite"

    def __init__(self, connection: _Connection, *, once: bool = False) -> None:
        self._connection: _Connection | None = connection
        self._is_in_transaction = not once

    def end(self) -> None:
        self._connection = None

    @property
    def _open(self) -> _Connection:
        if self._connection is None:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        if self._is_in_transaction:
            self._connection.check_transaction()
        return self._connection

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        sql = _statements_of(table)
        rows: list[Row] = []
        key_marks = f"({_marks(len(table.key))})"
        for chunk in chunks(distinct(keys), _MAX_PARAMETERS // len(table.key)):
            values = [value for key in sql.to_keys(chunk) for value in key]
            rows += self._open.run(sql.load.format(", ".join([key_marks] * len(chunk))), values)
        return sql.from_rows(rows)

    async def find(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        check_columns(table, where)
        sql = _statements_of(table)
        parts = in_parts(
            {name: list(map(_to_held, distinct(values))) for name, values in where.items()}, _MAX_PARAMETERS
        )
        rows: list[Row] = []
        for part in parts:
            condition = " AND ".join(_is_one_of(name, values) for name, values in part.items()) or "true"
            rows += self._open.run(f"{sql.select} WHERE {condition} ORDER BY {sql.key}", given(part))
        return sql.from_rows(rows if len(parts) == 1 else sorted(rows, key=table.key_of))

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        """Times among the parameters become text as in time columns; rows come as SQLite holds them."""
        return self._open.run(sql, [_to_held(value) for value in parameters])

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return _events(self._open, partition, "key = ? AND number > ?", (key, after, -1))


class _WriteSession(_Session):
    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        sql = _statements_of(table)
        self._open.run_many(sql.upsert, sql.to_rows(rows))

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        sql = _statements_of(table)
        self._open.run_many(sql.delete, sql.to_keys(keys))

    async def reserve(self, counts: Mapping[int, int]) -> Mapping[int, int]:
        return {partition: self._reserve(partition, counts[partition]) for partition in sorted(counts)}

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        return len(self._open.run(_statements_of(table).expire.format(quoted(column)), (_to_text(before), limit)))

    async def trim(self, partition: int, through: int) -> None:
        self._open.run("DELETE FROM journal WHERE partition = ? AND number <= ?", (partition, through))

    async def append(self, events: Sequence[Message]) -> None:
        self._open.run_many("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", journal_rows(events))

    def _reserve(self, partition: int, count: int) -> int:
        taken = "UPDATE heads SET number = number + ? WHERE partition = ? RETURNING number"
        rows = self._open.run(taken, (count, partition))
        if not rows:
            raise ValueError(f"the journal has no partition {partition}")
        return int(rows[0][0]) - count + 1


def _events(connection: _Connection, at: int, which: str, parameters: Row, size: float = math.inf) -> list[Message]:
    columns = "number, source, type, key, time, data, traceparent"
    sql = f"SELECT {columns} FROM journal WHERE partition = ? AND {which} ORDER BY number LIMIT ?"
    return events_of(at, connection.page(sql, (at, *parameters), data=5, size=size))


class _Statements:
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
        changes = ", ".join(f"{each} = excluded.{each}" for each in names if each not in keys)
        self.upsert = (
            f"INSERT INTO {name} ({', '.join(names)}) VALUES ({_marks(len(names))}) "
            f"ON CONFLICT ({self.key}) DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"
        )
        self.delete = f"DELETE FROM {name} WHERE ({self.key}) = ({_marks(len(keys))})"
        self.expire = (
            f"DELETE FROM {name} WHERE ({self.key}) IN "
            f"(SELECT {self.key} FROM {name} WHERE {{0}} < ? ORDER BY {{0}} LIMIT ?) RETURNING 1"
        )
        kinds = {column.name: column.kind for column in table.columns}
        self.to_rows = converter(list(kinds.values()), {"time": _to_text})
        self.to_keys = converter([kinds[field] for field in table.key], {"time": _to_text})
        self.from_rows = converter(list(kinds.values()), {"time": datetime.fromisoformat, "boolean": bool})


@cache
def _statements_of(table: Table) -> _Statements:
    return _Statements(table)


def _to_text(moment: datetime) -> str:
    """Fixed width, so that text sorts as time does."""
    return to_utc(moment).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _to_held(value: Any) -> Any:
    return _to_text(value) if isinstance(value, datetime) else value


def _is_one_of(name: str, values: Collection[Any]) -> str:
    condition = f"{quoted(name)} IN ({_marks(sum(value is not None for value in values))})"
    return f"({condition} OR {quoted(name)} IS NULL)" if None in values else condition


def _prepare(connection: _Connection, table: Table) -> None:
    """Create the table, or check that it fits and add the optional columns that it lacks; then its indexes."""
    _fit(connection, table)
    for column in table.indexes:
        index = quoted(index_name(table, column))
        connection.run(f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(table.name)} ({quoted(column)})")


def _fit(connection: _Connection, table: Table) -> None:
    if table.name in _RESERVED or table.name.startswith("sqlite_"):
        raise DeclarationError(f"an entity's table can't be {table.name!r} on SQLite; choose another with table=…")
    found = {name: kind for _, name, kind, *_ in connection.run(f"PRAGMA table_info({quoted(table.name)})")}
    if not found:
        columns = ", ".join(map(_declaration, table.columns))
        key = ", ".join(map(quoted, table.key))
        connection.run(f"CREATE TABLE {quoted(table.name)} ({columns}, PRIMARY KEY ({key})) STRICT")
        return
    for column in table.columns:
        kind = found.get(column.name)
        if kind is None and column.optional:
            connection.run(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {_declaration(column)}")
        elif kind is None:
            raise SettingsError(
                f"table {table.name} in {connection.path} lacks the column {column.name!r}: make its "
                "field optional (`| None = None`), or add the column and fill it before starting"
            )
        elif kind != _TYPES[column.kind]:
            raise SettingsError(
                f"column {column.name!r} of table {table.name} in {connection.path} is {kind}, not "
                f"{_TYPES[column.kind]} as its field: give the field a new name, or convert the column"
            )


def _declaration(column: Column) -> str:
    return f"{quoted(column.name)} {_TYPES[column.kind]}{'' if column.optional else ' NOT NULL'}"


def _connect(path: Path, *pragmas: str) -> _Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path,
            timeout=_LOCK_WAIT_S,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
            cached_statements=128,
        )
    except (sqlite3.OperationalError, OSError) as error:
        raise Unavailable(f"{path} can't be opened: {error}") from error
    connection.path = path
    for pragma in pragmas:
        connection.run(f"PRAGMA {pragma}")
    return connection


class _Connection(sqlite3.Connection):
    """A connection that says Unavailable, naming its file, when the file can't be reached or written."""

    path: Path
    only_reads = False

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return self.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            self._fail(error)

    def page(self, sql: str, parameters: Sequence[Any], *, data: int, size: float) -> list[Row]:
        """As `run`, up to the row with which the column number `data` has come to `size` bytes."""
        try:
            with closing(self.execute(sql, parameters)) as found:
                return list(within_page(found, itemgetter(data), size))
        except sqlite3.OperationalError as error:
            self._fail(error)

    def run_many(self, sql: str, rows: Sequence[Row]) -> None:
        try:
            self.executemany(sql, rows)
        except sqlite3.OperationalError as error:
            self._fail(error)

    def run_script(self, script: str) -> None:
        for statement in script.split(";"):
            self.run(statement)

    def check_transaction(self) -> None:
        """SQLite itself rolls back when the disk is full; what follows must not commit on its own."""
        if not self.in_transaction:
            raise Unavailable(f"{self.path}: the transaction was rolled back before its end")

    def leave(self) -> None:
        """Roll back what is still open."""
        if self.in_transaction:
            self.run("ROLLBACK")

    def _fail(self, error: sqlite3.OperationalError) -> NoReturn:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _OUT_OF_REACH or (code == sqlite3.SQLITE_READONLY and not self.only_reads):
            raise Unavailable(f"{self.path}: {error}") from error
        raise error


class _File:
    """One SQLite file: a writer guarded by a lock, and readers that never wait for it."""

    def __init__(self, path: Path, synchronous: Literal["FULL", "NORMAL"]) -> None:
        self.path = path
        self._synchronous = synchronous
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writer: _Connection | None = None
        self._reader: _Connection | None = None
        self._idle: list[_Connection] = []
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        return self._reader is not None

    @property
    def reader(self) -> _Connection:
        """For single statements: it is never inside a transaction."""
        return self._reader or self._not_open()

    async def open(self) -> None:
        async with self._lock:
            if self._is_closed:
                raise Unavailable(f"{self.path} was closed")
            if self._writer is None:
                self._writer = await self._in_thread(self._open_writer)
                self._reader = self._open_reader()

    async def close(self) -> None:
        async with self._lock:
            writer, self._writer = self._writer, None
            for reader in (*self._idle, self._reader):
                if reader:
                    reader.close()
            self._reader, self._is_closed = None, True
            if writer:
                await self._in_thread(writer.close)
            self._thread.shutdown(wait=False)

    def take_reader(self) -> _Connection:
        """A reader of one's own, until it is given back."""
        if not self.is_open:
            self._not_open()
        return self._idle.pop() if self._idle else self._open_reader()

    def give_back(self, reader: _Connection) -> None:
        if self.is_open and len(self._idle) < _MOST_IDLE:
            self._idle.append(reader)
        else:
            reader.close()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[_Connection]:
        """A transaction, the only one in this file: leaving commits, an exception rolls back."""
        async with self._lock:
            writer = self._writer or self._not_open()
            await self._begin(writer)
            try:
                yield writer
                writer.check_transaction()
                await self._in_thread(writer.run, "COMMIT")
            finally:
                writer.leave()

    async def _begin(self, writer: _Connection) -> None:
        # The writer never waits inside SQLite: that would take a thread, and leave cancelled waiters in it.
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                writer.run("BEGIN IMMEDIATE")
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOCK_POLL_S)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run work in this file's thread. It is over when this returns or raises, even if the caller is cancelled."""
        return await finished(asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments))

    def _open_writer(self) -> _Connection:
        writer = _connect(self.path, f"synchronous = {self._synchronous}")
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                writer.run("PRAGMA journal_mode = WAL")
                writer.run("PRAGMA busy_timeout = 0")
                return writer
            except Unavailable:
                # SQLite does not wait for the lock when two processes switch a new file to WAL at once.
                if time.monotonic() > deadline:
                    raise
            time.sleep(_LOCK_POLL_S)

    def _open_reader(self) -> _Connection:
        reader = _connect(self.path, *_READERS_PRAGMAS)
        reader.only_reads = True
        return reader

    def _not_open(self) -> NoReturn:
        raise Unavailable(f"{self.path} is not open: call create first")
