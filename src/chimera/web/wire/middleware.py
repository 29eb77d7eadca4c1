"""ASGI middleware that authors wrote, or chose: put around, its failures answered, its lifespan run."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from chimera.errors import ChimeraError
from chimera.service import Service
from chimera.supplies import Middleware
from chimera.web.wire.http import FAILED, ASGIApp, Call, Event, Receive, Render, Scope, Send, answer_problem
from chimera.web.wire.routing import Endpoint, Route

logger = logging.getLogger("chimera")

STOP_S = 5.0
"""What a middleware's shutdown may take."""
ASKED = "chimera.asked"
"""The key of an ASGI scope under which what is being answered gets through a service's middleware."""
AnswerError = Callable[[Call, Exception], Awaitable[None]]
_PARAMETER = re.compile(r"\{\w+\}")


class Guarded:
    """An application of somebody else's middleware. What fails in it is a 500, and in the log with its place.

    `at` says which one it is, and where it was declared; `render` how errors are given.
    """

    def __init__(self, app: ASGIApp, at: str, render: Render | None = None) -> None:
        self._app = app
        self._at = at
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; pass on all else. Raises ChimeraError for a lifespan in which it fails."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except ChimeraError:
            raise
        except Exception as error:
            raise ChimeraError(
                f"{self._at} fails outside of requests: {type(error).__name__}: {error}; what is not HTTP it passes "
                'on: if scope["type"] != "http": await self.app(scope, receive, send)'
            ) from error

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that has begun is left without an end, so that the server cuts its connection."""
        begun = False

        async def watched(event: Event) -> None:
            nonlocal begun
            begun = begun or event["type"] == "http.response.start"
            await send(event)

        method, path = scope["method"], scope["path"]
        try:
            await self._app(scope, receive, watched)
        except Exception:
            logger.exception("%s %s failed: %s", method, path, self._at)
        else:
            if begun:
                return
            logger.error("%s %s failed: %s has not answered", method, path, self._at)
        if not begun:
            await answer_problem(Call(scope, receive, send, {}, render=self._render), 500, FAILED)


async def lived(receive: Receive, send: Send) -> None:
    """The lifespan of an application that has nothing to do in it."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def living(app: ASGIApp) -> AsyncIterator[None]:
    """Run an application's startup, then the block, then its shutdown. Raises ChimeraError for a startup that fails."""
    events: asyncio.Queue[Event] = asyncio.Queue()
    said: asyncio.Queue[Event] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    life = asyncio.ensure_future(app(scope, events.get, said.put))
    try:
        await events.put({"type": "lifespan.startup"})
        await _hear(life, said)
        try:
            yield
        finally:
            await events.put({"type": "lifespan.shutdown"})
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await _hear(life, said)
                    await life
    finally:
        life.cancel()
        await asyncio.wait([life])


async def _hear(life: asyncio.Future[None], said: asyncio.Queue[Event]) -> None:
    """Wait until the application says that it is done with what it was told."""
    hearing = asyncio.ensure_future(said.get())
    both: list[asyncio.Future[Any]] = [life, hearing]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not hearing.done():
            await life
            raise ChimeraError(
                "a middleware keeps the lifespan to itself; what is not HTTP it passes on: "
                'if scope["type"] != "http": await self.app(scope, receive, send)'
            )
    finally:
        hearing.cancel()
    if (event := hearing.result())["type"].endswith(".failed"):
        raise ChimeraError(f"a middleware failed: {event.get('message', '')}")


class OwnMiddleware:
    """A service's own middleware around the answers of its routes; without any, they stay as they are.

    `answer_error` answers what a route raises, so that middleware sees an answer.
    """

    def __init__(self, service: Service, answer_error: AnswerError) -> None:
        self._service = service
        self._answer_error = answer_error
        self._app: ASGIApp | None = None
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Make it, and run its startup. Raises ChimeraError where either fails."""
        if self._service.middlewares:
            self._app = surrounded(self._answer, self._service.middlewares, self._service.renderer)
            await self._stack.enter_async_context(living(self._app))

    async def stop(self) -> None:
        """Run its shutdown."""
        await self._stack.aclose()

    def around(self, routes: Sequence[Route]) -> Sequence[Route]:
        """The routes, answered within it, and `OPTIONS` of their paths."""
        if not self._service.middlewares:
            return routes
        methods: dict[str, set[str]] = {}
        templates: dict[str, str] = {}
        for route in routes:
            path = route.template.partition("?")[0]
            templates.setdefault(same := _PARAMETER.sub("{}", path), path)
            methods.setdefault(same, set()).add(route.method)
        asked = [
            Route("OPTIONS", template, _options(methods[same]), render=self._service.renderer)
            for same, template in templates.items()
        ]
        return [route._replace(endpoint=self._within(route.endpoint)) for route in (*routes, *asked)]

    def _within(self, endpoint: Endpoint) -> Endpoint:
        async def answered(call: Call) -> None:
            assert self._app is not None
            call.scope[ASKED] = (call, endpoint)
            await self._app(call.scope, call.receive, call.send)

        return answered

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call as it came through middleware."""
        if scope["type"] != "http":
            await lived(receive, send)
            return
        begun = False

        async def watched(event: Event) -> None:
            nonlocal begun
            begun = begun or event["type"] == "http.response.start"
            await send(event)

        call: Call
        call, endpoint = scope[ASKED]
        call.scope, call.receive, call.send, call.firsts = scope, receive, watched, None
        try:
            await endpoint(call)
        except Exception as error:
            if begun:
                logger.exception("%s %s: its answer broke off", scope["method"], scope["path"])
            else:
                await self._answer_error(call, error)


def surrounded(app: ASGIApp, middlewares: Iterable[Middleware], render: Render | None = None) -> ASGIApp:
    """An application with middleware around it, the first one outermost. Raises DeclarationError."""
    for each in reversed([*middlewares]):
        app = Guarded(each.around(app), each.at, render)
    return app


def _options(methods: set[str]) -> Endpoint:
    allowed = sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))

    async def endpoint(call: Call) -> None:
        await call.answer(b"", 204, headers=[(b"allow", ", ".join(allowed).encode())])

    return endpoint
