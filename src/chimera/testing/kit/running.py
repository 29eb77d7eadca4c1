"""Services that run in one process: their real heads, on engines in memory, asked as HTTP asks them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, cast

from httpx import ASGITransport, AsyncBaseTransport, AsyncClient, Request, Response

from chimera.caller import Caller
from chimera.core.context import Context
from chimera.core.names import commands_topic, events_topic
from chimera.core.timing import Timing
from chimera.errors import SettingsError
from chimera.ports import Log, Owner
from chimera.run.engines import context_of, supplied
from chimera.run.write_head import WriteHead
from chimera.service import Service
from chimera.share.owner import OwnStore
from chimera.testing.kit.balance import imbalances, pending
from chimera.testing.kit.clock import MovedClock
from chimera.testing.kit.engines import engines_of
from chimera.testing.kit.owners import OwnerInReach
from chimera.testing.kit.personal import MASTERS, WHO, KnownToAll
from chimera.testing.memory import MemoryLog
from chimera.web.identity.ways import Untold
from chimera.web.permission.asking import CALLER
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera.web.wire.http import Receive, Scope, Send

SETTLES_S = 30.0
TIMING = Timing(relayed_s=0.001, heads_s=0.05, heads_kept_s=0.0, refetch_s=0.02, redrive_s=0.02, keep_s=0.02)
"""What only saves work in a service that runs for long is done at once."""


class RunningServices:
    """Services at work. `clock.advance(hours=24)` moves time; `contexts` are the services with their engines."""

    def __init__(
        self,
        contexts: Mapping[str, Context],
        client: AsyncClient,
        clock: MovedClock,
        owners: Mapping[str, OwnerInReach],
    ) -> None:
        self.contexts = contexts
        self.clock = clock
        self._client = client
        self._owners = owners

    async def ask(
        self, method: str, path: str, body: object = None, *, caller: Caller | None = None, **headers: str
    ) -> Response:
        """The answer to a request. `caller`: who asks, whatever the authenticator says; `body` is sent as JSON."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        extensions = {CALLER: caller} if caller is not None else {}
        return await self._client.request(method, path, json=body, headers=given, extensions=extensions)

    @property
    def client(self) -> AsyncClient:
        """What sends the requests, for bodies that are no JSON: forms, files."""
        return self._client

    async def get(self, path: str, *, caller: Caller | None = None, **headers: str) -> Response:
        """The answer to GET."""
        return await self.ask("GET", path, caller=caller, **headers)

    async def post(self, path: str, body: object = None, *, caller: Caller | None = None, **headers: str) -> Response:
        """The answer to POST."""
        return await self.ask("POST", path, body, caller=caller, **headers)

    async def put(self, path: str, body: object = None, *, caller: Caller | None = None, **headers: str) -> Response:
        """The answer to PUT."""
        return await self.ask("PUT", path, body, caller=caller, **headers)

    async def delete(self, path: str, *, caller: Caller | None = None, **headers: str) -> Response:
        """The answer to DELETE."""
        return await self.ask("DELETE", path, caller=caller, **headers)

    async def settled(self) -> None:
        """Wait until nothing is under way: every command is handled, every event applied by every consumer.

        It is known, not guessed: numbers have no holes. Fails, and says what is open, when it takes too long.
        """
        give_up_at = asyncio.get_running_loop().time() + SETTLES_S
        while left := await _left(self.contexts):
            assert asyncio.get_running_loop().time() < give_up_at, f"it does not settle: {'; '.join(left)}"
            await asyncio.sleep(0.001)

    async def balanced(self) -> None:
        """Wait until nothing is under way, and fail where a view, a copy or a journal is not as it must be."""
        await self.settled()
        wrong = [each for name in self.contexts for each in await imbalances(name, self.contexts)]
        assert not wrong, "; ".join(wrong)

    @contextmanager
    def owner_down(self, name: str) -> Iterator[None]:
        """Nobody reaches this owner inside the block."""
        if name not in self._owners:
            raise SettingsError(f"{name!r} is no owner here; there are: {', '.join(self._owners) or 'none'}")
        self._owners[name].is_down = True
        try:
            yield
        finally:
            self._owners[name].is_down = False

    async def redeliver(self) -> None:
        """Deliver every message of every log once more, as brokers do."""
        for context in self.contexts.values():
            for topic in (commands_topic(context.service.name), events_topic(context.service.name)):
                for message in await _all_of(context.log, topic):
                    await context.log.append(topic, [message])


