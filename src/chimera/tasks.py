"""Ending tasks that nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import Any


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


def take_exception(task: asyncio.Future[Any]) -> None:
    """Look at what a task has raised: those who asked may be gone, and asyncio complains when nobody has looked."""
    if task.done() and not task.cancelled():
        task.exception()
