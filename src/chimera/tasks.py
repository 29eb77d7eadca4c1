"""Ending tasks that nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import Any


async def stop(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended, however it ends."""
    task.cancel()
    await asyncio.wait([task])
    take_exception(task)


def take_exception(task: asyncio.Future[Any]) -> None:
    """Look at what a task has raised: those who asked may be gone, and asyncio complains when nobody has looked."""
    if not task.cancelled():
        task.exception()
