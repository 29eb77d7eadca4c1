"""What the relational engines share: addresses, connection pools, what a transaction knows, and the schema.

Tables are described with SQLAlchemy and changed by Alembic, at `create` only: both write SQL, and the engine's
own driver runs it. No statement of the hot paths passes through them.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import alembic.command
import msgspec
import sqlalchemy as sa
from alembic.autogenerate import render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import AddColumnOp, AlterColumnOp, CreateTableOp, DropColumnOp, MigrateOperation, UpgradeOps
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.types import TypeEngine

from chimera import migrations
from chimera.entities import ColumnKind, Key, Row, Table
from chimera.errors import DeclarationError, SettingsError, Unavailable
from chimera.messages import Message

Connection = TypeVar("Connection")
Result = TypeVar("Result")
Part = Literal["store", "views"]

_WAIT_S = 10.0
_OWN_TABLES = {"store": ("heads", "journal"), "views": ("documents", "checkpoints", "revisions")}
_RESERVED = frozenset({name for names in _OWN_TABLES.values() for name in names})


class Address(msgspec.Struct, frozen=True):
    """Where a database is. As text it has no password, so that it may stand in logs and errors."""

    scheme: str
    user: str
    password: str
    host: str
    port: int
    database: str
    options: dict[str, str]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.user}@{self.host}:{self.port}/{self.database}"


def parse_address(url: str, scheme: str, port: int) -> Address:
    """Read `scheme://user:password@host:port/database?option=value`. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or port
    except ValueError:
        host = None
    database = unquote(parts.path[1:]) if host else ""
    if parts.scheme != scheme or not host or not database or not parts.username:
        raise SettingsError(
            f"{url.rpartition('@')[2]!r} is no address of a database; one looks like "
            f"{scheme}://user:password@host:{port}/database"
        )
    password = unquote(parts.password or "")
    return Address(scheme, unquote(parts.username), password, host, port, database, dict(parse_qsl(parts.query)))


