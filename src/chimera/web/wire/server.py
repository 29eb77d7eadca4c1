"""uvicorn as it is used here: with bounds and time limits, and problem documents for what is no HTTP or too long."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chimera.core.timing import Doors
from chimera.replies import Problem
from chimera.web.wire.http import ASGIApp

ADDRESS_LIMIT = 65_000
HEADERS_LIMIT = 64 << 10
LINGER_S = 1.0
STEADY_BYTES = 512 << 10
"""A body of which so many bytes have come in the time for bodies has as much time again."""
LOOKS = 32
"""Connections that are looked at for one that can be closed in place of a new one."""
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_DETAILS = {
    HTTPStatus.REQUEST_URI_TOO_LONG: f"the address is longer than {ADDRESS_LIMIT} bytes",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"the headers are longer than {HEADERS_LIMIT} bytes",
    HTTPStatus.REQUEST_TIMEOUT: "the request did not come in time",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many connections are open; try again",
}


class Server(uvicorn.Server):
    """uvicorn, leaving the signals to us: the write heads stop after the last request was answered.

    `tls` are its options for that, `ssl_certfile` and its like.
    """

    def __init__(self, app: ASGIApp, *, stop_s: int, doors: Doors = Doors(), tls: Mapping[str, str] = {}) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("Any", partial(_Protocol, doors=doors, others=deque())),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=stop_s,
                timeout_keep_alive=cast("int", doors.idle_s),
                **cast("Any", tls),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn would take the signals here."""
        yield


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 with the limits of `doors`, an address of 64 KiB at most (414), headers of 64 KiB (431).

    A request that others might take for two, or for another one, is refused: without just one Host, with any
    Transfer-Encoding but chunked. `others`: the server's connections, the oldest first.
    Headers have at least `_least` bytes so far and at most `_most`: where in what came last they began is not known.
    """

    _refused = _in_headers = _in_message = False
    _last = _least = _most = _came = 0
    _good_host = b""
    _status = HTTPStatus.BAD_REQUEST
    _detail = ""
    _running: RequestResponseCycle | None = None
    _timer: asyncio.TimerHandle | None = None
    _timer_of = ""
    _closing: asyncio.TimerHandle | None = None
    _tls: dict[object, object] | None = None
    _unsent = 0

    def __init__(self, *arguments: Any, doors: Doors, others: deque[_Protocol], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doors = doors
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            self._tls = _certificate_of(tls)
        self.timeout_keep_alive_task = self.loop.call_later(self._doors.idle_s, self.timeout_keep_alive_handler)
        if len(self.connections) > self._doors.connections and not self._close_another():
            self._refused = True
            self._write_problem(HTTPStatus.SERVICE_UNAVAILABLE, "")
            self.transport.close()
            return
        self._others.append(self)

    def _close_another(self) -> bool:
        """Close one of the oldest connections on which nothing whole was asked; false where there is none."""
        for _ in range(min(LOOKS, len(self._others))):
            other = self._others.popleft()
            if other.transport.is_closing():
                continue
            if not other.is_asked:
                other.transport.close()
                other.close_at_last()
                return True
            self._others.append(other)
        return False

    @property
    def is_asked(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._closing, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        if len(self._others) > 2 * len(self.connections) + LOOKS:
            kept = [other for other in self._others if not other.transport.is_closing() and other is not self]
            self._others.clear()
            self._others.extend(kept)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._last = len(data)
        self._came += self._last
        self._least += self._last
        self._most += self._last
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(self._status, self._detail)
            return
        if self._in_message or self._timer is not None:
            self._watch()
        if self._in_headers and self._least > ADDRESS_LIMIT + 2 * HEADERS_LIMIT:
            self._refuse(self._too_long() or HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _go_on(self, rest: bytes) -> None:
        """Parse a request for another protocol as if it had not asked for it: the parser ends where its head does."""
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([line, *headers, b"", rest]))

    def _watch(self) -> None:
        """See to it that what has begun to come comes in time; behind a request without an answer yet it may wait."""
        waits_for = "" if not self._in_message or self.pipeline else "head" if self._in_headers else "body"
        if waits_for == self._timer_of:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_of = waits_for
        if waits_for:
            limit = self._doors.head_s if waits_for == "head" else self._doors.body_s
            self._came = 0
            self._timer = self.loop.call_later(limit, self._too_late)

    def _too_late(self) -> None:
        """Refuse what has not come in time, unless it is a body that comes as fast as it is taken, or fast enough."""
        if self._timer_of == "body" and self._came >= (1 if self.flow.read_paused else STEADY_BYTES):
            self._timer, self._timer_of = None, ""
            self._watch()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def on_message_begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_of = None, ""
        self._in_headers = self._in_message = True
        self._least, self._most = 0, self._last
        HttpToolsProtocol.on_message_begin(self)
        if self._tls is not None:
            self.scope["extensions"] = {"tls": self._tls}

    def on_headers_complete(self) -> None:
        if self._most > min(ADDRESS_LIMIT, HEADERS_LIMIT) and (status := self._too_long()):
            self._status = status
            raise ValueError(status.phrase)
        if why := self._why_not():
            self._detail = why
            raise ValueError(why)
        if self.parser.should_upgrade():
            return
        HttpToolsProtocol.on_headers_complete(self)
        if not self.pipeline:
            self._running = self.cycle
        self._in_headers = False
        self.headers = []  # for what comes behind a body in chunks: it must not add to the head

    def _why_not(self) -> str:
        """The reason for which others might understand the request differently; empty where it is plain."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return f"HTTP/{version} is not spoken here"
        hosts, encodings = 0, 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
                if value != self._good_host:
                    if not _HOST.fullmatch(value):
                        return "the Host is no host"
                    self._good_host = value
            elif name == b"transfer-encoding":
                encodings += 1
                if encodings > 1 or value.lower() != b"chunked" or version == "1.0":
                    return "the only Transfer-Encoding is chunked, once, in HTTP/1.1"
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return "a request of HTTP/1.1 has exactly one Host"
        if not self.url.startswith(b"/"):
            self.url = _path_of(self.url)
        return "" if self.url else "the address is none of HTTP"

    def _too_long(self) -> HTTPStatus | None:
        if len(self.url) > ADDRESS_LIMIT:
            return HTTPStatus.REQUEST_URI_TOO_LONG
        size = sum(len(name) + len(value) for name, value in self.headers)
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if size > HEADERS_LIMIT else None

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_message = False
        HttpToolsProtocol.on_message_complete(self)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        HttpToolsProtocol.on_response_complete(self)
        if self.transport.is_closing():
            self.close_at_last()
        elif self._in_message:
            self._unset_keepalive_if_required()
            self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.close_at_last()

    def close_at_last(self) -> None:
        """Close even if the client never takes what was answered."""
        if self._closing is None and self in self.connections:
            self._closing = self.loop.call_later(self._doors.answer_s, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._closing = self._closing or self.loop.call_later(self._doors.answer_s, self._see_it_taken)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._closing is not None and not self.transport.is_closing():
            self._closing.cancel()
            self._closing = None

    def _see_it_taken(self) -> None:
        """End the connection of a client that has taken nothing of its answer since the last look."""
        left = self.transport.get_write_buffer_size()
        if left >= self._unsent:
            self.transport.abort()
            return
        self._unsent = left
        self._closing = self.loop.call_later(self._doors.answer_s, self._see_it_taken)

    def _refuse(self, status: HTTPStatus, detail: str = "") -> None:
        """Answer what can't be read, after what was asked before it, and hear nothing more.

        It listens on for a moment: a client that is still sending might miss the answer.
        """
        self._refused = True
        broken = self.cycle if self._in_message and not self._in_headers else None
        if broken is not None and self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
        elif broken is not None and broken is self._running:
            if not broken.response_started:
                self._write_problem(status, detail)
            broken.disconnected = True
            broken.message_event.set()
            self._running = None
        last = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and not last.response_complete:
            last.keep_alive = False
            return
        if broken is None:
            self._write_problem(status, detail)
        self.loop.call_later(LINGER_S, self.transport.close)
        self.close_at_last()

    def _write_problem(self, status: HTTPStatus, detail: str) -> None:
        detail = detail or _DETAILS.get(status, "this is not a request of HTTP/1.1")
        body = msgspec.json.encode(Problem(status.phrase, status, detail))
        lines = [
            f"HTTP/1.1 {status} {status.phrase}",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            *(["retry-after: 1"] if status == HTTPStatus.SERVICE_UNAVAILABLE else []),
            "connection: close",
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)


def _certificate_of(tls: Any) -> dict[object, object] | None:
    """The certificate that a client has shown, as ASGI's extension has it (`tls`); None without one."""
    shown = tls.getpeercert(binary_form=True)
    return {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(shown)]} if shown else None


def _path_of(url: bytes) -> bytes:
    """The path and query of an address in whole (`http://host/path?query`), as proxies are asked; empty for none."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        return b""
    if parsed.schema not in (b"http", b"https") or not parsed.host:
        return b""
    return (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")


async def serve_until_told(server: Server, sockets: list[socket.socket]) -> asyncio.Task[None]:
    """Start a server on sockets that listen; returns its task once it accepts. Raises what keeps it from starting."""
    serving = asyncio.ensure_future(server.serve(sockets=sockets))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.002)
    if serving.done():
        serving.result()
        raise RuntimeError("the HTTP server ended before it served")
    return serving
