"""MySQL and MariaDB behind the ports `Store` and `ViewStore`; any number of processes may use the same database.

Rows travel in statements of many rows. Transactions run READ COMMITTED, so that there are no gap locks, and lock
what they load. Text in keys holds at most 255 characters; all text compares by its bytes.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import asyncmy
import sqlalchemy as sa
from asyncmy.errors import DataError, IntegrityError, MySQLError
from sqlalchemy.dialects import mysql

from chimera.adapters.relational import (
    Address,
    Dialect,
    Part,
    Pool,
    Result,
    Seen,
    check_columns,
    chunks,
    distinct,
    entity_changes,
    events_of,
    finished,
    found_tables,
    latest_by_key,
    other_partitions,
    own_changes,
    parse_address,
    take_number,
    version_table,
)
from chimera.entities import ColumnKind, Key, Row, Table, to_utc
from chimera.errors import Conflict, SettingsError, Unavailable
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Features, Move, Session, Store, ViewStore, WriteSession

Connection = Any  # asyncmy's own is a compiled class without types

_FEATURES = Features(durable=True, shared=True, poll_s=0.02)
_POOL = 8
_CONNECT_S = 10.0
_STATEMENT_S = 30.0
_LOCK_S = 10
_SLOW_S = 3600.0
_MAX_KEYS = 512
_PREPARED = 128
_MAX_ROWS = 1_000
_MAX_TEXT = 2 * 1024 * 1024
_REVISIONS = 1_000_000

_CANT_LOG_IN = frozenset({1044, 1045, 1049, 1698})
_CONFLICTS = frozenset({1020, 1213})
_OUT_OF_REACH = frozenset(
    {
        1021,
        1037,
        1038,
        1040,
        1041,
        1053,
        1077,
        1078,
        1079,
        1080,
        1114,
        1129,
        1152,
        1158,
        1159,
        1160,
        1161,
        1184,
        1203,
        1205,
        1226,
        1290,
        1317,
        1792,
        1836,
        1927,
        1969,
        2002,
        2003,
        2006,
        2013,
        2014,
        2055,
        3024,
        3032,
        3100,
        4031,
    }
)
_TOO_LONG = 1406
_DUPLICATE = 1062
_IS_THERE = frozenset({1050, 1061})

_SESSION = """
    SET sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', innodb_lock_wait_timeout = {}"""
_COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable = 'YES',
        is_nullable = 'YES' OR column_default IS NOT NULL OR extra <> ''
    FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY ordinal_position"""
_KEYS = """
    SELECT table_name, column_name FROM information_schema.key_column_usage
    WHERE table_schema = DATABASE() AND constraint_name = 'PRIMARY' ORDER BY ordinal_position"""
_IS_TABLE = "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"

_EVENT = "SELECT number, source, type, `key`, time, data, traceparent FROM journal WHERE `partition` = %s"
_JOURNAL = f"{_EVENT} AND number > %s ORDER BY number LIMIT %s"
_HISTORY = f"{_EVENT} AND `key` = %s AND number > %s ORDER BY number"
# Locks exactly these rows, in this order, where an UPDATE … IN might lock them all.
_RESERVE = "INSERT INTO heads (`partition`, number) VALUES {} ON DUPLICATE KEY UPDATE number = number + {}"
_HEADS = "SELECT `partition`, number FROM heads"
_APPEND = "INSERT INTO journal (`partition`, number, source, type, `key`, time, data, traceparent) VALUES "

_GET = "SELECT `key`, data, revision FROM documents WHERE view = %s AND `key` IN ({})"
_CURRENT = "SELECT `key`, revision FROM documents WHERE view = %s AND `key` IN ({}) ORDER BY `key` FOR UPDATE"
_SCAN = "SELECT view, `key`, data, revision FROM documents WHERE view = %s AND `key` > %s ORDER BY `key` LIMIT %s"
_PUT = "INSERT INTO documents (view, `key`, revision, data) VALUES "
_DELETE = "DELETE FROM documents WHERE view = %s AND `key` IN ({})"
_CHECKPOINTS = "SELECT source, `partition`, number, `offset` FROM checkpoints WHERE consumer = %s"
_REACHED = f"{_CHECKPOINTS} AND ({{}}) ORDER BY source, `partition` FOR UPDATE"
_MOVE = "INSERT INTO checkpoints (consumer, source, `partition`, number, `offset`) VALUES "
_TAKE_REVISIONS = "UPDATE revisions SET last = LAST_INSERT_ID(last + %s) WHERE name = 'documents'"


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Store | ViewStore:
    """The engine of a URL, `mysql://user:password@host:port/database`, MySQL's or MariaDB's.

    The database must exist; give each service one of its own. Nothing is opened before `create`. Options: `pool`
    (most connections per engine and process, default 8), `timeout` (most seconds a statement may take, default 30),
    `ssl_ca` (a file, or `system`; turns TLS on and checks the server's name), `ssl_cert`, `ssl_key`.
    Raises SettingsError.
    """
    match kind:
        case "store":
            return MySQLStore(url)
        case "views":
            return MySQLViews(url)
        case _:
            raise SettingsError("MySQL is no log; use it as store or views")


class MySQLStore:
    """Entities and journal in one database."""

    features = _FEATURES

    def __init__(self, url: str) -> None:
        self._database = _Database(url)

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Adds optional columns that a table lacks; what would lose or misread data is refused.

        Of the `statements`, those that make a table or an index that is there already are passed over.
        """
        async with self._database.creating("store") as connection:
            await self._database.fit_tables(connection, tables)
            await self._number_partitions(connection, partitions)
            await self._database.change(connection, statements.get(_Session.dialect, ()))
        self._database.pool.open()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._database.pool.connection() as connection:
            session = _WriteSession(self._database, connection)
            async with session.between("START TRANSACTION"):
                yield session

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Session]:
        async with self._database.pool.connection() as connection:
            session = _Session(self._database, connection)
            repeatable = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            async with session.between(repeatable, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"):
                yield session

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return events_of(partition, await self._database.read(_JOURNAL, (partition, after, limit)))

    async def heads(self) -> Mapping[int, int]:
        return dict(await self._database.read(f"{_HEADS} ORDER BY `partition`"))

    async def close(self) -> None:
        await self._database.pool.close()

    async def _number_partitions(self, connection: Connection, partitions: int) -> None:
        [(kept,)] = await self._database.fetch(connection, "SELECT count(*) FROM heads")
        if kept == 0:
            rows = ", ".join(f"({partition}, 0)" for partition in range(partitions))
            await self._database.fetch(connection, f"INSERT INTO heads (`partition`, number) VALUES {rows}")
        elif kept != partitions:
            raise other_partitions(str(self._database), kept, partitions)
        self._database.partitions = partitions


class MySQLViews:
    """Documents and checkpoints in one database."""

    features = _FEATURES

    def __init__(self, url: str) -> None:
        self._database = _Database(url)
        self._revisions = iter(range(0))

    async def create(self) -> None:
        async with self._database.creating("views"):
            self._database.pool.open()

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        found: dict[str, Document] = {}
        for chunk in chunks(keys, _MAX_KEYS):
            wanted = _padded(chunk)
            rows = await self._database.read(_GET.format(_marks(len(wanted))), (view, *wanted))
            found.update({key: Document(view, key, data, revision) for key, data, revision in rows})
        return found

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> bool:
        latest = {(document.view, document.key): document for document in documents}
        ordered = [latest[place] for place in sorted(latest)]
        try:
            revision = await self._revision()
            async with self._database.pool.connection() as connection:
                session = _WriteSession(self._database, connection)
                async with session.between("START TRANSACTION"):
                    await _Writing(session, consumer, revision).write(ordered, moves)
        except (Conflict, _Outdated):
            return False
        return True

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        rows = await self._database.read(_CHECKPOINTS, (consumer,))
        return {(source, partition): Checkpoint(number, offset) for source, partition, number, offset in rows}

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        return [Document(*row) for row in await self._database.read(_SCAN, (view, after, limit))]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._database.unhurried() as connection:
            await self._database.fetch(connection, "START TRANSACTION")
            await self._database.fetch(connection, "DELETE FROM checkpoints WHERE consumer = %s", (consumer,))
            for view in views:
                await self._database.run_slowly(
                    connection, f"DELETE FROM documents WHERE view = {connection.literal(view)}"
                )
            await self._database.run_slowly(connection, "COMMIT")

    async def close(self) -> None:
        await self._database.pool.close()

    async def _revision(self) -> int:
        """A number that no document ever had, from a range taken for this process: no row is fought for."""
        for revision in self._revisions:
            return revision
        async with self._database.pool.connection() as connection:
            await self._database.fetch(connection, _TAKE_REVISIONS, (_REVISIONS,))
            [(last,)] = await self._database.fetch(connection, "SELECT LAST_INSERT_ID()")
        self._revisions = iter(range(last - _REVISIONS + 2, last + 1))
        return int(last) - _REVISIONS + 1


class _Outdated(Exception):  # noqa: N818 - an answer, not an error
    """A checkpoint or a document is not as the writer believes: leaves the transaction."""


class _Writing:
    """One write of documents and checkpoints, inside its transaction."""

    def __init__(self, session: _WriteSession, consumer: str, revision: int) -> None:
        self._session = session
        self._consumer = consumer
        self._revision = revision

    async def write(self, documents: Sequence[Document], moves: Sequence[Move]) -> None:
        reached = await self._reached(moves)
        current = await self._current(documents)
        if any(reached.get((move.source, move.partition), 0) != move.before for move in moves) or any(
            current.get((each.view, each.key), 0) != each.revision for each in documents
        ):
            raise _Outdated
        kept = [each for each in documents if each.data is not None]
        await self._put(
            _PUT,
            _REPLACE_DOCUMENT,
            [((each.view, each.key, self._revision, each.data), each.revision == 0) for each in kept],
        )
        for view, keys in _by_view([each for each in documents if each.data is None and each.revision]):
            await self._session.run(_DELETE.format(_marks(len(keys))), (view, *keys))
        await self._put(
            _MOVE,
            _REPLACE_CHECKPOINT,
            [
                (
                    (self._consumer, move.source, move.partition, *move.after),
                    (move.source, move.partition) not in reached,
                )
                for move in moves
            ],
        )

    async def _reached(self, moves: Sequence[Move]) -> dict[tuple[str, int], int]:
        if not moves:
            return {}
        places = " OR ".join(["(source = %s AND `partition` = %s)"] * len(moves))
        parameters = [value for move in moves for value in (move.source, move.partition)]
        rows = await self._session.run(_REACHED.format(places), (self._consumer, *parameters))
        return {(source, partition): number for source, partition, number, _ in rows}

    async def _current(self, documents: Sequence[Document]) -> dict[tuple[str, str], int]:
        current: dict[tuple[str, str], int] = {}
        for view, keys in _by_view(documents):
            rows = await self._session.run(_CURRENT.format(_marks(len(keys))), (view, *keys))
            current.update({(view, key): revision for key, revision in rows})
        return current

    async def _put(self, insert: str, replace: Sequence[str], rows: Sequence[tuple[Row, bool]]) -> None:
        await self._session.insert("documents or checkpoints", insert, [row for row, is_new in rows if is_new])
        await self._session.replace(insert, replace, [row for row, is_new in rows if not is_new])


_REPLACE_DOCUMENT = ("revision", "data")
_REPLACE_CHECKPOINT = ("number", "`offset`")


def _by_view(documents: Sequence[Document]) -> Iterator[tuple[str, Sequence[str]]]:
    keys: dict[str, list[str]] = {}
    for document in documents:
        keys.setdefault(document.view, []).append(document.key)
    return ((view, chunk) for view, all_keys in keys.items() for chunk in chunks(all_keys, _MAX_KEYS))


class _Session:
    """Statements on a connection, until the session ends."""

    dialect = "mysql"
    _lock = ""

    def __init__(self, database: _Database, connection: Connection) -> None:
        self._database = database
        self._connection: Connection | None = connection
        self._failure: Exception | None = None
        self._ran_sql = False

    @asynccontextmanager
    async def between(self, *begin: str) -> AsyncIterator[None]:
        """The transaction. A deadlock rolls back all of it, so after a failure it is never committed."""
        connection = self._connection
        try:
            for statement in begin:
                await self._database.fetch(connection, statement)
            yield
            if self._failure is not None:
                raise self._failure
            self._connection = None
            await finished(self._database.fetch(connection, "COMMIT"))
        finally:
            self._connection = None
            if self._ran_sql or not _is_fit(connection):
                await finished(self._leave(connection))

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        sql = _statements_of(table)
        rows: list[Row] = []
        for chunk in chunks(sorted(distinct(keys)), _MAX_KEYS // len(table.key)):
            condition, values = sql.has_key(_padded(chunk))
            select = f"{sql.select} WHERE {condition} ORDER BY {sql.key}{self._lock}"
            rows += await self._run(self._database.fetch_prepared, select, values)
        return sql.from_rows(rows)

    async def find(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        check_columns(table, where)
        sql = _statements_of(table)
        wanted = {name: [_to_held(value) for value in dict.fromkeys(values)] for name, values in where.items()}
        longest = max(wanted, key=lambda name: len(wanted[name]), default="")
        rows: list[Row] = []
        for chunk in chunks(wanted[longest], _MAX_KEYS) if longest else [[]]:
            lists = {**wanted, longest: chunk} if longest else {}
            conditions = " AND ".join(_is_one_of(name, values) for name, values in lists.items()) or "true"
            values = [value for values in lists.values() for value in values if value is not None]
            rows += await self.run(f"{sql.select} WHERE {conditions} ORDER BY {sql.key}{self._lock}", values)
        found = sql.from_rows(rows)
        if longest and len(wanted[longest]) > _MAX_KEYS:
            found = sorted(found, key=table.key_of)
        return found

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        """Parameters are written %s, and a % is then written %%; rows come as the driver gives them."""
        self._ran_sql = True
        return await self.run(sql, [_to_held(value) for value in parameters])

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return events_of(partition, await self._run(self._database.fetch_prepared, _HISTORY, (partition, key, after)))

    async def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return await self._run(self._database.fetch, sql, parameters)

    async def _run(self, fetch: Callable[..., Awaitable[list[Row]]], sql: str, parameters: Sequence[Any]) -> list[Row]:
        if self._connection is None:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        try:
            return await fetch(self._connection, sql, parameters)
        except Exception as error:
            self._failure = self._failure or error
            raise

    async def _leave(self, connection: Connection) -> None:
        """Make the connection as it was, whatever happened to it."""
        if self._ran_sql or not connection.connected:
            await self._database.abandon(connection)
            return
        try:
            if connection.get_transaction_status():
                await self._database.fetch(connection, "ROLLBACK")
        except (Unavailable, MySQLError):
            connection.close()


class _WriteSession(_Session):
    _lock = " FOR UPDATE"

    def __init__(self, database: _Database, connection: Connection) -> None:
        super().__init__(database, connection)
        self._seen = Seen()

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        rows = await super().load(table, keys)
        self._seen.loaded(table, keys, rows)
        return rows

    async def find(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        rows = await super().find(table, where)
        if where:
            self._seen.loaded(table, (), rows)
        else:
            self._seen.read_whole(table, rows)
        return rows

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        sql = _statements_of(table)
        latest = latest_by_key(table, rows)
        # MySQL's upsert goes by every unique index there is, and might change a row of another key.
        await self.load(table, self._seen.unknown(table, latest))
        new = self._seen.to_insert(table, latest)
        await self.insert(table.name, sql.insert, [sql.to_row(row) for key, row in latest.items() if key in new])
        changed = [sql.to_row(row) for key, row in latest.items() if key not in new]
        await self.replace(sql.insert, sql.changes, changed)

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        sql = _statements_of(table)
        for chunk in chunks(sorted(distinct(keys)), _MAX_KEYS // len(table.key)):
            condition, values = sql.has_key(chunk)
            await self.run(f"DELETE FROM {sql.name} WHERE {condition}", values)

    async def reserve(self, counts: Mapping[int, int]) -> Mapping[int, int]:
        if not counts:
            return {}
        for partition in counts:
            if not 0 <= partition < self._database.partitions:
                raise ValueError(f"the journal has no partition {partition}")
        rows = ", ".join(f"({partition:d}, {counts[partition]:d})" for partition in sorted(counts))
        await self.run(_RESERVE.format(rows, "VALUES(number)"))
        taken = await self.run(f"{_HEADS} WHERE `partition` IN ({_marks(len(counts))})", list(counts))
        return {partition: number - counts[partition] + 1 for partition, number in taken}

    async def append(self, events: Sequence[Message]) -> None:
        rows = [(e.partition, e.number, e.source, e.type, e.key, e.time, e.data, e.traceparent) for e in events]
        for marks, values in _batches(rows):
            await self.run(_APPEND + marks, values)

    async def insert(self, table: str, insert: str, rows: Sequence[Row]) -> None:
        """Insert rows whose keys were found free. Raises Conflict when somebody else was first."""
        try:
            for marks, values in _batches(rows):
                await self.run(insert + marks, values)
        except IntegrityError as error:
            if error.args[0] == _DUPLICATE and str(error.args[1]).endswith("PRIMARY'"):
                self._failure = Conflict(f"{self._database}: somebody else inserted a row of {table}")
                raise self._failure from error
            raise

    async def replace(self, insert: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Give these columns of rows that are there the values in `rows`."""
        alias, value = self._database.new_values
        changes = ", ".join(f"{column} = {value.format(column)}" for column in columns)
        for marks, values in _batches(rows if columns else ()):
            await self.run(f"{insert}{marks}{alias} ON DUPLICATE KEY UPDATE {changes}", values)


class _Statements:
    """A table's SQL, and its rows as MySQL holds them: only times and booleans differ."""

    def __init__(self, table: Table) -> None:
        names = [_quoted(column.name) for column in table.columns]
        keys = [_quoted(field) for field in table.key]
        self.name = _quoted(table.name)
        self.key = ", ".join(keys)
        self.select = f"SELECT {', '.join(names)} FROM {self.name}"
        self.insert = f"INSERT INTO {self.name} ({', '.join(names)}) VALUES "
        self.changes = [each for each in names if each not in keys]
        self._one = " AND ".join(f"{key} = %s" for key in keys)
        kinds = [column.kind for column in table.columns]
        self._times = [at for at, kind in enumerate(kinds) if kind == "time"]
        self._readers = [(at, _READERS[kind]) for at, kind in enumerate(kinds) if kind in _READERS]

    def has_key(self, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """A condition that finds these keys by the index, and its values."""
        values = [_to_held(value) for key in keys for value in key]
        if len(keys[0]) == 1:
            return f"{self.key} IN ({_marks(len(keys))})", values
        return " OR ".join([f"({self._one})"] * len(keys)), values

    def to_row(self, row: Row) -> Row:
        if not self._times:
            return row
        values = list(row)
        for at in self._times:
            values[at] = _to_held(values[at])
        return tuple(values)

    def from_rows(self, rows: list[Row]) -> Sequence[Row]:
        return [self._from_row(list(row)) for row in rows] if self._readers else rows

    def _from_row(self, values: list[Any]) -> Row:
        for at, read in self._readers:
            if values[at] is not None:
                values[at] = read(values[at])
        return tuple(values)


@cache
def _statements_of(table: Table) -> _Statements:
    return _Statements(table)


def _with_zone(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


_READERS: Mapping[ColumnKind, Callable[[Any], Any]] = {"time": _with_zone, "boolean": bool}


def _to_held(value: Any) -> Any:
    return to_utc(value).replace(tzinfo=None) if isinstance(value, datetime) else value


def _is_one_of(name: str, values: Sequence[Any]) -> str:
    given = sum(value is not None for value in values)
    condition = f"{_quoted(name)} IN ({_marks(given)})" if given else "false"
    return f"({condition} OR {_quoted(name)} IS NULL)" if None in values else condition


def _batches(rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
    """Marks and values for statements that stay far below the server's largest packet."""
    start, text = 0, 0
    for end, row in enumerate(rows):
        length = sum(len(value) for value in row if isinstance(value, str | bytes))
        if end > start and (end - start == _MAX_ROWS or text + length > _MAX_TEXT):
            yield _marked(rows[start:end])
            start, text = end, 0
        text += length
    if start < len(rows):
        yield _marked(rows[start:])


def _marked(rows: Sequence[Row]) -> tuple[str, list[Any]]:
    return ", ".join([f"({_marks(len(rows[0]))})"] * len(rows)), [value for row in rows for value in row]


def _marks(count: int) -> str:
    return ", ".join(["%s"] * count) or "NULL"


def _padded(keys: Sequence[Result]) -> Sequence[Result]:
    """As many keys as a power of two, so that few statements serve any number."""
    room = 1 << (len(keys) - 1).bit_length()
    return [*keys, *[keys[-1]] * (room - len(keys))]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def _dialect(is_mariadb: bool) -> Dialect:
    # Both compare all bytes, trailing spaces too; utf8mb4_bin does not.
    collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    name = "mariadb" if is_mariadb else "mysql"
    text = mysql.LONGTEXT(collation=collation)
    return Dialect(
        name,
        types={
            "text": text,
            "integer": sa.BigInteger(),
            "real": mysql.DOUBLE(),
            "boolean": sa.Boolean(),
            "bytes": mysql.LONGBLOB(),
            "time": mysql.DATETIME(fsp=6),
            "json": text,
        },
        shown={
            "text": "longtext",
            "integer": "bigint",
            "real": "double",
            "boolean": "tinyint",
            "bytes": "longblob",
            "time": "datetime",
            "json": "longtext",
        },
        key_text=mysql.VARCHAR(255, collation=collation),
        key_text_shown="varchar",
        options={f"{name}_engine": "InnoDB"},
    )


class _Database:
    """A database, and the connections to it."""

    def __init__(self, url: str) -> None:
        self._address = parse_address(url, "mysql", 3306)
        options = dict(self._address.options)
        self._timeout = take_number(options, "timeout", _STATEMENT_S)
        size = int(take_number(options, "pool", _POOL))
        self._tls = _tls(self._address, options)
        if options:
            raise SettingsError(f"{self}: unknown option {', '.join(options)} in the URL")
        self._is_mariadb = False
        self.partitions = 0
        self.pool: Pool[Connection] = Pool(str(self), size, self.connect, _disconnect, _is_fit)

    def __str__(self) -> str:
        return str(self._address)

    @property
    def new_values(self) -> tuple[str, str]:
        """How an upsert names the values it was given."""
        return ("", "VALUES({})") if self._is_mariadb else (" AS new_row", "new_row.{}")

    async def connect(self) -> Connection:
        """Raises SettingsError when the server is there but does not let us in."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await self._greeted()
        except MySQLError as error:
            if error.args[0] in _CANT_LOG_IN:
                raise SettingsError(f"{self}: {error.args[-1]}") from error
            raise Unavailable(f"{self} can't be reached: {error.args[-1]}") from error
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"{self} can't be reached: {str(error) or type(error).__name__}") from error

    async def _greeted(self) -> Connection:
        address = self._address
        connection: Connection = await asyncmy.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            charset="utf8mb4",
            autocommit=True,
            ssl=self._tls,
            binary_prefix=True,
            stmt_cache_size=_PREPARED,
        )
        try:
            await connection.query(_SESSION.format(_LOCK_S))
            await connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        except BaseException:
            connection.close()
            raise
        self._is_mariadb = "mariadb" in connection.get_server_info().lower()
        return connection

    async def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement outside any transaction; asked again when an old connection turns out broken."""
        async with self.pool.connection() as connection:
            try:
                return await self.fetch_prepared(connection, sql, parameters)
            except Unavailable:
                if connection.connected:
                    raise
                await self.pool.forget_idle()
        async with self.pool.connection() as connection:
            return await self.fetch_prepared(connection, sql, parameters)

    async def fetch(self, connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a statement that is written anew each time, such as one of many rows: as text."""
        return await self._execute(connection, connection.cursor().mogrify, sql, parameters)

    async def fetch_prepared(self, connection: Connection, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """Run a statement that comes again and again: the server keeps it prepared for this connection."""
        return await self._execute(connection, None, sql, parameters)

    async def _execute(
        self, connection: Connection, to_text: Callable[..., str] | None, sql: str, parameters: Sequence[Any]
    ) -> list[Row]:
        try:
            async with asyncio.timeout(self._timeout + _LOCK_S), connection.cursor() as cursor:
                if to_text is None or not parameters:
                    await cursor.execute(sql, parameters or None)
                else:
                    await cursor.execute(to_text(sql, parameters))
                return list(await cursor.fetchall())
        except (MySQLError, OSError, TimeoutError) as error:
            raise self._meaning_of(error, connection) from error

    async def run_slowly(self, connection: Connection, sql: str) -> None:
        try:
            async with asyncio.timeout(_SLOW_S):
                await connection.query(sql)
        except (MySQLError, OSError, TimeoutError) as error:
            raise self._meaning_of(error, connection) from error

    async def abandon(self, connection: Connection) -> None:
        """Close a connection for good; the server ends its statement and rolls back at once, not when it notices."""
        was_cancelled = not connection.connected
        await _disconnect(connection)
        if was_cancelled:
            with suppress(Unavailable, SettingsError, MySQLError):
                async with self.unhurried() as other:
                    await self.fetch(other, f"KILL {connection.thread_id():d}")

    @asynccontextmanager
    async def unhurried(self) -> AsyncIterator[Connection]:
        """A connection of its own."""
        connection = await self.connect()
        try:
            yield connection
        finally:
            await finished(_disconnect(connection))

    @asynccontextmanager
    async def creating(self, part: Part) -> AsyncIterator[Connection]:
        """Alone in this database, with Chimera's own tables as they must be."""
        async with self.unhurried() as connection:
            await self._lock(connection)
            [(is_table,)] = await self.fetch(connection, _IS_TABLE, (version_table(part),))
            version = await self.fetch(connection, f"SELECT version_num FROM {version_table(part)}") if is_table else []
            at = version[0][0] if version else None
            await self.change(connection, own_changes(_dialect(self._is_mariadb), str(self), part, at))
            yield connection

    async def fit_tables(self, connection: Connection, tables: Sequence[Table]) -> None:
        found = found_tables(await self.fetch(connection, _COLUMNS), await self.fetch(connection, _KEYS))
        dialect = _dialect(self._is_mariadb)
        changes = [entity_changes(dialect, str(self), table, found.get(table.name)) for table in tables]
        await self.change(connection, [statement for each in changes for statement in each])

    async def change(self, connection: Connection, statements: Sequence[str]) -> None:
        """MySQL commits after each; one that was interrupted before finds its first part done."""
        for statement in statements:
            try:
                await self.run_slowly(connection, statement)
            except MySQLError as error:
                if error.args[0] not in _IS_THERE:
                    raise

    async def _lock(self, connection: Connection) -> None:
        """Held until the connection closes; others wait for as long as it takes."""
        name = f"chimera/{hashlib.sha256(self._address.database.encode()).hexdigest()[:40]}"
        await self.run_slowly(connection, f"SELECT GET_LOCK('{name}', {int(_SLOW_S)})")

    def _meaning_of(self, error: Exception, connection: Connection) -> Exception:
        number = error.args[0] if error.args else 0
        if number in _CONFLICTS:
            return Conflict(f"{self}: {error.args[-1]}")
        if number == _TOO_LONG and isinstance(error, DataError):
            return ValueError(f"{self}: {error.args[-1]}; text in keys holds at most 255 characters on MySQL")
        if number in _OUT_OF_REACH or not connection.connected or not isinstance(error, MySQLError):
            connection.close()
            return Unavailable(f"{self}: {error.args[-1] if error.args else type(error).__name__}")
        return error


async def _disconnect(connection: Connection) -> None:
    try:
        async with asyncio.timeout(1):
            await connection.ensure_closed()
    except (MySQLError, OSError, TimeoutError):
        connection.close()


def _is_fit(connection: Connection) -> bool:
    return connection.connected and not connection._stream_broken and not connection.get_transaction_status()  # noqa: SLF001 - the only way to see that the server has hung up


def _tls(address: Address, options: dict[str, str]) -> ssl.SSLContext | None:
    authority = options.pop("ssl_ca", "")
    certificate, key = options.pop("ssl_cert", ""), options.pop("ssl_key", "")
    if not (authority or certificate):
        return None
    try:
        context = ssl.create_default_context(cafile=None if authority in ("", "system") else authority)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{address}: the files of ssl_ca, ssl_cert and ssl_key can't be used: {error}") from error
    return context
