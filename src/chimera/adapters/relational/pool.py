"""The address of a database, and the connections to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from chimera.errors import OutOfService, SettingsError, Unavailable

Connection = TypeVar("Connection")
Result = TypeVar("Result")

WAIT_S = 10.0
"""Seconds that a free connection is waited for."""


class DatabaseAddress(msgspec.Struct, frozen=True):
    """The address of a database. As text it has no password, so that it may stand in logs and errors."""

    scheme: str
    user: str
    password: str
    host: str
    port: int
    database: str
    options: dict[str, str]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.user}@{self.host}:{self.port}/{self.database}"


def parse_address(url: str, scheme: str, port: int) -> DatabaseAddress:
    """Read `scheme://user:password@host:port/database?option=value`. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or port
    except ValueError:
        host = None
    database = unquote(parts.path[1:]) if host else ""
    if parts.scheme != scheme or not host or not database or not parts.username:
        raise SettingsError(
            f"{url.rpartition('@')[2]!r} is no address of a database; one looks like "
            f"{scheme}://user:password@host:{port}/database"
        )
    password = unquote(parts.password or "")
    return DatabaseAddress(
        scheme, unquote(parts.username), password, host, port, database, dict(parse_qsl(parts.query))
    )


def take_number(options: dict[str, str], name: str, default: float) -> float:
    """Remove an option that is a positive number. Raises SettingsError."""
    text = options.pop(name, str(default))
    try:
        number = float(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise SettingsError(f"the option {name}={text} of a database's URL must be a positive number")
    return number


class Pool(Generic[Connection]):
    """At most `size` connections, the one used last first. One that is broken is replaced when it is needed.

    Once one turns out to be lost, or its server to be out of service, none that was there by then is used again: it may
    lead to a server that is not the one to ask any more, or be read-only for as long as it lasts.

    `wait_s`: seconds that a free one is waited for.
    """

    def __init__(
        self,
        name: str,
        size: int,
        connect: Callable[[], Awaitable[Connection]],
        disconnect: Callable[[Connection], Awaitable[None]],
        is_fit: Callable[[Connection], bool],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        self._name = name
        self._size = size
        self._wait_s = wait_s
        self._connect = connect
        self._disconnect = disconnect
        self._is_fit = is_fit
        self._room = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._is_open = False
        self._outdated: list[Connection] = []
        self.opened: list[Connection] = []

    def open(self) -> None:
        """Let connections be taken; none is made before that."""
        self._is_open = True

    async def close(self) -> None:
        """Close what is not in use; what is in use is closed when it is given back."""
        self._is_open = False
        await self.forget_idle()

    async def forget_idle(self) -> None:
        """Close what is not in use, because it may be broken as another connection was."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await self._drop(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of one's own. Raises Unavailable when there is none in time."""
        connection = await self._take()
        try:
            yield connection
        except Unavailable as error:
            if isinstance(error, OutOfService) or not self._is_fit(connection):
                self._outdated = [*self.opened]
            raise
        finally:
            if self._is_open and self._is_usable(connection):
                self._idle.append(connection)
                self._room.release()
            else:
                self._room.release()
                await finished(self._drop(connection))

    def _is_usable(self, connection: Connection) -> bool:
        return self._is_fit(connection) and not any(each is connection for each in self._outdated)

    async def _take(self) -> Connection:
        if not self._is_open:
            raise Unavailable(f"{self._name} is not open: call create first")
        await self._wait_for_room()
        try:
            while True:
                while self._idle:
                    connection = self._idle.pop()
                    if self._is_usable(connection):
                        return connection
                    await self._drop(connection)
                await finished(self._add())
        except BaseException:
            self._room.release()
            raise

    async def _add(self) -> None:
        connection = await self._connect()
        self.opened.append(connection)
        if self._is_open:
            self._idle.append(connection)
        else:
            await self._drop(connection)
            raise Unavailable(f"{self._name} was closed")

    async def _wait_for_room(self) -> None:
        if not self._room.locked():
            await self._room.acquire()
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._room.acquire()
        except TimeoutError as error:
            raise Unavailable(
                f"{self._name}: all {self._size} connections were in use for {self._wait_s:.0f} s; "
                "allow more with pool=… in its URL"
            ) from error

    async def _drop(self, connection: Connection) -> None:
        self.opened.remove(connection)
        self._outdated = [each for each in self._outdated if each is not connection]
        with suppress(Exception):
            await self._disconnect(connection)


async def finished(work: Awaitable[Result]) -> Result:
    """The work's result. It is over when this returns or raises, even if the caller is cancelled."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((future,))
        if not future.cancelled():
            future.exception()
        raise
