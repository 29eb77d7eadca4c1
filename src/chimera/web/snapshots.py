"""A query's consistent reads of the source of truth, which opens a transaction only where more than one row is read.

One `load` is consistent by itself: those that all requests ask for in one loop turn are one read, as views' documents
are. When a query then reads more, a snapshot is opened, and what it has loaded is loaded again there. Where that has
changed meanwhile, the query has seen two moments; so it is asked again, in a snapshot from its beginning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

from chimera.core.aio.coalesce import Coalescer
from chimera.entities import Key, Range, Row, Table, Window
from chimera.errors import Unavailable
from chimera.messages import Message
from chimera.ports import Session, Store

logger = logging.getLogger("chimera")

Found = TypeVar("Found")


class Snapshots:
    """Consistent reads of one store, for all requests of a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._dialect: str | None = None
        self._rows: dict[Table, Coalescer[Key, Sequence[Row]]] = {}

    async def look(self, work: Callable[[Session], Awaitable[Found]]) -> Found:
        """The result of `work`, given a session; it only reads, and may be called twice."""
        if self._dialect is None:
            async with self._store.snapshot() as session:
                self._dialect = session.dialect
        lazy = _LazySnapshot(self._store, self.rows, self._dialect)
        try:
            found = await work(lazy)
            if not lazy.is_torn:
                return found
        except Exception:
            if not lazy.is_torn:
                raise
        finally:
            if (opened := lazy.end()) is not None:
                await opened.aclose()
        async with self._store.snapshot() as session:
            return await work(session)

    def rows(self, table: Table, key: Key) -> asyncio.Future[Sequence[Row]]:
        """The row with this key, or none."""
        rows = self._rows.get(table)
        if rows is None:
            rows = self._rows[table] = Coalescer(lambda keys: self._load(table, keys), concurrency=4)
        return rows.submit(key)

    async def _load(self, table: Table, keys: list[Key]) -> Sequence[Sequence[Row] | BaseException]:
        if len(keys) > 1:
            try:
                async with self._store.snapshot(once=True) as session:
                    rows = await session.load(table, list(dict.fromkeys(keys)))
                found = {table.key_of(row): [row] for row in rows}
                if found.keys() <= set(keys):
                    return [found.get(key, ()) for key in keys]
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - of a key that can't be asked for; the others are not to blame
                logger.debug("rows of %s are loaded one by one: %r", table.name, error)
        return [await self._load_one(table, key) for key in keys]

    async def _load_one(self, table: Table, key: Key) -> Sequence[Row] | Exception:
        try:
            async with self._store.snapshot(once=True) as session:
                return await session.load(table, [key])
        except Exception as error:  # noqa: BLE001 - it is raised where the key was asked for
            return error


class _LazySnapshot:
    """A session that is a snapshot from the second read on."""

    def __init__(self, store: Store, rows: Callable[[Table, Key], asyncio.Future[Sequence[Row]]], dialect: str) -> None:
        self.dialect = dialect
        self._store = store
        self._rows = rows
        self._first: tuple[Table, Sequence[Key]] | None = None
        self._loaded: Sequence[Row] | None = None
        self._loaded_again: Sequence[Row] | None = None
        self._opening = asyncio.Lock()
        self._session: Session | None = None
        self._open: AsyncExitStack | None = None
        self._has_ended = False

    @property
    def is_torn(self) -> bool:
        """True when what was read is of two moments."""
        return self._loaded_again is not None and self._loaded_again != self._loaded

    def end(self) -> AsyncExitStack | None:
        """Read no more; returns what is to be closed."""
        self._has_ended = True
        return self._open

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        if self._first is not None or self._session is not None or self._has_ended or len(keys) != 1:
            return await (await self._snapshot()).load(table, keys)
        self._first = table, keys
        self._loaded = await self._rows(table, keys[0])
        return self._loaded

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        return await (await self._snapshot()).find(table, where)

    async def page(self, table: Table, where: Mapping[str, Sequence[object]], window: Window) -> Sequence[Row]:
        return await (await self._snapshot()).page(table, where, window)

    async def count(self, table: Table, where: Mapping[str, Sequence[object]], ranges: Mapping[str, Range] = {}) -> int:
        return await (await self._snapshot()).count(table, where, ranges)

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        return await (await self._snapshot()).scan(table, after, limit)

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        return await (await self._snapshot()).execute(sql, parameters)

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        return await (await self._snapshot()).history(partition, key, after)

    async def heads(self) -> Mapping[int, int]:
        return await (await self._snapshot()).heads()

    async def _snapshot(self) -> Session:
        async with self._opening:
            if self._has_ended:
                raise RuntimeError("this request has ended; read while its function runs")
            if self._session is None:
                self._open = AsyncExitStack()
                session = await self._open.enter_async_context(self._store.snapshot())
                if self._first is not None:
                    self._loaded_again = await session.load(*self._first)
                self._session = session
            return self._session
