"""A write head that has nothing to do does nearly nothing; and who comes then does not wait for it to wake."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from msgspec import Struct

from chimera import Command, Entity, Event, Reads, Service, Transaction
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.aio.handover import HandOver
from chimera.core.aio.signals import Signal
from chimera.core.context import Context
from chimera.run.engines import context_of
from chimera.run.write_head import WriteHead
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.testing.virtual.clock import SimClock
from chimera.testing.virtual.fence import fenced
from chimera.testing.virtual.loop import SimLoop, new_loop
from tests.support import NoOwner, message_of

IDLE_S = 600.0
PER_SECOND = 0.5
"""The most calls of a service's store, or view store, in an idle second."""


class Put(Command, key="account_id"):
    account_id: str


class WasPut(Event, source="accounts", key="account_id"):
    account_id: str


class Account(Struct):
    account_id: str
    puts: int = 0


class Owner(Entity, key="owner_id", unique=[("name",)]):
    owner_id: str
    name: str


def accounts() -> Service:
    """One of everything that a write head keeps."""
    service = Service("accounts")
    service.entity(Owner)

    @service.handle()
    async def put(command: Put, tx: Transaction) -> None:
        tx.emit(WasPut(command.account_id))

    view = service.view(Account, key="account_id")
    view.list("most", order="-puts")

    @view.on(WasPut)
    def was_put(account: Account, event: WasPut) -> None:
        account.puts += 1

    @service.share("owners", key="account_id", changed_by=[WasPut])
    async def owners(account_ids: Sequence[str], read: Reads) -> dict[str, Owner]:
        return {}

    @service.project(WasPut)
    async def table(events: Sequence[WasPut], tx: Transaction) -> None: ...

    @service.on(WasPut)
    async def thank(event: WasPut, tx: Transaction) -> None: ...

    return service


class Counting:
    """Counts the calls of an engine's methods; `listen` is its own."""

    counted: Counter[str]
    heard: Callable[[], None]

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if callable(found) and not name.startswith("_") and name != "listen":
            self.counted[name] += 1
        return found

    def listen(self, heard: Callable[[], None]) -> None:
        self.heard = heard


class CountingStore(Counting, MemoryStore):
    def __init__(self) -> None:
        self.counted = Counter()
        super().__init__()


class CountingViews(Counting, MemoryViews):
    def __init__(self) -> None:
        self.counted = Counter()
        super().__init__()


def run(work: Callable[[Context], Coroutine[Any, Any, None]]) -> None:
    """Run a write head on a virtual clock, and the work beside it."""
    loop = new_loop(1)

    async def both() -> None:
        clock = SimClock(loop) if isinstance(loop, SimLoop) else None
        context = context_of(
            accounts(), MemoryLog(), CountingStore(), CountingViews(), lambda name: NoOwner(), clock=clock
        )
        await context.prepare()
        head = asyncio.ensure_future(WriteHead(context, "worker").run())
        try:
            await asyncio.sleep(60)
            await work(context)
        finally:
            head.cancel()
            with suppress(asyncio.CancelledError):
                await head

    try:
        with fenced(loop):
            loop.run(both())
    finally:
        loop.scrap()


def test_who_has_nothing_to_do_asks_its_engines_next_to_nothing() -> None:
    async def idle(context: Context) -> None:
        for engine in (context.store, context.views):
            assert isinstance(engine, Counting)
            engine.counted.clear()
        await asyncio.sleep(IDLE_S)
        for engine in (context.store, context.views):
            assert isinstance(engine, Counting)
            assert sum(engine.counted.values()) / IDLE_S < PER_SECOND, engine.counted

    run(idle)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_happens_after_an_idle_hour_is_seen_at_once(elsewhere: bool) -> None:
    async def after(context: Context) -> None:
        await asyncio.sleep(3600)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert isinstance(context.store, Counting)
        at_work = replace(context, committed=HandOver(), moved=Signal()) if elsewhere else context
        await direct_executor(at_work).run([Task(message_of(Put("a")))])
        if elsewhere:  # another process has committed, and this one is told
            context.store.heard()
        while not await context.views.get("account", ["a"]):
            assert loop.time() < began + 1.0
            await asyncio.sleep(0.001)
        assert loop.time() - began < 0.02

    run(after)
