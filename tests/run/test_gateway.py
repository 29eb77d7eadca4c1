"""The gateway between a client and a service that is slow to die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import pytest
from multidict import CIMultiDictProxy
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from chimera.core.metrics import Metrics, merge_expositions
from chimera.core.timing import Doors
from chimera.run.front.gateway import Gateway
from chimera.run.serving import listening
from chimera.run.settings import read_settings
from chimera.testing.waiting import eventually

CONFIG = Path(__file__).parents[2] / "chimera.toml"
OK = (
    b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ndate: then\r\nx-kept: a\r\nx-kept: b\r\n"
    b"content-length: 2\r\n\r\n{}"
)


class Upstream:
    """A service that does with the n-th request what `answers` says: bytes to answer, None to hang up."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((head[0], headers, body))
                answer = self.answers.pop(0) if self.answers else OK
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


class Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Client:
    """Asks a gateway; `server` is the one behind it."""

    def __init__(self, session: aiohttp.ClientSession, server: asyncio.Server) -> None:
        self.server = server
        self._session = session

    async def ask(
        self,
        method: str,
        path: str | URL,
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        redirected: bool = True,
    ) -> Answer:
        async with self._session.request(
            method, path, data=data, headers=headers, allow_redirects=redirected
        ) as response:
            return Answer(response.status, response.headers, await response.read())


