"""In-memory twins of the ports: the same behaviour as a real engine, gone with the process."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from operator import attrgetter
from types import MappingProxyType
from typing import Literal

import msgspec

from chimera.core.aio.signals import Signal
from chimera.core.paging import within_page
from chimera.entities import Key, Row, Table
from chimera.errors import Conflict, SettingsError, Trimmed, Unavailable
from chimera.messages import Message
from chimera.ports import (
    BucketDigest,
    Checkpoint,
    ConsumerAt,
    Document,
    Entry,
    Features,
    Log,
    Move,
    Record,
    Session,
    Store,
    ViewStore,
    WriteSession,
)
from chimera.share.changes import shared_key
from chimera.share.owner import bucket_digests

_FEATURES = Features(durable=False, shared=False)
_WAIT_S = 60.0


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log | Store | ViewStore:
    """A new engine for `memory://name`; the name is only for people. Raises SettingsError for another URL."""
    if not url.startswith("memory://"):
        raise SettingsError(f"{url!r} is not an address in memory; one looks like memory://{kind}")
    match kind:
        case "log":
            return MemoryLog()
        case "store":
            return MemoryStore()
        case "views":
            return MemoryViews()


class _Records(msgspec.Struct):
    """A partition of a topic: its messages, the first of which has the offset `trimmed` + 1."""

    messages: list[Message] = []
    trimmed: int = 0

    @property
    def end(self) -> int:
        return self.trimmed + len(self.messages)

    def between(self, after: int, through: int) -> list[Record]:
        start = max(after, self.trimmed)
        found = self.messages[start - self.trimmed : max(0, through - self.trimmed)]
        return [Record(offset, message) for offset, message in enumerate(found, start + 1)]

    def trim(self, through: int) -> None:
        dropped = max(0, min(through, self.end) - self.trimmed)
        del self.messages[:dropped]
        self.trimmed += dropped


class MemoryLog:
    """Lists of messages by topic and partition. `on_append` is told of what was added to a topic."""

    def __init__(
        self,
        *,
        features: Features = _FEATURES,
        on_append: Callable[[str, Sequence[Message]], None] = lambda topic, messages: None,
    ) -> None:
        self.features = features
        self._on_append = on_append
        self._topics: dict[str, list[_Records]] = {}
        self._changed: dict[str, Signal] = {}
        self._closed = False

    async def create(self, topic: str, partitions: int) -> None:
        """Raises SettingsError when the topic exists with another number of partitions."""
        stored = self._topics.setdefault(topic, [_Records() for _ in range(partitions)])
        self._changed.setdefault(topic, Signal())
        if len(stored) != partitions:
            raise SettingsError(f"the topic {topic} has {len(stored)} partitions, not {partitions}")

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises ValueError, and adds nothing, when a message's partition is not one of the topic's."""
        stored = self._topic(topic)
        for message in messages:
            if not 0 <= message.partition < len(stored):
                raise ValueError(f"the topic {topic} has {len(stored)} partitions, no number {message.partition}")
        for message in messages:
            stored[message.partition].messages.append(message)
        self._on_append(topic, messages)
        self._changed[topic].notify()

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        stored = self._topic(topic)
        offsets, turns = dict(after), deque(after)
        while not self._closed:
            if batch := _next_batch(stored, offsets, turns, limit):
                turns.rotate(-1)
                yield batch
                await asyncio.sleep(0)
            else:
                await self._changed[topic].wait(_WAIT_S)

    async def ends(self, topic: str) -> Mapping[int, int]:
        return {partition: records.end for partition, records in enumerate(self._topic(topic))}

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        for partition, offset in through.items():
            self._topic(topic)[partition].trim(offset)

    async def close(self) -> None:
        self._closed = True
        for changed in self._changed.values():
            changed.notify()

    def remake(self, topic: str) -> None:
        """Empty a topic, as when it was deleted and made anew: its offsets begin again."""
        for records in self._topics[topic]:
            records.messages, records.trimmed = [], 0
        self._changed[topic].notify()

    def _topic(self, topic: str) -> list[_Records]:
        if topic not in self._topics:
            raise Unavailable(f"there is no topic {topic} yet")
        return self._topics[topic]


