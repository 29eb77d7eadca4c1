"""Services as one ASGI application, with their start and their stop: what `chimera up` serves, and any other server."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import msgspec

from chimera import READ, Side
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.timing import PerCaller
from chimera.errors import ChimeraError, SettingsError
from chimera.run.engines import about, admit_all, opened
from chimera.run.front.chain import check_certificate, in_front
from chimera.run.front.issuers import login_of
from chimera.run.front.issuing import issuing_at
from chimera.run.front.settings import Http
from chimera.run.serving import STOP_S, answering, base_of, descriptors, listen_as_set, stop_signal, until
from chimera.run.settings import Settings, read_settings
from chimera.run.watchdog import watched
from chimera.run.write_head import WriteHead
from chimera.web.home import Home
from chimera.web.permission.groups import standing
from chimera.web.permission.passages import who_may
from chimera.web.probes import Probes
from chimera.web.read_head import ReadHead
from chimera.web.site import Site, SitePart
from chimera.web.wire.http import ASGIApp, Call, Receive, Scope, Send, answer_problem, below
from chimera.web.wire.routing import Route

logger = logging.getLogger("chimera")

SIDES: tuple[Side, ...] = ("read", "write")
NOT_STARTED = (
    "the services are not started: whatever runs this application runs no lifespan for it; give it lifespan="
    "app.lifespan where it takes one, or run: async with app.lifespan()"
)


class Hosting:
    """As `chimera.Application`.

    `read` reads the settings at each start; `names` are the services, none for all that are set. `fleet`: each service
    runs on a port of its own; else all are found at the settings' port. `together`: the services ask each other within
    this process, which may not serve yet, or on a port that nobody knows. `is_child`: another one has said who may
    reach what. `beside`: what is served beside the services. `works` run from start to stop, by name.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        names: Sequence[str] = (),
        *,
        heads: Sequence[Side] = READ,
        fleet: bool = False,
        together: bool = False,
        is_child: bool = False,
        beside: Sequence[SitePart] = (),
    ) -> None:
        if not heads or not set(heads) <= set(SIDES):
            raise SettingsError(f"heads={heads!r}: write heads=('read',), ('write',) or ('read', 'write')")
        self._read = read
        self._names = names
        self._heads = frozenset(heads)
        self._fleet = fleet
        self._together = together
        self._is_child = is_child
        self._beside = beside
        self._site: ASGIApp | None = None
        self._within: ASGIApp | None = None
        self._why_not = NOT_STARTED
        self._reading: list[ReadHead] = []
        self._leaving = False
        self.works: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; run the lifespan. What can't be answered now is a 503 that says why."""
        if scope["type"] == "http" and self._site is not None:
            await self._site(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await answer_problem(Call(scope, receive, send, {}), 503, self._why_not)
        else:
            await receive()
            await send({"type": f"{scope['type']}.close", "code": 1003})

    @asynccontextmanager
    async def lifespan(self, host: object = None) -> AsyncIterator[None]:
        """As `Application.lifespan`."""
        async with self.running():
            for name, work in self.works.items():
                work.add_done_callback(partial(self._ended, name))
            try:
                yield
            finally:
                self.leave()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the engines and start the heads; at the end stop them, in the order opposite. Raises ChimeraError."""
        if self._site is not None or self.works:
            raise ChimeraError("these services are started already; run their lifespan once")
        settings = self._read()
        if settings.open and not settings.dev:
            raise SettingsError("open = true (CHIMERA_OPEN) asks no rule, for those on this machine only: add --dev")
        names = list(self._names or settings.services)
        for name in names:
            settings.check_service(name)
        try:
            async with AsyncExitStack() as stack:
                proves = settings.identity.proves
                front = await stack.enter_async_context(in_front(settings.http, self._answer, proves=proves))
                self._within = await self._started(settings, names, stack)
                self._site = front if settings.http.wraps else self._within
                yield
        finally:
            self._within = None
            self._site, self._why_not, self._reading, self._leaving = None, NOT_STARTED, [], False
            self.works.clear()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what has come through what stands in front."""
        assert self._within is not None
        await self._within(scope, receive, send)

    async def _started(self, settings: Settings, names: Sequence[str], stack: AsyncExitStack) -> Site:
        beside = names if self._together else ()
        contexts = await stack.enter_async_context(opened(settings, names, fleet=self._fleet, beside=beside))
        await admit_all(settings, contexts)
        self._say_who_may(contexts)
        await stack.enter_async_context(watched([context.service for context in contexts], contexts[0].clock))
        if "write" in self._heads:
            self.works |= _write_heads(contexts)
            stack.push_async_callback(stop_all, list(self.works.values()))
        self._reading = [ReadHead(context) for context in contexts] if "read" in self._heads else []
        for head in self._reading:
            await head.start()
            stack.push_async_callback(head.stop)
            self.works |= head.works
        parts: list[SitePart] = [Lone(contexts)]
        if self._reading:
            parts = [*self._reading, _home(settings, self._reading), *login_of(contexts[0].callers)]
        is_front = self._together or not self._fleet  # else the addresses are those of gateways
        limits = settings.limits if is_front else PerCaller()
        return Site([*parts, *self._beside], doors=settings.doors, limits=limits, clock=contexts[0].clock)

    def _say_who_may(self, contexts: Sequence[Context]) -> None:
        """Say in a line what is open, and to whom; a child process leaves that to its parent."""
        reach = contexts[0].reach
        is_alone = self._fleet and not self._together
        told = [who_may([context.service for context in contexts], reach), standing(reach, is_alone=is_alone)]
        if "read" in self._heads and not self._is_child and any(told):
            logger.warning("who may: %s", "; ".join(filter(None, told)))

    def leave(self) -> None:
        """Hold back no answer any longer: the stop is near."""
        self._leaving = True
        for head in self._reading:
            head.leave()

    def in_front_of(self, other: ASGIApp, path: str) -> ASGIApp:
        """As `Application.in_front_of`."""
        if not path.startswith("/") or path.endswith("/"):
            raise SettingsError(f"path={path!r}: begin it with a slash and end it without one, as in: '/shop'")

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await self(scope, receive, send)
            elif (mounted := below(scope, path)) is not None:
                await self(mounted, receive, send)
            else:
                await other(scope, receive, send)

        return application

    async def _live(self, receive: Receive, send: Send) -> None:
        """Run from the server's startup to its shutdown, and tell it in one line what keeps us from either."""
        doing, why = "startup", ""
        await receive()
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                doing = "shutdown"
                await receive()
        except ChimeraError as error:
            why = f"chimera: {error}"
        except Exception as error:
            logger.critical("the services did not get through their %s", doing, exc_info=error)
            why = f"chimera: {error!r}; it is in the log"
        failed = {"type": f"lifespan.{doing}.failed", "message": why}
        await send(failed if why else {"type": "lifespan.shutdown.complete"})

    def _ended(self, name: str, work: asyncio.Future[None]) -> None:
        """A server would idle on without it: answer nothing any more, health included."""
        if not self._leaving and not work.cancelled():
            self._site, self._why_not = None, f"{name} ended by itself; this process must be started again"
            logger.critical(
                "%s ended by itself; everything is answered with 503 from now on", name, exc_info=work.exception()
            )


def hosting(config: str | Path, services: Sequence[str], heads: Sequence[Side]) -> Hosting:
    """The application of `chimera.asgi`: settings are read at its start, modules found beside them as well."""

    def read() -> Settings:
        path = Path(config)
        if (folder := str(path.absolute().parent)) not in sys.path:
            sys.path.append(folder)
        settings = read_settings(path, os.environ)
        room, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if room != resource.RLIM_INFINITY:
            settings.doors = settings.doors.within(room)
        return settings

    return Hosting(read, services, heads=heads, fleet=True, together=True)


class Lone:
    """The site part of write heads without a read head: their probes."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self._probes = [Probes(context, serves=False) for context in contexts]

    def routes(self) -> Sequence[Route]:
        """The probes of each service, and those of the process."""
        own = [route for probes in self._probes for route in probes.routes()]
        return [*own, *self._probes[0].process_routes()]


async def stop_all(works: Sequence[asyncio.Future[None]], patience: float = STOP_S) -> None:
    """Cancel works and wait until they have ended, unless an engine holds them up for too long."""
    for work in works:
        work.cancel()
    if works:
        _, left = await asyncio.wait(works, timeout=patience)
        for work in left:
            logger.warning("%r did not end in %.0f s and is left behind", work, patience)


def _write_heads(contexts: Sequence[Context]) -> dict[str, asyncio.Future[None]]:
    holder = f"{socket.gethostname()}-{os.getpid()}-{contexts[0].process.name[:8]}"
    return {
        f"{context.service.name}'s write head": asyncio.ensure_future(WriteHead(context, holder).run())
        for context in contexts
    }


def _home(settings: Settings, heads: Sequence[ReadHead]) -> Home:
    names = [head.context.service.name for head in heads]
    return Home(settings.title, heads, {name: about(settings.services[name].app) for name in names})


async def serve(
    settings: Settings,
    names: Sequence[str],
    *,
    read: bool,
    write: bool,
    fleet: bool,
    ready: Callable[[str], None],
    port: int | None = None,
    patience: float = 0.0,
    is_child: bool = False,
) -> None:
    """Run read heads, write heads or both of services until SIGTERM or SIGINT. Raises Died when one ends by itself.

    A read head serves its service; a write head by itself serves health, status and metrics. `port` overrides
    the settings: without it a lone write head takes any free one. `ready` is called with the base URL once they serve.
    `patience`: seconds that the port may still be in use by one who is about to leave it. `is_child`: the process that
    started it has said who may reach what.
    """
    for name in names:
        settings.check_service(name)
    stop = stop_signal()
    if port is None:
        port = settings.port if not fleet else settings.own_port(names[0]) if read else 0
    async with AsyncExitStack() as stack:
        http = settings.http if not fleet else settings.services[names[0]].http if read else Http()
        check_certificate(http, f"[services.{names[0]}.http]" if fleet else "[http]")
        listener = stack.enter_context(closing(await listen_as_set(http, settings.host, port, patience)))
        changed = {"doors": settings.doors.within(descriptors()), "http": http}
        if not fleet and not http.socket:
            changed["port"] = listener.getsockname()[1]
        found = msgspec.structs.replace(settings, **changed)
        parts: list[SitePart] = []
        if not fleet:
            found, parts = issuing_at(found, base_of(settings.host, listener, http), Clock())
        sides = [side for side, is_here in zip(SIDES, (read, write), strict=True) if is_here]
        hosting = Hosting(
            lambda: found, names, heads=sides, fleet=fleet, together=not fleet, is_child=is_child, beside=parts
        )
        await stack.enter_async_context(hosting.running())
        serving = await stack.enter_async_context(answering(hosting, listener, found.doors, http))
        stack.callback(hosting.leave)
        ready(base_of(settings.host, listener, http))
        await until(stop, {**hosting.works, "the HTTP server": serving})
