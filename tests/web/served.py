"""The six services on a real socket, in a thread of their own."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import uvloop

from chimera.commands.handlers import commands_executor
from chimera.core.context import Context
from chimera.core.names import BORROWS
from chimera.entities import table_of
from chimera.run.engines import opened
from chimera.run.front.gateway import Gateway
from chimera.run.hosting import stop_all
from chimera.run.serving import listening
from chimera.run.settings import Settings, read_settings
from chimera.run.write_head import WriteHead
from chimera.web.home import Home
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera_faults.fleet import free_ports

CONFIG = Path(__file__).parents[2] / "chimera.toml"
Headers = Sequence[tuple[str, str | bytes]]

Found = TypeVar("Found")


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "")


class _Careless(http.client.HTTPConnection):
    """Anything may be asked for here."""

    def _validate_path(self, url: str) -> None: ...

    def _encode_request(self, request: str) -> bytes:
        return request.encode("latin-1")


class Served:
    """The marketplace as it is served, with its insides at hand."""

    def __init__(
        self,
        base: str,
        contexts: list[Context],
        loop: asyncio.AbstractEventLoop,
        own_loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.base = base
        self.address = (urlsplit(base).hostname or "", urlsplit(base).port or 0)
        self._contexts = contexts
        self._loop = loop
        self.own_loop = own_loop or loop

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        headers: Headers = (),
        *,
        chunked: bool = False,
    ) -> Answer:
        connection = _Careless(*self.address, timeout=60)
        try:
            named = any(name.lower() == "host" for name, _ in headers)
            connection.putrequest(method, path, skip_host=named, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            data = json.dumps(body).encode() if isinstance(body, Mapping) else body
            if data is not None and chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def send_raw(self, request: bytes) -> Answer:
        """Send bytes as they are and read the answer."""
        with socket.create_connection(self.address, timeout=60) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )

    def run(self, work: Coroutine[Any, Any, Found]) -> Found:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def kept(self) -> dict[str, Any]:
        """Everything that a request could have left behind."""
        return self.run(self._kept())

    def settle(self) -> None:
        """Wait until everything accepted is handled and nothing moves any more."""
        self.run(self._settle())

    async def _settle(self) -> None:
        for context in self._contexts:
            while True:
                ends = await context.log.ends(context.commands_topic)
                at = await commands_executor(context).checkpoints(context.commands_topic, ends)
                if all(at[partition].number >= end for partition, end in ends.items()):
                    break
                await asyncio.sleep(0.01)

    async def _kept(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for context in self._contexts:
            name = context.service.name
            found[f"{name} heads"] = dict(await context.store.heads())
            found[f"{name} commands"] = dict(await context.log.ends(context.commands_topic))
            async with context.store.snapshot() as session:
                for entity in context.service.entities:
                    table = table_of(entity)
                    found[f"{name} {table.name}"] = sorted(map(repr, await session.find(table, {})))
            for borrow in context.service.borrows.values():
                found[f"{name} {borrow.name}"] = dict(await context.views.get(BORROWS, [borrow.name]))
        return found


class Serving(threading.Thread):
    """All services, or with `behind` a gateway before those that are served there."""

    def __init__(self, settings: Settings, behind: Served | None = None) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._behind = behind
        self._up = threading.Event()
        self.served: Served | None = None
        self.failed: BaseException | None = None

    def run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(self._serve() if self._behind is None else self._serve_gateway(self._behind))
            except BaseException as error:  # noqa: BLE001 - it is raised in the test's thread
                self.failed = error
                self._up.set()

    async def _serve(self) -> None:
        self._ending = asyncio.Event()
        settings = self._settings
        async with opened(settings, list(settings.services), fleet=False) as contexts, AsyncExitStack() as stack:
            heads = [ReadHead(context) for context in contexts]
            for head in heads:
                await head.start()
                stack.push_async_callback(head.stop)
            home = Home(settings.title, heads)
            base = await stack.enter_async_context(listening(Site([*heads, home]), settings.host, settings.port))
            stack.push_async_callback(
                stop_all, [asyncio.ensure_future(WriteHead(context, "tests").run()) for context in contexts]
            )
            self.served = Served(base, contexts, asyncio.get_running_loop())
            self._up.set()
            await self._ending.wait()

    async def _serve_gateway(self, behind: Served) -> None:
        self._ending = asyncio.Event()
        gateway = Gateway(self._settings)
        async with listening(gateway.site(), self._settings.host, 0) as base:
            self.served = Served(base, behind._contexts, behind._loop, asyncio.get_running_loop())
            self._up.set()
            await self._ending.wait()
        await gateway.close()

    def __enter__(self) -> Served:
        self.start()
        self._up.wait(30)
        if self.served is None:
            raise RuntimeError("the services did not start") from self.failed
        return self.served

    def __exit__(self, *_: object) -> None:
        assert self.served is not None
        self.served.own_loop.call_soon_threadsafe(self._ending.set)
        self.join(20)
        assert not self.is_alive()
        assert self.failed is None


OPEN = {"dev": True, "open": True}
"""No rule is asked."""


def serve(state: Path, reach: Mapping[str, object] = OPEN) -> Serving:
    """All services, on a free port; no rule is asked, unless other settings say who may reach what."""
    return Serving(read_settings(CONFIG, {}, {"port": free_ports(), "state": str(state), **reach}))


def serve_gateway(behind: Served, state: Path) -> Serving:
    """A gateway before services."""
    settings = read_settings(CONFIG, {}, {"state": str(state), **OPEN})
    for service in settings.services.values():
        service.url = behind.base
    return Serving(settings, behind)
