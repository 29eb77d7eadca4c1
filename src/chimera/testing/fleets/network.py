"""HTTP between simulated processes: a request is answered by the real ASGI application in another process, or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from chimera.errors import ChimeraError, Unavailable
from chimera.reader import BorrowReads
from chimera.testing.fleets.trouble import CUT_S, Trouble
from chimera.testing.virtual.loop import PROCESS, SimLoop, SimProcess
from chimera.web.wire.http import ASGIApp, Event

Result = TypeVar("Result")

TIMEOUT_S = 10.0


class Broken(Exception):  # noqa: N818 - what happened
    """No answer came; the request may have been carried out."""


class HttpAnswer(NamedTuple):
    """What was answered. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Listener(NamedTuple):
    """A process that answers for a service, and how its read head borrows."""

    process: SimProcess
    app: ASGIApp
    borrows: Mapping[str, BorrowReads]


Work = Callable[[Listener], Awaitable[Result]]
"""What is done in the process that is reached."""


class Network:
    """Who answers for which service, and the ways to them."""

    def __init__(self, loop: SimLoop, trouble: Trouble) -> None:
        self._loop = loop
        self._trouble = trouble
        self._listeners: dict[str, list[Listener]] = {}

    def listen(self, service: str, listener: Listener) -> None:
        """From now on requests may come, until the process is killed or leaves."""
        self._listeners.setdefault(service, []).append(listener)
        listener.process.ended.append(lambda: self.leave(service, listener))

    def leave(self, service: str, listener: Listener) -> None:
        """No more requests come."""
        if listener in self._listeners.get(service, ()):
            self._listeners[service].remove(listener)

    async def ask(
        self, service: str, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> HttpAnswer:
        """The answer of whichever process of a service is reached. Raises Broken when none comes."""
        return await self.within(service, lambda listener: served(listener.app, method, path, body, headers))

    async def within(self, service: str, work: Work[Result]) -> Result:
        """What comes of a work in whichever process of a service is reached. Raises Broken when nothing does."""
        trouble, asking, engine = self._trouble, PROCESS.get(), f"http {service}"
        await asyncio.sleep(trouble.chance() * trouble.network_s)
        if slow := trouble.hit("request slow", engine, asking):
            await asyncio.sleep(trouble.exponential(slow.by_s))
        there = self._listeners.get(service)
        if not there or trouble.hit("request lost", engine, asking) or trouble.hit("cut", engine, asking):
            await asyncio.sleep(CUT_S)
            raise Broken(f"{service} can't be reached")
        listener = there[int(trouble.chance() * len(there))]
        if trouble.hit("request doubled", engine, asking):
            self._send(service, listener, work)
        answer = await self._send(service, listener, work)
        if isinstance(answer, Broken):
            raise answer
        if trouble.hit("answer lost", engine, asking):
            raise Broken(f"the answer of {service} is lost")
        return answer

    def _send(self, service: str, listener: Listener, work: Work[Result]) -> asyncio.Future[Result | Broken]:
        process, came = listener.process, self._loop.create_future()

        def broke(why: str = f"{listener.process.name} was killed while it answered") -> None:
            if not came.done():
                came.set_result(Broken(why))

        async def answering() -> None:
            try:
                answer = await work(listener)
            except ChimeraError:
                broke()
            except Exception as error:  # noqa: BLE001 - a server closes the connection, and says why in its log
                self._loop.failures.append(f"{process.name} failed to answer: {error!r}")
                broke()
            else:
                if not came.done():
                    came.set_result(answer)
            timer.cancel()
            process.ended.remove(broke)

        timer = self._loop.call_later(TIMEOUT_S, broke, f"{service} did not answer within {TIMEOUT_S:.0f} s")
        process.ended.append(broke)
        process.spawn(answering())
        return came


class SimTransport:
    """The way of a process to another service, as `chimera.adapters.http.HttpOwner` takes it."""

    def __init__(self, network: Network, service: str) -> None:
        self._network = network
        self._service = service

    async def request(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: bytes | None
    ) -> tuple[int, bytes]:
        target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        try:
            answer = await self._network.ask(self._service, method, target, body=body or b"")
        except Broken as error:
            raise Unavailable(str(error)) from error
        return answer.status, answer.body

    async def close(self) -> None: ...


async def served(app: ASGIApp, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
    """What an ASGI application answers, without a network."""
    sent: list[Event] = []
    events: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Event:
        if events:
            return events.pop()
        forever: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        return await forever

    async def send(event: Event) -> None:
        sent.append(event)

    raw, _, query = path.partition("?")
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": method,
        "path": raw,
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [(b"content-length", b"%d" % len(body)), *given],
    }
    await app(scope, receive, send)
    came = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return HttpAnswer(sent[0]["status"], came, b"".join(event.get("body", b"") for event in sent[1:]))
