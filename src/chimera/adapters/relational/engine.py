"""The common part of the relational servers: a database and its sessions; `stores` has the engines on it.

An adapter says how its server spells SQL (`Spelling`), how it is reached (`Database`), and how rows travel
(`RelationalSession`). Sessions, journal and checkpoints are here, once.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar

from chimera.adapters.relational.pool import WAIT_S, Pool, finished
from chimera.adapters.relational.read_set import GUARDS, Contention, ReadSet, TableReads, together
from chimera.adapters.relational.schema import (
    Dialect,
    Part,
    Spelling,
    entity_changes,
    found_tables,
    own_changes,
    own_prefix,
    spelled,
    version_table,
)
from chimera.adapters.rows import (
    check_columns,
    events_of,
    index_name,
    journal_rows,
    lending_of,
    new_chain,
    other_partitions,
    own,
    tips_of,
    windowed,
)
from chimera.entities import Key, Range, Row, Table, Where, Window
from chimera.errors import ChimeraError, Conflict, CutShort, OutOfService, Unavailable
from chimera.messages import Message
from chimera.ports import Tip

Result = TypeVar("Result")
Connection = Any  # asyncpg's and asyncmy's own are compiled classes without types

LOCK_S = 10.0
"""Seconds that a row which somebody else has locked is waited for."""
_TABLES = "SELECT concat(table_name) FROM information_schema.tables WHERE table_schema = {}"
"""As plain text: drivers ask a server what other types are, on each new connection."""


class Database(ABC):
    """A database, and the connections to it.

    `wait_s` and `lock_s`: seconds that a free connection and a locked row are waited for.
    """

    spelling: Spelling

    def __init__(
        self, name: str, pool_size: int, prefix: str | None = None, *, wait_s: float = WAIT_S, lock_s: float = LOCK_S
    ) -> None:
        self._name = name
        self._lock_s = lock_s
        self._wanted = prefix
        self._prefix = ""
        self.partitions = 0
        self.guarded: set[str] = set()
        self.contention = Contention()
        self.lending: Any = None
        self.pool: Pool[Connection] = Pool(name, pool_size, self.connect, self.disconnect, self.is_fit, wait_s=wait_s)

    def __str__(self) -> str:
        """The address, without a password."""
        return self._name

    @abstractmethod
    async def connect(self) -> Connection:
        """Raises Unavailable, or SettingsError when the server is there but does not let us in."""

    @abstractmethod
    async def disconnect(self, connection: Connection) -> None:
        """Close a connection, whatever state it is in."""

    @abstractmethod
    def is_open(self, connection: Connection) -> bool:
        """True until the connection was closed, or is known to be lost."""

    @abstractmethod
    def is_fit(self, connection: Connection) -> bool:
        """True when it is open and in no transaction."""

    @abstractmethod
    def is_taken(self, error: Exception) -> bool:
        """True when the error is that there is a row with the primary key of an inserted one."""

    @abstractmethod
    async def fetch(
        self, connection: Connection, sql: str, parameters: Sequence[object] = (), *, again: bool = False
    ) -> Sequence[Row]:
        """The rows of a statement. `again`: it comes again and again, so that the server may hold it prepared.

        Raises Conflict, Unavailable, or what the driver raises.
        """

    @abstractmethod
    async def execute(self, connection: Connection, sql: str) -> None:
        """Run a statement without parameters or rows. Raises as `fetch`."""

    @abstractmethod
    async def execute_slowly(self, connection: Connection, sql: str) -> None:
        """As `execute`, for what may take an hour. Where a table or index is made in vain, it does nothing."""

    @abstractmethod
    async def change(self, connection: Connection, statements: Sequence[str]) -> None:
        """Change the schema: at once where the engine can, else so that what was interrupted can be run again."""

    @abstractmethod
    async def restore(self, connection: Connection, *, ran_sql: bool) -> None:
        """Make a connection as it was, whatever happened to it. `ran_sql`: a user's SQL may have changed settings."""

    @abstractmethod
    def meaning_of(self, error: Exception, connection: Connection) -> Exception:
        """An error of the driver as it is told: a Conflict, Unavailable, or itself. It may close the connection."""

    @abstractmethod
    async def be_alone(self, connection: Connection) -> None:
        """Wait until nobody else creates or changes tables here; nobody else does before the connection closes."""

    @property
    @abstractmethod
    def types(self) -> Dialect:
        """The dialect: how the server types columns; known once there was a connection."""

    async def read(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Rows of one statement outside any transaction; asked again when an old connection turns out broken."""
        async with self.pool.connection() as connection:
            try:
                return await self.fetch(connection, sql, parameters, again=True)
            except Unavailable:
                if self.is_open(connection):
                    raise
                await self.pool.forget_idle()
        async with self.pool.connection() as connection:
            return await self.fetch(connection, sql, parameters, again=True)

    @asynccontextmanager
    async def unhurried(self) -> AsyncIterator[Connection]:
        """A connection of its own. Nobody runs its work again after a conflict, so it is Unavailable."""
        connection = await self.connect()
        try:
            yield connection
        except Conflict as error:
            raise Unavailable(str(error)) from error
        finally:
            await finished(self.disconnect(connection))

    @asynccontextmanager
    async def creating(self, part: Part) -> AsyncIterator[Connection]:
        """Alone in this database, with Chimera's own tables as they must be."""
        async with self.unhurried() as connection:
            await self.be_alone(connection)
            table, version = version_table(part), None
            rows = await self.fetch(connection, _TABLES.format(self.spelling.here))
            there = {name for (name,) in rows}
            if table in there:
                version = next((at for (at,) in await self.fetch(connection, f"SELECT version_num FROM {table}")), None)
            self._prefix, renamed = own_prefix(part, there, self._wanted)
            self.spelling = spelled(type(self).spelling, self._prefix)
            changes = own_changes(self.types, str(self), part, version)
            await self.change(connection, [*self.renaming(renamed), *map(self.own, changes)])
            yield connection

    def own(self, sql: str) -> str:
        """SQL on Chimera's own tables, which are written bare, as they are called here."""
        return own(sql, self._prefix)

    @abstractmethod
    def renaming(self, tables: Sequence[tuple[str, str]]) -> Sequence[str]:
        """The SQL that renames tables, all of them or none."""

    async def fit_tables(self, connection: Connection, tables: Sequence[Table]) -> None:
        """Raises SettingsError where a table can't be made to fit its entity."""
        columns = await self.fetch(connection, self.spelling.columns)
        found = found_tables(columns, await self.fetch(connection, self.spelling.keys))
        changes = [
            entity_changes(self.types, str(self), table, found.get(table.name), self._prefix) for table in tables
        ]
        existing = {name for (name,) in await self.fetch(connection, self.spelling.indexes)}
        wanted = [(index_name(table, column), table.name, column) for table in tables for column in table.indexes]
        changes.append(
            [
                self.spelling.index.format(name=name, table=table, column=column)
                for name, table, column in wanted
                if name not in existing
            ]
        )
        await self.change(connection, [statement for each in changes for statement in each])

    async def number_partitions(self, connection: Connection, partitions: int) -> None:
        """Raises SettingsError when the journal has another number of partitions."""
        [(found,)] = await self.fetch(connection, self.own("SELECT count(*) FROM heads"))
        if found == 0:
            rows = ", ".join(f"({partition}, 0, NULL, NULL, NULL)" for partition in range(partitions))
            await self.execute(connection, f"{self.own('INSERT INTO heads')} VALUES {rows}")
        elif found != partitions:
            raise other_partitions(f"the journal in {self}", found, partitions)
        begun = f"chain = '{(chain := new_chain())}', anchor = '{chain}'"
        await self.execute(connection, f"{self.own('UPDATE heads')} SET trimmed = number, {begun} WHERE chain IS NULL")
        self.partitions = partitions


class RelationalSession(ABC):
    """Statements on a connection, until the session ends. With `locks`, it locks what it loads.

    `may_have_written`: something may have been changed. An engine says how rows are selected, inserted and replaced.
    """

    def __init__(self, database: Database, connection: Connection, *, locks: bool) -> None:
        self.dialect = database.spelling.dialect
        self._database = database
        self._connection: Connection | None = connection
        self._failure: Exception | None = None
        self._ran_sql = False
        self.may_have_written = False
        self._seen = ReadSet(database.contention)
        self._loan: Any = None
        self._locks = locks
        self._lock = " FOR UPDATE" if locks else ""

    @abstractmethod
    async def select(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        """The rows with these keys."""

    @abstractmethod
    async def select_where(self, table: Table, where: Where) -> Sequence[Row]:
        """The rows that `find` returns; the columns exist."""

    @abstractmethod
    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        """As `Session.scan`."""

    @abstractmethod
    async def select_page(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        """The rows that `page` returns; the columns exist."""

    @abstractmethod
    async def count_where(self, table: Table, where: Where, window: Window) -> int:
        """The number that `count` returns; the columns exist."""

    @abstractmethod
    async def insert(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows, at least one, whose keys are free."""

    @abstractmethod
    async def replace(self, table: Table, rows: Sequence[Row]) -> None:
        """Put rows, at least one, over those with their keys, or insert them if the engine upserts by key."""

    @abstractmethod
    async def remove(self, table: Table, keys: Sequence[Key]) -> None:
        """As `WriteSession.delete`."""

    @abstractmethod
    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        """As `WriteSession.expire`."""

    @abstractmethod
    async def tips(self, partitions: Sequence[int]) -> Sequence[Row]:
        """The rows (partition, number, chain) of these heads, which exist and are locked in this order."""

    @abstractmethod
    async def append_rows(self, rows: Sequence[Row], tips: Sequence[Row]) -> None:
        """Add rows, as `journal_rows` makes them, to the journal, and move its heads to `tips`."""

    @asynccontextmanager
    async def between(self, begin: Sequence[str]) -> AsyncIterator[None]:
        """The transaction, or none without statements to begin it. Once a statement has failed it is never committed.

        A deadlock has undone all of it, and PostgreSQL would turn the commit into a silent rollback.
        """
        connection = self._connection
        try:
            for statement in begin:
                await self._database.execute(connection, statement)
            yield
            if self._failure is not None:
                raise self._failure
            await self._look_again()
            self._connection = None
            if begin:
                await finished(self._database.execute(connection, "COMMIT"))
        finally:
            self._connection = None
            if self._loan is not None:
                await finished(self._loan.give_back())
            if self._ran_sql or not self._database.is_fit(connection):
                await finished(self._database.restore(connection, ran_sql=self._ran_sql))

    async def _look_again(self) -> None:
        """Raises Conflict where a row has come since it was looked for.

        Of those who looked, and touch one table in common, each does this and commits before the next: they wait here,
        holding all they need, so that none waits for another in a circle. Who comes later sees what came before; and
        who looked for nothing was either seen here, or holds no row that this transaction needed.
        """
        looked_in = self._seen.looked_in()
        if not looked_in:
            return
        own = self._seen.guards()
        await self.select(GUARDS, [(name,) for name in sorted(self._database.guarded)] if self._ran_sql else own)
        self._lock = ""
        for seen in looked_in:
            rows = await self._relied_on(seen)
            came = seen.has_come_beside_sql(seen.table, rows) if self._ran_sql else seen.has_come(seen.table, rows)
            if came is not None:
                raise self._seen.came_since(seen.table, came)

    async def _relied_on(self, seen: TableReads) -> Sequence[Row]:
        """All rows that were looked for, as they are now. Of SQL's own, those that others can see as well."""
        rows = await self.all_wanted(seen)
        if rows and self._ran_sql:
            async with self._database.unhurried() as connection:
                committed = type(self)(self._database, connection, locks=False)
                theirs = set(map(seen.table.key_of, await committed.all_wanted(seen)))
            rows = [row for row in rows if seen.table.key_of(row) in theirs]
        return rows

    async def all_wanted(self, seen: TableReads) -> Sequence[Row]:
        """The rows that are there of all that was looked for in a table."""
        rows = list(await self.select(seen.table, sorted(seen.missed))) if seen.missed else []
        for where in together(seen.looks.values()):
            rows += await self.select_where(seen.table, where)
        return rows

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        rows = await self.select(table, keys)
        if self._locks:
            self._seen.loaded(table, keys, rows, sql=self._ran_sql)
        return rows

    async def find(self, table: Table, where: Where) -> Sequence[Row]:
        check_columns(table, where)
        if self._locks and (queues := self._seen.queues(table, where)):
            await self.select(GUARDS, queues)
        try:
            rows = await self.select_where(table, where)
        except Conflict:
            self._database.contention.note(table.name)
            raise
        if self._locks:
            self._seen.found(table, where, rows, sql=self._ran_sql)
        return rows

    async def page(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        """In a transaction that writes, all rows are found of which this is a window: they hold until it commits."""
        check_columns(table, [*where, *window.ranges, *dict(window.order)])
        if self._locks:
            return windowed(table, await self.find(table, where), window)
        return await self.select_page(table, where, window)

    async def count(self, table: Table, where: Where, ranges: Mapping[str, Range] = MappingProxyType({})) -> int:
        """As `page`, of their number."""
        check_columns(table, [*where, *ranges])
        if self._locks:
            return len(windowed(table, await self.find(table, where), Window(ranges)))
        return await self.count_where(table, where, Window(ranges))

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        self.may_have_written = True
        latest = _latest_by_key(table, rows)
        unknown = self._seen.unknown(table, latest, wanted=not self._database.spelling.upserts_by_key)
        if unknown:
            await self.load(table, unknown)
        new = self._seen.to_insert(table, latest)
        if inserted := [row for key, row in latest.items() if key in new]:
            with self.inserting(table.name):
                await self.insert(table, inserted)
        if replaced := [row for key, row in latest.items() if key not in new]:
            await self.replace(table, replaced)

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        self.may_have_written = True
        self._seen.written(table)
        await self.remove(table, keys)

    @contextmanager
    def inserting(self, table: str) -> Iterator[None]:
        """Raises Conflict when somebody else was first to insert a row whose key was found free."""
        try:
            yield
        except Exception as error:
            if not self._database.is_taken(error):
                raise
            self._failure = Conflict(f"{self._database}: somebody else inserted a row of {table}")
            raise self._failure from error

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        if not_there := set(partitions) - set(range(self._database.partitions)):
            raise ValueError(f"the journal has no partition {min(not_there)}")
        rows = await self.tips(sorted(partitions)) if partitions else ()
        return {partition: Tip(number, chain or "") for partition, number, chain in rows}

    async def trim(self, partition: int, through: int) -> None:
        await self.run(self._database.spelling.anchor, (partition, through))
        await self.run(self._database.spelling.trim, (partition, through))

    async def append(self, events: Sequence[Message]) -> None:
        self.may_have_written = True
        await self.append_rows(journal_rows(events), tips_of(events))

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Raises the driver's error where SQL would write in a session that only reads: no server is out of service."""
        self._ran_sql = self.may_have_written = True
        try:
            return await self.run(sql, parameters)
        except OutOfService as error:
            if self._locks or not isinstance(error.__cause__, Exception):
                raise
            self._failure = error.__cause__
            raise self._failure from None

    async def sqlalchemy(self) -> Any:
        """As `Lends.sqlalchemy`."""
        self._ran_sql = self.may_have_written = True
        self._database.lending = self._database.lending or lending_of(self.dialect)
        self._loan = self._loan or await self._database.lending.lend(self.check(), self)
        return self._loan.session()

    def check(self) -> Connection:
        """The connection. Raises RuntimeError when the session has ended."""
        if self._connection is None:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        return self._connection

    def meaning(self, error: Exception) -> Exception:
        """As `Database.meaning_of`."""
        return self._database.meaning_of(error, self._connection)

    def failed(self, error: Exception) -> None:
        """Note why the transaction can't commit any more."""
        self._failure = self._failure or error

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        rows = await self.run(self._database.spelling.history, (partition, key, after), again=True)
        return events_of(partition, rows)

    async def heads(self) -> Mapping[int, int]:
        return dict(await self.run(self._database.spelling.heads, again=True))

    def own(self, sql: str) -> str:
        """As `Database.own`."""
        return self._database.own(sql)

    async def run(self, sql: str, parameters: Sequence[object] = (), *, again: bool = False) -> Sequence[Row]:
        """As `Database.fetch`, on this session's connection."""
        return await self.work(lambda connection: self._database.fetch(connection, sql, parameters, again=again))

    async def work(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Do something on the connection; after a failure, the transaction can only be rolled back.

        What makes a statement fail as unavailable may be the statement: too long, too large, the end of its server.
        Drivers raise all sorts of things when a connection ends under them: that is never the work's fault.
        """
        connection = self.check()
        try:
            with cut_short():
                return await work(connection)
        except ChimeraError as error:
            self._failure = self._failure or error
            raise
        except Exception as error:
            if self._loan is not None and self._failure is not None:
                raise self._failure from error  # PostgreSQL says only that something had failed
            self._failure = self._failure or error
            if self._database.is_open(connection):
                raise
            self._failure = CutShort(f"{self._database}: the connection was lost: {error!r}")
            raise self._failure from error


@contextmanager
def cut_short() -> Iterator[None]:
    """Raises CutShort, not Unavailable: what is done in here may itself be the cause."""
    try:
        yield
    except (CutShort, OutOfService):
        raise
    except Unavailable as error:
        raise CutShort(str(error)) from error


def _latest_by_key(table: Table, rows: Sequence[Row]) -> dict[Key, Row]:
    """The rows by key, the last of each, in the order of the keys: locks are taken in one order by everybody."""
    latest = {table.key_of(row): row for row in rows}
    return {key: latest[key] for key in sorted(latest)}
