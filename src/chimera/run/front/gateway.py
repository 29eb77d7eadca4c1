"""One port in front of services that run in processes of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from chimera.caller import Request
from chimera.core.metrics import merge_expositions
from chimera.run.engines import Engines, about
from chimera.run.front.chain import check_certificate, in_front
from chimera.run.front.issuers import login_of
from chimera.run.serving import answering, base_of, descriptors, listen_as_set, stop_signal, until
from chimera.run.settings import Settings
from chimera.web.home import Home
from chimera.web.identity.ways import PASSED
from chimera.web.probes import EXPOSITION
from chimera.web.read_head import ReadHead
from chimera.web.site import Site, SitePart
from chimera.web.wire.http import Call, Header, answer_problem
from chimera.web.wire.routing import Endpoint, Route

logger = logging.getLogger("chimera")

NOT_PASSED_ON = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"host",
        b"content-length",
        b"expect",
        b"date",
    }
)
SAFE = "".join(map(chr, range(0x21, 0x7F)))
TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=60.0)
METRICS_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
WHOLE = 64 << 10
"""Bytes of an answer that is read whole before any of it is passed on."""
FAILED = (aiohttp.ClientError, TimeoutError, OSError)
BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)

HOP = b"connection"


class _Forwarded(NamedTuple):
    method: str
    url: URL
    headers: CIMultiDict[str]
    body: bytes | None


async def serve_gateway(settings: Settings, ready: Callable[[str], None]) -> None:
    """Run a gateway on the settings' port until SIGTERM or SIGINT; the services run elsewhere."""
    stop, http = stop_signal(), settings.http
    check_certificate(http)
    gateway = Gateway(settings)
    try:
        with closing(await listen_as_set(http, settings.host, settings.port)) as listener:
            async with (
                in_front(http, gateway.site(), proves=settings.identity.proves) as app,
                answering(app, listener, gateway.doors, http) as serving,
            ):
                ready(base_of(settings.host, listener, http))
                await until(stop, {"the gateway": serving})
    finally:
        await gateway.close()


class Gateway:
    """Forwards each route to the process of its service.

    A request whose connection breaks is sent once more. That is safe for a command too, for the gateway
    gives it an Idempotency-Key where it has none: sent twice, it is one command with one answer. Large answers are
    passed on as they come. What is under way is bounded by `doors`, nothing beside it.
    `processes`: name to base URL of the processes whose metrics are its own too; without it, the read heads. `beside`:
    what is served here beside the services.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        processes: Callable[[], Mapping[str, str]] | None = None,
        beside: Sequence[SitePart] = (),
    ) -> None:
        self._engines = Engines(settings, fleet=True)
        self._heads = [ReadHead(self._engines.context(name)) for name in settings.services]
        self._bases = {name: settings.base(name, fleet=True) for name in settings.services}
        self._processes = processes or (lambda: {f"{name} read": base for name, base in self._bases.items()})
        self._beside = beside
        self._title = settings.title
        self._limits = settings.limits
        self.doors = settings.doors.within(descriptors())
        self._about = {name: about(service.app) for name, service in settings.services.items()}
        self._certified = self._engines.identifying.callers if settings.identity.certificates else None
        self._session: aiohttp.ClientSession | None = None

    def site(self) -> Site:
        """The application that serves the routes of all services."""
        parts: list[SitePart] = [
            self,
            Home(self._title, self._heads, self._about),
            *login_of(self._engines.identifying.callers),
            *self._beside,
        ]
        return Site(parts, doors=self.doors, limits=self._limits, clock=self._engines.clock)

    def routes(self) -> Sequence[Route]:
        """The routes of all services, each forwarded to its service's process, and `/metrics` of them all."""
        forwarded = [
            route._replace(endpoint=self._forward(self._bases[head.context.service.name]))
            for head in self._heads
            for route in head.routes()
        ]
        return [*forwarded, Route("GET", "/metrics", self.metrics)]

    async def close(self) -> None:
        """Close the connections to the processes, and the engines."""
        if self._session is not None:
            await self._session.close()
        await self._engines.close()

    async def metrics(self, call: Call) -> None:
        """Answer with the metrics of the processes, each by its name; one that does not answer is left out."""
        processes = self._processes()
        found = await asyncio.gather(*(self._exposition(base) for base in processes.values()))
        texts = {name: text for name, text in zip(processes, found, strict=True) if text}
        await call.answer(merge_expositions(texts), 200, EXPOSITION)

    def _forward(self, base: str) -> Endpoint:
        async def forward(call: Call) -> None:
            path, query = call.scope["raw_path"], call.scope["query_string"]
            target = quote_from_bytes(path + (b"?" + query if query else b""), safe=SAFE)
            method = "GET" if call.scope["method"] == "HEAD" else call.scope["method"]
            headers = CIMultiDict(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in _passed_on(call.scope["headers"])
            )
            if method != "GET":
                headers.setdefault("Idempotency-Key", self._engines.clock.new_id())
            _say_who_asks(call, headers)
            headers.popall(PASSED, None)
            if self._certified and (told := self._certified.passing(Request(call.scope))):
                headers[PASSED] = told
            request = _Forwarded(method, URL(base + target, encoded=True), headers, await call.body() or None)
            try:
                await self._send(call, request)
            except FAILED as error:
                await _answer_failed(call, request, error)

        return forward

    async def _send(self, call: Call, request: _Forwarded) -> None:
        try:
            await self._send_once(call, request)
        except aiohttp.ClientConnectorError:
            raise
        except BROKEN:
            await self._send_once(call, request)

    async def _send_once(self, call: Call, request: _Forwarded) -> None:
        """Send it and answer. Raises what is in FAILED, and only before any of the answer was passed on."""
        async with self._open().request(
            request.method, request.url, data=request.body, headers=request.headers, allow_redirects=False
        ) as response:
            is_whole = response.content_length is not None and response.content_length <= WHOLE
            first = await (response.read() if is_whole else response.content.readany())
            await _pass_on(call, response, first)

    async def _exposition(self, base: str) -> str:
        try:
            async with self._open().get(f"{base}/metrics", timeout=METRICS_TIMEOUT) as response:
                return await response.text() if response.status == 200 else ""
        except FAILED:
            return ""

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=TIMEOUT,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding", "Content-Type"],
            )
        return self._session


