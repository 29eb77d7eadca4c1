"""The engines on a relational database, but for what each server does its own way: stores, and views."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType

from chimera.adapters.relational.engine import Connection, Database, RelationalSession
from chimera.adapters.relational.read_set import GUARDS, guards_of
from chimera.adapters.rows import COUNT_TYPES, entry_of, events_of, unbroken
from chimera.entities import Table
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Features, Session, WriteSession

_FEATURES = Features(durable=True, shared=True, poll_s=0.02)


class RelationalStore:
    """Entities and journal in one database, or in one schema of it."""

    features = _FEATURES

    def __init__(self, database: Database, session: type[RelationalSession]) -> None:
        self._database = database
        self._session = session

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Adds optional columns that a table lacks; what would lose or misread data is refused."""
        async with self._database.creating("store") as connection:
            self._database.pool.open()
            await self._database.fit_tables(connection, [*tables, GUARDS])
            await self._guard(connection, [table.name for table in tables if table.guarded])
            await self._database.number_partitions(connection, partitions)
            for statement in statements.get(self._database.spelling.dialect, ()):
                await self._database.execute_slowly(connection, statement)

    async def _guard(self, connection: Connection, names: Sequence[str]) -> None:
        session = self._session(self._database, connection, locks=False)
        there = {name for (name,) in await session.find(GUARDS, {})}
        self._database.guarded = {name for name in {*there, *names} if "#" not in name}
        if new := [(name,) for table in names for name in guards_of(table) if name not in there]:
            await session.insert(GUARDS, new)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._database.pool.connection() as connection:
            session = self._session(self._database, connection, locks=True)
            async with session.between(self._database.spelling.begin):
                yield session

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        async with self._database.pool.connection() as connection:
            session = self._session(self._database, connection, locks=False)
            async with session.between(() if once else self._database.spelling.begin_snapshot):
                yield session

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        async def read() -> list[Message]:
            rows = await self._database.read(self._database.spelling.journal, (partition, after, limit))
            return events_of(partition, rows)

        return await unbroken(read, self.heads, partition, after)

    async def heads(self) -> Mapping[int, int]:
        return dict(await self._database.read(self._database.spelling.heads))

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        found = {place: await self._database.read(self._database.spelling.chain, place) for place in at.items()}
        return {partition: chain for (partition, _), rows in found.items() for (chain,) in rows if chain}

    async def oldest(self) -> Mapping[int, int]:
        return dict(await self._database.read(self._database.spelling.oldest))

    async def types(self) -> Mapping[str, int]:
        return dict(await self._database.read(self._database.own(COUNT_TYPES)))

    async def close(self) -> None:
        await self._database.pool.close()


class RelationalViews:
    """Documents and checkpoints in one database, or in one schema of it: the part that writes no documents."""

    features = _FEATURES

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self) -> None:
        """As `ViewStore.create`."""
        async with self._database.creating("views"):
            self._database.pool.open()

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        """As `ViewStore.checkpoints`."""
        rows = await self._database.read(self._database.spelling.checkpoints, (consumer,))
        return {(row[0], row[1]): Checkpoint.standing(*row[2:]) for row in rows}

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        """As `ViewStore.scan`."""
        rows = await self._database.read(self._database.spelling.scan, (view, after, limit))
        return [Document(*row) for row in rows]

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        """As `ViewStore.listed`."""
        spelling = self._database.spelling
        if not within:
            filtered, at = entry_of(after)
            found = await self._database.read(spelling.index_of_lists, (view, filtered, at, filtered, limit, skip))
            return [each + place for each, place in found]
        rows = await self._database.read(spelling.listed, (view, within, after, limit, skip))
        return [at for (at,) in rows]

    def removal(self, topics: Sequence[str]) -> str:
        """As `ports.Removable`: a store may have its tables in the same schema."""
        tables = ("documents", "checkpoints", "chimera_lists")
        return f"in {self._database}: {'; '.join(f'DELETE FROM {self._database.own(table)}' for table in tables)}"  # noqa: S608 - to be read

    async def close(self) -> None:
        """As `ViewStore.close`."""
        await self._database.pool.close()
