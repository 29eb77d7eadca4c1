"""How MySQL and MariaDB are reached, how they type columns and take rows, and what their errors mean."""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

import asyncio
import hashlib
import math
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from typing import Any, TypeVar

import asyncmy
import sqlalchemy as sa
from asyncmy.errors import DataError, IntegrityError, MySQLError
from sqlalchemy.dialects import mysql

from chimera.adapters import rows as shared
from chimera.adapters.relational.engine import LOCK_S, Connection, Database
from chimera.adapters.relational.pool import WAIT_S, DatabaseAddress, finished, parse_address, take_number
from chimera.adapters.relational.schema import Dialect, Part
from chimera.adapters.rows import converter, wanted_prefix
from chimera.entities import Key, Row, Table, to_utc
from chimera.errors import Conflict, OutOfService, SettingsError, Unavailable

_POOL = 8
_CONNECT_S = 10.0
_STATEMENT_S = 30.0
_SLOW_S = 3600.0
_PREPARED = 128

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
        1243,
        1317,
        1615,
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
_OUT_OF_SERVICE = frozenset({1053, 1077, 1078, 1079, 1080, 1792, 1836})
_FORBIDS = 1290
_TOO_LONG = 1406
_DUPLICATE = 1062
_IS_THERE = frozenset({1050, 1060, 1061})

_SESSION = """
    SET sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', innodb_lock_wait_timeout = {},
        completion_type = 0, sql_safe_updates = 0, sql_auto_is_null = 0, sql_select_limit = DEFAULT,
        foreign_key_checks = 1, unique_checks = 1"""


_OPTIONS = "pool, timeout, tables, ssl_ca, ssl_cert, ssl_key"


class _NoDatabaseError(SettingsError):
    """The database does not exist, or it is not for this user: MySQL does not say which."""


class MySQLDatabase(Database):
    """A database on MySQL or MariaDB; a subclass says how SQL is spelled."""

    def __init__(self, url: str, *, wait_s: float = WAIT_S, lock_s: float = LOCK_S) -> None:
        self._address = parse_address(url, "mysql", 3306)
        options = dict(self._address.options)
        self._timeout = take_number(options, "timeout", _STATEMENT_S)
        size = int(take_number(options, "pool", _POOL))
        prefix = wanted_prefix(options, str(self._address))
        self._tls = _tls(self._address, options)
        if options:
            raise SettingsError(f"{self._address}: unknown option {', '.join(options)}; there are: {_OPTIONS}")
        self._is_mariadb = False
        super().__init__(str(self._address), size, prefix, wait_s=wait_s, lock_s=lock_s)

    @property
    def types(self) -> Dialect:
        return _types(self._is_mariadb)

    @property
    def new_values(self) -> tuple[str, str]:
        """How an upsert names the values it was given."""
        return ("", "VALUES({})") if self._is_mariadb else (" AS new_row", "new_row.{}")

    def renaming(self, tables: Sequence[tuple[str, str]]) -> Sequence[str]:
        renamed = ", ".join(f"{before} TO {after}" for before, after in tables)
        return [f"RENAME TABLE {renamed}"] if tables else []

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
            stmt_cache_size=_PREPARED,
        )
        self._is_mariadb = "mariadb" in connection.get_server_info().lower()
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(_SESSION.format(math.ceil(self._lock_s)))
                await cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                await cursor.execute(self._limit(self._timeout))
        except BaseException:
            connection.close()
            raise
        return connection

    def _limit(self, seconds: float) -> str:
        """The statement that has the server end what takes longer: MySQL only what selects."""
        if self._is_mariadb:
            return f"SET SESSION max_statement_time = {seconds}"
        return f"SET SESSION max_execution_time = {math.ceil(seconds * 1000)}"

    @asynccontextmanager
    async def unhurried(self) -> AsyncIterator[Connection]:
        async with super().unhurried() as connection:
            await self.execute(connection, self._limit(_SLOW_S))
            yield connection

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
        """Whatever has parameters is prepared, whether it comes again or not: values are bound, not written as SQL."""
        return await self._run(connection, sql, parameters, self._timeout + self._lock_s)

    async def execute(self, connection: Connection, sql: str) -> None:
        await self.fetch(connection, sql)

    async def execute_slowly(self, connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> None:
        try:
            await self._run(connection, sql, parameters, _SLOW_S)
        except MySQLError as error:
            if error.args[0] not in _IS_THERE:
                raise

    async def _run(self, connection: Connection, sql: str, parameters: Sequence[Any], seconds: float) -> list[Row]:
        try:
            async with asyncio.timeout(seconds), connection.cursor() as cursor:
                await cursor.execute(sql, parameters or None)
                return list(await cursor.fetchall())
        except (MySQLError, OSError, TimeoutError) as error:
            raise self.meaning_of(error, connection) from error

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

    def meaning_of(self, error: Exception, connection: Connection) -> Exception:
        number = error.args[0] if error.args else 0
        if number in _CONFLICTS:
            return Conflict(f"{self}: {error.args[-1]}")
        if number == _TOO_LONG and isinstance(error, DataError):
            return ValueError(f"{self}: {error.args[-1]}; text in keys holds at most 255 characters on MySQL")
        if number in _OUT_OF_SERVICE or (number == _FORBIDS and "read-only" in str(error.args[-1])):
            connection.close()
            return OutOfService(f"{self}: {error.args[-1]}")
        if number in _OUT_OF_REACH or not connection.connected or not isinstance(error, MySQLError):
            connection.close()
            return Unavailable(f"{self}: {error.args[-1] if error.args else type(error).__name__}")
        return error


def _collation(is_mariadb: bool) -> str:
    """Compares all bytes, trailing spaces too; utf8mb4_bin does not."""
    return "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"


@cache
def _types(is_mariadb: bool) -> Dialect:
    name, order = "mariadb" if is_mariadb else "mysql", _collation(is_mariadb)
    text = mysql.LONGTEXT(collation=order)
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
        key_text=mysql.VARCHAR(255, collation=order),
        key_text_shown="varchar",
        order=order,
        options={f"{name}_engine": "InnoDB"},
    )


def _tls(address: DatabaseAddress, options: dict[str, str]) -> ssl.SSLContext | None:
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


Item = TypeVar("Item")

MAX_KEYS = 512
# The driver has a statement prepared once per connection, and sends values in the protocol's binary form, not as SQL.
# So few statements serve any number of rows and keys: rows travel in parts of a few sizes, and keys are padded.
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
