"""Ending tasks, in order or because nobody waits for them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def stop(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until all have ended, however they end; also when the caller is cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await asyncio.wait(tasks)
        raise
    finally:
        for task in tasks:
            take_exception(task)


async def finish(work: Awaitable[Result], within: float) -> Result:
    """Do the work; when the caller is cancelled meanwhile, to its end, if it takes at most `within` seconds more."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    working = asyncio.ensure_future(_telling(work, over))
    try:
        await over
        return working.result()
    except asyncio.CancelledError:
        await asyncio.wait([working], timeout=within)
        await stop(working)
        raise


async def _telling(work: Awaitable[Result], over: asyncio.Future[None]) -> Result:
    """Do the work, and tell when it is over: a task would tell it one turn later."""
    try:
        return await work
    finally:
        if not over.done():
            over.set_result(None)


async def reading_ahead(batches: AsyncIterator[Sequence[Item]], full: int) -> AsyncGenerator[Sequence[Item], None]:
    """The batches; after one of at least `full` items, the next comes while the caller works on it.

    Those that are not full are left to grow meanwhile.
    """
    coming: asyncio.Future[Sequence[Item]] | None = None
    try:
        while True:
            batch = await (coming or anext(batches))
            coming = asyncio.ensure_future(anext(batches)) if len(batch) >= full else None
            yield batch
    except StopAsyncIteration:
        return
    finally:
        if coming is not None:
            await stop(coming)


def take_exception(task: asyncio.Future[Result]) -> None:
    """Retrieve what a task has raised: those who asked may be gone, and asyncio complains where nobody retrieves it."""
    if task.done() and not task.cancelled():
        task.exception()
