"""HTTP on a port, and a process that ends when it is told to, or when a part of it ends by itself."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

from chimera.core.timing import Doors
from chimera.errors import SettingsError
from chimera.run.front.settings import Http
from chimera.web.wire.http import ASGIApp
from chimera.web.wire.server import Server, serve_until_told

logger = logging.getLogger("chimera")

STOP_S = 5
DESCRIPTORS = 65_536


class Died(Exception):  # noqa: N818 - what happened
    """A part that works until it is stopped has ended by itself; the process must not idle on without it."""


@asynccontextmanager
async def listening(app: ASGIApp, host: str, port: int, doors: Doors = Doors()) -> AsyncIterator[str]:
    """Serve an application on a port (0: any free one); gives the base URL. Raises SettingsError when it is taken."""
    with closing(await listen(host, port)) as listener:
        async with answering(app, listener, doors):
            yield base_of(host, listener)


async def listen(host: str, port: int, patience: float = 0.0) -> socket.socket:
    """A listening socket, after `patience` seconds at most if the port is in use. Raises SettingsError."""
    give_up_at = asyncio.get_running_loop().time() + patience
    while True:
        try:
            return socket.create_server((host, port), backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or asyncio.get_running_loop().time() >= give_up_at:
                cause = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
                raise SettingsError(
                    f"port {port} of {host} can't be used ({cause}); "
                    f"choose another, as in: chimera up --port 8001, or make run PORT=8001"
                ) from error
        await asyncio.sleep(0.1)


async def listen_as_set(http: Http, host: str, port: int, patience: float = 0.0) -> socket.socket:
    """As `listen`, or a listening Unix socket where one is set. Raises SettingsError."""
    if not http.socket:
        return await listen(host, port, patience)
    try:
        return _listen_at(Path(http.socket), int(http.socket_mode, 8))
    except OSError as error:
        raise SettingsError(f"[http] socket: {http.socket} can't be used ({error.strerror or error})") from error


def _listen_at(path: Path, mode: int) -> socket.socket:
    """A Unix socket at a path, where nobody may listen yet; what a process left there that has ended is replaced."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _is_answered(path):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(1024)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_answered(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


@asynccontextmanager
async def answering(
    app: ASGIApp, listener: socket.socket, doors: Doors = Doors(), http: Http = Http()
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve an application on a listening socket; gives the server's task, which ends only if it fails.

    At the end it takes no more connections and finishes what it was asked.
    """
    server = Server(app, stop_s=STOP_S, doors=doors, tls=http.tls())
    serving = await serve_until_told(server, [listener])
    try:
        yield serving
    finally:
        server.should_exit = True
        with suppress(Exception):  # it was raised where the task is waited for
            await serving


def descriptors() -> int:
    """The most files and connections that this process may have open, once that is as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return most if soft == resource.RLIM_INFINITY else soft


def base_of(host: str, listener: socket.socket, http: Http = Http()) -> str:
    """The base URL of a listening socket, such as `http://127.0.0.1:8000`, or `unix:/run/shop.sock`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    return f"{'https' if http.certificate else 'http'}://{host}:{listener.getsockname()[1]}"


async def until(stop: asyncio.Event, works: Mapping[str, asyncio.Future[None]]) -> None:
    """Wait until it is time to stop. Raises Died, once it is in the log, when a work ends before."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        every: list[asyncio.Future[Any]] = [stopping, *works.values()]
        await asyncio.wait(every, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for name, work in works.items():
        if work.done() and not stop.is_set():
            cause = None if work.cancelled() else work.exception()
            if isinstance(cause, SettingsError):
                raise cause
            logger.critical("%s ended by itself; so this process ends", name, exc_info=cause)
            raise Died(f"{name} ended by itself: {cause!r}") from cause


def stop_signal() -> asyncio.Event:
    """An event that is set by SIGTERM or SIGINT; a second SIGINT ends the process at once."""
    stop = asyncio.Event()

    def interrupted() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted)
    return stop
