"""Works that come and go with a state: each is done again and again until it is not wanted any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from chimera.core.aio.again import persist
from chimera.core.aio.tasks import stop
from chimera.core.context import Context

Work = Callable[[], Awaitable[None]]


class Works:
    """Works by name, each in a task of its own that goes on through whatever fails (see `persist`)."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def become(self, wanted: Mapping[str, Work]) -> None:
        """Stop what is not wanted any more, then start what is wanted and not done yet."""
        for name in [name for name in self._tasks if name not in wanted]:
            await stop(self._tasks.pop(name))
        for name in [name for name in wanted if name not in self._tasks]:
            context = self._context
            work = persist(
                f"{context.service.name} {name}", wanted[name], context.clock, context.timing, context.troubles
            )
            self._tasks[name] = asyncio.ensure_future(work)

    async def stop(self) -> None:
        """Stop all of them."""
        await stop(*self._tasks.values())


@asynccontextmanager
async def working(context: Context) -> AsyncIterator[Works]:
    """Works that end with the block."""
    works = Works(context)
    try:
        yield works
    finally:
        await works.stop()
