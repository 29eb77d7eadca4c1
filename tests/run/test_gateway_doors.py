"""A stranger at the gateway: nothing of hers reaches a service twice, holds it up, or keeps others out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chimera.core.timing import Doors
from chimera.run.front.gateway import Gateway
from chimera.run.serving import listening
from chimera.run.settings import read_settings
from tests.run.test_gateway import CONFIG, Upstream
from tests.web.test_doors import AMBIGUOUS, Client

SMALL = Doors(idle_s=0.3, head_s=0.3, body_s=0.3, answer_s=0.3)
GET = b"GET /orders/now HTTP/1.1\r\nHost: a\r\n\r\n"


class Front:
    """A gateway, and the service behind it."""

    def __init__(self, upstream: Upstream, port: int) -> None:
        self.upstream, self.port = upstream, port
        self.clients: list[Client] = []

    async def client(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def ask(self, data: bytes) -> int:
        client = await self.client()
        await client.send(data)
        return (await client.answer())[0]


@asynccontextmanager
async def fronted(tmp_path: Path, doors: Doors = Doors()) -> AsyncIterator[Front]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.connected, "127.0.0.1", 0)
    settings = read_settings(CONFIG, {}, {"state": str(tmp_path)})
    for service in settings.services.values():
        service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    gateway = Gateway(settings)
    async with listening(gateway.site(), "127.0.0.1", 0, doors) as base:
        front = Front(upstream, int(base.rpartition(":")[2]))
        try:
            yield front
        finally:
            for client in front.clients:
                client.writer.transport.abort()
    server.close()
    await gateway.close()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("request_", AMBIGUOUS)
async def test_what_could_be_taken_for_another_request_reaches_no_service(tmp_path: Path, request_: bytes) -> None:
    async with fronted(tmp_path) as front:
        sent = request_.replace(b"/now", b"/orders/now").replace(b"/take", b"/orders")
        assert await front.ask(sent) == 400
        assert front.upstream.requests == []


@pytest.mark.parametrize(
    "hidden", [b"GET /orders/hidden HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\nGET /orders/hidden HTTP/1.1\r\n\r\n"]
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_that_looks_like_a_request_is_a_body(tmp_path: Path, hidden: bytes, chunked: bool) -> None:
    framed = b"Content-Length: %d\r\n\r\n%b" % (len(hidden), hidden)
    if chunked:
        framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    async with fronted(tmp_path) as front:
        assert await front.ask(b"POST /orders HTTP/1.1\r\nHost: a\r\n" + framed) == 201
        [(line, headers, body)] = front.upstream.requests
        assert (line, body) == ("POST /orders HTTP/1.1", hidden)
        assert (headers["content-length"], headers.get("transfer-encoding")) == (str(len(hidden)), None)


@pytest.mark.parametrize(
    "line", [b"GET /orders/a%0d%0aX:%20y HTTP/1.1", b"GET /orders/a?%0d%0a%0d%0aGET%20/orders/hidden HTTP/1.1"]
)
async def test_an_address_does_not_become_a_header_or_another_request(tmp_path: Path, line: bytes) -> None:
    async with fronted(tmp_path) as front:
        await front.ask(line + b"\r\nHost: a\r\n\r\n")
        for asked, headers, _ in front.upstream.requests:
            assert asked == line.decode()
            assert "x" not in headers


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /ord",
        b"GET /orders/a HTTP/1.1\r\nHost: a\r\nX: ",
        b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n",
    ],
    ids=["line", "head", "body"],
)
async def test_a_client_that_trickles_in_is_answered_408_and_reaches_no_service(tmp_path: Path, begun: bytes) -> None:
    async with fronted(tmp_path, SMALL) as front:
        client = await front.client()
        await client.send(begun)
        for _ in range(4):
            await asyncio.sleep(0.05)
            await client.send(b"x")
        assert (await client.answer())[0] == 408
        assert await client.ended()
        assert front.upstream.requests == []


async def test_a_thousand_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    async with fronted(tmp_path, Doors(connections=200)) as front:
        for start in range(0, 1000, 100):
            await asyncio.gather(*(front.client() for _ in range(100)))
            assert await front.ask(GET) == 201, start
        half = [await front.client() for _ in range(150)]
        for client in half:
            await client.send(b"GET /orders/a HTTP/1.1\r\nHost: a\r\nX: ")
        assert await front.ask(GET) == 201
        assert len(front.upstream.requests) == 11
