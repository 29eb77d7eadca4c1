"""Transactions that hold nothing while nobody uses them: neither a lock nor a connection.

What was asked and answered is remembered. When the database has not been used for a moment, the transaction is rolled
back; with the next use, or to commit, one is begun anew and all is asked again. Where it is answered otherwise,
somebody changed what this one relied on, and that is a Conflict. So what is committed is what one transaction would
have done that began and ended at the end, however long its work took in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from chimera.core.aio.signals import Signal
from chimera.core.aio.tasks import stop, take_exception
from chimera.entities import Key, Range, Row, Table, Window
from chimera.errors import Conflict
from chimera.messages import Message
from chimera.ports import Store, Tip, WriteSession

COMMIT = "commit"


class _Call(NamedTuple):
    name: str
    arguments: tuple[Any, ...]
    answer: asyncio.Future[Any]


class _Asked(NamedTuple):
    name: str
    arguments: tuple[Any, ...]
    found: object


class _LetGo(Exception):  # noqa: N818 - not an error: rolls back
    pass


@asynccontextmanager
async def detached(store: Store, room: asyncio.Semaphore, idle_s: float) -> AsyncIterator[WriteSession]:
    """As `Store.transaction`, for work that may wait for something else.

    After `idle_s` seconds without use the database is let go. `room` is held while it is not: so many transactions of
    this kind there are at once. Leaving the block commits, and may raise Conflict on every engine.
    """
    async with store.snapshot(once=True) as session:
        dialect = session.dialect
    detached_session = DetachedSession(store, room, idle_s, dialect)
    try:
        yield detached_session
        await detached_session.commit()
    finally:
        await detached_session.end()


class DetachedSession:
    """A write session whose transaction comes and goes."""

    def __init__(self, store: Store, room: asyncio.Semaphore, idle_s: float, dialect: str) -> None:
        self.dialect = dialect
        self._store = store
        self._room = room
        self._idle_s = idle_s
        self._asked: list[_Asked] = []
        self._calls: deque[_Call] = deque()
        self._came = Signal()
        self._serving: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._is_over = False

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        rows: Sequence[Row] = await self._ask("load", table, tuple(keys))
        return rows

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        rows: Sequence[Row] = await self._ask("find", table, dict(where))
        return rows

    async def page(self, table: Table, where: Mapping[str, Sequence[object]], window: Window) -> Sequence[Row]:
        rows: Sequence[Row] = await self._ask("page", table, dict(where), window)
        return rows

    async def count(self, table: Table, where: Mapping[str, Sequence[object]], ranges: Mapping[str, Range] = {}) -> int:
        count: int = await self._ask("count", table, dict(where), dict(ranges))
        return count

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        rows: Sequence[Row] = await self._ask("scan", table, after, limit)
        return rows

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        rows: Sequence[Row] = await self._ask("execute", sql, tuple(parameters))
        return rows

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        events: Sequence[Message] = await self._ask("history", partition, key, after)
        return events

    async def heads(self) -> Mapping[int, int]:
        heads: Mapping[int, int] = await self._ask("heads")
        return heads

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        await self._ask("save", table, tuple(rows))

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        await self._ask("delete", table, tuple(keys))

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        tips: Mapping[int, Tip] = await self._ask("hold", tuple(partitions))
        return tips

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        count: int = await self._ask("expire", table, column, before, limit)
        return count

    async def trim(self, partition: int, through: int) -> None:
        await self._ask("trim", partition, through)

    async def append(self, events: Sequence[Message]) -> None:
        await self._ask("append", tuple(events))

    async def commit(self) -> None:
        """Commit. Raises Conflict where something is not as it was found."""
        await self._ask(COMMIT)

    async def end(self) -> None:
        """Let go for good; whoever uses the session from now on gets RuntimeError."""
        self._is_over = True
        if self._serving is not None:
            await stop(self._serving)

    async def _ask(self, name: str, *arguments: Any) -> Any:
        if self._is_over:
            raise RuntimeError("this session has ended; use it only inside its `async with` block")
        if self._failure is not None:
            raise self._failure
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.append(_Call(name, arguments, answer))
        self._came.notify()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.ensure_future(self._serve())
            self._serving.add_done_callback(take_exception)
        return await answer

    async def _serve(self) -> None:
        """Answer what is asked, in one transaction after another, until nothing is."""
        try:
            while self._calls:
                await self._in_transaction()
        except BaseException as error:
            self._failure = error if isinstance(error, Exception) else None
            while self._calls:
                answer = self._calls.popleft().answer
                if not answer.done():
                    answer.set_exception(error) if isinstance(error, Exception) else answer.cancel()
            if not isinstance(error, Exception):
                raise

    async def _in_transaction(self) -> None:
        try:
            async with self._room, self._store.transaction() as session:
                for asked in self._asked:
                    if not _alike(asked, await _done(session, asked.name, asked.arguments)):
                        raise Conflict(f"what a handler had found by {asked.name} is not as it was")
                await self._answer(session)
        except _LetGo:
            return
        commit = self._calls.popleft()
        if not commit.answer.done():
            commit.answer.set_result(None)

    async def _answer(self, session: WriteSession) -> None:
        """Answer calls up to a commit, which stays in line until it is done."""
        while True:
            while not self._calls:
                if not await self._came.wait(self._idle_s) and not self._calls:
                    raise _LetGo
            call = self._calls[0]
            if call.name == COMMIT:
                return
            found = await _done(session, call.name, call.arguments)
            self._asked.append(_Asked(call.name, call.arguments, found))
            self._calls.popleft()
            if not call.answer.done():
                call.answer.set_result(found)


async def _done(session: WriteSession, name: str, arguments: tuple[Any, ...]) -> object:
    return await getattr(session, name)(*arguments)


def _alike(asked: _Asked, found: object) -> bool:
    """Whether an answer is the same again. Rows by key come in any order; heads are of when they were asked for."""
    if asked.name == "heads":
        return True
    if asked.name == "load":
        table = asked.arguments[0]
        return bool(sorted(asked.found, key=table.key_of) == sorted(found, key=table.key_of))  # type: ignore[call-overload]
    return bool(asked.found == found)
