"""Engines that break a promise. What they wrap keeps it; tests use them to show that a broken promise is noticed.

Each breaks one guarantee and is otherwise the engine that it wraps. `every`: it does so at every so many-th message.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from types import MappingProxyType

from chimera.entities import Key, Range, Row, Table, Window
from chimera.errors import Unavailable
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Listing, Log, Move, Record, Session, Store, Tip, ViewStore, WriteSession

Wrong = Callable[[], bool]
"""Whether the promise is to be broken now; asked each time, whenever it could be."""


def always() -> bool:
    """Break it whenever it could be broken."""
    return True


class WrappedLog:
    """A log like the one it wraps."""

    def __init__(self, log: Log, every: int = 3) -> None:
        self.features = log.features
        self._log = log
        self._every = every
        self._count = itertools.count(1)

    async def create(self, topic: str, partitions: int) -> None:
        await self._log.create(topic, partitions)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await self._log.append(topic, messages)

    def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        return self._log.read(topic, after, limit)

    async def ends(self, topic: str) -> Mapping[int, int]:
        return await self._log.ends(topic)

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        await self._log.trim(topic, through)

    async def close(self) -> None:
        await self._log.close()

    def _is_hit(self) -> bool:
        return next(self._count) % self._every == 0


class DroppingLog(WrappedLog):
    """Breaks "confirmed means kept": every nth message is confirmed and never seen again."""

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await self._log.append(topic, [message for message in messages if not self._is_hit()])


class DoublingLog(WrappedLog):
    """Breaks "appended once, read once": every nth message is in the log twice, as after a producer's blind retry."""

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await self._log.append(topic, [each for message in messages for each in [message] * (1 + self._is_hit())])


class DelayingLog(WrappedLog):
    """Breaks the order within a partition: every nth message comes only after the next call's messages."""

    def __init__(self, log: Log, every: int = 3) -> None:
        super().__init__(log, every)
        self._late: dict[str, list[Message]] = {}

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        late = self._late.pop(topic, [])
        held = [message for message in messages if self._is_hit()]
        self._late[topic] = held
        await self._log.append(topic, [*(message for message in messages if message not in held), *late])

    async def close(self) -> None:
        """Let go of what is still held back."""
        for topic, late in self._late.items():
            await self._log.append(topic, late)
        self._late = {}
        await super().close()


class NarrowLog(WrappedLog):
    """Breaks "whatever fits is kept": a message with more data than `most` fails its whole call, by `error`.

    `away`: it says that it can't be reached.
    """

    def __init__(self, log: Log, error: Callable[[], Exception], most: int) -> None:
        super().__init__(log)
        self.away = False
        self.refused = 0
        self._error = error
        self._most = most

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        self._check()
        if any(len(message.data) > self._most for message in messages):
            self.refused += 1
            raise self._error()
        await self._log.append(topic, messages)

    async def ends(self, topic: str) -> Mapping[int, int]:
        self._check()
        return await self._log.ends(topic)

    def _check(self) -> None:
        if self.away:
            raise Unavailable("nobody answers")


