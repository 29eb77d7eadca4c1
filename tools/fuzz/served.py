"""What reads requests and answers them: the site, HTTP on a socket, the gateway and what is behind it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote_from_bytes

from chimera.core.context import Context
from chimera.core.timing import Doors, Timing
from chimera.errors import Unavailable
from chimera.run.engines import context_of
from chimera.run.front.gateway import Gateway
from chimera.run.front.settings import Http
from chimera.run.serving import answering, listen, listen_as_set
from chimera.run.settings import ServiceSettings, Settings
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from fuzz.decoders import COUNT, FORM, POSITIONS, PUT, Target
from fuzz.inputs import changed, changed_header
from fuzz.service import fuzzed

QUICK = Timing(after_s=0.001, call_s=0.05, check_s=0.05)
HASTY = Doors(idle_s=0.05, head_s=0.05, body_s=0.05, answer_s=1.0)
LONGEST_S = 5.0
"""What any answer may take."""
REQUESTS = (
    (b"PUT", b"/things/t", b"", PUT),
    (b"POST", b"/counts/5/2026-01-31", b"", COUNT),
    (b"POST", b"/things/t/files", b"tag=a&tag=b&at=1", FORM),
    (b"GET", b"/things/t", b"day=2026-01-31&number=3&tag=x", b""),
    (b"GET", b"/shown/t", b"", b""),
    (b"GET", b"/shown/by/few", b"limit=5&after=abc", b""),
    (b"GET", b"/shown/by/few", b"offset=3", b""),
    (b"GET", b"/_chimera/fuzzed/commands/018f3c2a-7d1e-7c00-8000-0123456789ab", b"wait=0", b""),
    (b"GET", b"/_chimera/fuzzed/commands", b"id=a&id=b", b""),
    (b"GET", b"/_chimera/fuzzed/journal", b"partition=1&after=0&limit=10", b""),
    (b"GET", b"/_chimera/fuzzed/journal/chain", b"partition=1&number=0", b""),
    (b"GET", b"/_chimera/fuzzed/heads", b"", b""),
    (b"GET", b"/_chimera/fuzzed/share/things", b"key=a&key=b", b""),
    (b"GET", b"/_chimera/fuzzed/share/things/digests", b"partition=1", b""),
    (b"GET", b"/_chimera/fuzzed/share/things/entries", b"partition=1&bucket=1", b""),
    (
        b"PUT",
        b"/_chimera/fuzzed/consumers",
        b"",
        b'{"consumers":[{"consumer":"a view","partition":1,"number":0,"offset":0}]}',
    ),
    (b"PUT", b"/_chimera/fuzzed/borrows/things", b"", b'{"mode":"sync"}'),
    (b"GET", b"/_chimera/fuzzed/health/live", b"", b""),
)
HEADERS = {
    b"chimera-after": POSITIONS,
    b"idempotency-key": ("key-1",),
    b"chimera-correlation": ("chain-1",),
    b"traceparent": ("00-" + "a" * 32 + "-" + "b" * 16 + "-01",),
    b"baggage": ("campaign=x",),
    b"authorization": ("Bearer ann", "Bearer expired", "Basic YTpi"),
    b"cookie": ("a=b",),
    b"accept": ("text/html", "application/json;q=0.1"),
    b"content-type": ("application/json", "multipart/form-data; boundary=b"),
    b"x-forwarded-for": ("10.0.0.1, 203.0.113.7",),
    b"if-none-match": ('"x"',),
    b"range": ("bytes=0-1",),
}
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Failed(logging.Handler):
    """What was logged of failures that nobody has foreseen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.told.append(self.format(record))


def check_status(status: int, what: object, body: bytes = b"") -> None:
    """Raises AssertionError for an answer that says that something is wrong here."""
    assert status < 500 or status == 503, f"{status} for {what!r}: {body[:300]!r}"


@asynccontextmanager
async def begun() -> AsyncIterator[tuple[Context, ReadHead]]:
    """The service with its read head, on engines in memory."""
    context = context_of(fuzzed(), MemoryLog(), MemoryStore(), MemoryViews(), _nobody, timing=QUICK)
    await context.prepare()
    await context.resources.open()
    head = ReadHead(context)
    await head.start()
    try:
        yield context, head
    finally:
        await head.stop()
        await context.resources.close()


def _nobody(name: str) -> Any:
    raise Unavailable(name)


def _scope(random: Random) -> tuple[dict[str, Any], bytes]:
    method, path, query, body = random.choice(REQUESTS)
    for_path, for_query, for_body = (random.random() < chance for chance in (0.4, 0.4, 0.5))
    raw_path = _address(changed([path], random)) if for_path else path
    method = changed([method], random)[:40] if random.random() < 0.03 else method
    headers = [(name, changed_header(good, random)) for name, good in HEADERS.items() if random.random() < 0.25]
    scope = {
        "type": "http",
        "method": method.decode("latin-1"),
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": _address(changed([query], random)) if for_query else query,
        "headers": [(b"host", b"a"), *headers],
        "client": ("203.0.113.7", 1234),
        "scheme": "http",
    }
    return scope, changed([body], random) if for_body else body