def take_number(options: dict[str, str], name: str, default: float) -> float:
    """Remove an option that is a positive number. Raises SettingsError."""
    text = options.pop(name, str(default))
    try:
        number = float(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise SettingsError(f"the option {name}={text} of a database's URL must be a positive number")
    return number


class Pool(Generic[Connection]):
    """At most `size` connections, the one used last first. One that is broken is replaced when it is needed."""

    def __init__(
        self,
        name: str,
        size: int,
        connect: Callable[[], Awaitable[Connection]],
        disconnect: Callable[[Connection], Awaitable[None]],
        is_fit: Callable[[Connection], bool],
    ) -> None:
        self._name = name
        self._size = size
        self._connect = connect
        self._disconnect = disconnect
        self._is_fit = is_fit
        self._room = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._is_open = False
        self.opened: list[Connection] = []

    def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        await self.forget_idle()

    async def forget_idle(self) -> None:
        """Close what is not in use, because it may be broken as another connection was."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await self._drop(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of one's own. Raises Unavailable when there is none in time."""
        connection = await self._take()
        try:
            yield connection
        finally:
            if self._is_open and self._is_fit(connection):
                self._idle.append(connection)
                self._room.release()
            else:
                self._room.release()
                await finished(self._drop(connection))

    async def _take(self) -> Connection:
        if not self._is_open:
            raise Unavailable(f"{self._name} is not open: call create first")
        await self._wait_for_room()
        try:
            while True:
                while self._idle:
                    connection = self._idle.pop()
                    if self._is_fit(connection):
                        return connection
                    await self._drop(connection)
                await finished(self._add())
        except BaseException:
            self._room.release()
            raise

    async def _add(self) -> None:
        connection = await self._connect()
        self.opened.append(connection)
        if self._is_open:
            self._idle.append(connection)
        else:
            await self._drop(connection)
            raise Unavailable(f"{self._name} was closed")

    async def _wait_for_room(self) -> None:
        if not self._room.locked():
            await self._room.acquire()
            return
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._room.acquire()
        except TimeoutError as error:
            raise Unavailable(
                f"{self._name}: all {self._size} connections were in use for {_WAIT_S:.0f} s; "
                "allow more with pool=… in its URL"
            ) from error

    async def _drop(self, connection: Connection) -> None:
        self.opened.remove(connection)
        with suppress(Exception):
            await self._disconnect(connection)


async def finished(work: Awaitable[Result]) -> Result:
    """The work's result. It is over when this returns or raises, even if the caller is cancelled."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((future,))
        if not future.cancelled():
            future.exception()
        raise


class Seen:
    """What a transaction knows of keys: free, or taken by a row that it has locked.

    Nobody can lock a row that is not there. So a free key is inserted, never put over a row that came since:
    of two transactions that both found it free, the second fails.
    """

    def __init__(self) -> None:
        self._free: dict[str, set[Key]] = {}
        self._taken: dict[str, set[Key]] = {}
        self._whole: set[str] = set()

    def loaded(self, table: Table, keys: Iterable[Key], rows: Iterable[Row]) -> None:
        self._free.setdefault(table.name, set()).update(keys)
        self._take(table, set(map(table.key_of, rows)))

    def read_whole(self, table: Table, rows: Iterable[Row]) -> None:
        self._whole.add(table.name)
        self.loaded(table, (), rows)

    def unknown(self, table: Table, keys: Iterable[Key]) -> list[Key]:
        """Those of the keys that were neither found free nor taken."""
        if table.name in self._whole:
            return []
        known = self._free.get(table.name, set()) | self._taken.get(table.name, set())
        return [key for key in keys if key not in known]

    def to_insert(self, table: Table, keys: Iterable[Key]) -> set[Key]:
        """Those of the keys that are free; they count as taken from now on."""
        free = self._free.get(table.name, set()).intersection(keys)
        if table.name in self._whole:
            free |= set(keys) - self._taken.get(table.name, set())
        self._take(table, free)
        return free

    def _take(self, table: Table, keys: set[Key]) -> None:
        self._taken.setdefault(table.name, set()).update(keys)
        self._free.get(table.name, set()).difference_update(keys)


def latest_by_key(table: Table, rows: Sequence[Row]) -> dict[Key, Row]:
    """The rows by key, the last of each, in the order of the keys: locks are taken in one order by everybody."""
    kept = {table.key_of(row): row for row in rows}
    return {key: kept[key] for key in sorted(kept)}


def check_columns(table: Table, where: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError when a condition names a column that the table does not have."""
    names = [column.name for column in table.columns]
    if unknown := [name for name in where if name not in names]:
        raise ValueError(f"table {table.name} has no column {', '.join(unknown)}; it has: {', '.join(names)}")


def events_of(partition: int, rows: Iterable[Row]) -> list[Message]:
    """Journal rows (number, source, type, key, time, data, traceparent) as messages."""
    return [
        Message(f"{source}/{partition}@{number}", source, kind, key, moment, data, partition, number, traceparent)
        for number, source, kind, key, moment, data, traceparent in rows
    ]


class Found(msgspec.Struct, frozen=True):
    """A column as the database has it. `is_filled`: a row may be inserted without it."""

    type: str
    is_optional: bool
    is_filled: bool


class FoundTable(msgspec.Struct):
    """A table as the database has it."""

    columns: dict[str, Found] = {}
    key: list[str] = []


def found_tables(columns: Iterable[Row], keys: Iterable[Row]) -> dict[str, FoundTable]:
    """From rows (table, column, type, is_optional, is_filled) and (table, key column), both in order."""
    tables: dict[str, FoundTable] = {}
    for table, column, kind, is_optional, is_filled in columns:
        tables.setdefault(table, FoundTable()).columns[column] = Found(kind, bool(is_optional), bool(is_filled))
    for table, column in keys:
        tables.setdefault(table, FoundTable()).key.append(column)
    return tables


class Dialect(msgspec.Struct, frozen=True):
    """How an engine types columns: for SQLAlchemy, and as its information_schema shows them."""

    name: str
    types: Mapping[ColumnKind, TypeEngine[Any]]
    shown: Mapping[ColumnKind, str]
    key_text: TypeEngine[Any]
    key_text_shown: str
    options: Mapping[str, Any] = {}

    def type_of(self, table: Table, column: str) -> tuple[TypeEngine[Any], str]:
        kind = next(each.kind for each in table.columns if each.name == column)
        if kind == "text" and column in table.key:
            return self.key_text, self.key_text_shown
        return self.types[kind], self.shown[kind]


def entity_changes(dialect: Dialect, where: str, table: Table, found: FoundTable | None) -> list[str]:
    """The SQL that makes a table fit its entity without losing anything.

    Raises SettingsError, with the Alembic operation to run, where only a person can decide.
    """
    if table.name in _RESERVED or re.fullmatch(r"chimera_\w+_version", table.name):
        raise DeclarationError(f"an entity's table can't be {table.name!r} here; choose another with table=…")
    if found is None:
        return _sql(dialect, [CreateTableOp.from_table(_described(dialect, table))])
    _Fit(dialect, where, table, found).check()
    columns = {column.name: column for column in table.columns}
    return _sql(
        dialect,
        [
            *(AddColumnOp(table.name, _column(dialect, table, name)) for name in columns if name not in found.columns),
            *(
                _alter(dialect, table, name, nullable=True)
                for name, kept in found.columns.items()
                if name in columns and columns[name].optional and not kept.is_optional
            ),
        ],
    )


class _Fit:
    """Whether an existing table can serve an entity."""

    def __init__(self, dialect: Dialect, where: str, table: Table, found: FoundTable) -> None:
        self._dialect = dialect
        self._table = table
        self._found = found
        self._place = f"table {table.name} in {where}"

    def check(self) -> None:
        if self._found.key != list(self._table.key):
            raise SettingsError(
                f"{self._place} has the key {', '.join(self._found.key)}, not {', '.join(self._table.key)}: give the "
                "entity a new name with table=… and copy the rows, since a key can't change under a running service"
            )
        missing = [column for column in self._table.columns if column.name not in self._found.columns]
        for column in missing:
            if not column.optional:
                self._refuse_new(column.name)
        names = {column.name for column in self._table.columns}
        for name in self._found.columns.keys() - names:
            self._check_unknown(name, [column.name for column in missing])
        for column in self._table.columns:
            if column.name in self._found.columns:
                self._check_kept(column.name, column.optional)

    def _refuse_new(self, name: str) -> None:
        column = _column(self._dialect, self._table, name)
        column.server_default = sa.DefaultClause("…")
        raise self._refusal(
            f"lacks the column {name!r}, and its rows need a value there: make the field optional (`| None = None`), "
            "or add the column with the value that old rows shall have",
            AddColumnOp(self._table.name, column),
        )

    def _check_unknown(self, name: str, missing: Sequence[str]) -> None:
        """A column that the entity does not have may stay: an older version of the service may still use it."""
        drop = DropColumnOp(self._table.name, name)
        if missing:
            kept = self._found.columns[name]
            renamed = AlterColumnOp(
                self._table.name,
                name,
                modify_name=missing[0],
                existing_nullable=kept.is_optional,
                existing_type=_column(self._dialect, self._table, missing[0]).type,
            )
            raise self._refusal(
                f"lacks the column {missing[0]!r} and has {name!r}, which its entity does not: "
                "if the field was renamed, run the first operation, if it is gone, the second",
                renamed,
                drop,
            )
        if not self._found.columns[name].is_filled:
            raise self._refusal(
                f"has the column {name!r}, which its entity does not and no row can go without: "
                "if the field is gone, drop the column",
                drop,
            )

    def _check_kept(self, name: str, optional: bool) -> None:
        kept = self._found.columns[name]
        wanted, shown = self._dialect.type_of(self._table, name)
        if kept.type != shown:
            raise self._refusal(
                f"has {name!r} as {kept.type}, its field needs {shown}: give the field a new name, "
                "or convert the column",
                _alter(self._dialect, self._table, name, kept.is_optional, wanted),
            )
        if kept.is_optional and not optional:
            raise self._refusal(
                f"may hold NULL in {name!r}, its field may not be None: make the field optional (`| None`), "
                "or fill the gaps and forbid them",
                _alter(self._dialect, self._table, name, nullable=False),
            )

    def _refusal(self, says: str, *operations: MigrateOperation) -> SettingsError:
        written = "; ".join(_as_python(self._dialect, operation) for operation in operations)
        return SettingsError(f"{self._place} {says}, with Alembic: {written}")


def _as_python(dialect: Dialect, operation: MigrateOperation) -> str:
    context = MigrationContext.configure(dialect_name=dialect.name)
    lines = render_python_code(UpgradeOps([operation]), migration_context=context).splitlines()
    return " ".join(line.strip() for line in lines if not line.strip().startswith("#"))


def own_changes(dialect: Dialect, where: str, part: Part, version: str | None) -> list[str]:
    """The SQL that moves Chimera's own tables forward from a version (None: there are none)."""
    statements: list[str] = []
    folder = Path(migrations.__file__).parent
    config = Config(
        output_buffer=io.StringIO(),
        stdout=io.StringIO(),
        attributes={
            "dialect": dialect.name,
            "statements": _Collected(statements),
            "version_table": version_table(part),
        },
    )
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(folder / part).replace("%", "%%"))
    if version == ScriptDirectory.from_config(config).get_current_head():
        return []
    try:
        alembic.command.upgrade(config, f"{version}:head" if version else "head", sql=True)
    except CommandError as error:
        raise SettingsError(
            f"{where} was moved to {version} by a newer Chimera; this one can't use it: update chimera-kit here"
        ) from error
    return statements


