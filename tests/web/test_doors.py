"""The doors of a process stay open: for others, whoever is slow, greedy or means harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from chimera.core.timing import Doors
from chimera.run.serving import listening
from chimera.testing.waiting import eventually
from chimera.web.site import Site
from chimera.web.wire.http import Call
from chimera.web.wire.routing import Route
from chimera.web.wire.server import STEADY_BYTES
from chimera.web.wire.shares import Shares
from chimera.web.wire.uploads import upload_of

SMALL = Doors(idle_s=0.2, head_s=0.2, body_s=0.2, answer_s=0.2)
WIDER = Doors(idle_s=0.8, head_s=0.8, body_s=0.8, answer_s=0.8)
"""For who must not be late, on a busy machine."""
GET = b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n"


class Part:
    """Two services: what is asked at `/hold` waits for `go`, `/now` is answered, `/big` has a large answer."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.bodies: list[bytes] = []
        self.asked: list[str] = []
        self.holding = 0

    def routes(self) -> Sequence[Route]:
        every = [Route("GET", "/hold", self.hold), Route("GET", "/now", self.now), Route("GET", "/big", self.big)]
        one = [*every, Route("POST", "/take", self.take), Route("POST", "/upload", self.upload)]
        one += [Route("GET", "/x/health/live", self.now)]
        two = [Route("GET", "/two", self.now), Route("POST", "/two", self.take)]
        return [route._replace(service="one") for route in one] + [route._replace(service="two") for route in two]

    async def hold(self, call: Call) -> None:
        self.holding += 1
        await self.go.wait()
        await call.answer(b"held")

    async def now(self, call: Call) -> None:
        self.asked.append(call.scope["raw_path"].decode() + "?" + call.scope["query_string"].decode())
        await call.answer(b"now")

    async def take(self, call: Call) -> None:
        self.bodies.append(await call.body())
        await call.answer(b"taken", 201)

    async def upload(self, call: Call) -> None:
        self.bodies += [chunk async for chunk in upload_of(call, 1 << 30)]
        await call.answer(b"taken", 201)

    async def big(self, call: Call) -> None:
        self.holding += 1
        await call.answer(bytes(16 << 20))
        self.holding -= 1