def _say_who_asks(call: Call, headers: CIMultiDict[str]) -> None:
    """Say, as proxies do, which address asks, which host and how, as far as it is known here."""
    if client := call.scope.get("client"):
        before = headers.popall("X-Forwarded-For", [])
        headers["X-Forwarded-For"] = ", ".join([*before, client[0]])
    headers["X-Forwarded-Host"] = call.header(b"host") or ""
    headers["X-Forwarded-Proto"] = call.scope.get("scheme", "http")


def _passed_on(headers: Iterable[Header]) -> list[Header]:
    """The headers, by lower-case names, that are not of one connection only."""
    headers = [(name.lower(), value) for name, value in headers]
    own = {part.strip().lower() for name, value in headers if name == HOP for part in value.split(b",")}
    return [(name, value) for name, value in headers if name not in NOT_PASSED_ON and name not in own]


async def _pass_on(call: Call, response: aiohttp.ClientResponse, first: bytes) -> None:
    """Answer as the service does, the first bytes of its body being at hand, the others as they come."""
    headers = [pair for pair in _passed_on(response.raw_headers) if pair[0] != b"content-type"]
    content_type = response.headers.get("content-type", "application/octet-stream").encode("latin-1")
    if response.content.at_eof():
        await call.answer(first, response.status, content_type, headers)
        return
    headers.append((b"content-type", content_type))
    if response.content_length is not None:
        headers.append((b"content-length", b"%d" % response.content_length))
    await call.send({"type": "http.response.start", "status": response.status, "headers": headers})
    part = first
    try:
        while part:
            await call.send({"type": "http.response.body", "body": part, "more_body": True})
            part = await response.content.readany()
    except FAILED as error:
        logger.warning("%s %s: its answer broke off: %r", response.method, response.url, error)
        return  # an answer without an end: uvicorn cuts the connection
    await call.send({"type": "http.response.body", "body": b""})


async def _answer_failed(call: Call, request: _Forwarded, error: Exception) -> None:
    """503. For a command that may have arrived, with the key under which it can be sent again as the same command."""
    logger.warning("%s %s: %s %s", request.method, request.url, type(error).__name__, error)
    headers = [(b"retry-after", b"1")]
    if request.method == "GET":
        detail = "the service does not answer now; try again"
    elif isinstance(error, aiohttp.ClientConnectorError):
        detail = "the service does not answer now, and nothing was kept; try again"
    else:
        detail = "the service does not answer now; sent again with this Idempotency-Key it is the same command"
        headers.append((b"idempotency-key", request.headers["Idempotency-Key"].encode("latin-1")))
    await answer_problem(call, HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers)
