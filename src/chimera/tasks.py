"""Ending tasks that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

FINISH_S = 3.0


async def stop(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended, however it ends; also when the caller is cancelled meanwhile."""
    task.cancel()
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
    finally:
        take_exception(task)


async def finish(work: Coroutine[Any, Any, Result], within: float = FINISH_S) -> Result:
    """Do the work; when the caller is cancelled meanwhile, to its end, if it takes at most `within` seconds more."""
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working], timeout=within)
        await stop(working)
        raise


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


def take_exception(task: asyncio.Future[Any]) -> None:
    """Look at what a task has raised: those who asked may be gone, and asyncio complains when nobody has looked."""
    if task.done() and not task.cancelled():
        task.exception()
