"""What an owner's failures cost the pages of its borrower: `python -m benchmarks.owner_faults [--seconds 20]`.

The marketplace's gig page and the owner of its top clients run as two processes. Between them is a proxy that can
answer in the owner's place; the owner itself can be killed or stopped. The load is an open loop: pages are asked for
at a constant rate, half of what the page can do with a healthy owner, and a page's time counts from when it was due.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import click
import uvloop

from marketplace.gig_page.service import clients
from tests.e2e.conftest import Chimera, Running

Mode = Literal["sync", "hybrid", "async"]
Fault = Literal["killed", "hung", "500", "garbage"]
MODES: tuple[Mode, ...] = ("sync", "hybrid", "async")
FAULTS: tuple[Fault, ...] = ("killed", "hung", "500", "garbage")

GIGS = 200
SELLERS = 50
AT_ONCE = 32
RECOVERY_S = 2.0
NOTICE_S = 0.25
NOTICE_MODE_S = 1.0
MOST_STOLEN = 0.02
TRIES = 5
LOST = 599


# What was seen


class Visit(NamedTuple):
    """A page that was asked for: when it was due, what it took from then on, and what was on it."""

    due: float
    seconds: float
    status: int
    state: str
    clients: int

    @property
    def is_honest(self) -> bool:
        """Whether there are clients on it when it says so, and none when it says that there are none."""
        return self.status == 200 and (self.clients > 0) == (self.state in ("fresh", "stale"))


class Found(NamedTuple):
    """A fault in a mode: the visits before the owner was struck, until that was undone, and after it was back."""

    mode: Mode
    fault: Fault
    capacity: float
    rate: float
    budget: float
    max_age: float
    struck: float
    mended: float
    back: float
    visits: Sequence[Visit]
    stolen: float = 0.0

    @property
    def healthy(self) -> list[Visit]:
        return [visit for visit in self.visits if visit.due < self.struck]

    @property
    def during(self) -> list[Visit]:
        return [visit for visit in self.visits if self.struck <= visit.due < self.mended]

    @property
    def fresh_again_s(self) -> float:
        """Seconds from the owner's return until pages of every seller in a row were fresh; infinite if they never were.

        A single page that misses its budget later on is no part of the recovery: that happens to healthy owners too.
        """
        in_row, since = 0, self.back
        for visit in sorted(visit for visit in self.visits if visit.due >= self.back):
            in_row = in_row + 1 if visit.state == "fresh" else 0
            since = since if in_row else visit.due + visit.seconds
            if in_row == SELLERS:
                return since - self.back
        return math.inf

    @property
    def broken(self) -> list[str]:
        """The promises that were not kept."""
        promised = self.budget + percentile(self.healthy, 99)
        failed = sum(visit.status != 200 for visit in self.visits)
        dishonest = sum(not visit.is_honest for visit in self.visits)
        p99 = percentile(self.during, 99)
        found = {
            f"{failed} pages failed": failed > 0,
            f"{dishonest} pages say something else than they show": dishonest > 0,
            f"{self.wrongly_fresh} pages call fresh what nobody can know": self.wrongly_fresh > 0,
            f"p99 is {ms(p99)} ms, beyond {ms(promised)}": p99 > promised,
            f"fresh again only after {self.fresh_again_s:.1f} s": self.fresh_again_s > RECOVERY_S,
        }
        return [text for text, is_broken in found.items() if is_broken]

    @property
    def is_void(self) -> bool:
        """Whether so much of the machine was taken away that the times tell about its host."""
        return self.stolen > MOST_STOLEN

    @property
    def wrongly_fresh(self) -> int:
        """Pages that were called fresh when the owner had been away for longer than they may.

        An answer that was on its way when the owner was struck may still arrive; so may, to a page that is slow, one
        that came when it was mended.
        """
        may = NOTICE_S + percentile(self.healthy, 99) + (self.max_age + NOTICE_S if self.mode == "async" else 0.0)
        away = [visit for visit in self.during if visit.due > self.struck + may]
        return sum(visit.state == "fresh" and visit.due + visit.seconds < self.mended for visit in away)


def percentile(visits: Sequence[Visit], percent: int) -> float:
    """Seconds that so many percent of the visits stayed within."""
    taken = sorted(visit.seconds for visit in visits)
    return taken[min(len(taken) - 1, len(taken) * percent // 100)] if taken else 0.0


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


# The load


class GivenUp(ConnectionError):  # noqa: N818 - what happened
    """The server had closed a kept connection before it read what it was asked next."""


class Visitor(asyncio.Protocol):
    """A kept connection, which asks for one page at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._is_kept = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body. Raises OSError when the connection is lost, GivenUp when that is nobody's fault."""
        if self._transport is None or self._transport.is_closing():
            raise GivenUp
        self._answer, self._received = asyncio.get_running_loop().create_future(), b""
        self._transport.write(f"GET {path} HTTP/1.1\r\nhost: pages\r\n\r\n".encode())
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if end and length and len(body) >= int(length[1]) and self._answer and not self._answer.done():
            self._is_kept = True
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer and not self._answer.done():
            unread = self._is_kept and not self._received
            self._answer.set_exception(GivenUp() if unread else ConnectionResetError("closed instead of an answer"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Load:
    """Visits to the gig pages, one gig after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._paths: Iterator[str] = cycle([f"/gigs/gig-{number}" for number in range(GIGS)])
        self._idle: list[Visitor] = []
        self.visits: list[Visit] = []

    async def at_rate(self, rate: float) -> None:
        """Ask for pages at a constant rate, whatever becomes of them, until cancelled; then wait for the last ones."""
        loop = asyncio.get_running_loop()
        under_way: set[asyncio.Task[None]] = set()
        due = loop.time()
        try:
            while True:
                due += 1 / rate
                if (early := due - loop.time()) > 0:
                    await asyncio.sleep(early)
                task = asyncio.ensure_future(self._visit(due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        except asyncio.CancelledError:
            await asyncio.gather(*under_way)

    async def capacity(self, seconds: float) -> float:
        """Pages a second that some visitors get who ask again as soon as they are answered."""
        loop = asyncio.get_running_loop()
        until, before = loop.time() + seconds, len(self.visits)

        async def again_and_again() -> None:
            while (now := loop.time()) < until:
                await self._visit(now)

        await asyncio.gather(*(again_and_again() for _ in range(AT_ONCE)))
        return (len(self.visits) - before) / seconds

    async def are_fresh(self) -> bool:
        """Whether each gig's page is fresh now."""
        before = len(self.visits)
        for _ in range(GIGS):
            await self._visit(asyncio.get_running_loop().time())
        return all(visit.state == "fresh" for visit in self.visits[before:])

    def close(self) -> None:
        for visitor in self._idle:
            visitor.close()

    async def _visit(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            status, body = await self._get(next(self._paths))
        except OSError:
            status, body = LOST, b""
        state = re.search(rb'"state":"(\w+)"', body)
        self.visits.append(
            Visit(due, loop.time() - due, status, state[1].decode() if state else "none", body.count(b'"client_id"'))
        )

    async def _get(self, path: str) -> tuple[int, bytes]:
        """An answer, over a kept connection where there is one that the server has not given up."""
        while self._idle:
            visitor = self._idle.pop()
            with suppress(GivenUp):
                return await self._ask(visitor, path)
        return await self._ask(await self._arrive(), path)

    async def _ask(self, visitor: Visitor, path: str) -> tuple[int, bytes]:
        answer = await visitor.get(path)
        self._idle.append(visitor)
        return answer

    async def _arrive(self) -> Visitor:
        _, visitor = await asyncio.get_running_loop().create_connection(Visitor, "127.0.0.1", self._port)
        return visitor


# The proxy


class Proxy:
    """Passes the borrower's requests on to the owner, or answers them itself with what `answer` makes of an address."""

    def __init__(self, owner_port: int) -> None:
        self.owner_port = owner_port
        self.answer: Callable[[str], bytes] | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.get_running_loop().create_server(lambda: _Incoming(self), "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


class _Incoming(asyncio.Protocol):
    """A connection of the borrower; requests have no body, and wait for the answer to the one before."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._onward: asyncio.Future[asyncio.Transport] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            address = head.split(b" ", 2)[1].decode()
            if self._proxy.answer is not None and self._transport is not None:
                self._transport.write(self._proxy.answer(address))
                continue
            if self._onward is None:
                self._onward = asyncio.ensure_future(self._connect())
            self._onward.add_done_callback(partial(self._pass_on, head))

    def _pass_on(self, head: bytes, onward: asyncio.Future[asyncio.Transport]) -> None:
        if onward.cancelled() or onward.exception() is not None or onward.result().is_closing():
            self.close()
        else:
            onward.result().write(head + b"\r\n\r\n")

    async def _connect(self) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _Outgoing(self), "127.0.0.1", self._proxy.owner_port)
        return transport

    def reply(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        onward = self._onward
        if onward is not None and onward.done() and not onward.cancelled() and onward.exception() is None:
            onward.result().close()
        elif onward is not None:
            onward.cancel()


class _Outgoing(asyncio.Protocol):
    """The same connection's other half."""

    def __init__(self, incoming: _Incoming) -> None:
        self._incoming = incoming

    def data_received(self, data: bytes) -> None:
        self._incoming.reply(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._incoming.close()


def _http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status.encode(),
        len(body),
        body,
    )


def fail(address: str) -> bytes:
    return _http("500 Internal Server Error", b'{"detail": "a bug in the owner"}')


def garbage() -> Callable[[str], bytes]:
    """Answers 200 with what is no JSON, JSON of another shape, or documents of another shape, in turn."""
    kinds = cycle(["no JSON", "another shape", "other documents"])

    def answer(address: str) -> bytes:
        kind = next(kinds)
        keys = parse_qs(urlsplit(address).query).get("key", [])
        if kind == "other documents" and keys:
            documents = {key: {"seller_id": 7, "clients": "many"} for key in keys}
            return _http("200 OK", json.dumps({"share": "top-clients", "documents": documents}).encode())
        return _http("200 OK", b"\xff\xfe{[" if kind == "no JSON" else b'{"share": 1, "heads": ["a"], "events": {}}')

    return answer


# The scene


class Scene:
    """The two services and what stands between them."""

    def __init__(self, chimera: Chimera, proxy: Proxy, ports: tuple[int, int]) -> None:
        self._chimera = chimera
        self._proxy = proxy
        self._owner_port, self._pages_port = ports
        self._owner: Running | None = None

    async def start(self) -> None:
        await self._start_owner()
        await asyncio.to_thread(self._chimera.start("run", "gig-page").wait_ready)
        await asyncio.to_thread(self._fill)

    def load(self) -> Load:
        return Load(self._pages_port)

    async def borrow(self, mode: Mode) -> None:
        """Have the gig page borrow in this mode."""
        path = f"{self._pages_port}/_chimera/gig-page/borrows"
        await asyncio.to_thread(_send, "PUT", f"{path}/top-clients", {"mode": mode})
        while (await asyncio.to_thread(_send, "GET", path))["borrows"][0]["mode"] != mode:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.05)
        await asyncio.sleep(NOTICE_MODE_S)

    async def strike(self, fault: Fault) -> None:
        assert self._owner is not None
        match fault:
            case "killed":
                self._owner.kill()
            case "hung":
                os.kill(self._owner.pid, signal.SIGSTOP)
            case "500":
                self._proxy.answer = fail
            case "garbage":
                self._proxy.answer = garbage()

    async def mend(self, fault: Fault) -> None:
        """Undo a fault; returns once the owner is there again."""
        assert self._owner is not None
        self._proxy.answer = None
        match fault:
            case "killed":
                await self._start_owner()
            case "hung":
                os.kill(self._owner.pid, signal.SIGCONT)

    async def _start_owner(self) -> None:
        self._owner = self._chimera.start("run", "top-clients")
        await asyncio.to_thread(self._owner.wait_ready)

    def _fill(self) -> None:
        for seller in range(SELLERS):
            for client in ("Acme", "Globex"):
                _send("POST", f"{self._owner_port}/sellers/seller-{seller}/clients", {"name": client})
        for gig in range(GIGS):
            said = {"seller_id": f"seller-{gig % SELLERS}", "title": "A logo", "category": "design", "price_cents": 500}
            _send("PUT", f"{self._pages_port}/gigs/gig-{gig}", said)


def _send(method: str, place: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(f"http://127.0.0.1:{place}", data, method=method), timeout=10) as answer:
        return json.load(answer)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """The services, filled: every gig's seller has top clients."""
    chimera = Chimera(folder)
    owner, pages = chimera.port + 3, chimera.port + 4
    chimera.environment |= {
        "CHIMERA_SERVICES__TOP_CLIENTS__PORT": str(owner),
        "CHIMERA_SERVICES__GIG_PAGE__PORT": str(pages),
    }
    proxy = Proxy(owner)
    async with proxy.listening() as between:
        chimera.environment["CHIMERA_SERVICES__TOP_CLIENTS__URL"] = between
        found = Scene(chimera, proxy, (owner, pages))
        try:
            await found.start()
            yield found
        finally:
            chimera.end()


# The runs


class ProcessorTime(NamedTuple):
    """The machine's processor time until now, and how much of it its host gave to others."""

    total: float
    stolen: float

    def stolen_since(self, before: ProcessorTime) -> float:
        """A share, from 0 to 1."""
        return (self.stolen - before.stolen) / (self.total - before.total) if self.total > before.total else 0.0


def processor_time() -> ProcessorTime:
    """From the first line of Linux's `/proc/stat`; elsewhere nothing is known to be stolen."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return ProcessorTime(0.0, 0.0)
    ticks = [float(each) for each in line.split()[1:9]]
    return ProcessorTime(sum(ticks), ticks[7])


class Times(NamedTuple):
    """Seconds for each part of a run."""

    fault: float
    healthy: float = 5.0
    after: float = RECOVERY_S + 2.0
    capacity: float = 3.0


async def run(where: Scene, mode: Mode, fault: Fault, times: Times, *, rate: float | None = None) -> Found:
    """A fault while pages borrow in this mode, at half of the page's capacity in its slowest second or at a rate."""
    with closing(where.load()) as load:
        await _until_fresh(load)
        capacity = min([await load.capacity(times.capacity / 3) for _ in range(3)])
        at = rate or capacity / 2
        await _until_fresh(load)
        load.visits.clear()
        before = processor_time()
        struck, mended, back = await _run_fault(where, load, fault, at, times)
        stolen = processor_time().stolen_since(before)
    visits = list(load.visits)
    return Found(mode, fault, capacity, at, clients.budget, clients.max_age, struck, mended, back, visits, stolen)


async def _run_fault(where: Scene, load: Load, fault: Fault, rate: float, times: Times) -> tuple[float, float, float]:
    """Load, strike, mend; returns when the owner was struck, when that was undone, and when it was back."""
    loop = asyncio.get_running_loop()
    loading = asyncio.ensure_future(load.at_rate(rate))
    try:
        await asyncio.sleep(times.healthy)
        struck = loop.time()
        await where.strike(fault)
        await asyncio.sleep(times.fault)
        mended = loop.time()
        await where.mend(fault)
        back = loop.time()
        await asyncio.sleep(times.after)
    finally:
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
    return struck, mended, back


async def _until_fresh(load: Load) -> None:
    async with asyncio.timeout(30):
        while not await load.are_fresh():  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.1)


COLUMNS = (
    "mode",
    "owner",
    "capacity/s",
    "load/s",
    "pages",
    "stolen",
    "not 200",
    "p50 / p99 healthy, ms",
    "not fresh healthy",
    "p50 / p99 during, ms",
    "seen during",
    "fresh again, s",
    "promises",
)


def line(found: Found) -> str:
    """The table's row."""
    during = found.during
    states = Counter(visit.state for visit in during)
    cells = [
        found.mode,
        found.fault,
        f"{found.capacity:,.0f}",
        f"{found.rate:,.0f}",
        f"{len(during):,}",
        f"{found.stolen:.0%}",
        str(sum(visit.status != 200 for visit in found.visits)),
        f"{ms(percentile(found.healthy, 50))} / {ms(percentile(found.healthy, 99))}",
        f"{sum(visit.state != 'fresh' for visit in found.healthy):,} of {len(found.healthy):,}",
        f"{ms(percentile(during, 50))} / {ms(percentile(during, 99))}",
        ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())),
        f"{found.fresh_again_s:.2f}",
        ("void; " if found.is_void else "") + ("; ".join(found.broken) or "kept"),
    ]
    return f"| {' | '.join(cells)} |"


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="How long each fault lasts.")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), help="Without it, all of them.")
@click.option("--fault", "faults", multiple=True, type=click.Choice(FAULTS), help="Without it, all of them.")
def main(seconds: float, modes: tuple[Mode, ...], faults: tuple[Fault, ...]) -> None:
    """Strike the owner under load in every mode, and print a table.

    A row is void when the machine's host took more than 2 % of its processors away; it is run again, up to 5 times.
    """
    click.echo(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if runner.run(_main(modes or MODES, faults or FAULTS, Times(seconds))):
            raise SystemExit(1)


async def _main(modes: Sequence[Mode], faults: Sequence[Fault], times: Times) -> bool:
    """Whether a promise was broken, or every try was void."""
    broken = False
    with tempfile.TemporaryDirectory() as folder:
        async with scene(Path(folder)) as where:
            for mode, fault in product(modes, faults):
                await where.borrow(mode)
                for _ in range(TRIES):
                    found = await run(where, mode, fault, times)
                    click.echo(line(found))
                    if not found.is_void:
                        break
                broken = broken or found.is_void or bool(found.broken)
    return broken


if __name__ == "__main__":
    main()
