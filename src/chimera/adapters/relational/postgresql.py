"""PostgreSQL behind the ports `Store` and `ViewStore`; any number of processes may use the same database.

Every statement takes arrays, so a batch of any size is one round trip and one prepared statement; a write to the
views is a single statement. Transactions run READ COMMITTED and lock what they load.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Literal, cast

import asyncpg  # type: ignore[import-untyped]  # it ships no types

from chimera.adapters.relational.engine import (
    LOCK_S,
    RelationalSession,
    cut_short,
)
from chimera.adapters.relational.pool import WAIT_S
from chimera.adapters.relational.postgresql_server import SLOW_S, PostgreSQLDatabase
from chimera.adapters.relational.schema import Spelling
from chimera.adapters.relational.stores import RelationalStore, RelationalViews
from chimera.adapters.rows import WindowSQL, converter, distinct, quoted
from chimera.entities import Column, ColumnKind, Key, Row, Table, Where, Window, to_utc
from chimera.errors import Conflict, SettingsError
from chimera.ports import PAGE_BYTES, Document, Listing, Move, Store, ViewStore, WriteSession

_MANY = 32

# Tables are made empty and grow at once, long before they are analysed: a plan must never settle on reading all.
_STORE_SETTINGS = {"random_page_cost": "1.1"}
_VIEWS_SETTINGS = {"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"}

_ARRAYS: Mapping[ColumnKind, str] = {
    "text": "text[]",
    "integer": "bigint[]",
    "real": "float8[]",
    "boolean": "boolean[]",
    "bytes": "bytea[]",
    "time": "timestamptz[]",
    "json": "json[]",
}

# What travels as text, or with a zone, and is something else in the column.
_CASTS: Mapping[str, str] = {
    "uuid": "uuid",
    "char": "bpchar",
    "numeric": "numeric",
    "date": "date",
    "json": "json",
    "jsonb": "jsonb",
    "timestamp": "timestamp",
}

_COLUMNS = """
    SELECT table_name::text, column_name::text, data_type::text, is_nullable = 'YES',
        is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES' OR is_generated <> 'NEVER'
    FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY ordinal_position"""
_KEYS = """
    SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
    WHERE i.indisprimary AND c.relnamespace = current_schema()::regnamespace
    ORDER BY array_position(i.indkey::int2[], a.attnum)"""

_EVENT = "SELECT number, source, type, key, time, data, traceparent, chain, metadata FROM journal WHERE partition = $1"
_PAGE = f"""
    SELECT number, source, type, key, time, data, traceparent, chain, metadata FROM (
        SELECT *, sum(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - size AS before FROM (
            SELECT *, length(data) AS size FROM journal WHERE partition = $1 AND number > $2
            ORDER BY number LIMIT $3) page) placed
    WHERE before < {PAGE_BYTES} ORDER BY number"""
_OLDEST = """
    SELECT partition, coalesce((SELECT min(number) FROM journal j WHERE j.partition = h.partition), number + 1)
    FROM heads h ORDER BY partition"""
_CHAIN = """
    SELECT CASE $2::bigint WHEN number THEN chain WHEN trimmed THEN anchor
        ELSE (SELECT chain FROM journal WHERE partition = $1 AND number = $2) END
    FROM heads WHERE partition = $1"""
_ANCHOR = """
    UPDATE heads SET trimmed = j.number, anchor = j.chain
    FROM journal j WHERE heads.partition = $1 AND j.partition = $1 AND j.number = $2"""
_TIPS = "SELECT partition, number, chain FROM heads WHERE partition = ANY ($1::int[]) ORDER BY partition FOR UPDATE"
_MOVE_HEADS = """
    UPDATE heads SET number = tip.number, chain = tip.chain
    FROM unnest($1::int[], $2::bigint[], $3::text[]) AS tip (partition, number, chain)
    WHERE heads.partition = tip.partition"""
_JOURNAL = ("partition", "number", "source", "type", "key", "time", "data", "traceparent", "chain", "metadata")
_APPEND = f"""
    WITH moved AS ({_MOVE_HEADS})
    INSERT INTO journal ({", ".join(_JOURNAL)}) SELECT * FROM unnest($4::int[],
        $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::text[], $12::text[],
        $13::text[])"""

_GET = "SELECT key, data, revision FROM documents WHERE view = $1 AND key = ANY ($2::text[])"
_DROP = """
    WITH forgotten AS (DELETE FROM checkpoints WHERE consumer = $1),
    unlisted AS (DELETE FROM chimera_lists WHERE view = ANY ($2::text[]))
    DELETE FROM documents WHERE view = ANY ($2::text[])"""
# Rows that are not there can't be locked: who comes second breaks the primary key, which undoes the statement.
_WRITES = """
    WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS w (view, key, expected, data)),
    moves AS MATERIALIZED (
        SELECT * FROM unnest($6::text[], $7::int[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[])
            AS m (source, partition, expected, number, "offset", chain)),
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
        AND (SELECT count(*) FROM kept WHERE expected > 0) = (SELECT count(*) FROM wanted WHERE expected > 0) AS ok,
        nextval('revisions') AS revision),
    added AS (
        INSERT INTO documents (view, key, revision, data) SELECT view, key, fits.revision, data FROM wanted, fits
        WHERE ok AND expected = 0 AND data IS NOT NULL ORDER BY view, key),
    changed AS (
        UPDATE documents d SET revision = fits.revision, data = kept.data FROM kept, fits
        WHERE ok AND d.ctid = place AND kept.data IS NOT NULL),
    deleted AS (DELETE FROM documents d USING kept, fits WHERE ok AND d.ctid = place AND kept.data IS NULL),
    started AS (
        INSERT INTO checkpoints (consumer, source, partition, number, "offset", chain)
        SELECT $5, source, partition, number, "offset", chain FROM moves m, fits WHERE ok AND NOT EXISTS (
            SELECT FROM reached r WHERE (r.source, r.partition) = (m.source, m.partition))
        ORDER BY source, partition),
    moved AS (
        UPDATE checkpoints c SET number = reached.number, "offset" = reached."offset", chain = reached.chain
        FROM reached, fits
        WHERE ok AND c.ctid = place){beside}
    SELECT CASE WHEN ok THEN revision ELSE 0 END FROM fits"""
_LISTING = """,
    gone AS (
        DELETE FROM chimera_lists l USING unnest($12::text[], $13::bytea[], $14::bytea[]) AS g (view, within, at), fits
        WHERE ok AND l.view = g.view AND l.within = g.within AND l.at = g.at),
    come AS (
        INSERT INTO chimera_lists (view, within, at)
        SELECT c.* FROM unnest($15::text[], $16::bytea[], $17::bytea[]) AS c (view, within, at), fits WHERE ok
        ON CONFLICT DO NOTHING)"""
_WRITE, _WRITE_LISTED = (_WRITES.format(beside=beside) for beside in ("", _LISTING))

_SPELLING = Spelling(
    dialect="postgresql",
    here="current_schema()",
    columns=_COLUMNS,
    keys=_KEYS,
    begin=("BEGIN ISOLATION LEVEL READ COMMITTED",),
    begin_snapshot=("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",),
    heads="SELECT partition, number FROM heads ORDER BY partition",
    oldest=_OLDEST,
    chain=_CHAIN,
    anchor=_ANCHOR,
    trim="DELETE FROM journal WHERE partition = $1 AND number <= $2",
    indexes="SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()",
    index='CREATE INDEX IF NOT EXISTS "{name}" ON "{table}" ("{column}")',
    journal=_PAGE,
    history=f"{_EVENT} AND key = $2 AND number > $3 ORDER BY number",
    checkpoints='SELECT source, partition, number, "offset", chain FROM checkpoints WHERE consumer = $1',
    scan="SELECT view, key, data, revision FROM documents WHERE view = $1 AND key > $2 ORDER BY key LIMIT $3",
    listed="SELECT at FROM chimera_lists WHERE view = $1 AND within = $2 AND at > $3 ORDER BY at LIMIT $4 OFFSET $5",
    index_of_lists=(
        "SELECT within, at FROM chimera_lists WHERE view = $1 AND (within, at) > ($2, $3) AND within >= $4 "
        "ORDER BY within, at LIMIT $5 OFFSET $6"
    ),
    upserts_by_key=True,
)


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


class PostgreSQLStore(RelationalStore):
    """Entities and journal in one schema. `wait_s`, `lock_s`: seconds to wait for a connection, for a locked row."""

    _database: _PostgreSQL

    def __init__(self, url: str, *, wait_s: float = WAIT_S, lock_s: float = LOCK_S) -> None:
        super().__init__(_PostgreSQL(url, _STORE_SETTINGS, wait_s=wait_s, lock_s=lock_s), _PostgreSQLSession)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with super().transaction() as session:
            yield session
        if cast("RelationalSession", session).may_have_written:
            self._database.ring()

    def listen(self, heard: Callable[[], None]) -> None:
        """As `Wakes.listen`."""
        self._database.listen(heard)

    async def close(self) -> None:
        await self._database.ignore()
        await super().close()


class PostgreSQLViews(RelationalViews):
    """Documents, checkpoints and lists in one schema."""

    _database: _PostgreSQL

    def __init__(self, url: str) -> None:
        super().__init__(_PostgreSQL(url, _VIEWS_SETTINGS))

    def listen(self, heard: Callable[[], None]) -> None:
        """As `Wakes.listen`."""
        self._database.listen(heard)

    async def close(self) -> None:
        """As `ViewStore.close`."""
        await self._database.ignore()
        await super().close()

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        rows = await self._database.read(self._database.own(_GET), (view, keys))
        return {key: Document(view, key, data, revision) for key, data, revision in rows}

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        latest = {(document.view, document.key): document for document in documents}.values()
        try:
            async with self._database.pool.connection() as connection:
                parameters = _write_parameters(consumer, latest, moves) + _list_parameters(listings)
                with cut_short():
                    write = self._database.own(_WRITE_LISTED if listings else _WRITE)
                    [(revision,)] = await self._database.fetch(connection, write, parameters)
        except (asyncpg.UniqueViolationError, Conflict):
            return 0
        if revision:
            self._database.ring()
        return int(revision)

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._database.unhurried() as connection:
            await connection.execute(self._database.own(_DROP), consumer, views, timeout=SLOW_S)
        self._database.ring()


def _write_parameters(consumer: str, documents: Collection[Document], moves: Sequence[Move]) -> list[object]:
    return [
        [each.view for each in documents],
        [each.key for each in documents],
        [each.revision for each in documents],
        [each.data for each in documents],
        consumer,
        [move.source for move in moves],
        [move.partition for move in moves],
        [move.before for move in moves],
        [move.after.number for move in moves],
        [move.after.offset for move in moves],
        [move.after.stands_on for move in moves],
    ]


def _list_parameters(listings: Sequence[Listing]) -> list[object]:
    """Those that are gone, then those that come; in order, so that nobody waits for another in a circle."""
    ordered = sorted(listings)
    parts = [[each for each in ordered if each.is_gone is is_gone] for is_gone in (True, False)] if ordered else []
    return [[getattr(each, name) for each in part] for part in parts for name in ("view", "within", "at")]


class _PostgreSQLSession(RelationalSession):
    _database: _PostgreSQL

    async def select(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        sql = _statements_of(table)
        return sql.from_rows(await self.run(sql.load + self._lock, _columns(distinct(keys), len(table.key))))

    async def select_where(self, table: Table, where: Where) -> Sequence[Row]:
        sql = _statements_of(table)
        conditions = " AND ".join(sql.is_one_of(name, at, values) for at, (name, values) in enumerate(where.items(), 1))
        found = f"{sql.select} WHERE {conditions or 'true'} ORDER BY {sql.order}{self._lock}"
        values = [[each for each in wanted if each is not None] for wanted in where.values()]
        return sql.from_rows(await self.run(found, values))

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        sql = _statements_of(table)
        return sql.from_rows(await self.run(sql.next if after else sql.first, (limit, *after)))

    async def select_page(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        sql, (condition, values, found) = _statements_of(table), _windowed(table, where, window)
        select = f"{sql.select} WHERE {condition} ORDER BY {found.order}{found.limit}"
        return sql.from_rows(await self.run(select, values))

    async def count_where(self, table: Table, where: Where, window: Window) -> int:
        condition, values, _ = _windowed(table, where, window)
        [(count,)] = await self.run(f"SELECT count(*) FROM {quoted(table.name)} WHERE {condition}", values)
        return int(count)

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Parameters are written $1, $2, …; rows come as asyncpg gives them."""
        return await super().execute(sql, parameters)

    async def insert(self, table: Table, rows: Sequence[Row]) -> None:
        sql = _statements_of(table)
        if len(rows) < _MANY or sql.is_cast:
            await self.run(sql.insert, _columns(rows, len(sql.columns)))
        else:
            await self._copy(table.name, sql.columns, rows)

    async def replace(self, table: Table, rows: Sequence[Row]) -> None:
        await self.run(_statements_of(table).upsert, list(zip(*rows, strict=True)))

    async def remove(self, table: Table, keys: Sequence[Key]) -> None:
        await self.run(_statements_of(table).delete, _columns(distinct(keys), len(table.key)))

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        sql = _statements_of(table)
        [(count,)] = await self.run(sql.expire.format(quoted(column)), (to_utc(before), limit))
        return int(count)

    async def tips(self, partitions: Sequence[int]) -> Sequence[Row]:
        return await self.run(self.own(_TIPS), (partitions,))

    async def append_rows(self, rows: Sequence[Row], tips: Sequence[Row]) -> None:
        heads = _columns(tips, 3)
        if len(rows) < _MANY:
            await self.run(self.own(_APPEND), [*heads, *_columns(rows, len(_JOURNAL))])
        else:
            await self.run(self.own(_MOVE_HEADS), heads)
            await self._copy(self.own("journal"), _JOURNAL, rows)

    async def _copy(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Many rows by COPY, which takes half the time of arrays on both sides, and a round trip more."""
        await self.work(lambda connection: self._database.copy(connection, table, columns, rows))

    async def run(self, sql: str, parameters: Sequence[object] = (), *, again: bool = False) -> Sequence[Row]:
        return list(map(tuple, await super().run(sql, parameters, again=again)))


def _windowed(table: Table, where: Where, window: Window) -> tuple[str, list[object], WindowSQL]:
    """The condition of a window, with its values, and the window in SQL."""
    sql = _statements_of(table)
    found = WindowSQL(table, window, _compared, "${}".format, first=len(where) + 1, nulls=True)
    conditions = [sql.is_one_of(name, at, values) for at, (name, values) in enumerate(where.items(), 1)]
    values = [[each for each in wanted if each is not None] for wanted in where.values()]
    return " AND ".join(filter(None, [*conditions, found.condition])) or "true", [*values, *found.values], found


def _compared(column: Column) -> str:
    """A column as its values are compared: text by its bytes."""
    return f'{quoted(column.name)} COLLATE "C"' if column.kind == "text" else quoted(column.name)


class _PostgreSQL(PostgreSQLDatabase):
    spelling = _SPELLING


class _PostgreSQLStatements:
    """A table's SQL: columns are passed as arrays, one for each."""

    def __init__(self, table: Table) -> None:
        name, names = quoted(table.name), [quoted(column.name) for column in table.columns]
        keys = [quoted(field) for field in table.key]
        self._by_name = {column.name: column for column in table.columns}
        self.columns = list(self._by_name)
        self.is_cast = any(column.family in _CASTS for column in table.columns)
        self.from_rows = converter([column.kind for column in table.columns], {"time": _with_zone})
        self.key = ", ".join(keys)
        self.order = ", ".join(f"{name}.{key}" for key in keys)  # of the columns, not of what is selected of them
        self.select = f"SELECT {', '.join(map(_read, table.columns))} FROM {name}"
        key_columns = [self._by_name[field] for field in table.key]
        within = f"({self.key}) IN (SELECT * FROM {_arrays(key_columns)})"
        if len(keys) == 1:
            within = f"{self.key} = ANY ($1::{_array(key_columns[0])})"
        self.load = f"{self.select} WHERE {within} ORDER BY {self.order}"
        after = ", ".join(f"${at}::{_array(column).replace('[]', '')}" for at, column in enumerate(key_columns, 2))
        self.first = f"{self.select} ORDER BY {self.order} LIMIT $1"
        self.next = f"{self.select} WHERE ({self.key}) > ({after}) ORDER BY {self.order} LIMIT $1"
        self.delete = f"DELETE FROM {name} WHERE {within}"
        oldest = f"SELECT ctid FROM {name} WHERE {{0}} < $1 ORDER BY {{0}} LIMIT $2"
        gone = f"DELETE FROM {name} WHERE ctid = ANY (ARRAY({oldest})) RETURNING 1"
        self.expire = f"WITH gone AS ({gone}) SELECT count(*) FROM gone"
        self.insert = f"INSERT INTO {name} ({', '.join(names)}) SELECT * FROM {_arrays(table.columns)}"
        changes = ", ".join(f"{each} = excluded.{each}" for each in names if each not in keys)
        self.upsert = f"{self.insert} ON CONFLICT ({self.key}) DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"

    def is_one_of(self, name: str, at: int, values: Sequence[object]) -> str:
        """The condition that a column has one of the values of parameter number `at`."""
        column, compared = quoted(name), quoted(name)
        array = _array(self._by_name[name])
        if array.endswith("json[]"):  # which can't be compared
            compared, array = f"{column}::text", "text[]"
        condition = f"{compared} = ANY (${at}::{array})"
        return f"({condition} OR {column} IS NULL)" if None in values else condition


def _read(column: Column) -> str:
    if column.family not in _CASTS:
        return quoted(column.name)
    return f"{quoted(column.name)}::{'timestamptz' if column.kind == 'time' else 'text'}"


def _array(column: Column) -> str:
    """The type of a parameter with values of a column, as they travel and as they are then."""
    if column.family not in _CASTS:
        return _ARRAYS[column.kind]
    return f"{'timestamptz' if column.kind == 'time' else 'text'}[]::{_CASTS[column.family]}[]"


def _arrays(columns: Sequence[Column]) -> str:
    return f"unnest({', '.join(f'${at}::{_array(column)}' for at, column in enumerate(columns, 1))})"


@cache
def _statements_of(table: Table) -> _PostgreSQLStatements:
    return _PostgreSQLStatements(table)


def _with_zone(moment: datetime) -> datetime:
    """The first and the last moment there is are PostgreSQL's infinities to asyncpg, and come without a zone."""
    return moment.replace(tzinfo=UTC)


def _columns(rows: Sequence[Row], count: int) -> list[Sequence[object]]:
    return list(zip(*rows, strict=True)) if rows else [()] * count
