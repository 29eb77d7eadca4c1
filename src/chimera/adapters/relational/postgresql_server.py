"""How PostgreSQL is reached, how it types columns, what its errors mean, and how it tells of commits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from urllib.parse import quote, urlencode

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from chimera.adapters.relational.engine import LOCK_S, Connection, Database
from chimera.adapters.relational.pool import WAIT_S, DatabaseAddress, parse_address, take_number
from chimera.adapters.relational.schema import Dialect
from chimera.adapters.rows import quoted, wanted_prefix
from chimera.entities import Row
from chimera.errors import ChimeraError, Conflict, OutOfService, SettingsError, Unavailable

_POOL = 8
_CONNECT_S = 10.0
_STATEMENT_S = 30.0
_IDLE_IN_TRANSACTION_S = 60.0
SLOW_S = 3600.0
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
_NO_DATABASE = "3D000"
_FORBIDDEN = "42501"
_CANT_LOG_IN = ("28", _NO_DATABASE, _FORBIDDEN)
_OUT_OF_REACH = ("08", "53", "57", "58")
_OUT_OF_SERVICE = frozenset({"25006", "57P03"})
_UNKNOWN_SETTING = "unsupported startup parameter"
_OTHERS_STATEMENTS = frozenset({"26000", "42P05"})
_GREETING = "SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('server_encoding')"
_PID = "SELECT pg_backend_pid()"
_SHARED_TRIES = 3

_CHANNEL = "chimera"
_RING = "SELECT pg_notify($1, name) FROM unnest($2::text[]) AS name"
_RING_S = 0.005
"""Seconds in which the commits of a process are told together."""
_LISTEN_AGAIN_S = 1.0
_LAST_RING_S = 1.0
_ALIVE_S = 30.0
"""Seconds of silence after which a connection that listens is tried."""

_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

_TYPES = Dialect(
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


logger = logging.getLogger("chimera")

Heard = Callable[[], None]


class Notices:
    """Tells those who listen in other processes that something was committed in a schema of a database.

    One connection of a process listens and rings for all its schemas, by LISTEN and NOTIFY: apart from the commits,
    whose order a NOTIFY in them would hold up. While it is down, rings are kept; whenever it comes back, all hear.
    """

    def __init__(self) -> None:
        self._listeners: dict[object, tuple[str, Heard]] = {}
        self._rung: set[str] = set()
        self._ringing, self._all_rung = asyncio.Event(), asyncio.Event()
        self._all_rung.set()
        self._working: asyncio.Task[None] | None = None

    def listen(self, schema: str, listener: object, heard: Heard, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Call `heard` whenever somebody else may have committed in a schema, until `ignore`."""
        self._listeners[listener] = schema, heard
        if self._working is None:
            self._working = asyncio.ensure_future(self._keep(connect))

    def ring(self, schema: str, by: object) -> None:
        """Something was committed in a schema: tell all who listen to it, but for who did it."""
        for listener, (listens_to, heard) in self._listeners.items():
            if listens_to == schema and listener is not by:
                heard()
        if self._working is not None:
            self._rung.add(schema)
            self._ringing.set()
            self._all_rung.clear()

    async def ignore(self, listener: object) -> None:
        """Call a listener no more."""
        self._listeners.pop(listener, None)
        if not self._listeners and self._working is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_RING_S):
                    await self._all_rung.wait()
            working, self._working = self._working, None
            working.cancel()
            await asyncio.wait((working,))

    async def _keep(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        while True:
            try:
                connection = await connect()
                try:
                    await connection.add_listener(_CHANNEL, self._hear)
                    self._wake(None)
                    await self._ring(connection)
                finally:
                    connection.terminate()
            except (*_FAILURES, ChimeraError) as error:
                logger.debug("nobody listens: %r", error)
            self._wake(None)
            await asyncio.sleep(_LISTEN_AGAIN_S)

    async def _ring(self, connection: Connection) -> None:
        """Ring when something was committed, and now and then see whether the connection is there. Raises when not."""
        while True:
            try:
                async with asyncio.timeout(_ALIVE_S):
                    await self._ringing.wait()
                await asyncio.sleep(_RING_S)
            except TimeoutError:
                pass
            self._ringing.clear()
            rung, self._rung = self._rung, set()
            try:
                await connection.fetch(_RING, _CHANNEL, list(rung), timeout=_CONNECT_S)
            except BaseException:
                self._rung |= rung
                self._ringing.set()
                raise
            if not self._rung:
                self._all_rung.set()

    def _hear(self, connection: Connection, pid: int, channel: str, schema: str) -> None:
        if pid != connection.get_server_pid():
            self._wake(schema)

    def _wake(self, schema: str | None) -> None:
        for listens_to, heard in list(self._listeners.values()):
            if schema in (None, listens_to):
                heard()


@lru_cache(64)
def _notices_of(dsn: str, loop: asyncio.AbstractEventLoop) -> Notices:
    return Notices()


class PostgreSQLDatabase(Database):
    """A schema of a database on PostgreSQL; a subclass says how SQL is spelled."""

    types = _TYPES

    def __init__(
        self, url: str, settings: Mapping[str, str], *, wait_s: float = WAIT_S, lock_s: float = LOCK_S
    ) -> None:
        self._address = parse_address(url, "postgresql", 5432)
        options = dict(self._address.options)
        self._schema = options.pop("schema", "public")
        self._timeout = take_number(options, "timeout", _STATEMENT_S)
        size = int(take_number(options, "pool", _POOL))
        prefix = wanted_prefix(options, str(self._address))
        self._dsn = _dsn(self._address, {name: value for name, value in options.items() if name.startswith("ssl")})
        self._settings = {
            "application_name": "chimera",
            "search_path": f"{quoted(self._schema)}, public",
            "TimeZone": "UTC",
            "default_transaction_isolation": "read committed",
            "jit": "off",
            "statement_timeout": _milliseconds(self._timeout),
            "lock_timeout": _milliseconds(lock_s),
            "idle_in_transaction_session_timeout": _milliseconds(_IDLE_IN_TRANSACTION_S),
            **settings,
            **{name: value for name, value in options.items() if not name.startswith("ssl")},
        }
        self._keeps_sessions = False
        super().__init__(f"{self._address}?schema={self._schema}", size, prefix, wait_s=wait_s, lock_s=lock_s)

    def renaming(self, tables: Sequence[tuple[str, str]]) -> Sequence[str]:
        return [f"ALTER TABLE {before} RENAME TO {after}" for before, after in tables]

    def listen(self, heard: Heard) -> None:
        """Call `heard`, until `ignore`, soon after somebody else may have committed in this schema."""
        self._notices().listen(self._schema, self, heard, self._logged_in)

    def ring(self) -> None:
        """Something was committed here."""
        self._notices().ring(self._schema, self)

    async def ignore(self) -> None:
        """Hear nothing any more."""
        await self._notices().ignore(self)

    def _notices(self) -> Notices:
        return _notices_of(self._dsn, asyncio.get_running_loop())

    async def connect(self) -> Connection:
        connection = await self._logged_in()
        try:
            await self._greet(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _logged_in(self) -> Connection:
        """Raises as `connect`. A pooler that takes no settings at the start is given them afterwards."""
        try:
            return await self._log_in(self._settings)
        except asyncpg.ProtocolViolationError as error:
            if _UNKNOWN_SETTING not in str(error):
                raise Unavailable(f"{self} can't be reached: {error}") from error
        return await self._log_in({})

    async def _log_in(self, settings: Mapping[str, str]) -> Connection:
        try:
            return await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_S,
                command_timeout=self._timeout + self._lock_s,
                server_settings=dict(settings),
            )
        except asyncpg.ProtocolViolationError:
            raise
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if state == _NO_DATABASE:
                raise SettingsError(
                    f"{self}: the database does not exist; create it: CREATE DATABASE {quoted(self._address.database)}"
                ) from error
            if state.startswith(_CANT_LOG_IN):
                raise SettingsError(f"{self}: {error}") from error
            raise Unavailable(f"{self} can't be reached: {error}") from error
        except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
            raise Unavailable(f"{self} can't be reached: {str(error) or type(error).__name__}") from error

    async def _greet(self, connection: Connection) -> None:
        """Raises OutOfService for a standby, SettingsError for what can't be worked with."""
        try:
            [(pid, is_standby, encoding)] = await self.fetch(connection, _GREETING)
            if pid != connection.get_server_pid():
                await self._check_pooler(connection)
                settings = ", ".join(f"set_config('{name}', ${at}, false)" for at, name in enumerate(self._settings, 1))
                await self.fetch(connection, f"SELECT {settings}", [*self._settings.values()])
        except asyncpg.PostgresError as error:
            is_shared = error.sqlstate in _OTHERS_STATEMENTS
            raise self._shared() if is_shared else SettingsError(f"{self}: {error}") from error
        if is_standby:
            raise OutOfService(
                f"{self} is a standby, which takes no writes; it may be promoted, or the primary come back"
            )
        if encoding != "UTF8":
            raise SettingsError(
                f"{self}: the database's encoding is {encoding}, which can't hold all text; create one with UTF8: "
                f"CREATE DATABASE {quoted(self._address.database)} ENCODING 'UTF8' TEMPLATE template0"
            )

    async def _check_pooler(self, connection: Connection) -> None:
        """Raises SettingsError where a connection's transactions are not all in one session of the server."""
        if self._keeps_sessions:
            return
        other = await self._logged_in()
        try:
            for _ in range(_SHARED_TRIES):
                [(mine,)] = await self.fetch(connection, _PID)
                await self.execute(other, "BEGIN")
                [(theirs,)] = await self.fetch(other, _PID)
                await self.execute(other, "ROLLBACK")
                if mine == theirs:
                    raise self._shared()
        finally:
            await self.disconnect(other)
        self._keeps_sessions = True

    def _shared(self) -> SettingsError:
        return SettingsError(
            f"{self}: a pooler such as PgBouncer gives each transaction another session, and settings and prepared "
            "statements with it; give this database pool_mode = session there, or connect to PostgreSQL itself"
        )

    async def disconnect(self, connection: Connection) -> None:
        try:
            await connection.close(timeout=1)
        except (*_FAILURES, asyncio.CancelledError):
            connection.terminate()

    def is_open(self, connection: Connection) -> bool:
        return not connection.is_closed()

    def is_fit(self, connection: Connection) -> bool:
        return not connection.is_closed() and not connection.is_in_transaction()

    def is_taken(self, error: Exception) -> bool:
        return isinstance(error, asyncpg.UniqueViolationError) and (error.constraint_name or "").endswith("_pkey")

    async def fetch(
        self, connection: Connection, sql: str, parameters: Sequence[object] = (), *, again: bool = False
    ) -> list[Row]:
        try:
            rows: list[Row] = await connection.fetch(sql, *parameters)
            return rows
        except _FAILURES as error:
            raise self.meaning_of(error, connection) from error

    async def copy(self, connection: Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Add rows whose keys are free. Raises as `fetch`."""
        try:
            await connection.copy_records_to_table(table, records=rows, columns=columns)
        except _FAILURES as error:
            raise self.meaning_of(error, connection) from error

    async def execute(self, connection: Connection, sql: str) -> None:
        await self._execute(connection, sql)

    async def execute_slowly(self, connection: Connection, sql: str) -> None:
        await self._execute(connection, sql, timeout=SLOW_S)

    async def _execute(self, connection: Connection, sql: str, **options: float) -> None:
        try:
            await connection.execute(sql, **options)
        except _FAILURES as error:
            raise self.meaning_of(error, connection) from error

    async def change(self, connection: Connection, statements: Sequence[str]) -> None:
        async with connection.transaction():
            for statement in statements:
                await self.execute_slowly(connection, statement)

    async def restore(self, connection: Connection, *, ran_sql: bool) -> None:
        try:
            if self.is_open(connection) and connection.is_in_transaction():
                await connection.execute("ROLLBACK", timeout=_CONNECT_S)
            if self.is_open(connection) and ran_sql:
                await connection.execute("RESET ALL", timeout=_CONNECT_S)
        except _FAILURES:
            connection.terminate()

    @asynccontextmanager
    async def unhurried(self) -> AsyncIterator[Connection]:
        async with super().unhurried() as connection:
            try:
                await self.execute(connection, f"SET statement_timeout = {_milliseconds(SLOW_S)}")
                yield connection
            except _FAILURES as error:
                raise self.meaning_of(error, connection) from error

    async def be_alone(self, connection: Connection) -> None:
        await self.execute(connection, "SET lock_timeout = 0")
        lock = "SELECT pg_advisory_lock(hashtext('chimera'), hashtext($1))"
        await connection.fetchval(lock, self._schema, timeout=SLOW_S)
        await self.execute(connection, f"SET lock_timeout = {_milliseconds(self._lock_s)}")
        if not await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = $1", self._schema):
            await self._make_schema(connection)

    async def _make_schema(self, connection: Connection) -> None:
        """Raises SettingsError, saying what to do, when the user may not."""
        statement = f"CREATE SCHEMA {quoted(self._schema)}"
        try:
            await self.execute(connection, statement)
        except asyncpg.InsufficientPrivilegeError as error:
            user = quoted(self._address.user)
            raise SettingsError(
                f"{self}: there is no such schema, and {self._address.user} may not create it; "
                f"have an administrator run: {statement} AUTHORIZATION {user}"
            ) from error

    def meaning_of(self, error: Exception, connection: Connection) -> Exception:
        state = getattr(error, "sqlstate", None) or ""
        if state in _CONFLICTS or isinstance(error, asyncpg.InvalidCachedStatementError):
            return Conflict(f"{self}: {error}")
        if isinstance(error, asyncpg.InternalClientError):
            connection.terminate()  # asyncpg's word for a server that hung up before it was asked
        if state in _OUT_OF_SERVICE:
            return OutOfService(f"{self}: {error}")
        lost = isinstance(error, OSError | TimeoutError) or connection.is_closed()
        if state.startswith(_OUT_OF_REACH) or (lost and not isinstance(error, asyncpg.DataError)):
            return Unavailable(f"{self}: {str(error) or type(error).__name__}")
        return error


def _dsn(address: DatabaseAddress, options: Mapping[str, str]) -> str:
    login = quote(address.user, safe="") + (f":{quote(address.password, safe='')}" if address.password else "")
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"postgresql://{login}@{host}:{address.port}/{quote(address.database)}?{urlencode(options)}"


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
