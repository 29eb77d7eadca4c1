"""An owner in trouble: slow, failing, down or talking garbage, as those who ask it see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

import msgspec

from chimera.errors import Unavailable
from chimera.ports import Session, Store
from chimera.testing.broken import WrappedStore
from chimera.web.wire.http import ASGIApp, Receive, Scope, Send
from chimera_compare.plan import Trouble
from chimera_compare.services import SHARE


class TroubledSite:
    """An owner's site behind a network of `latency` seconds; `now` says which trouble it is in.

    One that is down is not served at all, so that connections are refused: that is not done here.
    """

    def __init__(self, site: ASGIApp, now: Callable[[], Trouble], *, latency: float, slow: float) -> None:
        self._site = site
        self._now = now
        self._latency = latency
        self._slow = slow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trouble = self._now()
        await asyncio.sleep(self._latency + (self._slow if trouble == "slow" else 0.0))
        if trouble == "failing":
            await _answer(send, 500, b'{"title": "Internal Server Error"}')
        elif trouble == "garbage":
            await _answer(send, 200, _garbage(scope))
        else:
            await self._site(scope, receive, send)


class TroubledStore(WrappedStore):
    """The database that a monolith shares with the owner, whose trouble is then everybody's.

    Slow: each read takes `slow` seconds longer, however many wait at once (no pool runs dry, which flatters the
    monolith). Failing, down and garbage: no read succeeds.
    """

    def __init__(self, store: Store, now: Callable[[], Trouble], *, slow: float) -> None:
        super().__init__(store)
        self._now = now
        self._slow = slow

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        trouble = self._now()
        if trouble == "slow":
            await asyncio.sleep(self._slow)
        elif trouble != "none":
            raise Unavailable(f"the shared database is in trouble: {trouble}")
        async with super().snapshot(once=once) as session:
            yield session


def _garbage(scope: Scope) -> bytes:
    """For a share, an answer of the right form whose documents are of no declared type; else no JSON at all."""
    if not scope["path"].endswith(f"/share/{SHARE}"):
        return b"<html>It works!</html>"
    keys = [value for name, value in parse_qsl(scope["query_string"].decode()) if name == "key"]
    return msgspec.json.encode({"share": SHARE, "documents": {key: {"version": "garbage"} for key in keys}})


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
