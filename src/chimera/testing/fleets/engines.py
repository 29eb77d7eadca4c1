"""What a process sees of the engines that outlive it: late, failing, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

from chimera.entities import Key, Row, Table
from chimera.errors import Conflict, Unfit
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Listing, Log, Move, Record, Session, Store, ViewStore, WriteSession
from chimera.testing.broken import WrappedLog, WrappedSession, WrappedStore, WrappedViews
from chimera.testing.fleets.trouble import Way
from chimera.testing.memory import MemoryWriteSession
from chimera.testing.virtual.loop import PROCESS, SimProcess

Told = Callable[[Table, Sequence[Sequence[object]], Sequence[Row]], None]
"""Hears of rows that were read: the table, what was asked for, what was found."""
EVENTS = ".events"
LATE_S = 0.2
"""So much later an event comes that is late."""


class ReachedLog(WrappedLog):
    """The log. Events, which the journal has as well, may be lost in it, come twice, or once more after later ones."""

    def __init__(self, log: Log, way: Way) -> None:
        super().__init__(log)
        self._way = way

    async def create(self, topic: str, partitions: int) -> None:
        await self._way.before("log.create")
        await super().create(topic, partitions)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await self._way.before("log.append")
        if topic.endswith(EVENTS) and not all(map(self._way.trouble.carries, messages)):
            raise Unfit("an event is too large for the log")
        await super().append(topic, self._kept(messages) if topic.endswith(EVENTS) else messages)
        await self._way.after("log.append")
        if topic.endswith(EVENTS) and self._way.trouble.hit("late", "log", PROCESS.get()):
            loop = PROCESS.get().loop
            loop.call_later(LATE_S, lambda: loop.world.spawn(self._log.append(topic, messages)))

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        await self._way.before("log.read")
        async with aclosing(super().read(topic, after, limit)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                await self._way.before("log.read")
                yield batch

    async def ends(self, topic: str) -> Mapping[int, int]:
        await self._way.before("log.ends")
        return await super().ends(topic)

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        await self._way.before("log.trim")
        await super().trim(topic, through)

    async def close(self) -> None:
        """The log outlives this process."""

    def _kept(self, messages: Sequence[Message]) -> list[Message]:
        trouble, process = self._way.trouble, PROCESS.get()
        kept = [message for message in messages if not trouble.hit("lost", "log", process)]
        return [each for message in kept for each in [message] * (2 if trouble.hit("doubled", "log", process) else 1)]


class _ReachedSession(WrappedSession):
    def __init__(self, session: WriteSession, way: Way, told: Told) -> None:
        super().__init__(session)
        self._way = way
        self._told = told

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        await self._way.before("store.load")
        rows = await super().load(table, keys)
        self._told(table, keys, rows)
        return rows

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        await self._way.before("store.find")
        rows = await super().find(table, where)
        self._told(table, [*where.values()], rows)
        return rows

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        await self._way.before("store.save")
        await super().save(table, rows)


class _Connection:
    """What a process holds in a store. It is given up when the process is killed: the store sees that it is gone."""

    def __init__(self, process: SimProcess) -> None:
        self.session: WriteSession | None = None
        self._process = process

    def __enter__(self) -> _Connection:
        self._process.ended.append(self._give_up)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.ended.remove(self._give_up)

    def _give_up(self) -> None:
        if isinstance(self.session, MemoryWriteSession):
            self.session.end()


class ReachedStore(WrappedStore):
    """A store. A transaction may end in a conflict that nobody else is part of, as a deadlock's victim does.

    `told` hears what a transaction reads.
    """

    def __init__(self, store: Store, way: Way, told: Told) -> None:
        super().__init__(store)
        self._way = way
        self._told = told

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        await self._way.before("store.begin")
        with _Connection(PROCESS.get()) as connection:
            async with super().transaction() as session:
                connection.session = session
                yield _ReachedSession(session, self._way, self._told)
                await self._way.before("store.commit")
                if self._way.trouble.hit("conflict", self._way.engine, PROCESS.get()):
                    raise Conflict(f"{self._way.engine} chose this transaction to end")
        await self._way.after("store.commit")

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        await self._way.before("store.snapshot")
        async with super().snapshot(once=once) as session:
            yield session

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        await self._way.before("store.journal")
        return await super().journal(partition, after, limit)

    async def heads(self) -> Mapping[int, int]:
        await self._way.before("store.heads")
        return await super().heads()

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        await self._way.before("store.chain")
        return await super().chain(at)

    async def oldest(self) -> Mapping[int, int]:
        await self._way.before("store.oldest")
        return await super().oldest()

    async def types(self) -> Mapping[str, int]:
        await self._way.before("store.types")
        return await super().types()

    async def close(self) -> None:
        """The store outlives this process."""


class ReachedViews(WrappedViews):
    """A view store."""

    def __init__(self, views: ViewStore, way: Way) -> None:
        super().__init__(views)
        self._way = way

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        await self._way.before("views.get")
        return await super().get(view, keys)

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        await self._way.before("views.write")
        revision = await super().write(consumer, documents, moves, listings)
        await self._way.after("views.write")
        return revision

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        await self._way.before("views.checkpoints")
        return await super().checkpoints(consumer)

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        await self._way.before("views.scan")
        return await super().scan(view, after, limit)

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        await self._way.before("views.listed")
        return await super().listed(view, within, after, limit, skip)

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        await self._way.before("views.drop")
        await super().drop(consumer, views)
        await self._way.after("views.drop")

    async def close(self) -> None:
        """The views outlive this process."""
