"""PostgreSQL behind the ports `Store` and `ViewStore`; any number of processes may use the same database.

Every statement takes arrays, so a batch of any size is one round trip and one prepared statement; a write to the
views is a single statement. Transactions run READ COMMITTED and lock what they load.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC
from functools import cache
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote, urlencode

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from chimera.adapters.relational import (
    Address,
    Dialect,
    Part,
    Pool,
    Seen,
    check_columns,
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
from chimera.entities import ColumnKind, Key, Row, Table
from chimera.errors import Conflict, SettingsError, Unavailable
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Features, Move, Session, Store, ViewStore, WriteSession

Connection = Any

_FEATURES = Features(durable=True, shared=True, poll_s=0.02)
_POOL = 8
_CONNECT_S = 10.0
_STATEMENT_S = 30.0
_LOCK_S = 10.0
_IDLE_IN_TRANSACTION_S = 60.0
_SLOW_S = 3600.0
_CONFLICTS = frozenset({"40001", "40P01"})
_CANT_LOG_IN = ("28", "3D")
_OUT_OF_REACH = ("08", "53", "57", "58", "55P03", "25006")

# Tables are made empty and grow at once, long before they are analysed: a plan must never settle on reading all.
_STORE_SETTINGS = {"random_page_cost": "1.1"}
_VIEWS_SETTINGS = {"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"}

_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

_DIALECT = Dialect(
    "postgresql",
    types={
        "text": sa.Text(),
        "integer": sa.BigInteger(),
        "real": sa.Double(),
        "boolean": sa.Boolean(),
        "bytes": postgresql.BYTEA(),
        "time": sa.DateTime(timezone=True),
        "json": postgresql.JSON(),
    },
    shown={
        "text": "text",
        "integer": "bigint",
        "real": "double precision",
        "boolean": "boolean",
        "bytes": "bytea",
        "time": "timestamp with time zone",
        "json": "json",
    },
    key_text=sa.Text(collation="C"),
    key_text_shown="text",
)
_ARRAYS: Mapping[ColumnKind, str] = {
    "text": "text[]",
    "integer": "bigint[]",
    "real": "float8[]",
    "boolean": "boolean[]",
    "bytes": "bytea[]",
    "time": "timestamptz[]",
    "json": "json[]",
}

_COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable = 'YES',
        is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES' OR is_generated <> 'NEVER'
    FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY ordinal_position"""
_KEYS = """
    SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
    WHERE i.indisprimary AND c.relnamespace = current_schema()::regnamespace
    ORDER BY array_position(i.indkey::int2[], a.attnum)"""

_EVENT = "SELECT number, source, type, key, time, data, traceparent FROM journal WHERE partition = $1"
_JOURNAL = f"{_EVENT} AND number > $2 ORDER BY number LIMIT $3"
_HISTORY = f"{_EVENT} AND key = $2 AND number > $3 ORDER BY number"
_RESERVE = """
    WITH held AS MATERIALIZED (
        SELECT partition, number FROM heads WHERE partition = ANY ($1::int[]) ORDER BY partition FOR UPDATE)
    UPDATE heads SET number = held.number + wanted.count
    FROM held JOIN unnest($1::int[], $2::bigint[]) AS wanted (partition, count) USING (partition)
    WHERE heads.partition = held.partition RETURNING heads.partition, held.number + 1"""
_APPEND = """
    INSERT INTO journal (partition, number, source, type, key, time, data, traceparent) SELECT * FROM unnest(
        $1::int[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[])"""

_GET = "SELECT key, data, revision FROM documents WHERE view = $1 AND key = ANY ($2::text[])"
_SCAN = "SELECT view, key, data, revision FROM documents WHERE view = $1 AND key > $2 ORDER BY key LIMIT $3"
_CHECKPOINTS = 'SELECT source, partition, number, "offset" FROM checkpoints WHERE consumer = $1'
_DROP = """
    WITH forgotten AS (DELETE FROM checkpoints WHERE consumer = $1)
    DELETE FROM documents WHERE view = ANY ($2::text[])"""