def _next_batch(stored: Sequence[_Records], offsets: dict[int, int], turns: Sequence[int], limit: int) -> list[Record]:
    """At most `limit` records: every partition gets its part of the batch before any gets more."""
    batch: list[Record] = []
    if all(partition >= len(stored) or stored[partition].end <= offsets[partition] for partition in turns):
        return batch
    for room in (limit // max(1, len(turns)) or 1, limit):
        for partition in turns:
            if partition < len(stored):
                start = max(offsets[partition], stored[partition].trimmed)
                wanted = stored[partition].between(start, start + min(room, limit - len(batch)))
                found = list(within_page(wanted, attrgetter("message.data")))
                batch += found
                offsets[partition] = found[-1].offset if found else offsets[partition]
    return batch


class StoreState(msgspec.Struct, frozen=True):
    """A store's committed state: it is never changed, only replaced, so that whoever reads it sees one moment."""

    tables: Mapping[str, Mapping[Key, Row]] = {}
    events: Mapping[int, tuple[Message, ...]] = {}
    heads: Mapping[int, int] = {}


class Changes(msgspec.Struct):
    """What a transaction has read and changed. A row that is None is deleted; `reserved`: the heads as it left them.

    `read` holds the rows as it has seen them, by table and key, None for one that was missing.
    """

    read: dict[tuple[str, Key], Row | None] = {}
    rows: dict[str, dict[Key, Row | None]] = {}
    appended: dict[int, list[Message]] = {}
    trimmed: dict[int, int] = {}
    reserved: dict[int, int] = {}


class MemoryStore:
    """Entities and journal. Transactions run side by side; each reads what is committed when it reads.

    The first to commit wins: a later one that has read a row which was changed meanwhile gets a Conflict. Heads are
    held, as by a lock, from when numbers are reserved. What others add to what was found is not noticed. So it promises
    the least that the port allows. `on_commit` is told of every commit, once it is done.
    """

    def __init__(
        self, *, features: Features = _FEATURES, on_commit: Callable[[Changes], None] = lambda changes: None
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
        heads = self.state.heads or dict.fromkeys(range(partitions), 0)
        if len(heads) != partitions:
            raise SettingsError(f"the journal has {len(heads)} partitions, not {partitions}")
        self._columns.update({table.name: [column.name for column in table.columns] for table in tables})
        rows = {**{table.name: {} for table in tables}, **self.state.tables}
        self.state = StoreState(rows, self.state.events, heads)

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
        return dict(self.state.heads)

    async def oldest(self) -> Mapping[int, int]:
        return {partition: _oldest(self.state, partition) for partition in self.state.heads}

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
        found = [key for key in sorted(rows) if all(rows[key][index] in values for index, values in wanted)]
        self._note(table, found)
        return self._of(table, [rows[key] for key in found])

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Raises RuntimeError: there is no SQL in memory."""
        raise RuntimeError(f"there is no SQL in memory (dialect {self.dialect!r}), so this can't run: {sql}")

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return [event for event in _after(self._events(partition), after) if event.key == key]

    def _of(self, table: Table, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows as this table has them, which may have fewer columns than are stored."""
        columns, names = self._columns[table.name], [column.name for column in table.columns]
        if names == columns:
            return rows
        at = [columns.index(name) for name in names]
        return [tuple(row[index] for index in at) for row in rows]

    def _note(self, table: Table, keys: Sequence[Key]) -> None:
        """These rows were read."""

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

    async def reserve(self, counts: Mapping[int, int]) -> Mapping[int, int]:
        """Raises ValueError for an unknown partition, Conflict where two transactions would wait for each other."""
        if unknown := counts.keys() - self._state.heads.keys():
            raise ValueError(f"the journal has no partition {min(unknown)}")
        for partition in sorted(counts):
            await self._heads.take(partition, self)
        heads = {**self._state.heads, **self.changes.reserved}
        self.changes.reserved.update({partition: heads[partition] + count for partition, count in counts.items()})
        return {partition: heads[partition] + 1 for partition in counts}

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


def _changed_by(changes: Changes, state: StoreState) -> StoreState:
    tables, events = dict(state.tables), dict(state.events)
    for name, rows in changes.rows.items():
        tables[name] = _table_after(tables[name], rows)
    for partition in {**changes.appended, **changes.trimmed}:
        events[partition] = tuple(_events_after(events.get(partition, ()), changes, partition))
    return StoreState(tables, events, {**state.heads, **changes.reserved})


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
    return events[0].number if events else state.heads.get(partition, 0) + 1


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


class ViewsState(msgspec.Struct, frozen=True):
    """All that a view store has at a moment."""

    documents: Mapping[str, Mapping[str, Document]] = {}
    checkpoints: Mapping[str, Mapping[tuple[str, int], Checkpoint]] = {}
    revision: int = 0


class MemoryViews:
    """Documents by view and key, and checkpoints by consumer. `on_write`, `on_drop` are told of what was done."""

    def __init__(
        self,
        *,
        features: Features = _FEATURES,
        on_write: Callable[[str, Sequence[Document], Sequence[Move]], None] = lambda consumer, documents, moves: None,
        on_drop: Callable[[str], None] = lambda consumer: None,
    ) -> None:
        self.features = features
        self._on_write = on_write
        self._on_drop = on_drop
        self._documents: dict[str, dict[str, Document]] = {}
        self._checkpoints: dict[str, dict[tuple[str, int], Checkpoint]] = {}
        self._revision = 0

    async def create(self) -> None: ...

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        documents = self._documents.get(view, {})
        return {key: documents[key] for key in keys if key in documents}

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        await asyncio.sleep(0)
        checkpoints = self._checkpoints.setdefault(consumer, {})
        if any(checkpoints.get((move.source, move.partition), Checkpoint()).number != move.before for move in moves):
            return 0
        if any(self._revision_of(document) != document.revision for document in documents):
            return 0
        self._revision += 1
        for document in documents:
            self._put(document)
        checkpoints.update({(move.source, move.partition): move.after for move in moves})
        self._on_write(consumer, documents, moves)
        return self._revision

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        return dict(self._checkpoints.get(consumer, {}))

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        # Python orders strings by code points, which is the order of their UTF-8 bytes.
        documents = self._documents.get(view, {})
        return [documents[key] for key in sorted(key for key in documents if key > after)[:limit]]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        self._checkpoints.pop(consumer, None)
        for view in views:
            self._documents.pop(view, None)
        self._on_drop(consumer)

    def documents_of(self, view: str) -> list[Document]:
        """All documents of a view, or of a generation of one, in the order of their keys."""
        documents = self._documents.get(view, {})
        return [documents[key] for key in sorted(documents)]

    def moment(self) -> ViewsState:
        """All that it has now, to be put back later."""
        documents = {view: dict(kept) for view, kept in self._documents.items()}
        checkpoints = {consumer: dict(kept) for consumer, kept in self._checkpoints.items()}
        return ViewsState(documents, checkpoints, self._revision)

    def restore(self, moment: ViewsState) -> None:
        """Have again what it had at a moment, as from a backup."""
        self._documents = {view: dict(kept) for view, kept in moment.documents.items()}
        self._checkpoints = {consumer: dict(kept) for consumer, kept in moment.checkpoints.items()}
        self._revision = moment.revision

    async def close(self) -> None: ...

    def _revision_of(self, document: Document) -> int:
        found = self._documents.get(document.view, {}).get(document.key)
        return found.revision if found else 0

    def _put(self, document: Document) -> None:
        documents = self._documents.setdefault(document.view, {})
        if document.data is None:
            documents.pop(document.key, None)
        else:
            documents[document.key] = document._replace(revision=self._revision)


class MemoryOwner:
    """An owner in this process: its journal is a store's, and what it shares is a dict that a test may change.

    `shares` holds documents as JSON, by share and key; `reported` is what consumers told, by name and partition.
    """

    def __init__(self, store: Store, shares: Mapping[str, Mapping[str, bytes]]) -> None:
        self._store = store
        self._shares = shares
        self.reported: dict[tuple[str, int], ConsumerAt] = {}

    async def fetch(self, share: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Raises Unavailable for a share that this owner does not have."""
        self._check(share)
        documents = self._shares[share]
        return {key: documents[key] for key in keys if key in documents}

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        return await bucket_digests(self, share, partition)

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        """The last entry of each key, as the journal has it; raises as `fetch`."""
        self._check(share)
        heads = await self._store.heads()
        if partition not in heads:
            raise Unavailable(f"this owner has no partition {partition}")
        events = await self._store.journal(partition, 0, heads[partition])
        changes = [shared_key(share, event) for event in events if event.type.endswith(f".share.{share}")]
        return {change.key: Entry(change.number, change.digest) for change in changes if change.bucket in buckets}

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return await self._store.journal(partition, after, limit)

    async def heads(self) -> Mapping[int, int]:
        return await self._store.heads()

    async def report(self, consumers: Sequence[ConsumerAt]) -> None:
        self.reported.update({(each.consumer, each.partition): each for each in consumers})

    async def close(self) -> None: ...

    def _check(self, share: str) -> None:
        if share not in self._shares:
            raise Unavailable(f"this owner does not share {share!r}; it shares: {', '.join(self._shares) or 'nothing'}")