class HastyLog(WrappedLog):
    """Breaks "returns once durable": confirms before it keeps; the last call's messages are lost when it closes."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._unkept: dict[str, Sequence[Message]] = {}

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        unkept, self._unkept[topic] = self._unkept.get(topic, ()), messages
        await self._log.append(topic, unkept)


class WrappedSession:
    """A write session like the one it wraps."""

    def __init__(self, session: WriteSession) -> None:
        self.dialect = session.dialect
        self._session = session

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        return await self._session.load(table, keys)

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        return await self._session.find(table, where)

    async def page(self, table: Table, where: Mapping[str, Sequence[object]], window: Window) -> Sequence[Row]:
        return await self._session.page(table, where, window)

    async def count(self, table: Table, where: Mapping[str, Sequence[object]], ranges: Mapping[str, Range] = {}) -> int:
        return await self._session.count(table, where, ranges)

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        return await self._session.scan(table, after, limit)

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        return await self._session.execute(sql, parameters)

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return await self._session.history(partition, key, after)

    async def heads(self) -> Mapping[int, int]:
        return await self._session.heads()

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        await self._session.save(table, rows)

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        await self._session.delete(table, keys)

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        return await self._session.hold(partitions)

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        return await self._session.expire(table, column, before, limit)

    async def trim(self, partition: int, through: int) -> None:
        await self._session.trim(partition, through)

    async def append(self, events: Sequence[Message]) -> None:
        await self._session.append(events)


class WrappedStore:
    """A store like the one it wraps."""

    def __init__(self, store: Store) -> None:
        self.features = store.features
        self._store = store

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        await self._store.create(tables, partitions, statements)

    def transaction(self) -> AbstractAsyncContextManager[WriteSession]:
        return self._store.transaction()

    def snapshot(self, *, once: bool = False) -> AbstractAsyncContextManager[Session]:
        return self._store.snapshot(once=once)

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return await self._store.journal(partition, after, limit)

    async def heads(self) -> Mapping[int, int]:
        return await self._store.heads()

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        return await self._store.chain(at)

    async def oldest(self) -> Mapping[int, int]:
        return await self._store.oldest()

    async def types(self) -> Mapping[str, int]:
        return await self._store.types()

    async def close(self) -> None:
        await self._store.close()


class ForgettingStore(WrappedStore):
    """Breaks "leaving commits": rows saved in one table, such as the checkpoints, are forgotten."""

    def __init__(self, store: Store, table: str, wrong: Wrong = always) -> None:
        super().__init__(store)
        self._table = table
        self._wrong = wrong

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._store.transaction() as session:
            yield _ForgettingSession(session, self._table, self._wrong)


class _ForgettingSession(WrappedSession):
    def __init__(self, session: WriteSession, table: str, wrong: Wrong) -> None:
        super().__init__(session)
        self._table = table
        self._wrong = wrong

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        if table.name != self._table or not self._wrong():
            await super().save(table, rows)


class HolesStore(WrappedStore):
    """Breaks "a rolled-back transaction leaves no hole": a number is used up, as one of a database's sequence."""

    def __init__(self, store: Store, wrong: Wrong = always) -> None:
        super().__init__(store)
        self._wrong = wrong
        self._skipped: set[int] = set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        held: set[int] = set()
        try:
            async with self._store.transaction() as session:
                skipping = _SkippingSession(session, self._skipped)
                held = skipping.held
                yield skipping
        except BaseException:
            if held and self._wrong():
                self._skipped |= held
            raise


class _SkippingSession(WrappedSession):
    """Notes the partitions whose heads it held; the numbers to be skipped are skipped at its first chance."""

    def __init__(self, session: WriteSession, skipped: set[int]) -> None:
        super().__init__(session)
        self._skipped = skipped
        self.held: set[int] = set()

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        tips = await super().hold(partitions)
        self.held.update(partitions)
        skipped = self._skipped & tips.keys()
        self._skipped -= skipped
        return {each: Tip(tip.number + (each in skipped), tip.chain) for each, tip in tips.items()}


class SilentStore(WrappedStore):
    """Breaks "never answers from further on": who asks for what was trimmed gets what is left."""

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        oldest = (await self._store.oldest())[partition]
        return await self._store.journal(partition, max(after, oldest - 1), limit)


class UnorderedStore(WrappedStore):
    """Breaks "numbers become visible in their order": every nth event shows only with the next transaction's events."""

    def __init__(self, store: Store, every: int = 3) -> None:
        super().__init__(store)
        self._every = every
        self._late: list[Message] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._store.transaction() as session:
            delaying = _DelayingSession(session, self._late, self._every)
            yield delaying
        self._late = delaying.late


class _DelayingSession(WrappedSession):
    def __init__(self, session: WriteSession, late: list[Message], every: int) -> None:
        super().__init__(session)
        self.late = late
        self._every = every

    async def append(self, events: Sequence[Message]) -> None:
        late, self.late = self.late, [event for event in events if event.number % self._every == 0]
        await super().append([*late, *(event for event in events if event not in self.late)])