# Rows that are not there can't be locked: who comes second breaks the primary key, which undoes the statement.
_WRITE = """
    WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS w (view, key, expected, data)),
    moves AS MATERIALIZED (
        SELECT * FROM unnest($6::text[], $7::int[], $8::bigint[], $9::bigint[], $10::bigint[])
            AS m (source, partition, expected, number, "offset")),
    reached AS MATERIALIZED (
        SELECT c.ctid AS place, c.number AS at, m.* FROM checkpoints c JOIN moves m
        USING (source, partition) WHERE c.consumer = $5 ORDER BY source, partition FOR UPDATE OF c),
    kept AS MATERIALIZED (
        SELECT d.ctid AS place, d.revision, w.expected, w.data FROM documents d JOIN wanted w USING (view, key)
        ORDER BY view, key FOR UPDATE OF d),
    fits AS MATERIALIZED (SELECT
        NOT EXISTS (SELECT FROM reached WHERE at <> expected)
        AND NOT EXISTS (SELECT FROM kept WHERE revision <> expected)
        AND (SELECT count(*) FROM reached WHERE expected > 0) = (SELECT count(*) FROM moves WHERE expected > 0)
        AND (SELECT count(*) FROM kept WHERE expected > 0) = (SELECT count(*) FROM wanted WHERE expected > 0) AS ok),
    added AS (
        INSERT INTO documents (view, key, revision, data) SELECT view, key, nextval('revisions'), data FROM wanted, fits
        WHERE ok AND expected = 0 AND data IS NOT NULL ORDER BY view, key),
    changed AS (
        UPDATE documents d SET revision = nextval('revisions'), data = kept.data FROM kept, fits
        WHERE ok AND d.ctid = place AND kept.data IS NOT NULL),
    deleted AS (DELETE FROM documents d USING kept, fits WHERE ok AND d.ctid = place AND kept.data IS NULL),
    started AS (
        INSERT INTO checkpoints (consumer, source, partition, number, "offset")
        SELECT $5, source, partition, number, "offset" FROM moves m, fits WHERE ok AND NOT EXISTS (
            SELECT FROM reached r WHERE (r.source, r.partition) = (m.source, m.partition))
        ORDER BY source, partition),
    moved AS (
        UPDATE checkpoints c SET number = reached.number, "offset" = reached."offset" FROM reached, fits
        WHERE ok AND c.ctid = place)
    SELECT ok FROM fits"""


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Store | ViewStore:
    """The engine of a URL, `postgresql://user:password@host:port/database`. Nothing is opened before `create`.

    Options: `schema` (default public; it is made if missing, so that services may share a database), `pool` (most
    connections per engine and process, default 8), `timeout` (most seconds a statement may take, default 30),
    `sslmode`, `sslrootcert`, `sslcert`, `sslkey` as libpq has them, and any server setting. Raises SettingsError.
    """
    match kind:
        case "store":
            return PostgreSQLStore(url)
        case "views":
            return PostgreSQLViews(url)
        case _:
            raise SettingsError("PostgreSQL is no log; use it as store or views")


