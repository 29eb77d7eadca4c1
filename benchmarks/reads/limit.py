"""The limit: bare ASGI, the driver, and nothing between but that keys asked for in one loop turn are one round trip."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.reads.by_hand import Many, open_many

Get = Callable[[str], Awaitable[bytes]]
HEADERS = [(b"content-type", b"application/json")]


def coalesced(many: Many, table: str, lanes: int = 4) -> Get:
    """One key at a time, as many together as wait when one of so many lanes is free."""
    waiting: list[tuple[str, asyncio.Future[bytes]]] = []
    busy: set[asyncio.Task[None]] = set()

    def get(key: str) -> asyncio.Future[bytes]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        waiting.append((key, future))
        if len(waiting) == 1:
            loop.call_soon(start)
        return future

    def start() -> None:
        if waiting and len(busy) < lanes:
            batch = waiting[:]
            waiting.clear()
            task = asyncio.ensure_future(answer(batch))
            busy.add(task)
            task.add_done_callback(done)

    def done(task: asyncio.Task[None]) -> None:
        busy.discard(task)
        start()

    async def answer(batch: list[tuple[str, asyncio.Future[bytes]]]) -> None:
        found = await many(table, list({key for key, _ in batch}))
        for key, future in batch:
            future.set_result(found[key])

    return get


async def reply(send: Any, data: bytes) -> None:
    length = (b"content-length", str(len(data)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": data})


class App:
    """GET /sellers/{key}/sales."""

    get: Get

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await reply(send, await self.get(scope["path"].split("/")[2]))

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self.get = coalesced(await open_many(os.environ["BENCH_URL"]), "documents")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


app = App()