class RepeatingStore(WrappedStore):
    """Breaks "after a place": a page of rows begins with the last row of the page before."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._store.transaction() as session:
            yield _RepeatingSession(session)


class _RepeatingSession(WrappedSession):
    async def page(self, table: Table, where: Mapping[str, Sequence[object]], window: Window) -> Sequence[Row]:
        found = await super().page(table, where, window._replace(after=None, limit=None))
        behind = await super().page(table, where, window._replace(limit=None))
        return found[len(found) - len(behind) - (window.after is not None) :][: window.limit]


class WrappedViews:
    """A view store like the one it wraps."""

    def __init__(self, views: ViewStore) -> None:
        self.features = views.features
        self._views = views

    async def create(self) -> None:
        await self._views.create()

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        return await self._views.get(view, keys)

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        return await self._views.write(consumer, documents, moves, listings)

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        return await self._views.checkpoints(consumer)

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        return await self._views.scan(view, after, limit)

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        return await self._views.listed(view, within, after, limit, skip)

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        await self._views.drop(consumer, views)

    async def close(self) -> None:
        await self._views.close()


class NarrowViews(WrappedViews):
    """Breaks "whatever fits `features.largest` is kept": what holds this text, or more bytes than `most`, it refuses.

    It says so by `error`. `away`: it says that it can't be reached, whatever is written.
    """

    def __init__(
        self, views: ViewStore, error: Callable[[], Exception], *, text: bytes = b"\0", most: int = 1 << 30
    ) -> None:
        super().__init__(views)
        self.away = False
        self.refused = 0
        self._error = error
        self._text = text
        self._most = most

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        if self.away:
            raise Unavailable("nobody answers")
        if any(each.data and (self._text in each.data or len(each.data) > self._most) for each in documents):
            self.refused += 1
            raise self._error()
        return await self._views.write(consumer, documents, moves, listings)


class ForgetfulViews(WrappedViews):
    """Breaks "documents and checkpoints move together": the documents are written, the checkpoints are not."""

    def __init__(self, views: ViewStore, wrong: Wrong = always) -> None:
        super().__init__(views)
        self._wrong = wrong

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        return await self._views.write(consumer, documents, [] if moves and self._wrong() else moves, listings)


class StubbornViews(WrappedViews):
    """Breaks "0, and nothing is changed": writes the documents though the checkpoint has moved meanwhile."""

    def __init__(self, views: ViewStore, wrong: Wrong = always) -> None:
        super().__init__(views)
        self._wrong = wrong

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        at = await self._views.checkpoints(consumer)
        current = [move._replace(before=at.get((move.source, move.partition), Checkpoint()).number) for move in moves]
        is_stale = current != [*moves]
        return await self._views.write(consumer, documents, current if is_stale and self._wrong() else moves, listings)


class CarelessViews(WrappedViews):
    """Breaks "a document not at its revision": overwrites whatever somebody else has written meanwhile."""

    def __init__(self, views: ViewStore, wrong: Wrong = always) -> None:
        super().__init__(views)
        self._wrong = wrong

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        current: list[Document] = []
        for document in documents:
            stored = (await self._views.get(document.view, [document.key])).get(document.key)
            current.append(document._replace(revision=stored.revision if stored else 0))
        is_stale = current != [*documents]
        return await self._views.write(consumer, current if is_stale and self._wrong() else documents, moves, listings)


class LooseLists(WrappedViews):
    """Breaks "changes lists, atomically": they are changed by themselves, also where the write is refused."""

    def __init__(self, views: ViewStore, wrong: Wrong = always) -> None:
        super().__init__(views)
        self._wrong = wrong

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        if not (listings and self._wrong()):
            return await self._views.write(consumer, documents, moves, listings)
        await self._views.write(consumer, [], [], listings)
        return await self._views.write(consumer, documents, moves)


class FoldingLists(WrappedViews):
    """Breaks "in the order of their bytes": as a collation that takes capital letters for small ones."""

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        return sorted(await self._views.listed(view, within, after, limit, skip), key=bytes.lower)


class RepeatingLists(WrappedViews):
    """Breaks "after one": a page begins with the last entry of the page before."""

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        found = await self._views.listed(view, within, after, limit, skip)
        return [after, *found][:limit] if after and found else found


class RemainingLists(WrappedViews):
    """Breaks "every document and list of these views": a view's lists are still there when it was dropped."""

    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self._listed: list[Listing] = []

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        self._listed += listings
        return await self._views.write(consumer, documents, moves, listings)

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        await self._views.drop(consumer, views)
        await self._views.write(consumer, [], [], [each for each in self._listed if each.view in views])
