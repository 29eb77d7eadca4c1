"""Engines with crash points: `faulty:sqlite:///…` opens `sqlite:///…` and wraps it. Chimera knows nothing of them."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cache
from typing import Any

from chimera.entities import Key, Row, Table
from chimera.errors import Unfit
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Listing, Log, Move, Record, Session, Store, ViewStore, WriteSession
from chimera.run.addresses import Kind
from chimera.run.engines import open_engine as open_inner
from chimera.testing.broken import WrappedLog, WrappedSession, WrappedStore, WrappedViews
from chimera_faults import clock, mutants
from chimera_faults.points import Trip, trip_of

REPEATS = 5
RELAY = "relay"


@cache
def _trip() -> Trip:
    """This process's crash points; a mutant, and a clock that can jump, are put in place with them."""
    trip = trip_of(dict(os.environ))
    clock.install(trip.clock_s)
    mutants.install(os.environ)
    return trip


def open_engine(kind: Kind, url: str) -> Any:
    """The engine behind `faulty:`, with crash points."""
    inner, trip = open_inner(kind, url.removeprefix("faulty:")), _trip()
    match kind:
        case "log":
            return FaultyLog(inner, trip)
        case "store":
            return FaultyStore(mutants.changed_store(inner, os.environ), trip)
        case "views":
            return FaultyViews(mutants.changed_views(inner, os.environ), trip)
    return inner


class FaultyLog(WrappedLog):
    """A log with crash points; what it drops it confirms, and what it repeats keeps each partition's order."""

    def __init__(self, log: Log, trip: Trip) -> None:
        super().__init__(log)
        self._trip = trip
        self._random = random.Random(os.getpid())  # noqa: S311 - not a secret

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        kind = topic.rpartition(".")[2]
        await self._trip.pass_by("log.call")
        await self._trip.pass_by(f"{kind}.append.before")
        kept = [message for message in messages if not self._trip.distorts(f"{kind}.append.before", "drop")]
        if any(self._trip.distorts(f"{kind}.append.before", "refuse") for _ in messages):
            raise Unfit("a message is larger than the log takes")
        if kept:
            await super().append(topic, kept)
        await self._trip.pass_by(f"{kind}.append.after")

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        point = f"{topic.rpartition('.')[2]}.read"
        await self._trip.pass_by("log.call")
        async with aclosing(super().read(topic, after, limit)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                await self._trip.pass_by("log.call")
                await self._trip.pass_by(point)
                for again in self._repeated(batch) if self._trip.distorts(point, "repeat") else [batch]:
                    yield again

    async def ends(self, topic: str) -> Mapping[int, int]:
        await self._trip.pass_by("log.call")
        return await super().ends(topic)

    def _repeated(self, batch: Sequence[Record]) -> list[list[Record]]:
        """The batch five times, twice of them at once, its partitions shuffled into each other."""
        twice, *others = [self._shuffled(batch) for _ in range(REPEATS - 1)]
        return [[*twice, *self._shuffled(batch)], *others]

    def _shuffled(self, batch: Sequence[Record]) -> list[Record]:
        left: dict[int, list[Record]] = {}
        for record in batch:
            left.setdefault(record.message.partition, []).append(record)
        turns = [partition for partition, records in left.items() for _ in records]
        self._random.shuffle(turns)
        return [left[partition].pop(0) for partition in turns]


class FaultyStore(WrappedStore):
    """A store with crash points around every commit, named after the work that the transaction does."""

    def __init__(self, store: Store, trip: Trip) -> None:
        super().__init__(store)
        self._trip = trip

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        await self._trip.pass_by("store.call")
        async with super().transaction() as session:
            watched = WatchedSession(session, self._trip)
            yield watched
            if watched.work:
                await self._trip.pass_by(f"{watched.work}.commit.before")
        if watched.work:
            await self._trip.pass_by(f"{watched.work}.commit.after")

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        await self._trip.pass_by("store.call")
        async with super().snapshot(once=once) as session:
            yield session

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        await self._trip.pass_by("store.call")
        return await super().journal(partition, after, limit)

    async def heads(self) -> Mapping[int, int]:
        await self._trip.pass_by("store.call")
        return await super().heads()

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        await self._trip.pass_by("store.call")
        return await super().chain(at)


class WatchedSession(WrappedSession):
    """Tells from the rows that a transaction touches what work it does: `work` is empty for none that has points."""

    def __init__(self, session: WriteSession, trip: Trip) -> None:
        super().__init__(session)
        self._trip = trip
        self.work = ""

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        await self._touch(table, str(keys[0][0]) if keys else "")
        return await super().load(table, keys)

    async def find(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        await self._touch(table, "")
        return await super().find(table, where)

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        if table.name == "chimera_checkpoints" and rows and rows[0][0] == RELAY:
            self.work = self.work or RELAY
        await super().save(table, rows)

    async def trim(self, partition: int, through: int) -> None:
        self.work = self.work or "trim"
        await super().trim(partition, through)

    async def _touch(self, table: Table, first: str) -> None:
        match table.name:
            case "chimera_checkpoints":
                self.work = self.work or ("reaction" if ":" in first else "commands" if first == "commands" else "")
            case "chimera_inbox":
                self.work = self.work or "direct"
            case "chimera_parked":
                self.work = self.work or "redrive"
            case "chimera_leases":
                self.work = self.work or "leases"
            case name if not name.startswith("chimera_") and self.work:
                await self._trip.pass_by(f"{self.work}.handler")


class FaultyViews(WrappedViews):
    """A view store with crash points around every write."""

    def __init__(self, views: ViewStore, trip: Trip) -> None:
        super().__init__(views)
        self._trip = trip

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        await self._trip.pass_by("views.call")
        return await super().get(view, keys)

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        kind = "copy" if consumer.startswith("borrow.") else "view"
        await self._trip.pass_by("views.call")
        if not moves:
            return await super().write(consumer, documents, moves, listings)
        await self._trip.pass_by(f"{kind}.write.before")
        written = await super().write(consumer, documents, moves, listings)
        await self._trip.pass_by(f"{kind}.write.after")
        return written

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        await self._trip.pass_by("views.call")
        return await super().checkpoints(consumer)
