"""Answers compressed by Starlette, but for those whose very bytes are meant."""

from __future__ import annotations

from functools import partial

from starlette.middleware.gzip import GZipMiddleware

from chimera.web.wire.http import ASGIApp, Event, Header, Receive, Scope, Send

LEVEL = 6
AS_IT_IS: Header = (b"content-encoding", b"identity")
"""What keeps Starlette from compressing an answer; no client sees it."""


class Compression:
    """Compresses answers of `least` bytes and more for who accepts gzip; a stream piece by piece, as it comes.

    An answer with a strong ETag, which names its bytes, or with `no-transform` goes as it is.
    """

    def __init__(self, app: ASGIApp, least: int) -> None:
        self._app = app
        self._gzip = GZipMiddleware(self._answer, minimum_size=least, compresslevel=LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; pass on all else."""
        if scope["type"] == "http":
            send = partial(_unmark, send)
        await self._gzip(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, partial(_mark, send) if scope["type"] == "http" else send)


async def _mark(send: Send, event: Event) -> None:
    if event["type"] == "http.response.start" and is_meant_as_it_is(event.get("headers", ())):
        event = {**event, "headers": [*event["headers"], AS_IT_IS]}
    await send(event)


async def _unmark(send: Send, event: Event) -> None:
    if event["type"] == "http.response.start" and AS_IT_IS in event["headers"]:
        event = {**event, "headers": [header for header in event["headers"] if header != AS_IT_IS]}
    await send(event)


def is_meant_as_it_is(headers: list[Header]) -> bool:
    """True for the headers of an answer that must not be changed on its way."""
    for name, value in headers:
        lower = name.lower()
        if lower == b"etag" and not value.startswith(b"W/"):
            return True
        if lower == b"cache-control" and b"no-transform" in value.lower():
            return True
    return False