def _address(data: bytes) -> bytes:
    """As a server lets it through: what no address holds is written as %xx."""
    return (
        (b"/" + data.lstrip(b"/"))[:3000] if b"\0" not in data and data.isascii() else quote_from_bytes(data).encode()
    )


async def _ask(site: Any, scope: Mapping[str, Any], body: bytes) -> tuple[int, bytes]:
    status, answer, chunks = 0, b"", [body[:10], body[10:]]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    async def send(event: Any) -> None:
        nonlocal status, answer
        status = event.get("status", status)
        answer += event.get("body", b"")

    async with asyncio.timeout(LONGEST_S):
        await site({**scope}, receive, send)
    return status, answer


def site_target(head: ReadHead) -> Target:
    """Requests as a server hands them on."""
    site = Site([head])

    async def read(random: Random) -> None:
        scope, body = _scope(random)
        status, answer = await _ask(site, scope, body)
        check_status(status, (scope["method"], scope["raw_path"], scope["query_string"]), answer)

    return read


@asynccontextmanager
async def wire_target(site: Site, place: str) -> AsyncIterator[Target]:
    """Bytes on a connection to a socket at this place."""
    http = Http(socket=place)
    with closing(await listen_as_set(http, "", 0)) as listener:
        async with answering(site, listener, HASTY, http):

            async def read(random: Random) -> None:
                sent = _written(random)
                reader, writer = await asyncio.open_unix_connection(place)
                try:
                    async with asyncio.timeout(LONGEST_S):
                        with suppress(ConnectionError):
                            writer.write(sent)
                            await writer.drain()
                        with suppress(ConnectionError):
                            answers = await reader.read(-1)
                            for status in STATUS.findall(answers):
                                check_status(int(status), sent, answers)
                finally:
                    writer.close()

            yield read


def _written(random: Random) -> bytes:
    """Requests on a connection, changed by chance."""
    written = b""
    for _ in range(random.choice((1, 1, 2, 3))):
        method, path, query, body = random.choice(REQUESTS)
        line = b"%b %b%b HTTP/1.1\r\n" % (method, path, b"?" + query if query else b"")
        headers = [b"Host: a", *(b"%b: %b" % (n, g[0].encode()) for n, g in HEADERS.items() if random.random() < 0.15)]
        if random.random() < 0.3:
            headers.append(b"Transfer-Encoding: chunked")
            body = (
                b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:], b"") if part)
                + b"0\r\n\r\n"
            )
        elif body:
            headers.append(b"Content-Length: %d" % len(body))
        if random.random() < 0.3:
            headers.append(b"Connection: close")
        written += line + b"\r\n".join(headers) + b"\r\n\r\n" + body
    return changed([written], random)


@asynccontextmanager
async def gateway_targets(head: ReadHead, folder: Path) -> AsyncIterator[dict[str, Target]]:
    """Requests through a gateway: to a service, and to something that answers whatever it likes."""
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(closing(await listen("127.0.0.1", 0)))
        await stack.enter_async_context(answering(Site([head]), listener, Doors()))
        odd = _Odd()
        server = await asyncio.start_server(odd.answer, "127.0.0.1", 0)
        await stack.enter_async_context(server)
        ports = {"gateway": listener.getsockname()[1], "answers": server.sockets[0].getsockname()[1]}
        targets: dict[str, Target] = {}
        for name, port in ports.items():
            own = ServiceSettings(app="fuzz.service:served", url=f"http://127.0.0.1:{port}")
            gateway = Gateway(Settings(services={"fuzzed": own}, state=str(folder)))
            stack.push_async_callback(gateway.close)
            targets[name] = _through(gateway, None if name == "gateway" else odd)
            if name == "gateway":
                place = str(folder / "gateway.sock")
                targets["wire, gateway"] = await stack.enter_async_context(wire_target(gateway.site(), place))
        yield targets


def _through(gateway: Gateway, odd: _Odd | None) -> Target:
    site = gateway.site()

    async def read(random: Random) -> None:
        scope, body = _scope(random)
        if odd is not None:
            odd.written = changed(ODD, random)
        status, answer = await _ask(site, scope, body)
        if odd is None:
            check_status(status, (scope["method"], scope["raw_path"], scope["query_string"]), answer)
        else:
            assert status, "no answer at all"

    return read


ODD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
)


class _Odd:
    """A service that answers what it is told, and hangs up."""

    def __init__(self) -> None:
        self.written = b""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.written)
            await writer.drain()
        writer.close()