@asynccontextmanager
async def before(upstream: Upstream, tmp_path: Path, doors: Doors = Doors()) -> AsyncIterator[Client]:
    server = await asyncio.start_server(upstream.connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = read_settings(CONFIG, {}, {"state": str(tmp_path), "doors": msgspec.to_builtins(doors)})
    for service in settings.services.values():
        service.url = f"http://127.0.0.1:{port}"
    gateway = Gateway(settings)
    async with listening(gateway.site(), "127.0.0.1", 0) as base, aiohttp.ClientSession(base) as session:
        yield Client(session, server)
    server.close()
    await gateway.close()
    await asyncio.sleep(0.01)


async def test_a_request_is_passed_on_as_it_is(tmp_path: Path) -> None:
    upstream = Upstream()
    async with before(upstream, tmp_path) as client:
        headers = {"Chimera-After": "orders/0@1", "Connection": "keep-alive", "X-Own": "1", "Idempotency-Key": "mine"}
        path = URL("/orders?a=%2F%20+", encoded=True)
        status, answered, body = await client.ask("POST", path, data=b"{}", headers=headers)
    assert (status, body) == (201, b"{}")
    assert answered.getall("x-kept") == ["a", "b"]
    assert len(answered.getall("date")) == 1
    [(line, sent, data)] = upstream.requests
    assert line == "POST /orders?a=%2F%20+ HTTP/1.1"
    assert data == b"{}"
    assert (sent["chimera-after"], sent["x-own"], sent["idempotency-key"]) == ("orders/0@1", "1", "mine")


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_connection_that_breaks_is_tried_once_more_as_the_same_command(tmp_path: Path, method: str) -> None:
    upstream = Upstream(OK, None, OK)
    path = "/orders" if method == "POST" else "/orders/a"
    async with before(upstream, tmp_path) as client:
        for _ in range(2):
            assert (await client.ask(method, path))[0] == 201
    assert len(upstream.requests) == 3
    keys = [headers.get("idempotency-key") for _, headers, _ in upstream.requests]
    if method == "POST":
        assert keys[1] == keys[2] != keys[0]
    else:
        assert keys == [None] * 3


async def test_one_that_breaks_again_and_again_is_a_503(tmp_path: Path) -> None:
    upstream = Upstream(*[None] * 10)
    async with before(upstream, tmp_path) as client:
        status, headers, body = await client.ask("PUT", "/gigs/a", data=b"{}")
    assert (status, headers["content-type"], headers["retry-after"]) == (503, "application/problem+json", "1")
    assert b"the same command" in body
    assert headers["idempotency-key"] == upstream.requests[0][1]["idempotency-key"]
    assert 2 <= len(upstream.requests) <= 4
    assert len({headers["idempotency-key"] for _, headers, _ in upstream.requests}) == 1


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"])
async def test_garbage_is_a_503(tmp_path: Path, answer: bytes) -> None:
    upstream = Upstream(*[answer] * 4)
    async with before(upstream, tmp_path) as client:
        asking = asyncio.ensure_future(client.ask("GET", "/orders/a"))
        await asyncio.sleep(0.1)
        client.server.close()
        for connection in [task for task in asyncio.all_tasks() if "connected" in repr(task)]:
            connection.cancel()
        status, headers, _ = await asking
    assert (status, headers["content-type"]) == (503, "application/problem+json")


async def test_what_the_service_answers_is_answered_errors_and_all(tmp_path: Path) -> None:
    problem = b"HTTP/1.1 500 Oops\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}"
    moved = b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    upstream = Upstream(problem, moved)
    async with before(upstream, tmp_path) as client:
        assert (await client.ask("GET", "/orders/a"))[0] == 500
        status, headers, _ = await client.ask("GET", "/orders/a", redirected=False)
    assert (status, headers["location"]) == (307, "http://127.0.0.1:1/")
    assert len(upstream.requests) == 2


async def test_connections_are_kept(tmp_path: Path) -> None:
    upstream = Upstream()
    async with before(upstream, tmp_path) as client:
        for _ in range(5):
            await client.ask("GET", "/orders/a")
    assert upstream.connections == 1


def test_metrics_of_several_processes_become_one_text_that_says_whose_each_is() -> None:
    one, two = Metrics(), Metrics()
    one.accepted("orders", "PlaceOrder")
    for metrics in (one, two):
        metrics.handled("orders", "commands", "done", 1)
    two.handled("orders", "commands", "done", 1)
    merged = merge_expositions({"orders read": one.exposition().decode(), "orders write": two.exposition().decode()})
    values = {
        (sample.name, sample.labels["process"]): sample.value
        for family in text_string_to_metric_families(merged.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert values == {
        ("chimera_accepted_total", "orders read"): 1.0,
        ("chimera_handled_total", "orders read"): 1.0,
        ("chimera_handled_total", "orders write"): 2.0,
    }
    assert merged.count(b"# TYPE chimera_handled_total counter") == 1


async def test_headers_of_one_connection_are_not_passed_on(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\n{}"
    upstream = Upstream(answer)
    async with before(upstream, tmp_path) as client:
        headers = {"Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-Kept": "1"}
        _, answered, _ = await client.ask("GET", "/orders/a", headers=headers)
    [(_, sent, _)] = upstream.requests
    assert "x-hop" not in sent
    assert sent["x-kept"] == "1"
    assert "x-hop" not in answered
    assert answered["x-kept"] == "1"


@pytest.mark.parametrize("size", [64 << 10, 3 << 20])
@pytest.mark.parametrize("chunked", [False, True])
async def test_answers_large_and_small_arrive_whole(tmp_path: Path, size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\nx-kept: a\r\n"
    framed = b"content-length: %d\r\n\r\n%b" % (size, body)
    if chunked:
        framed = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    async with before(Upstream(head + framed, head + framed), tmp_path) as client:
        for method in ("GET", "HEAD"):
            status, headers, answered = await client.ask(method, "/orders/a")
            assert (status, headers["content-type"], headers["x-kept"]) == (200, "text/x", "a")
            assert answered == (body if method == "GET" else b"")


async def test_a_large_answer_that_breaks_off_does_not_look_whole(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: 3000000\r\n\r\n"
    async with before(Upstream(head + bytes(1_000_000), None), tmp_path) as client:
        asking = asyncio.ensure_future(client.ask("GET", "/orders/a"))
        await asyncio.sleep(0.2)
        for connection in [task for task in asyncio.all_tasks() if "connected" in repr(task)]:
            connection.cancel()
        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_many_half_sent_bodies_are_not_held(tmp_path: Path) -> None:
    async with before(Upstream(), tmp_path, Doors(body_bytes=3 << 20, body_s=60.0)) as client:
        rest = asyncio.Event()

        async def half() -> AsyncIterator[bytes]:
            yield bytes(900_000)
            await rest.wait()
            yield bytes(100_000)

        async def send() -> int:
            return (await client.ask("POST", "/orders", data=half(), headers={"Content-Length": "1000000"})).status

        sending = [asyncio.ensure_future(send()) for _ in range(20)]
        await eventually(lambda: sum(task.done() for task in sending) == len(sending) - 1)
        assert {task.result() for task in sending if task.done()} == {503}
        assert (await client.ask("POST", "/orders", data=b"{}")).status == 201
        rest.set()
        assert [await task for task in sending].count(201) == 1
