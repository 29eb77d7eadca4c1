"""A service that shows what stands in front of it, and middleware to stand there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from chimera import Command, Reader, Reads, Rejected, Reply, Request, Service, Stream, Transaction

glass = Service("glass", partitions=2)
go_on = asyncio.Event()
lives: list[str] = []


class Wipe(Command, key="pane"):
    pane: str


@glass.handle("POST /panes", direct=True)
async def wipe(command: Wipe, tx: Transaction) -> Reply[Any]:
    if command.pane == "broken":
        raise Rejected("broken", "it is broken")
    return Reply({"pane": command.pane}, 201)


@glass.get("/texts/{size}")
async def text(size: int) -> str:
    return "x" * size


@glass.get("/tagged/{tag}")
async def tagged(tag: str, request: Request) -> Any:
    if request.headers.get("if-none-match") == tag:
        return Reply(None, 304, {"ETag": tag})
    return Reply("x" * 5_000, 200, {"ETag": tag})


@glass.get("/stream")
async def stream(read: Reader) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        await go_on.wait()
        yield b"two " * 1_000

    return Stream(chunks(), "text/plain")


@glass.get("/me")
async def me(request: Request) -> Any:
    return {"client": request.client, "url": request.url}


@glass.share("panes", key="pane", changed_by=[])
async def panes(keys: list[str], tx: Reads) -> dict[str, Wipe]:
    return {key: Wipe(key) for key in keys}


async def named(send: Any, name: bytes, event: Any) -> None:
    if event["type"] == "http.response.start":
        event = {**event, "headers": [*event["headers"], (b"x-through", name)]}
    await send(event)


class Outer:
    """Names itself in each answer, and notes its lifespan."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            lives.append("outer starts")
            await self.app(scope, receive, send)
            lives.append("outer ends")
            return
        await self.app(scope, receive, partial(named, send, b"outer"))


def inner(app: Any) -> Any:
    """Names itself too, and refuses or breaks where it is told to."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/texts/13":
            raise ZeroDivisionError
        await app(scope, receive, partial(named, send, b"inner"))

    return application


def closed(app: Any) -> Any:
    """Lets nobody in without a key."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"x-key", b"right") not in scope["headers"]:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"closed"})
            return
        await app(scope, receive, send)

    return application


frame = Service("frame", partitions=2)
frame.middleware(Outer)


@frame.get("/frames/{name}")
async def framed(name: str) -> str:
    return name


number = 7