def version_table(part: Part) -> str:
    """Where Alembic keeps the version of Chimera's own tables."""
    return f"chimera_{part}_version"


class _Collected:
    """Where Alembic writes to: one call per statement."""

    def __init__(self, statements: list[str]) -> None:
        self._statements = statements

    def write(self, text: str) -> None:
        if (statement := text.strip().rstrip(";")) and not statement.startswith("--"):
            self._statements.append(statement)

    def flush(self) -> None: ...


def _sql(dialect: Dialect, operations: Sequence[MigrateOperation]) -> list[str]:
    statements: list[str] = []
    context = Operations(_context(dialect, statements))
    for operation in operations:
        context.invoke(operation)
    return statements


def _context(dialect: Dialect, statements: list[str]) -> MigrationContext:
    return MigrationContext.configure(
        dialect_name=dialect.name, opts={"as_sql": True, "output_buffer": _Collected(statements)}
    )


def _described(dialect: Dialect, table: Table) -> sa.Table[Any]:
    columns = [_column(dialect, table, column.name) for column in table.columns]
    key = sa.PrimaryKeyConstraint(*table.key)
    return sa.Table(table.name, sa.MetaData(), *columns, key, **dialect.options)


def _column(dialect: Dialect, table: Table, name: str) -> sa.Column[Any]:
    optional = next(column.optional for column in table.columns if column.name == name)
    column = sa.Column(name, dialect.type_of(table, name)[0], nullable=optional)
    if name in table.key:
        column.autoincrement = False
    return column


def _alter(
    dialect: Dialect, table: Table, name: str, nullable: bool, to: TypeEngine[Any] | None = None
) -> AlterColumnOp:
    if to is not None:
        return AlterColumnOp(table.name, name, modify_type=to, existing_nullable=nullable)
    kept = dialect.type_of(table, name)[0]
    return AlterColumnOp(table.name, name, modify_nullable=nullable, existing_type=kept)


def other_partitions(where: str, kept: int, asked: int) -> SettingsError:
    return SettingsError(f"the journal in {where} has {kept} partitions, not {asked}; their number can't change")


def chunks(items: Sequence[Result], size: int) -> Iterator[Sequence[Result]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def distinct(keys: Collection[Key]) -> list[Key]:
    return list(dict.fromkeys(keys))