class Client:
    """A connection on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes, bytes]:
        """The status, the head and the body of the next answer; 0 where the connection ended."""
        async with asyncio.timeout(60):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, b"", b""
            lengths = [line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
            return int(head[9:12]), head.lower(), await self.reader.readexactly(int(lengths[0]))

    async def ended(self) -> bool:
        async with asyncio.timeout(60):
            try:
                return await self.reader.read(1 << 20) == b""
            except ConnectionError:
                return True


class Served:
    def __init__(self, part: Part, port: int) -> None:
        self.part, self.port = part, port
        self.clients: list[Client] = []

    async def client(self, limit: int = 1 << 25) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit)))
        return self.clients[-1]

    async def ask(self, data: bytes) -> tuple[int, bytes, bytes]:
        client = await self.client()
        await client.send(data)
        return await client.answer()


@asynccontextmanager
async def served(doors: Doors = Doors()) -> AsyncIterator[Served]:
    part = Part()
    async with listening(Site([part], doors=doors), "127.0.0.1", 0, doors) as base:
        site = Served(part, int(base.rpartition(":")[2]))
        try:
            yield site
        finally:
            part.go.set()
            for client in site.clients:
                client.writer.transport.abort()
            await asyncio.sleep(0)


# Time


async def test_a_connection_on_which_nothing_is_asked_is_closed() -> None:
    async with served(SMALL) as site:
        silent = await site.client()
        answered = await site.client()
        await answered.send(GET)
        assert (await answered.answer())[0] == 200
        assert await silent.ended()
        assert await answered.ended()


@pytest.mark.parametrize("begun", [b"GET /", b"GET /now HTTP/1.1\r\nHost: a\r\nX: "])
async def test_a_head_that_trickles_in_is_answered_408(begun: bytes) -> None:
    async with served(SMALL) as site:
        client = await site.client()
        await client.send(begun)
        for _ in range(4):
            await asyncio.sleep(0.04)
            await client.send(b"x")
        status, head, body = await client.answer()
        assert status == 408
        assert b"connection: close" in head
        assert b"application/problem+json" in head
        assert b"did not come in time" in body
        assert await client.ended()


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"])
async def test_a_body_that_trickles_in_is_answered_408(framing: bytes) -> None:
    async with served(SMALL) as site:
        client = await site.client()
        await client.send(b"POST /take HTTP/1.1\r\nHost: a\r\n" + framing)
        for _ in range(4):
            await asyncio.sleep(0.04)
            await client.send(b"1\r\na\r\n")
        assert (await client.answer())[0] == 408
        assert await client.ended()
        assert site.part.bodies == []


async def test_a_body_that_comes_steadily_may_take_longer() -> None:
    async with served(WIDER) as site:
        client = await site.client()
        await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (5 * STEADY_BYTES))
        begun = asyncio.get_running_loop().time()
        for _ in range(5):
            await client.send(bytes(STEADY_BYTES))
            await asyncio.sleep(0.6 * WIDER.body_s)
        assert asyncio.get_running_loop().time() - begun > 2 * WIDER.body_s
        assert (await client.answer())[0] == 201
        assert sum(map(len, site.part.bodies)) == 5 * STEADY_BYTES


async def test_a_body_that_nobody_reads_ends_its_connection_as_well() -> None:
    async with served(SMALL) as site:
        client = await site.client()
        await client.send(b"GET /now HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx")
        assert (await client.answer())[0] == 200
        assert await client.ended()


async def test_who_is_answered_late_is_not_late_herself() -> None:
    async with served(WIDER) as site:
        client = await site.client()
        half = b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n" + half)
        await asyncio.sleep(3 * WIDER.body_s)
        site.part.go.set()
        assert (await client.answer())[2] == b"held"
        await client.send(b"67890")
        assert (await client.answer())[0] == 201
        assert site.part.bodies == [b"1234567890"]


async def test_a_client_that_does_not_take_its_answer_holds_nothing() -> None:
    async with served(SMALL) as site:
        client = await site.client()
        await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: site.part.holding > 0)
        await eventually(lambda: site.part.holding == 0)


async def test_a_client_that_takes_it_slowly_gets_it() -> None:
    async with served(WIDER) as site:
        client = await site.client(1 << 16)
        await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        size = 0
        while size < 16 << 20:
            size += len(part := await client.reader.read(1 << 20))
            assert part
            await asyncio.sleep(0.01)


# Room


async def test_reads_that_wait_leave_room_for_others_of_their_service_and_for_other_services() -> None:
    async with served(Doors(requests=30)) as site:
        waiting = [await site.client() for _ in range(30)]
        for client in waiting:
            await client.send(b"GET /hold?wait=30 HTTP/1.1\r\nHost: a\r\n\r\n")
        statuses = [asyncio.ensure_future(client.answer()) for client in waiting]
        await eventually(lambda: sum(status.done() for status in statuses) + site.part.holding == 30)
        refused = [status.result() for status in statuses if status.done()]
        assert site.part.holding == 10
        assert {status for status, _, _ in refused} == {503}
        assert all(b"retry-after: 1" in head for _, head, _ in refused)
        for path in (b"/now", b"/two", b"/x/health/live"):
            assert (await site.ask(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path))[0] == 200
        site.part.go.set()
        assert sorted(status for status, _, _ in await asyncio.gather(*statuses)) == [200] * 10 + [503] * 20


async def test_half_sent_bodies_are_bounded_and_small_ones_find_room() -> None:
    async with served(Doors(body_bytes=3 << 20)) as site:
        half = b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 900_000
        clients = [await site.client() for _ in range(20)]
        await asyncio.gather(*(client.send(half) for client in clients))
        answers = [asyncio.ensure_future(client.answer()) for client in clients]
        await eventually(lambda: sum(answer.done() for answer in answers) == 19)
        refused = [answer.result() for answer in answers if answer.done()]
        assert {status for status, _, _ in refused} == {503}
        assert all(b"retry-after: 1" in head and b"connection: close" in head for _, head, _ in refused)
        small = b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10_000
        assert (await site.ask(small))[0] == 201
        other = b"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000
        assert (await site.ask(other))[0] == 201
        for client, answer in zip(clients, answers, strict=True):
            if not answer.done():
                await client.send(b"x" * 100_000)
                assert (await answer)[0] == 201
        assert (await site.ask(half + b"x" * 100_000))[0] == 201


async def test_one_connection_too_many_takes_the_place_of_one_that_asks_nothing() -> None:
    async with served(Doors(connections=3)) as site:
        asking = [await site.client() for _ in range(2)]
        for client in asking:
            await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        half = await site.client()
        await half.send(b"GET /now HTTP/1.1\r\nHos")
        assert (await site.ask(GET))[0] == 200
        assert await half.ended()
        third = await site.client()
        await third.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: site.part.holding == 3)
        late = await site.client()
        status, head, _ = await late.answer()
        assert status == 503
        assert b"retry-after: 1" in head
        site.part.go.set()
        assert [(await client.answer())[2] for client in (*asking, third)] == [b"held"] * 3


def test_nobody_gets_all_of_a_share() -> None:
    shares = Shares(90)
    assert [shares.take("a", "one") is not None for _ in range(40)] == [True] * 30 + [False] * 10
    assert shares.take("a", "two")
    assert [shares.take("b", "one") is not None for _ in range(30)].count(True) > 15
    lane = shares.take("a", "two")
    assert lane
    shares.give_back(lane, "one", 30)
    assert shares.take("b", "two")
    shares = Shares(1000)
    for number in range(1000):
        shares.take("a", f"client {number}")
    assert 490 <= shares.taken <= 500


def test_doors_fit_the_descriptors_that_there_are() -> None:
    assert Doors().within(65_536) == Doors()
    few = Doors().within(1024)
    assert few.connections + few.requests <= 1024 - 256


AMBIGUOUS = (
    b"GET /now HTTP/1.1\r\n\r\n",
    b"GET /now HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET /now HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n",
    b"GET /now HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /now HTTP/1.1\r\nHost: a/b\r\n\r\n",
    b"GET /now HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET /now HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /now\r\n\r\n",
    b"GET http:/now HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET ftp://a/now HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    *(
        b"POST /take HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n0\r\n\r\nGET /now HTTP/1.1\r\nHost: a\r\n\r\n"
        for headers in (
            b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            b"Content-Length: 5\r\nContent-Length: 5",
            b"Content-Length: 5, 5",
            b"Content-Length: +5",
            b"Content-Length: 0x5",
            b"Content-Length:",
            b"Content-Length: 99999999999999999999",
            b"Content-Length : 5",
            b"Transfer-Encoding: identity",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding:\r\n chunked",
            b"X: a\rTransfer-Encoding: chunked",
            b"X: a\nTransfer-Encoding: chunked",
            b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: gzip, chunked",
            b"Connection: upgrade\r\nUpgrade: h2c\r\nHost: b",
        )
    ),
    b"POST /take HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
"""Requests that others might understand differently: some hide a second one."""


@pytest.mark.parametrize("request_", AMBIGUOUS)
async def test_what_could_be_taken_for_another_request_is_refused_and_its_connection_ends(request_: bytes) -> None:
    async with served() as site:
        client = await site.client()
        await client.send(request_)
        status, head, _ = await client.answer()
        assert status == 400
        assert b"connection: close" in head
        assert await client.ended()
        assert not site.part.asked
        assert not site.part.bodies


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        (b"GET /now HTTP/1.0\r\n\r\n", "/now?"),
        (b"GET /now?a=b HTTP/1.1\r\nHost:\r\n\r\n", "/now?a=b"),
        (b"GET /now HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "/now?"),
        (b"GET http://b/now?a=b HTTP/1.1\r\nHost: a\r\n\r\n", "/now?a=b"),
        (b"GET /now HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "/now?"),
    ],
)
async def test_what_is_plain_is_answered(request_: bytes, asked: str) -> None:
    async with served() as site:
        assert (await site.ask(request_))[0] == 200
        assert site.part.asked == [asked]


async def test_a_bad_request_is_answered_after_what_was_asked_before_it() -> None:
    async with served() as site:
        client = await site.client()
        await client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n" + GET + b"nonsense\r\n\r\n")
        await asyncio.sleep(0.05)
        site.part.go.set()
        assert (await client.answer())[2] == b"held"
        assert (await client.answer())[2] == b"now"
        assert await client.ended()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("cut", [20, 60, 90, 200])
async def test_who_asks_for_another_protocol_is_answered_as_if_she_had_not(framing: bytes, cut: int) -> None:
    request = b"POST /take HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + framing
    async with served() as site:
        client = await site.client()
        await client.send((request + GET + request)[:cut])
        await asyncio.sleep(0.02)
        await client.send((request + GET + request)[cut:])
        assert [(await client.answer())[0] for _ in range(3)] == [201, 200, 201]
        assert site.part.bodies == [b"abc", b"abc"]


async def test_a_trailer_is_no_header() -> None:
    async with served() as site:
        chunked = b"POST /take HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nHost: b\r\n\r\n"
        client = await site.client()
        await client.send(chunked + chunked)
        assert [(await client.answer())[0] for _ in range(2)] == [201, 201]
