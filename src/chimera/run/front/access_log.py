"""The access log: a line for each request, without its query, where secrets stand."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote_from_bytes

import msgspec

from chimera.core.clock import Clock
from chimera.run.front.settings import AccessLogStyle
from chimera.web.wire.http import ASGIApp, Event, Header, Receive, Scope, Send

NAME = "chimera.access"
"""The logger's name: whoever gives it handlers of his own decides where it goes."""
FORMATS = {"text": "%(asctime)s %(message)s", "json": "%(message)s"}
LONGEST_PATH = 2_000
_PLAIN = "/%:@!$&'()*+,;=~"
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}")


class Access(msgspec.Struct, frozen=True):
    """A request that was answered. `status` is 0 for one without an answer; `id` that of its trace, or its own."""

    time: str
    method: str
    path: str
    status: int
    ms: float
    bytes: int
    id: str
    client: str


class AccessLog:
    """Writes an `Access` for each request, once it is answered to its end."""

    def __init__(self, app: ASGIApp, style: AccessLogStyle, clock: Clock) -> None:
        self._app = app
        self._as_json = style == "json"
        self._clock = clock
        self._logger = logging.getLogger(NAME)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; pass on all else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = self._clock.monotonic(), 0, 0

        async def counted(event: Event) -> None:
            nonlocal status, size
            if event["type"] == "http.response.start":
                status = event["status"]
            elif event["type"] == "http.response.body":
                size += len(event.get("body", b""))
            await send(event)

        method, path, client = scope["method"], _path(scope), scope.get("client")
        try:
            await self._app(scope, receive, counted)
        finally:
            took = round((self._clock.monotonic() - began) * 1000, 2)
            size = 0 if method == "HEAD" else size
            self._write(
                Access(
                    self._clock.stamp(),
                    method,
                    path,
                    status,
                    took,
                    size,
                    _id(scope["headers"]),
                    str(client[0]) if client else "",
                )
            )

    def _write(self, access: Access) -> None:
        if self._as_json:
            self._logger.info("%s", msgspec.json.encode(access).decode())
            return
        self._logger.info(
            "%s %s %d %.2f ms %d bytes %s %s",
            access.method,
            access.path,
            access.status,
            access.ms,
            access.bytes,
            access.id or "-",
            access.client or "-",
        )


def _path(scope: Scope) -> str:
    raw: Any = scope.get("raw_path") or scope["path"].encode()
    return quote_from_bytes(raw.partition(b"?")[0], safe=_PLAIN)[:LONGEST_PATH]


def _id(headers: Iterable[Header]) -> str:
    """The id of its trace (`traceparent`), else its own (`X-Request-Id`), else nothing."""
    own = b""
    for name, value in headers:
        if name == b"traceparent" and (found := _TRACE.fullmatch(value)):
            return str(found[1].decode())
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            own = value
    return own.decode()


@contextmanager
def written(style: AccessLogStyle) -> Iterator[None]:
    """Write the access log to standard error in the block, unless its logger has handlers already."""
    logger = logging.getLogger(NAME)
    if style == "off" or logger.handlers:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMATS[style]))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
