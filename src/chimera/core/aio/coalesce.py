"""Many callers, one call: what is asked for in one turn of the event loop is done together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """Collects items and hands them to `run` as one list, which answers with one result per item, in order.

    While `concurrency` calls are under way, further items wait and become the next call: under load a
    batch grows by itself to what the engine behind it can take (group commit). A result that is an
    exception, or one raised by `run`, is raised to the caller of that item; one that is a future is still to come, and
    no further item waits for it.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | BaseException | asyncio.Future[Result]]]],
        *,
        concurrency: int = 1,
        limit: int = 500,
    ) -> None:
        self._run = run
        self._concurrency = concurrency
        self._limit = limit
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Ask for an item; the future holds its result. Cancelling the future does not stop the call."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._scheduled and len(self._running) < self._concurrency:
            self._begin()
        return future

    def __len__(self) -> int:
        """The number of items that wait for their call to start."""
        return len(self._waiting)

    async def drain(self) -> None:
        """Wait until nothing waits and nothing runs."""
        while self._waiting or self._running:
            if self._running:
                await asyncio.wait(self._running)
            await asyncio.sleep(0)

    def _begin(self) -> None:
        """Have what waits by the next turn called then."""
        self._scheduled = True
        self._running.add(asyncio.ensure_future(self._work()))

    async def _work(self) -> None:
        self._scheduled = False
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                if self._waiting and len(self._running) < self._concurrency:
                    self._begin()
                await self._call(batch)
                if self._waiting:
                    await asyncio.sleep(0)  # those who were answered now may ask again, and are part of the next call
        finally:
            self._running.discard(asyncio.current_task())

    async def _call(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        answers: Sequence[tuple[tuple[Item, asyncio.Future[Result]], Result | BaseException | asyncio.Future[Result]]]
        try:
            answers = list(zip(batch, await self._run([item for item, _ in batch]), strict=True))
        except BaseException as error:  # noqa: BLE001 - whatever went wrong belongs to those who wait
            answers = [(each, error) for each in batch]
        for (_, future), result in answers:
            if future.done():
                continue
            if isinstance(result, asyncio.Future):
                result.add_done_callback(partial(_pass_on, to=future))
            elif isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)


def _pass_on(come: asyncio.Future[Result], to: asyncio.Future[Result]) -> None:
    if to.done():
        return
    if come.cancelled():
        to.cancel()
    elif error := come.exception():
        to.set_exception(error)
    else:
        to.set_result(come.result())
