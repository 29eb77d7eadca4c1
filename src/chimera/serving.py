"""Running services in one process: HTTP on a port, write heads beside it, an orderly stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

from chimera.body import Body
from chimera.engines import Engines
from chimera.errors import SettingsError
from chimera.read_head import ReadHead
from chimera.settings import Settings
from chimera.web.home import Home
from chimera.web.site import Site
from chimera.write_head import WriteHead

logger = logging.getLogger("chimera")

STOP_S = 10


class _Server(uvicorn.Server):
    """uvicorn, leaving the signals to us: the write heads stop after the last request was answered."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    settings: Settings, names: Sequence[str], *, read: bool, write: bool, fleet: bool, ready: Callable[[str], None]
) -> None:
    """Run the heads of these services until SIGTERM or SIGINT.

    `ready` is called with the base URL (or the services' names, without a read head) once they serve.
    """
    stop = stop_signal()
    async with opened(settings, names, fleet=fleet) as bodies, AsyncExitStack() as stack:
        if write:
            holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            stack.push_async_callback(
                _stop_all, [asyncio.ensure_future(WriteHead(body, holder).run()) for body in bodies]
            )
        if read:
            heads = [ReadHead(body) for body in bodies]
            for head in heads:
                await head.start()
                stack.push_async_callback(head.stop)
            port = settings.own_port(names[0]) if fleet else settings.port
            base = await stack.enter_async_context(
                listening(Site([*heads, Home(settings.title, heads)]), settings.host, port)
            )
            ready(base)
        else:
            ready(", ".join(names))
        await stop.wait()


@asynccontextmanager
async def opened(settings: Settings, names: Sequence[str], *, fleet: bool) -> AsyncIterator[list[Body]]:
    """The services with their engines open."""
    engines = Engines(settings, fleet=fleet)
    try:
        bodies = [engines.body(name) for name in names]
        for body in bodies:
            await body.open()
        try:
            yield bodies
        finally:
            for body in bodies:
                await body.close()
    finally:
        await engines.close()


@asynccontextmanager
async def listening(app: ASGIApp, host: str, port: int) -> AsyncIterator[str]:
    """Serve an application on a port (0: any free one); gives the base URL. Raises SettingsError when it is taken."""
    try:
        listener = socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise SettingsError(
            f"port {port} of {host} can't be used ({error.strerror}); choose another, as in: make run PORT=8001"
        ) from error
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
        timeout_keep_alive=30,
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def stop_signal() -> asyncio.Event:
    """An event that is set by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _stop_all(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
