"""uvicorn as it is used here: what is no HTTP, or too long, is answered with a problem document too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chimera.web.http import ASGIApp, Problem

ADDRESS_LIMIT = 65_000
HEADERS_LIMIT = 64 << 10
LINGER_S = 1.0
KEEP_ALIVE_S = 30


class Server(uvicorn.Server):
    """uvicorn, leaving the signals to us: the write heads stop after the last request was answered."""

    def __init__(self, app: ASGIApp, *, stop_s: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=stop_s,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn would take the signals here."""
        yield


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds: an address of 64 KiB (414), headers of 64 KiB (431).

    Headers have at least `_least` bytes so far and at most `_most`: where in what came last they began is not known.
    """

    _refused = False
    _in_headers = False
    _last = _least = _most = 0
    _status = HTTPStatus.BAD_REQUEST

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._last = len(data)
        self._least += self._last
        self._most += self._last
        super().data_received(data)
        if self._in_headers and self._least > ADDRESS_LIMIT + 2 * HEADERS_LIMIT and not self._refused:
            self._status = self._too_long() or HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_headers, self._least, self._most = True, 0, self._last
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._most > min(ADDRESS_LIMIT, HEADERS_LIMIT) and (status := self._too_long()):
            self._status = status
            raise ValueError(status.phrase)
        super().on_headers_complete()

    def _too_long(self) -> HTTPStatus | None:
        if len(self.url) > ADDRESS_LIMIT:
            return HTTPStatus.REQUEST_URI_TOO_LONG
        size = sum(len(name) + len(value) for name, value in self.headers)
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if size > HEADERS_LIMIT else None

    def send_400_response(self, msg: str) -> None:
        """Refuse, and listen on for a moment: a client that is still sending might miss the answer."""
        self._refused = True
        details = {
            HTTPStatus.REQUEST_URI_TOO_LONG: f"the address is longer than {ADDRESS_LIMIT} bytes",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"the headers are longer than {HEADERS_LIMIT} bytes",
        }
        detail = details.get(self._status, "this is not a request of HTTP/1.1")
        body = msgspec.json.encode(Problem(self._status.phrase, self._status, detail))
        lines = [
            f"HTTP/1.1 {self._status} {self._status.phrase}",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.loop.call_later(LINGER_S, self.transport.close)


async def serve_until_told(server: Server, sockets: list[socket.socket]) -> asyncio.Task[None]:
    """Start a server on sockets that listen; returns its task once it accepts. Raises what keeps it from starting."""
    serving = asyncio.ensure_future(server.serve(sockets=sockets))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.002)
    if serving.done():
        serving.result()
        raise RuntimeError("the HTTP server ended before it served")
    return serving