@asynccontextmanager
async def running(*services: Service, owners: Sequence[Service] = ()) -> AsyncIterator[RunningServices]:
    """Services, and the owners that they borrow from, at work in this process until the block ends.

    Their stores are in memory, in SQLite where a service has SQL of its own, or where `CHIMERA_TEST_STORE` says. Fails
    at the end where a task is left behind.
    """
    before = asyncio.all_tasks()
    clock, log = MovedClock(), MemoryLog()
    every = {service.name: service for service in (*services, *owners)}
    async with AsyncExitStack() as stack:
        contexts: dict[str, Context] = {}
        reached: dict[str, OwnerInReach] = {}

        def owner_of(name: str) -> Owner:
            if name == WHO:
                return cast("Owner", KnownToAll())
            if name not in every:
                raise SettingsError(f"{name!r} is used, and does not run here: running(…, owners=[{name}])")
            if name not in reached:
                context = contexts[name]
                own = OwnStore(context.service, context.store, clock, context.resources, context.personal)
                reached[name] = OwnerInReach(name, own)
            return cast("Owner", reached[name])

        for name, service in every.items():
            engines = await stack.enter_async_context(engines_of(service, log))
            more: dict[str, Any] = {"callers": Untold(), "masters": MASTERS}
            context = context_of(service, *engines, owner_of, clock=clock, timing=TIMING, **more)
            contexts[name] = supplied(context)
        heads = [await _begun(context, stack) for context in contexts.values()]
        for name in every:
            owner_of(name)
        client = AsyncClient(transport=_Transport(Site(heads)), base_url="http://test")
        await stack.enter_async_context(client)
        yield RunningServices(contexts, client, clock, reached)
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not left, f"these tasks were left behind: {', '.join(str(task.get_coro()) for task in left)}"


async def _left(contexts: Mapping[str, Context]) -> list[str]:
    """What is open, in words. Services are looked at one after another: what moved meanwhile is looked at again."""
    before = await _ends(contexts)
    return await pending(contexts) or [
        f"{name} goes on" for name, at in (await _ends(contexts)).items() if at != before[name]
    ]


async def _ends(contexts: Mapping[str, Context]) -> dict[str, object]:
    """How many commands and events there are of each service."""
    return {
        name: (await context.log.ends(context.commands_topic), await context.store.heads())
        for name, context in contexts.items()
    }


async def _begun(context: Context, stack: AsyncExitStack) -> ReadHead:
    await context.prepare()
    await context.resources.open()
    stack.push_async_callback(context.resources.close)
    stack.push_async_callback(context.owners.close)
    working = asyncio.ensure_future(WriteHead(context, "test").run())
    stack.push_async_callback(_ended, working)
    head = ReadHead(context)
    await head.start()
    stack.push_async_callback(head.stop)
    return head


async def _ended(work: asyncio.Future[None]) -> None:
    work.cancel()
    await asyncio.wait([work])
    if not work.cancelled() and (error := work.exception()) is not None:
        raise error


async def _all_of(log: Log, topic: str) -> list[Any]:
    ends = {partition: end for partition, end in (await log.ends(topic)).items() if end}
    found: list[Any] = []
    if ends:
        seen = dict.fromkeys(ends, 0)
        async for records in log.read(topic, seen):
            for record in records:
                found.append(record.message)
                seen[record.message.partition] = record.offset
            if all(seen[partition] >= end for partition, end in ends.items()):
                break
    return found


class _Transport(AsyncBaseTransport):
    """To a site in this process, with who asks where a test says it."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def handle_async_request(self, request: Request) -> Response:
        caller = request.extensions.get(CALLER)

        async def asked(scope: Scope, receive: Receive, send: Send) -> None:
            await self._site(scope if caller is None else {**scope, CALLER: caller}, receive, send)

        return await ASGITransport(cast("Any", asked)).handle_async_request(request)
