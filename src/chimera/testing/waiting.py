"""Waiting in tests: for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial


async def eventually(condition: Callable[[], object], timeout: float = 60.0) -> None:  # noqa: ASYNC109
    """Wait until the condition, which may be awaitable, holds; fails when it does not within `timeout` seconds."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < deadline, f"never came true: {_written(condition)}"
        await asyncio.sleep(0.002)


def _written(condition: Callable[[], object]) -> str:
    """A condition as the test says it."""
    return repr(condition) if isinstance(condition, partial) else inspect.getsource(condition).strip()


@asynccontextmanager
async def running(*coroutines: Coroutine[object, None, object]) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Run these in the background, and cancel them at the end."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        done, pending = await asyncio.wait(tasks, timeout=60.0)
        assert not pending, "a task does not end when it is cancelled"
        for task in done:
            with suppress(asyncio.CancelledError):
                task.result()
