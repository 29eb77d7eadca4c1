"""A process that dies at a call to its engines: at any of them, by number, before or after it has had its effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from chimera.entities import Row, Table
from chimera.errors import Unavailable
from chimera.messages import Message
from chimera.ports import Document, Listing, Log, Move, Record, Store, ViewStore, WriteSession
from chimera.testing.broken import WrappedLog, WrappedSession, WrappedStore, WrappedViews
from chimera.testing.engines import OpenEngines

Result = TypeVar("Result")


class Fuse:
    """Counts the calls of a process to its engines, and ends the process at one of them.

    From the call that blows the fuse on, nothing that the process does has an effect. With `late` the
    call itself still has its effect, but the process does not learn of it.
    """

    def __init__(self, at: int = 0, *, late: bool = False, once: bool = False) -> None:
        self.at = at
        self.late = late
        self.once = once
        self.calls = 0
        self.blown = asyncio.Event()

    def before(self) -> None:
        """A call is about to be made. Raises Unavailable when the process dies here, or is dead."""
        if self.blown.is_set() and not self.once:
            raise Unavailable("this process is dead")
        self.calls += 1
        if self.calls == self.at and not self.late:
            self._blow()

    def after(self, call: int) -> None:
        """The call of this number has had its effect. Raises Unavailable when the process dies here, or is dead."""
        if call == self.at and self.late:
            self._blow()
        if self.blown.is_set() and not self.once and call != self.at:
            raise Unavailable("this process is dead")

    def _blow(self) -> None:
        self.blown.set()
        raise Unavailable("the process dies here")

    async def around(self, call: Coroutine[object, None, Result]) -> Result:
        """The answer of the call, unless the process dies at it."""
        try:
            self.before()
        except Unavailable:
            call.close()
            raise
        number = self.calls
        result = await call
        self.after(number)
        return result

    def wrap(self, engines: OpenEngines) -> OpenEngines:
        """The engines, each call of which passes this fuse; `close` does not."""
        return OpenEngines(
            FusedLog(engines.log, self), FusedStore(engines.store, self), FusedViews(engines.views, self)
        )


class FusedLog(WrappedLog):
    """A log whose appends and batches read are counted."""

    def __init__(self, log: Log, fuse: Fuse) -> None:
        super().__init__(log)
        self._fuse = fuse

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await self._fuse.around(super().append(topic, messages))

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        async with aclosing(super().read(topic, after, limit)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                self._fuse.before()
                self._fuse.after(self._fuse.calls)
                yield batch


class FusedStore(WrappedStore):
    """A store whose transactions are counted, at their begin and at their commit, and its pages of the journal."""

    def __init__(self, store: Store, fuse: Fuse) -> None:
        super().__init__(store)
        self._fuse = fuse

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        self._fuse.before()
        self._fuse.after(self._fuse.calls)
        async with super().transaction() as session:
            yield FusedSession(session, self._fuse)
            self._fuse.before()
            number = self._fuse.calls
        self._fuse.after(number)

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return await self._fuse.around(super().journal(partition, after, limit))


class FusedSession(WrappedSession):
    """A write session whose saves and appends are counted."""

    def __init__(self, session: WriteSession, fuse: Fuse) -> None:
        super().__init__(session)
        self._fuse = fuse

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        await self._fuse.around(super().save(table, rows))

    async def append(self, events: Sequence[Message]) -> None:
        await self._fuse.around(super().append(events))


class FusedViews(WrappedViews):
    """A view store whose gets and writes are counted."""

    def __init__(self, views: ViewStore, fuse: Fuse) -> None:
        super().__init__(views)
        self._fuse = fuse

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        return await self._fuse.around(super().get(view, keys))

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        return await self._fuse.around(super().write(consumer, documents, moves, listings))