class PostgreSQLStore:
    """Entities and journal in one schema."""

    features = _FEATURES

    def __init__(self, url: str) -> None:
        self._database = _Database(url, _STORE_SETTINGS)

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Adds optional columns that a table lacks; what would lose or misread data is refused."""
        async with self._database.creating("store") as connection:
            await self._database.fit_tables(connection, tables)
            await self._number_partitions(connection, partitions)
            for statement in statements.get(_Session.dialect, ()):
                await connection.execute(statement, timeout=_SLOW_S)
        self._database.pool.open()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._database.pool.connection() as connection:
            session = _WriteSession(self._database, connection)
            async with session.between("BEGIN"):
                yield session

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Session]:
        async with self._database.pool.connection() as connection:
            session = _Session(self._database, connection)
            async with session.between("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"):
                yield session

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return events_of(partition, await self._database.read(_JOURNAL, partition, after, limit))

    async def heads(self) -> Mapping[int, int]:
        return dict(await self._database.read("SELECT partition, number FROM heads ORDER BY partition"))

    async def close(self) -> None:
        await self._database.pool.close()

    async def _number_partitions(self, connection: Connection, partitions: int) -> None:
        kept = await connection.fetchval("SELECT count(*) FROM heads")
        if kept == 0:
            numbers = list(range(partitions))
            await connection.execute("INSERT INTO heads SELECT unnest($1::int[]), 0", numbers)
        elif kept != partitions:
            raise other_partitions(str(self._database), kept, partitions)


class PostgreSQLViews:
    """Documents and checkpoints in one schema."""

    features = _FEATURES

    def __init__(self, url: str) -> None:
        self._database = _Database(url, _VIEWS_SETTINGS)

    async def create(self) -> None:
        async with self._database.creating("views"):
            self._database.pool.open()

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        rows = await self._database.read(_GET, view, keys)
        return {key: Document(view, key, data, revision) for key, data, revision in rows}

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> bool:
        latest = {(document.view, document.key): document for document in documents}.values()
        try:
            async with self._database.pool.connection() as connection:
                [(written,)] = await self._database.fetch(
                    connection,
                    _WRITE,
                    [each.view for each in latest],
                    [each.key for each in latest],
                    [each.revision for each in latest],
                    [each.data for each in latest],
                    consumer,
                    [move.source for move in moves],
                    [move.partition for move in moves],
                    [move.before for move in moves],
                    [move.after.number for move in moves],
                    [move.after.offset for move in moves],
                )
        except (asyncpg.UniqueViolationError, Conflict):
            return False
        return bool(written)

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        rows = await self._database.read(_CHECKPOINTS, consumer)
        return {(source, partition): Checkpoint(number, offset) for source, partition, number, offset in rows}

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        return [Document(*row) for row in await self._database.read(_SCAN, view, after, limit)]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._database.unhurried() as connection:
            await connection.execute(_DROP, consumer, views, timeout=_SLOW_S)

    async def close(self) -> None:
        await self._database.pool.close()


class _Session:
    """Statements on a connection, until the session ends."""

    dialect = "postgresql"
    _lock = ""

    def __init__(self, database: _Database, connection: Connection) -> None:
        self._database = database
        self._connection: Connection | None = connection
        self._failure: Exception | None = None
        self._ran_sql = False

    @asynccontextmanager
    async def between(self, begin: str) -> AsyncIterator[None]:
        """The transaction. After a statement has failed, PostgreSQL would turn a commit into a silent rollback."""
        assert self._connection is not None
        connection = self._connection
        try:
            await self._database.execute(connection, begin)
            yield
            if self._failure is not None:
                raise self._failure
            self._connection = None
            await finished(self._database.execute(connection, "COMMIT"))
        finally:
            self._connection = None
            if self._ran_sql or not _is_fit(connection):
                await finished(self._leave(connection))

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        sql = _statements_of(table)
        return sql.from_rows(await self._fetch(sql.load + self._lock, *_columns(distinct(keys), len(table.key))))

    async def find(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        check_columns(table, where)
        sql = _statements_of(table)
        conditions = " AND ".join(sql.is_one_of(name, at, values) for at, (name, values) in enumerate(where.items(), 1))
        found = f"{sql.select} WHERE {conditions or 'true'} ORDER BY {sql.key}{self._lock}"
        values = [[each for each in wanted if each is not None] for wanted in where.values()]
        return sql.from_rows(await self._fetch(found, *values))

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        """Parameters are written $1, $2, …; rows come as asyncpg gives them."""
        self._ran_sql = True
        return await self._fetch(sql, *parameters)

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return events_of(partition, await self._fetch(_HISTORY, partition, key, after))

    async def _fetch(self, sql: str, *parameters: Any) -> list[Row]:
        if self._connection is None:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        try:
            return list(map(tuple, await self._database.fetch(self._connection, sql, *parameters)))
        except Exception as error:
            self._failure = self._failure or error
            raise

    async def _leave(self, connection: Connection) -> None:
        """Make the connection as it was, whatever happened to it."""
        try:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK", timeout=_CONNECT_S)
            if self._ran_sql and not connection.is_closed():
                await connection.execute("RESET ALL", timeout=_CONNECT_S)
        except _FAILURES:
            connection.terminate()


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
        new = self._seen.to_insert(table, latest)
        if inserted := [row for key, row in latest.items() if key in new]:
            try:
                await self._fetch(sql.insert, *zip(*inserted, strict=True))
            except asyncpg.UniqueViolationError as error:
                if (error.constraint_name or "").endswith("_pkey"):
                    self._failure = Conflict(f"{self._database}: somebody else inserted a row of {table.name}")
                    raise self._failure from error
                raise
        if replaced := [row for key, row in latest.items() if key not in new]:
            await self._fetch(sql.upsert, *zip(*replaced, strict=True))

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        await self._fetch(_statements_of(table).delete, *_columns(distinct(keys), len(table.key)))

    async def reserve(self, counts: Mapping[int, int]) -> Mapping[int, int]:
        first: dict[int, int] = dict(await self._fetch(_RESERVE, list(counts), list(counts.values())))
        if missing := counts.keys() - first.keys():
            raise ValueError(f"the journal has no partition {min(missing)}")
        return first

    async def append(self, events: Sequence[Message]) -> None:
        rows = [(e.partition, e.number, e.source, e.type, e.key, e.time, e.data, e.traceparent) for e in events]
        await self._fetch(_APPEND, *_columns(rows, 8))


class _Statements:
    """A table's SQL: columns are passed as arrays, one for each."""

    def __init__(self, table: Table) -> None:
        name, names = _quoted(table.name), [_quoted(column.name) for column in table.columns]
        keys = [_quoted(field) for field in table.key]
        self._kinds = {column.name: column.kind for column in table.columns}
        self._times = [at for at, column in enumerate(table.columns) if column.kind == "time"]
        self.key = ", ".join(keys)
        self.select = f"SELECT {', '.join(names)} FROM {name}"
        wanted = self._arrays([self._kinds[field] for field in table.key])
        within = f"({self.key}) IN (SELECT * FROM {wanted})"
        if len(keys) == 1:
            within = f"{self.key} = ANY ($1::{_ARRAYS[self._kinds[table.key[0]]]})"
        self.load = f"{self.select} WHERE {within} ORDER BY {self.key}"
        self.delete = f"DELETE FROM {name} WHERE {within}"
        given = self._arrays([column.kind for column in table.columns])
        self.insert = f"INSERT INTO {name} ({', '.join(names)}) SELECT * FROM {given}"
        changes = ", ".join(f"{each} = excluded.{each}" for each in names if each not in keys)
        self.upsert = f"{self.insert} ON CONFLICT ({self.key}) DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"

    def is_one_of(self, name: str, at: int, values: Sequence[Any]) -> str:
        """Whether a column has one of the values of parameter number `at`."""
        kind, column = self._kinds[name], _quoted(name)
        compared, array = (f"{column}::text", "text[]") if kind == "json" else (column, _ARRAYS[kind])
        condition = f"{compared} = ANY (${at}::{array})"
        return f"({condition} OR {column} IS NULL)" if None in values else condition

    def from_rows(self, rows: Sequence[Row]) -> Sequence[Row]:
        return [_with_zones(row, self._times) for row in rows] if self._times else rows

    def _arrays(self, kinds: Sequence[ColumnKind]) -> str:
        return f"unnest({', '.join(f'${at}::{_ARRAYS[kind]}' for at, kind in enumerate(kinds, 1))})"


