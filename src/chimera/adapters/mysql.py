"""MySQL and MariaDB behind the ports `Store` and `ViewStore`; any number of processes may use the same database.

Rows travel in statements of many rows. Transactions run READ COMMITTED, so that there are no gap locks, and lock
what they load. Text in keys holds at most 255 characters; all text compares by its bytes.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Literal

import asyncmy
import sqlalchemy as sa
from asyncmy.errors import DataError, IntegrityError, MySQLError
from sqlalchemy.dialects import mysql

from chimera.adapters.pool import Address, Result, finished, parse_address, take_number
from chimera.adapters.relational import (
    Connection,
    Database,
    RelationalSession,
    RelationalStore,
    RelationalViews,
    Spelling,
)
from chimera.adapters.rows import chunks, converter, distinct, given, in_parts, marks
from chimera.adapters.schema import Dialect, Part
from chimera.entities import Key, Row, Table, to_utc
from chimera.errors import Conflict, SettingsError, Unavailable
from chimera.ports import PAGE_BYTES, Document, Move, Store, ViewStore

_marks = partial(marks, mark="%s")

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

_NO_DATABASE = frozenset({1044, 1049})
_CANT_LOG_IN = frozenset({*_NO_DATABASE, 1045, 1698})
_CONFLICTS = frozenset({1020, 1205, 1213})
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

_EVENT = "SELECT number, source, type, `key`, time, data, traceparent FROM journal WHERE `partition` = %s"
# Large data stay where they are until it is known which of them fit.
_PAGE = f"""
    SELECT j.number, source, type, `key`, time, data, traceparent FROM (
        SELECT `partition`, number, SUM(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - size AS before_it FROM (
            SELECT `partition`, number, LENGTH(data) AS size FROM journal WHERE `partition` = %s AND number > %s
            ORDER BY number LIMIT %s) page) placed
    STRAIGHT_JOIN journal j ON j.`partition` = placed.`partition` AND j.number = placed.number
    WHERE before_it < {PAGE_BYTES} ORDER BY placed.number"""
# Locks exactly these rows, in this order, where an UPDATE … IN might lock them all.
_RESERVE = "INSERT INTO heads (`partition`, number) VALUES {} ON DUPLICATE KEY UPDATE number = number + {}"
_HEADS = "SELECT `partition`, number FROM heads"
_OLDEST = """
    SELECT `partition`, coalesce((SELECT min(number) FROM journal j WHERE j.`partition` = h.`partition`), number + 1)
    FROM heads h ORDER BY `partition`"""
_APPEND = "INSERT INTO journal (`partition`, number, source, type, `key`, time, data, traceparent) VALUES "

_GET = "SELECT `key`, data, revision FROM documents WHERE view = %s AND `key` IN ({})"
_CURRENT = "SELECT `key`, revision FROM documents WHERE view = %s AND `key` IN ({}) ORDER BY `key` FOR UPDATE"
_PUT = "INSERT INTO documents (view, `key`, revision, data) VALUES "
_DELETE = "DELETE FROM documents WHERE view = %s AND `key` IN ({})"
_CHECKPOINTS = "SELECT source, `partition`, number, `offset` FROM checkpoints WHERE consumer = %s"
_REACHED = f"{_CHECKPOINTS} AND ({{}}) ORDER BY source, `partition` FOR UPDATE"
_MOVE = "INSERT INTO checkpoints (consumer, source, `partition`, number, `offset`) VALUES "
_TAKE_REVISIONS = "UPDATE revisions SET last = LAST_INSERT_ID(last + %s) WHERE name = 'documents'"

_SPELLING = Spelling(
    dialect="mysql",
    here="DATABASE()",
    columns=_COLUMNS,
    keys=_KEYS,
    begin=("START TRANSACTION",),
    begin_snapshot=(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ),
    heads=f"{_HEADS} ORDER BY `partition`",
    oldest=_OLDEST,
    trim="DELETE FROM journal WHERE `partition` = %s AND number <= %s",
    indexes="SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()",
    index="CREATE INDEX `{name}` ON `{table}` (`{column}`)",
    journal=_PAGE,
    history=f"{_EVENT} AND `key` = %s AND number > %s ORDER BY number",
    checkpoints=_CHECKPOINTS,
    scan="SELECT view, `key`, data, revision FROM documents WHERE view = %s AND `key` > %s ORDER BY `key` LIMIT %s",
    upserts_by_key=False,  # it goes by every unique index there is, and might change a row of another key
)


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Store | ViewStore:
    """The engine of a URL, `mysql://user:password@host:port/database`, MySQL's or MariaDB's.

    Give each service a database of its own; `create` makes it if it is not there and the user may. Nothing is opened
    before `create`. Options: `pool` (most connections per engine and process, default 8), `timeout` (most seconds a
    statement may take, default 30), `ssl_ca` (a file, or `system`; turns TLS on and checks the server's name),
    `ssl_cert`, `ssl_key`. Raises SettingsError.
    """
    match kind:
        case "store":
            return MySQLStore(url)
        case "views":
            return MySQLViews(url)
        case _:
            raise SettingsError("MySQL is no log; use it as store or views")


class MySQLStore(RelationalStore):
    """Entities and journal in one database.

    Of the statements that `create` runs, those that make a table or an index that is there already are passed over.
    """

    def __init__(self, url: str) -> None:
        super().__init__(_Database(url), _Session)


class MySQLViews(RelationalViews):
    """Documents and checkpoints in one database."""

    def __init__(self, url: str) -> None:
        super().__init__(_Database(url))
        self._revisions = iter(range(0))

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        found: dict[str, Document] = {}
        for chunk in chunks(keys, _MAX_KEYS):
            wanted = _padded(chunk)
            rows = await self._database.read(_GET.format(_marks(len(wanted))), (view, *wanted))
            found.update({key: Document(view, key, data, revision) for key, data, revision in rows})
        return found

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        latest = {(document.view, document.key): document for document in documents}
        ordered = [latest[place] for place in sorted(latest)]
        try:
            revision = await self._revision()
            async with self._database.pool.connection() as connection:
                session = _Session(self._database, connection, locks=True)
                async with session.between(_SPELLING.begin):
                    await _Writing(session, consumer, revision).write(ordered, moves)
        except (Conflict, _Outdated):
            return 0
        return revision

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._database.unhurried() as connection:
            await self._database.execute(connection, "START TRANSACTION")
            await self._database.fetch(connection, "DELETE FROM checkpoints WHERE consumer = %s", (consumer,))
            for view in views:
                delete = f"DELETE FROM documents WHERE view = {connection.literal(view)}"
                await self._database.execute_slowly(connection, delete)
            await self._database.execute_slowly(connection, "COMMIT")

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

    def __init__(self, session: _Session, consumer: str, revision: int) -> None:
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
        with self._session.inserting("documents or checkpoints"):
            await self._session.insert_rows(insert, [row for row, is_new in rows if is_new])
        await self._session.replace_columns(insert, replace, [row for row, is_new in rows if not is_new])


_REPLACE_DOCUMENT = ("revision", "data")
_REPLACE_CHECKPOINT = ("number", "`offset`")


def _by_view(documents: Sequence[Document]) -> Iterator[tuple[str, Sequence[str]]]:
    keys: dict[str, list[str]] = {}
    for document in documents:
        keys.setdefault(document.view, []).append(document.key)
    return ((view, chunk) for view, all_keys in keys.items() for chunk in chunks(all_keys, _MAX_KEYS))


class _Session(RelationalSession):
    _database: _Database

    async def select(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        sql = _statements_of(table)
        rows: list[Row] = []
        for chunk in chunks(sorted(distinct(keys)), _MAX_KEYS // len(table.key)):
            condition, values = sql.has_key(_padded(chunk))
            select = f"{sql.select} WHERE {condition} ORDER BY {sql.key}{self._lock}"
            rows += await self.run(select, values, again=True)
        return sql.from_rows(rows)

    async def select_where(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        sql = _statements_of(table)
        wanted = {name: [_to_held(value) for value in distinct(values)] for name, values in where.items()}
        parts = in_parts(wanted, _MAX_KEYS)
        rows: list[Row] = []
        for part in parts:
            conditions = " AND ".join(_is_one_of(name, values) for name, values in part.items()) or "true"
            rows += await self.run(f"{sql.select} WHERE {conditions} ORDER BY {sql.key}{self._lock}", given(part))
        return sql.from_rows(rows if len(parts) == 1 else sorted(rows, key=table.key_of))

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        """Parameters are written %s, and a % is then written %%; rows come as the driver gives them."""
        return await super().execute(sql, [_to_held(value) for value in parameters])

    async def insert(self, table: Table, rows: Sequence[Row]) -> None:
        sql = _statements_of(table)
        await self.insert_rows(sql.insert, sql.to_rows(rows))

    async def replace(self, table: Table, rows: Sequence[Row]) -> None:
        sql = _statements_of(table)
        await self.replace_columns(sql.insert, sql.changes, sql.to_rows(rows))

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        sql = _statements_of(table)
        for chunk in chunks(sorted(distinct(keys)), _MAX_KEYS // len(table.key)):
            condition, values = sql.has_key(chunk)
            await self.run(f"DELETE FROM {sql.name} WHERE {condition}", values)

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        name = _quoted(column)
        delete = f"DELETE FROM {_statements_of(table).name} WHERE {name} < %s ORDER BY {name} LIMIT %s"
        await self.run(delete, (_to_held(before), limit))
        [(count,)] = await self.run("SELECT ROW_COUNT()")
        return int(count)

    async def take_numbers(self, counts: Mapping[int, int]) -> Mapping[int, int]:
        rows = ", ".join(f"({partition:d}, {counts[partition]:d})" for partition in sorted(counts))
        await self.run(_RESERVE.format(rows, "VALUES(number)"))
        taken = await self.run(f"{_HEADS} WHERE `partition` IN ({_marks(len(counts))})", list(counts))
        return {partition: number - counts[partition] + 1 for partition, number in taken}

    async def append_rows(self, rows: Sequence[Row]) -> None:
        await self.insert_rows(_APPEND, rows)

    async def insert_rows(self, insert: str, rows: Sequence[Row], otherwise: str = "") -> None:
        for part in _batches(rows):
            await self.work(partial(self._database.insert, insert=insert, rows=part, otherwise=otherwise))

    async def replace_columns(self, insert: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Give these columns of rows that are there the values in `rows`."""
        alias, value = self._database.new_values
        changes = ", ".join(f"{column} = {value.format(column)}" for column in columns)
        await self.insert_rows(insert, rows if columns else (), f"{alias} ON DUPLICATE KEY UPDATE {changes}")


class _Statements:
    """A table's SQL, and its rows as MySQL holds them: only times and booleans differ."""

    def __init__(self, table: Table) -> None:
        names = [_quoted(column.name) for column in table.columns]
        keys = [_quoted(field) for field in table.key]
        kinds = [column.kind for column in table.columns]
        self.name = _quoted(table.name)
        self.key = ", ".join(keys)
        self.select = f"SELECT {', '.join(names)} FROM {self.name}"
        self.insert = f"INSERT INTO {self.name} ({', '.join(names)}) VALUES "
        self.changes = [each for each in names if each not in keys]
        self.to_rows = converter(kinds, {"time": _to_held})
        self.from_rows = converter(kinds, {"time": _with_zone, "boolean": bool})
        self._one = " AND ".join(f"{key} = %s" for key in keys)

    def has_key(self, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """A condition that finds these keys by the index, and its values."""
        values = [_to_held(value) for key in keys for value in key]
        if len(keys[0]) == 1:
            return f"{self.key} IN ({_marks(len(keys))})", values
        return " OR ".join([f"({self._one})"] * len(keys)), values


@cache
def _statements_of(table: Table) -> _Statements:
    return _Statements(table)


def _with_zone(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def _to_held(value: Any) -> Any:
    return to_utc(value).replace(tzinfo=None) if isinstance(value, datetime) else value


def _is_one_of(name: str, values: Sequence[Any]) -> str:
    count = sum(value is not None for value in values)
    condition = f"{_quoted(name)} IN ({_marks(count)})" if count else "false"
    return f"({condition} OR {_quoted(name)} IS NULL)" if None in values else condition


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows in parts for statements that stay far below the server's largest packet."""
    if len(rows) <= _MAX_ROWS and sum(map(_text_in, zip(*rows, strict=True))) <= _MAX_TEXT:
        yield from (rows,) if rows else ()
        return
    start, text = 0, 0
    for end, row in enumerate(rows):
        length = sum(len(value) for value in row if isinstance(value, str | bytes))
        if end > start and (end - start == _MAX_ROWS or text + length > _MAX_TEXT):
            yield rows[start:end]
            start, text = end, 0
        text += length
    if start < len(rows):
        yield rows[start:]


def _text_in(column: Iterable[Any]) -> int:
    values = [value for value in column if value is not None]
    return sum(map(len, values)) if values and isinstance(values[0], str | bytes) else 0


def _values(rows: Sequence[Row], literal: Callable[[Any], str]) -> str:
    """The rows as SQL."""
    columns = [_literals(column, literal) for column in zip(*rows, strict=True)]
    return ", ".join([f"({', '.join(row)})" for row in zip(*columns, strict=True)])


def _literals(column: Sequence[Any], literal: Callable[[Any], str]) -> Sequence[str]:
    """A column's values as SQL. Bytes in hex, which takes a tenth of escaping them; what all rows have only once."""
    first = column[0]
    can_be_all = first is None or isinstance(first, str | bytes | int | datetime)  # but 0.0 and -0.0 are equal
    is_all = can_be_all and all(each == first for each in column)
    written = [
        f"x'{each.hex()}'" if isinstance(each, bytes) else literal(each) for each in column[: 1 if is_all else None]
    ]
    return written * len(column) if is_all else written


def _padded(keys: Sequence[Result]) -> Sequence[Result]:
    """As many keys as a power of two, so that few statements serve any number."""
    room = 1 << (len(keys) - 1).bit_length()
    return [*keys, *[keys[-1]] * (room - len(keys))]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def _collation(is_mariadb: bool) -> str:
    """Compares all bytes, trailing spaces too; utf8mb4_bin does not."""
    return "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"


@cache
def _types(is_mariadb: bool) -> Dialect:
    name, collation = "mariadb" if is_mariadb else "mysql", _collation(is_mariadb)
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


class _NoDatabaseError(SettingsError):
    """The database does not exist, or it is not for this user: MySQL does not say which."""


class _Database(Database):
    spelling = _SPELLING

    def __init__(self, url: str) -> None:
        self._address = parse_address(url, "mysql", 3306)
        options = dict(self._address.options)
        self._timeout = take_number(options, "timeout", _STATEMENT_S)
        size = int(take_number(options, "pool", _POOL))
        self._tls = _tls(self._address, options)
        if options:
            raise SettingsError(f"{self._address}: unknown option {', '.join(options)} in the URL")
        self._is_mariadb = False
        super().__init__(str(self._address), size)

    @property
    def types(self) -> Dialect:
        return _types(self._is_mariadb)

    @property
    def new_values(self) -> tuple[str, str]:
        """How an upsert names the values it was given."""
        return ("", "VALUES({})") if self._is_mariadb else (" AS new_row", "new_row.{}")

    async def connect(self) -> Connection:
        return await self._connect(self._address.database)

    async def _connect(self, database: str | None) -> Connection:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await self._greeted(database)
        except MySQLError as error:
            if error.args[0] in _CANT_LOG_IN:
                kind = _NoDatabaseError if error.args[0] in _NO_DATABASE else SettingsError
                raise kind(f"{self}: {error.args[-1]}") from error
            raise Unavailable(f"{self} can't be reached: {error.args[-1]}") from error
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"{self} can't be reached: {str(error) or type(error).__name__}") from error

    async def _greeted(self, database: str | None) -> Connection:
        address = self._address
        connection: Connection = await asyncmy.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=database,
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

    async def disconnect(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(1):
                await connection.ensure_closed()
        except (MySQLError, OSError, TimeoutError):
            connection.close()

    def is_open(self, connection: Connection) -> bool:
        return bool(connection.connected)

    def is_fit(self, connection: Connection) -> bool:
        is_whole = connection.connected and not connection._stream_broken  # noqa: SLF001 - the only way to see that the server has hung up
        return is_whole and not connection.get_transaction_status()

    def is_taken(self, error: Exception) -> bool:
        is_duplicate = isinstance(error, IntegrityError) and error.args[0] == _DUPLICATE
        return is_duplicate and str(error.args[1]).endswith("PRIMARY'")

    async def fetch(
        self, connection: Connection, sql: str, parameters: Sequence[Any] = (), *, again: bool = False
    ) -> list[Row]:
        try:
            async with asyncio.timeout(self._timeout + _LOCK_S), connection.cursor() as cursor:
                if again or not parameters:
                    await cursor.execute(sql, parameters or None)
                else:
                    await cursor.execute(cursor.mogrify(sql, parameters))
                return list(await cursor.fetchall())
        except (MySQLError, OSError, TimeoutError) as error:
            raise self._meaning_of(error, connection) from error

    async def insert(self, connection: Connection, insert: str, rows: Sequence[Row], otherwise: str) -> None:
        """Add rows by a statement that ends in `otherwise`. Raises as `fetch`."""
        await self.fetch(connection, f"{insert % ()}{_values(rows, connection.literal)}{otherwise % ()}")

    async def execute(self, connection: Connection, sql: str) -> None:
        await self.fetch(connection, sql)

    async def execute_slowly(self, connection: Connection, sql: str) -> None:
        try:
            async with asyncio.timeout(_SLOW_S):
                await connection.query(sql)
        except (MySQLError, OSError, TimeoutError) as error:
            if error.args and error.args[0] in _IS_THERE:
                return
            raise self._meaning_of(error, connection) from error

    async def change(self, connection: Connection, statements: Sequence[str]) -> None:
        """MySQL commits after each; one that was interrupted before finds its first part done."""
        for statement in statements:
            await self.execute_slowly(connection, statement)

    async def restore(self, connection: Connection, *, ran_sql: bool) -> None:
        if ran_sql or not connection.connected:
            await self._abandon(connection)
            return
        try:
            if connection.get_transaction_status():
                await self.execute(connection, "ROLLBACK")
        except (Unavailable, MySQLError):
            connection.close()

    async def _abandon(self, connection: Connection) -> None:
        """Close a connection for good; the server ends its statement and rolls back at once, not when it notices."""
        was_cancelled = not connection.connected
        await self.disconnect(connection)
        if was_cancelled:
            with suppress(Unavailable, SettingsError, MySQLError):
                async with self.unhurried() as other:
                    await self.execute(other, f"KILL {connection.thread_id():d}")

    @asynccontextmanager
    async def creating(self, part: Part) -> AsyncIterator[Connection]:
        try:
            await self.disconnect(await self.connect())
        except _NoDatabaseError:
            await self._make()
        async with super().creating(part) as connection:
            yield connection

    async def _make(self) -> None:
        """Make the database. Raises SettingsError, saying what to do, when the user may not."""
        name = "`" + self._address.database.replace("`", "``") + "`"
        connection = await self._connect(None)
        statement = f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE {_collation(self._is_mariadb)}"
        try:
            await self.execute(connection, statement)
        except MySQLError as error:
            if error.args[0] not in _NO_DATABASE:
                raise
            raise SettingsError(
                f"{self}: there is no such database, or it is not for {self._address.user}, who may not create it; "
                f"have an administrator run: {statement}; GRANT ALL ON {name}.* TO {self._address.user}"
            ) from error
        finally:
            await finished(self.disconnect(connection))

    async def be_alone(self, connection: Connection) -> None:
        name = f"chimera/{hashlib.sha256(self._address.database.encode()).hexdigest()[:40]}"
        await self.execute_slowly(connection, f"SELECT GET_LOCK('{name}', {int(_SLOW_S)})")

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
