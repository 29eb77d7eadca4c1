"""Entities and journal in memory: transactions that truly meet."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from chimera.adapters.rows import windowed
from chimera.core.paging import within_page
from chimera.entities import Key, Range, Row, Table, Window
from chimera.errors import Conflict, SettingsError, Trimmed
from chimera.messages import Message
from chimera.ports import Features, Session, Tip, WriteSession
from chimera.testing.memory.log import FEATURES


class StoreState(msgspec.Struct, frozen=True):
    """A store's committed state: it is never changed, only replaced, so that whoever reads it sees one moment."""

    tables: Mapping[str, Mapping[Key, Row]] = {}
    events: Mapping[int, tuple[Message, ...]] = {}
    heads: Mapping[int, Tip] = {}
    anchors: Mapping[int, Tip] = {}


class Lookup(NamedTuple):
    """The keys of the rows of a table that had these values, by the number of a column, when they were looked for."""

    table: str
    where: Sequence[tuple[int, frozenset[object]]]
    keys: Sequence[Key]


class Changes(msgspec.Struct):
    """What a transaction has read and changed. A row that is None is deleted.

    `held`: the heads that it holds, as they were when it got them. `read` holds the rows as it has seen them, by table
    and key, None for one that was missing. `looks` are its looks for rows by their values, its own changes apart.
    """

    read: dict[tuple[str, Key], Row | None] = {}
    looks: list[Lookup] = []
    rows: dict[str, dict[Key, Row | None]] = {}
    appended: dict[int, list[Message]] = {}
    trimmed: dict[int, int] = {}
    held: dict[int, Tip] = {}