@cache
def _statements_of(table: Table) -> _Statements:
    return _Statements(table)


def _with_zones(row: Row, times: Sequence[int]) -> Row:
    """The first and the last moment there is are PostgreSQL's infinities to asyncpg, and come without a zone."""
    values = list(row)
    for at in times:
        if values[at] is not None:
            values[at] = values[at].replace(tzinfo=UTC)
    return tuple(values)


def _columns(rows: Sequence[Row], count: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * count


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class _Database:
    """A schema of a database, and the connections to it."""

    def __init__(self, url: str, settings: Mapping[str, str]) -> None:
        address = parse_address(url, "postgresql", 5432)
        options = dict(address.options)
        self._schema = options.pop("schema", "public")
        self._timeout = take_number(options, "timeout", _STATEMENT_S)
        size = int(take_number(options, "pool", _POOL))
        self._name = f"{address}?schema={self._schema}"
        self._dsn = _dsn(address, {name: value for name, value in options.items() if name.startswith("ssl")})
        self._settings = {
            "application_name": "chimera",
            "search_path": f"{_quoted(self._schema)}, public",
            "TimeZone": "UTC",
            "jit": "off",
            "statement_timeout": _milliseconds(self._timeout),
            "lock_timeout": _milliseconds(_LOCK_S),
            "idle_in_transaction_session_timeout": _milliseconds(_IDLE_IN_TRANSACTION_S),
            **settings,
            **{name: value for name, value in options.items() if not name.startswith("ssl")},
        }
        self.pool: Pool[Connection] = Pool(self._name, size, self.connect, _disconnect, _is_fit)

    def __str__(self) -> str:
        return self._name

    async def connect(self) -> Connection:
        """Raises SettingsError when the server is there but does not let us in."""
        try:
            return await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_S,
                command_timeout=self._timeout + _LOCK_S,
                server_settings=self._settings,
            )
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "").startswith(_CANT_LOG_IN):
                raise SettingsError(f"{self}: {error}") from error
            raise Unavailable(f"{self} can't be reached: {error}") from error
        except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
            raise Unavailable(f"{self} can't be reached: {str(error) or type(error).__name__}") from error

    async def read(self, sql: str, *parameters: Any) -> list[Row]:
        """Rows of one statement outside any transaction; asked again when an old connection turns out broken."""
        async with self.pool.connection() as connection:
            try:
                return await self.fetch(connection, sql, *parameters)
            except Unavailable:
                if not connection.is_closed():
                    raise
        async with self.pool.connection() as connection:
            return await self.fetch(connection, sql, *parameters)

    async def fetch(self, connection: Connection, sql: str, *parameters: Any) -> list[Row]:
        try:
            rows: list[Row] = await connection.fetch(sql, *parameters)
            return rows
        except _FAILURES as error:
            raise self._meaning_of(error, connection) from error

    async def execute(self, connection: Connection, sql: str) -> None:
        try:
            await connection.execute(sql)
        except _FAILURES as error:
            raise self._meaning_of(error, connection) from error

    @asynccontextmanager
    async def unhurried(self) -> AsyncIterator[Connection]:
        """A connection of its own whose statements may take long."""
        connection = await self.connect()
        try:
            await connection.execute(f"SET statement_timeout = {_milliseconds(_SLOW_S)}")
            yield connection
        except _FAILURES as error:
            raise self._meaning_of(error, connection) from error
        finally:
            await finished(_disconnect(connection))

    @asynccontextmanager
    async def creating(self, part: Part) -> AsyncIterator[Connection]:
        """Alone in this schema, with Chimera's own tables as they must be."""
        async with self.unhurried() as connection:
            await self._lock(connection)
            if not await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = $1", self._schema):
                await connection.execute(f"CREATE SCHEMA {_quoted(self._schema)}")
            version = None
            if await connection.fetchval("SELECT to_regclass($1)", _quoted(version_table(part))):
                version = await connection.fetchval(f"SELECT version_num FROM {version_table(part)}")
            await _run(connection, own_changes(_DIALECT, str(self), part, version))
            yield connection

    async def fit_tables(self, connection: Connection, tables: Sequence[Table]) -> None:
        found = found_tables(await connection.fetch(_COLUMNS), await connection.fetch(_KEYS))
        changes = [entity_changes(_DIALECT, str(self), table, found.get(table.name)) for table in tables]
        await _run(connection, [statement for each in changes for statement in each])

    async def _lock(self, connection: Connection) -> None:
        """Held until the connection closes; others wait for as long as it takes."""
        await connection.execute("SET lock_timeout = 0")
        lock = "SELECT pg_advisory_lock(hashtext('chimera'), hashtext($1))"
        await connection.fetchval(lock, self._schema, timeout=_SLOW_S)
        await connection.execute(f"SET lock_timeout = {_milliseconds(_LOCK_S)}")

    def _meaning_of(self, error: Exception, connection: Connection) -> Exception:
        state = getattr(error, "sqlstate", None) or ""
        if state in _CONFLICTS or isinstance(error, asyncpg.InvalidCachedStatementError):
            return Conflict(f"{self}: {error}")
        if isinstance(error, asyncpg.InternalClientError):
            connection.terminate()  # asyncpg's word for a server that hung up before it was asked
        lost = isinstance(error, OSError | TimeoutError) or connection.is_closed()
        if state.startswith(_OUT_OF_REACH) or (lost and not isinstance(error, asyncpg.DataError)):
            return Unavailable(f"{self}: {str(error) or type(error).__name__}")
        return error


async def _run(connection: Connection, statements: Sequence[str]) -> None:
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement, timeout=_SLOW_S)


async def _disconnect(connection: Connection) -> None:
    try:
        await connection.close(timeout=1)
    except (*_FAILURES, asyncio.CancelledError):
        connection.terminate()


def _is_fit(connection: Connection) -> bool:
    return not connection.is_closed() and not connection.is_in_transaction()


def _dsn(address: Address, options: Mapping[str, str]) -> str:
    login = quote(address.user, safe="") + (f":{quote(address.password, safe='')}" if address.password else "")
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"postgresql://{login}@{host}:{address.port}/{quote(address.database)}?{urlencode(options)}"


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
