"""Ending tasks that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

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


def take_exception(task: asyncio.Future[Any]) -> None:
    """Look at what a task has raised: those who asked may be gone, and asyncio complains when nobody has looked."""
    if task.done() and not task.cancelled():
        task.exception()