class MemoryStore:
    """Entities and journal. Transactions run side by side; each reads what is committed when it reads.

    The first to commit wins: a later one that has read a row which was changed meanwhile, or has looked for rows and
    would find others now, gets a Conflict. Heads are held, as by a lock, from when they are asked for. So it promises
    the least that the port allows. `on_commit` is told of every commit, once it is done.
    """

    def __init__(
        self, *, features: Features = FEATURES, on_commit: Callable[[Changes], None] = lambda changes: None
    ) -> None:
        self.features = features
        self.state = StoreState()
        self._on_commit = on_commit
        self._columns: dict[str, list[str]] = {}
        self._heads = _HeadLocks()

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Raises SettingsError for another number of partitions. No statements are run: there is no SQL here."""
        heads = self.state.heads or {partition: Tip(0, f"memory/{partition}") for partition in range(partitions)}
        if len(heads) != partitions:
            raise SettingsError(f"the journal has {len(heads)} partitions, not {partitions}")
        self._columns.update({table.name: [column.name for column in table.columns] for table in tables})
        rows = {**{table.name: {} for table in tables}, **self.state.tables}
        self.state = StoreState(rows, self.state.events, heads, self.state.anchors or heads)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        session = MemoryWriteSession(self, self._columns, self._heads)
        try:
            yield session
            await asyncio.sleep(0)
            _check_unchanged(session.changes, self.state)
            self.state = _changed_by(session.changes, self.state)
            self._on_commit(session.changes)
        finally:
            session.end()

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        session = _MemorySession(self.state, self._columns)
        try:
            yield session
        finally:
            session.end()

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        if after + 1 < _oldest(self.state, partition):
            raise Trimmed(partition, after)
        return list(within_page(_after(self.state.events.get(partition, ()), after)[:limit], attrgetter("data")))

    async def heads(self) -> Mapping[int, int]:
        return {partition: tip.number for partition, tip in self.state.heads.items()}

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        found = {partition: _chain(self.state, partition, number) for partition, number in at.items()}
        return {partition: chain for partition, chain in found.items() if chain}

    async def oldest(self) -> Mapping[int, int]:
        return {partition: _oldest(self.state, partition) for partition in self.state.heads}

    async def types(self) -> Mapping[str, int]:
        return Counter(event.type for events in self.state.events.values() for event in events)

    async def close(self) -> None: ...


class _MemorySession:
    dialect = ""

    def __init__(self, state: StoreState, columns: Mapping[str, Sequence[str]]) -> None:
        self._base = state
        self._columns = columns
        self._ended = False

    def end(self) -> None:
        self._ended = True

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        rows = self._rows(table)
        return self._of(table, [rows[key] for key in dict.fromkeys(keys) if key in rows])

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        names = [column.name for column in table.columns]
        if unknown := where.keys() - set(names):
            raise ValueError(f"table {table.name} has no column {', '.join(unknown)}; it has: {', '.join(names)}")
        columns = self._columns[table.name]
        wanted = [(columns.index(name), frozenset(values)) for name, values in where.items()]
        rows = self._rows(table)
        found = _matching(rows, wanted)
        self._note(table, found)
        self._note_look(table, wanted)
        return self._of(table, [rows[key] for key in found])

    async def page(self, table: Table, where: Mapping[str, Sequence[object]], window: Window) -> Sequence[Row]:
        return windowed(table, await self.find(table, where), window)

    async def count(self, table: Table, where: Mapping[str, Sequence[object]], ranges: Mapping[str, Range] = {}) -> int:
        return len(windowed(table, await self.find(table, where), Window(ranges)))

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        rows = self._rows(table)
        keys = sorted(key for key in rows if key > after)[:limit]
        return self._of(table, [rows[key] for key in keys])

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Raises RuntimeError: there is no SQL in memory."""
        raise RuntimeError(f"there is no SQL in memory (dialect {self.dialect!r}), so this can't run: {sql}")

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return [event for event in _after(self._events(partition), after) if event.key == key]

    async def heads(self) -> Mapping[int, int]:
        return {partition: tip.number for partition, tip in self._base.heads.items()}

    def _of(self, table: Table, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows as this table has them, which may have fewer columns than are stored."""
        columns, names = self._columns[table.name], [column.name for column in table.columns]
        if names == columns:
            return rows
        at = [columns.index(name) for name in names]
        return [tuple(row[index] for index in at) for row in rows]

    def _note(self, table: Table, keys: Sequence[Key]) -> None:
        """These rows were read."""

    def _note_look(self, table: Table, wanted: Sequence[tuple[int, frozenset[object]]]) -> None:
        """Rows with these values were looked for."""

    def _rows(self, table: Table) -> Mapping[Key, Row]:
        return self._state.tables[table.name]

    def _events(self, partition: int) -> Sequence[Message]:
        return self._state.events.get(partition, ())

    @property
    def _state(self) -> StoreState:
        if self._ended:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        return self._base


class MemoryWriteSession(_MemorySession):
    """An open transaction of a MemoryStore. `end` gives up what it holds, when its process is gone as well."""

    def __init__(self, store: MemoryStore, columns: Mapping[str, Sequence[str]], heads: _HeadLocks) -> None:
        super().__init__(store.state, columns)
        self.changes = Changes()
        self._store = store
        self._heads = heads

    def end(self) -> None:
        super().end()
        self._heads.release(self)

    @property
    def is_over(self) -> bool:
        """True when it has ended."""
        return self._ended

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        self._note(table, keys)
        return await super().load(table, keys)

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        """Raises what a database would: OverflowError, UnicodeEncodeError, or ValueError for a missing value."""
        for row in rows:
            _check(table, row)
        self._change(table, {table.key_of(row): row for row in rows})

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        self._change(table, dict.fromkeys(keys))

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        """Raises ValueError for an unknown partition, Conflict where two transactions would wait for each other."""
        if unknown := set(partitions) - self._state.heads.keys():
            raise ValueError(f"the journal has no partition {min(unknown)}")
        for partition in sorted(partitions):
            await self._heads.take(partition, self)
            self.changes.held.setdefault(partition, self._state.heads[partition])
        return {partition: _tip(self.changes, partition) for partition in partitions}

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        at, rows = self._columns[table.name].index(column), self._rows(table)
        old = sorted((row[at], key) for key, row in rows.items() if row[at] is not None and row[at] < before)
        self._change(table, dict.fromkeys(key for _, key in old[:limit]))
        return len(old[:limit])

    async def trim(self, partition: int, through: int) -> None:
        self.changes.trimmed[partition] = through

    async def append(self, events: Sequence[Message]) -> None:
        for event in events:
            self.changes.appended.setdefault(event.partition, []).append(event)

    @property
    def _state(self) -> StoreState:
        if self._ended:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        return self._store.state

    def _note(self, table: Table, keys: Sequence[Key]) -> None:
        rows = self._state.tables[table.name]
        for key in keys:
            self.changes.read.setdefault((table.name, key), rows.get(key))

    def _note_look(self, table: Table, wanted: Sequence[tuple[int, frozenset[object]]]) -> None:
        if table.guarded:
            keys = _matching(self._state.tables[table.name], wanted)
            self.changes.looks.append(Lookup(table.name, wanted, keys))

    def _change(self, table: Table, rows: Mapping[Key, Row | None]) -> None:
        self.changes.rows.setdefault(table.name, {}).update(rows)

    def _rows(self, table: Table) -> Mapping[Key, Row]:
        return _table_after(super()._rows(table), self.changes.rows.get(table.name, {}))

    def _events(self, partition: int) -> Sequence[Message]:
        return _events_after(super()._events(partition), self.changes, partition)


class _HeadLocks:
    """Who holds which partition's head, and who waits for it, in order."""

    def __init__(self) -> None:
        self._held: dict[int, MemoryWriteSession] = {}
        self._waiting: dict[int, deque[tuple[MemoryWriteSession, asyncio.Future[None]]]] = {}

    async def take(self, partition: int, session: MemoryWriteSession) -> None:
        """Hold a head until the session ends. Raises Conflict where it would have to wait, and holds a later one."""
        if self._held.get(partition) is session:
            return
        if partition not in self._held:
            self._held[partition] = session
            return
        if any(other > partition and holder is session for other, holder in self._held.items()):
            raise Conflict(f"another transaction holds the head of partition {partition}, and might wait for this one")
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(partition, deque()).append((session, came))
        await came

    def release(self, session: MemoryWriteSession) -> None:
        """Hand what a session holds to those who wait for it."""
        for partition in [partition for partition, holder in self._held.items() if holder is session]:
            del self._held[partition]
            waiting = self._waiting.get(partition, deque())
            while waiting and partition not in self._held:
                following, came = waiting.popleft()
                if not following.is_over and not came.done():
                    self._held[partition] = following
                    came.set_result(None)


def _check_unchanged(changes: Changes, now: StoreState) -> None:
    """Raises Conflict where a row is not as the transaction has seen it."""
    for (name, key), row in changes.read.items():
        if now.tables[name].get(key) != row:
            raise Conflict(f"{name} {key} was changed by another transaction")
    for look in changes.looks:
        if _matching(now.tables[look.table], look.where) != look.keys:
            raise Conflict(f"others than were found in {look.table} are there now")


def _matching(rows: Mapping[Key, Row], where: Sequence[tuple[int, frozenset[object]]]) -> list[Key]:
    return sorted(key for key, row in rows.items() if all(row[index] in values for index, values in where))


def _changed_by(changes: Changes, state: StoreState) -> StoreState:
    tables, events = dict(state.tables), dict(state.events)
    for name, rows in changes.rows.items():
        tables[name] = _table_after(tables[name], rows)
    for partition in {**changes.appended, **changes.trimmed}:
        events[partition] = tuple(_events_after(events.get(partition, ()), changes, partition))
    anchored = {each: _anchor(state, each, through) for each, through in changes.trimmed.items()}
    heads = {**state.heads, **{partition: _tip(changes, partition) for partition in changes.appended}}
    return StoreState(tables, events, heads, {**state.anchors, **anchored})


def _tip(changes: Changes, partition: int) -> Tip:
    """The newest event of a held partition, as the transaction leaves it."""
    if appended := changes.appended.get(partition):
        return Tip(appended[-1].number, appended[-1].chain)
    return changes.held[partition]


def _anchor(state: StoreState, partition: int, through: int) -> Tip:
    """The last event that a trim takes away, or the anchor that there is."""
    at = next((event for event in state.events.get(partition, ()) if event.number == through), None)
    return Tip(through, at.chain) if at else state.anchors.get(partition, Tip(0, ""))


def _chain(state: StoreState, partition: int, number: int) -> str:
    for tip in (state.heads.get(partition), state.anchors.get(partition)):
        if tip and tip.number == number:
            return tip.chain
    at = next((event for event in state.events.get(partition, ()) if event.number == number), None)
    return at.chain if at else ""


def _table_after(table: Mapping[Key, Row], changes: Mapping[Key, Row | None]) -> Mapping[Key, Row]:
    if not changes:
        return table
    merged = {**table, **changes}
    return {key: row for key, row in merged.items() if row is not None}


def _events_after(events: Sequence[Message], changes: Changes, partition: int) -> Sequence[Message]:
    if added := changes.appended.get(partition, ()):
        events = sorted((*events, *added), key=_number)
    return _after(events, changes.trimmed.get(partition, 0))


def _oldest(state: StoreState, partition: int) -> int:
    events = state.events.get(partition, ())
    return events[0].number if events else state.heads[partition].number + 1 if partition in state.heads else 1


def _number(event: Message) -> int:
    return event.number


def _after(events: Sequence[Message], number: int) -> Sequence[Message]:
    return events[bisect_right(events, number, key=_number) :]


def _check(table: Table, row: Row) -> None:
    for column, value in zip(table.columns, row, strict=True):
        if value is None and not column.optional:
            raise ValueError(f"{table.name}.{column.name} can't be None")
        if isinstance(value, str):
            value.encode()
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise OverflowError(f"{table.name}.{column.name}: {value} does not fit 64 bits")
