from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from chimera.core.aio.tasks import stop


async def test_who_is_cancelled_while_it_stops_a_task_is_cancelled_once_the_task_has_ended() -> None:
    release, ended = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            ended.set()

    task = asyncio.ensure_future(slow_to_end())
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(stop(task))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.sleep(0)
    assert not stopping.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert ended.is_set()


async def test_of_several_none_is_left_behind_when_their_stopping_is_cancelled() -> None:
    release = asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    both = [asyncio.ensure_future(slow_to_end()) for _ in range(2)]
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(stop(*both))
    await asyncio.sleep(0)
    stopping.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert all(task.done() for task in both)
    await stop()


async def test_a_task_that_fails_while_it_is_stopped_is_nobodys_concern() -> None:
    async def failing() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        raise ValueError("too late")

    task = asyncio.ensure_future(failing())
    await asyncio.sleep(0)
    await stop(task)
    assert task.done()
