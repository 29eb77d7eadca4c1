"""MySQL and MariaDB behind the ports `Store` and `ViewStore`; any number of processes may use the same database.

Rows travel in statements of many rows, as their parameters (decision 19). Transactions run READ COMMITTED, so that
there are no gap locks, and lock what they load. Text in keys holds at most 255 characters; all text compares by its
bytes.
"""

# ruff: noqa: S608 - names in SQL come from declarations and are quoted; values are always bound

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, product
from typing import Any, Literal

import msgspec

from chimera.adapters.relational.engine import LOCK_S, RelationalSession
from chimera.adapters.relational.mysql_server import (
    MAX_KEYS,
    MySQLDatabase,
    adding,
    is_one_of,
    marks,
    padded,
    parts,
    quoted,
    statements_of,
    to_held,
)
from chimera.adapters.relational.pool import WAIT_S
from chimera.adapters.relational.schema import Spelling
from chimera.adapters.relational.stores import RelationalStore, RelationalViews
from chimera.adapters.rows import WindowSQL, distinct, in_parts, windowed
from chimera.core.paging import pages
from chimera.entities import Key, Row, Table, Where, Window
from chimera.errors import Conflict, SettingsError
from chimera.ports import PAGE_BYTES, Document, Listing, Move, Store, ViewStore

REVISIONS = 1_000_000
_BESIDE_DATA = 64 << 10
"""Bytes of a statement beside a document's data, at most."""

_COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable = 'YES',
        is_nullable = 'YES' OR column_default IS NOT NULL OR extra <> ''
    FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY ordinal_position"""
_KEYS = """
    SELECT table_name, column_name FROM information_schema.key_column_usage
    WHERE table_schema = DATABASE() AND constraint_name = 'PRIMARY' ORDER BY ordinal_position"""

_EVENT = (
    "SELECT number, source, type, `key`, time, data, traceparent, chain, metadata FROM journal WHERE `partition` = %s"
)
# Large data stay where they are until it is known which of them fit.
_PAGE = f"""
    SELECT j.number, source, type, `key`, time, data, traceparent, chain, metadata FROM (
        SELECT `partition`, number, SUM(size) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) - size AS before_it FROM (
            SELECT `partition`, number, LENGTH(data) AS size FROM journal WHERE `partition` = %s AND number > %s
            ORDER BY number LIMIT %s) page) placed
    STRAIGHT_JOIN journal j ON j.`partition` = placed.`partition` AND j.number = placed.number
    WHERE before_it < {PAGE_BYTES} ORDER BY placed.number"""
# By its index it locks exactly these rows, in this order, where the optimiser might read, and lock, them all.
_TIPS = """
    SELECT `partition`, number, chain FROM heads FORCE INDEX (PRIMARY)
    WHERE `partition` IN ({}) ORDER BY `partition` FOR UPDATE"""
_MOVE_HEADS = "INSERT INTO heads (`partition`, number, chain) VALUES "
_CHAIN = """
    SELECT CASE at_it.number WHEN h.number THEN h.chain WHEN h.trimmed THEN h.anchor
        ELSE (SELECT chain FROM journal j WHERE j.`partition` = h.`partition` AND j.number = at_it.number) END
    FROM (SELECT %s AS `partition`, %s AS number) at_it JOIN heads h ON h.`partition` = at_it.`partition`"""
_ANCHOR = """
    UPDATE heads h JOIN journal j ON j.`partition` = h.`partition`
    SET h.trimmed = j.number, h.anchor = j.chain WHERE j.`partition` = %s AND j.number = %s"""
_HEADS = "SELECT `partition`, number FROM heads"
_OLDEST = """
    SELECT `partition`, coalesce((SELECT min(number) FROM journal j WHERE j.`partition` = h.`partition`), number + 1)
    FROM heads h ORDER BY `partition`"""
_APPEND = """
    INSERT INTO journal (`partition`, number, source, type, `key`, time, data, traceparent, chain, metadata) VALUES """

_GET = "SELECT `key`, data, revision FROM documents WHERE view = %s AND `key` IN ({})"
_FORGET = "DELETE FROM checkpoints WHERE consumer = %s"
_CURRENT = "SELECT `key`, revision FROM documents WHERE view = %s AND `key` IN ({}) ORDER BY `key` FOR UPDATE"
_PUT = "INSERT INTO documents (view, `key`, revision, data) VALUES "
_DELETE = "DELETE FROM documents WHERE view = %s AND `key` IN ({})"
_CHECKPOINTS = "SELECT source, `partition`, number, `offset`, chain FROM checkpoints WHERE consumer = %s"
_REACHED = f"{_CHECKPOINTS} AND ({{}}) ORDER BY source, `partition` FOR UPDATE"
_MOVE = "INSERT INTO checkpoints (consumer, source, `partition`, number, `offset`, chain) VALUES "
_LIST = "INSERT INTO chimera_lists (view, within, `at`) VALUES "
_KEEP_LISTED = " ON DUPLICATE KEY UPDATE within = chimera_lists.within"
_UNLIST = "DELETE FROM chimera_lists WHERE {}"
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
    chain=_CHAIN,
    anchor=_ANCHOR,
    trim="DELETE FROM journal WHERE `partition` = %s AND number <= %s",
    indexes="SELECT DISTINCT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()",
    index="CREATE INDEX `{name}` ON `{table}` (`{column}`)",
    journal=_PAGE,
    history=f"{_EVENT} AND `key` = %s AND number > %s ORDER BY number",
    checkpoints=_CHECKPOINTS,
    scan="SELECT view, `key`, data, revision FROM documents WHERE view = %s AND `key` > %s ORDER BY `key` LIMIT %s",
    listed=(
        "SELECT `at` FROM chimera_lists WHERE view = %s AND within = %s AND `at` > %s ORDER BY `at` LIMIT %s OFFSET %s"
    ),
    index_of_lists=(
        "SELECT within, `at` FROM chimera_lists WHERE view = %s AND ((within = %s AND `at` > %s) OR within > %s) "
        "ORDER BY within, `at` LIMIT %s OFFSET %s"
    ),
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


class _MySQL(MySQLDatabase):
    spelling = _SPELLING


class MySQLStore(RelationalStore):
    """Entities and journal in one database.

    Of the statements that `create` runs, those that make a table or an index that is there already are passed over.
    `wait_s` and `lock_s` are how long a free connection and, in whole seconds, a locked row are waited for.
    """

    def __init__(self, url: str, *, wait_s: float = WAIT_S, lock_s: float = LOCK_S) -> None:
        super().__init__(_MySQL(url, wait_s=wait_s, lock_s=lock_s), _MySQLSession)


class MySQLViews(RelationalViews):
    """Documents, checkpoints and lists in one database. `revisions`: how many numbers a process takes at once."""

    _database: _MySQL

    def __init__(self, url: str, *, revisions: int = REVISIONS) -> None:
        super().__init__(_MySQL(url))
        self._revisions_taken = revisions
        self._revisions = iter(range(0))

    async def create(self) -> None:
        """As `ViewStore.create`. Asks how large a statement the server takes."""
        await super().create()
        [(most,)] = await self._database.read("SELECT @@max_allowed_packet")
        self.features = msgspec.structs.replace(self.features, largest=int(most) - _BESIDE_DATA)

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        found: dict[str, Document] = {}
        for chunk in pages(keys, MAX_KEYS):
            wanted = padded(chunk)
            rows = await self._database.read(self._database.own(_GET).format(marks(len(wanted))), (view, *wanted))
            found.update({key: Document(view, key, data, revision) for key, data, revision in rows})
        return found

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        latest = {(document.view, document.key): document for document in documents}
        ordered = [latest[place] for place in sorted(latest)]
        try:
            revision = await self._revision()
            async with self._database.pool.connection() as connection:
                session = _MySQLSession(self._database, connection, locks=True)
                async with session.between(_SPELLING.begin):
                    await _Writing(session, consumer, revision).write(ordered, moves)
                    await _list(session, sorted(listings))
        except (Conflict, _Outdated):
            return 0
        return revision

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._database.unhurried() as connection:
            await self._database.execute(connection, "START TRANSACTION")
            await self._database.fetch(connection, self._database.own(_FORGET), (consumer,))
            for table, view in product((self._database.own("documents"), "chimera_lists"), views):
                await self._database.execute_slowly(connection, f"DELETE FROM {table} WHERE view = %s", (view,))
            await self._database.execute_slowly(connection, "COMMIT")

    async def _revision(self) -> int:
        """A number that no document ever had, from a range taken for this process: no row is fought for."""
        for revision in self._revisions:
            return revision
        async with self._database.pool.connection() as connection:
            await self._database.fetch(connection, self._database.own(_TAKE_REVISIONS), (self._revisions_taken,))
            [(last,)] = await self._database.fetch(connection, "SELECT LAST_INSERT_ID()")
        self._revisions = iter(range(last - self._revisions_taken + 2, last + 1))
        return int(last) - self._revisions_taken + 1


class _Outdated(Exception):  # noqa: N818 - an answer, not an error
    """A checkpoint or a document is not as the writer believes: leaves the transaction."""


class _Writing:
    """One write of documents and checkpoints, inside its transaction."""

    def __init__(self, session: _MySQLSession, consumer: str, revision: int) -> None:
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
            self._session.own(_PUT),
            _REPLACE_DOCUMENT,
            [((each.view, each.key, self._revision, each.data), each.revision == 0) for each in kept],
        )
        for view, keys in _by_view([each for each in documents if each.data is None and each.revision]):
            await self._session.run(self._session.own(_DELETE).format(marks(len(keys))), (view, *keys))
        await self._put(
            self._session.own(_MOVE),
            _REPLACE_CHECKPOINT,
            [
                (
                    (
                        self._consumer,
                        move.source,
                        move.partition,
                        move.after.number,
                        move.after.offset,
                        move.after.stands_on,
                    ),
                    (move.source, move.partition) not in reached,
                )
                for move in moves
            ],
        )

    async def _reached(self, moves: Sequence[Move]) -> dict[tuple[str, int], int]:
        if not moves:
            return {}
        wanted = padded([(move.source, move.partition) for move in moves])
        places = " OR ".join(["(source = %s AND `partition` = %s)"] * len(wanted))
        rows = await self._session.run(self._session.own(_REACHED).format(places), (self._consumer, *chain(*wanted)))
        return {(source, partition): number for source, partition, number, *_ in rows}

    async def _current(self, documents: Sequence[Document]) -> dict[tuple[str, str], int]:
        current: dict[tuple[str, str], int] = {}
        for view, keys in _by_view(documents):
            rows = await self._session.run(self._session.own(_CURRENT).format(marks(len(keys))), (view, *keys))
            current.update({(view, key): revision for key, revision in rows})
        return current

    async def _put(self, insert: str, replace: Sequence[str], rows: Sequence[tuple[Row, bool]]) -> None:
        with self._session.inserting("documents or checkpoints"):
            await self._session.insert_rows(insert, [row for row, is_new in rows if is_new])
        await self._session.replace_columns(insert, replace, [row for row, is_new in rows if not is_new])


async def _list(session: _MySQLSession, listings: Sequence[Listing]) -> None:
    """Change lists, given in order: locks are taken in one order by everybody."""
    for chunk in pages([each[:3] for each in listings if each.is_gone], MAX_KEYS // 3):
        gone = padded(chunk)
        places = " OR ".join(["(view = %s AND within = %s AND `at` = %s)"] * len(gone))
        await session.run(_UNLIST.format(places), [*chain(*gone)])
    await session.insert_rows(_LIST, [each[:3] for each in listings if not each.is_gone], _KEEP_LISTED)


_REPLACE_DOCUMENT = ("revision", "data")
_REPLACE_CHECKPOINT = ("number", "`offset`", "chain")


def _by_view(documents: Sequence[Document]) -> Iterator[tuple[str, Sequence[str]]]:
    """Their keys by view, in parts for a statement each."""
    keys: dict[str, list[str]] = {}
    for document in documents:
        keys.setdefault(document.view, []).append(document.key)
    return ((view, padded(chunk)) for view, all_keys in keys.items() for chunk in pages(all_keys, MAX_KEYS))


def _are_many(where: Where) -> bool:
    """True for more values than a statement takes at once."""
    return any(len(values) > MAX_KEYS for values in where.values())


def _windowed(table: Table, where: Where, window: Window) -> tuple[str, list[Any], WindowSQL]:
    """The condition of a window, with its values, and the window in SQL."""
    asked = [is_one_of(name, [to_held(each) for each in distinct(values)]) for name, values in where.items()]
    found = WindowSQL(table, window, lambda column: quoted(column.name), lambda number: "%s")
    conditions = filter(None, [*(condition for condition, _ in asked), found.condition])
    values = [*chain(*(each for _, each in asked)), *map(to_held, found.values)]
    return " AND ".join(conditions) or "true", values, found


class _MySQLSession(RelationalSession):
    _database: _MySQL

    async def select(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        sql = statements_of(table)
        rows: list[Row] = []
        for chunk in pages(sorted(distinct(keys)), MAX_KEYS // len(table.key)):
            condition, values = sql.has_key(chunk)
            rows += await self.run(f"{sql.select} WHERE {condition} ORDER BY {sql.key}{self._lock}", values)
        return sql.from_rows(rows)

    async def select_where(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        sql = statements_of(table)
        wanted = {name: [to_held(value) for value in distinct(values)] for name, values in where.items()}
        queries = in_parts(wanted, MAX_KEYS)
        rows: list[Row] = []
        for query in queries:
            asked = [is_one_of(name, values) for name, values in query.items()]
            conditions = " AND ".join(condition for condition, _ in asked) or "true"
            select = f"{sql.select} WHERE {conditions} ORDER BY {sql.key}{self._lock}"
            rows += await self.run(select, [*chain(*(values for _, values in asked))])
        return sql.from_rows(rows if len(queries) == 1 else sorted(rows, key=table.key_of))

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        sql = statements_of(table)
        held = [to_held(value) for value in after]
        return sql.from_rows(await self.run(sql.next if after else sql.first, [*held[:1], *held, limit]))

    async def select_page(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        if _are_many(where):
            return windowed(table, await self.find(table, where), window)
        sql, (condition, values, found) = statements_of(table), _windowed(table, where, window)
        select = f"{sql.select} WHERE {condition} ORDER BY {found.order}{found.limit}"
        return sql.from_rows(await self.run(select, values))

    async def count_where(self, table: Table, where: Where, window: Window) -> int:
        if _are_many(where):
            return len(windowed(table, await self.find(table, where), window))
        condition, values, _ = _windowed(table, where, window)
        [(count,)] = await self.run(f"SELECT count(*) FROM {quoted(table.name)} WHERE {condition}", values)
        return int(count)

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        """Parameters are written %s, and a % is then written %%; rows come as the driver gives them."""
        return await super().execute(sql, [to_held(value) for value in parameters])

    async def insert(self, table: Table, rows: Sequence[Row]) -> None:
        sql = statements_of(table)
        await self.insert_rows(sql.insert, sql.to_rows(rows))

    async def replace(self, table: Table, rows: Sequence[Row]) -> None:
        sql = statements_of(table)
        await self.replace_columns(sql.insert, sql.changes, sql.to_rows(rows))

    async def remove(self, table: Table, keys: Sequence[Key]) -> None:
        sql = statements_of(table)
        for chunk in pages(sorted(distinct(keys)), MAX_KEYS // len(table.key)):
            condition, values = sql.has_key(chunk)
            await self.run(f"DELETE FROM {sql.name} WHERE {condition}", values)

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        name = quoted(column)
        delete = f"DELETE FROM {statements_of(table).name} WHERE {name} < %s ORDER BY {name} LIMIT %s"
        await self.run(delete, (to_held(before), limit))
        [(count,)] = await self.run("SELECT ROW_COUNT()")
        return int(count)

    async def tips(self, partitions: Sequence[int]) -> Sequence[Row]:
        wanted = padded(partitions)
        return await self.run(self.own(_TIPS).format(marks(len(wanted))), wanted)

    async def append_rows(self, rows: Sequence[Row], tips: Sequence[Row]) -> None:
        await self.insert_rows(self.own(_APPEND), rows)
        await self.replace_columns(self.own(_MOVE_HEADS), ("number", "chain"), tips)

    async def insert_rows(self, insert: str, rows: Sequence[Row], otherwise: str = "") -> None:
        for part in parts(rows):
            await self.run(adding(insert, len(part[0]), len(part), otherwise), [*chain(*part)])

    async def replace_columns(self, insert: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Give these columns of rows that are there the values in `rows`."""
        alias, value = self._database.new_values
        changes = ", ".join(f"{column} = {value.format(column)}" for column in columns)
        await self.insert_rows(insert, rows if columns else (), f"{alias} ON DUPLICATE KEY UPDATE {changes}")
