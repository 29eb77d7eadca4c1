"""A slow handler delays its own key, nothing else."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from chimera import Command, Entity, Event, Handling, Service, Transaction
from chimera.commands.accept import Intake
from chimera.commands.apart.detached import detached
from chimera.commands.apart.redriving import keep_redriving
from chimera.commands.consume import CommandConsumer
from chimera.commands.handlers import commands_executor, parking_of
from chimera.commands.states import CommandStates
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.timing import Retry, Timing
from chimera.entities import table_of
from chimera.errors import Conflict
from tests.support import Engines, accept, consume, message_of, opened, parked_of, rows

TIMING = Timing(redrive_s=0.02, heads_s=0.01, refetch_s=0.005)


class Seen(Entity, key="name", table="seen"):
    name: str
    times: int = 0


class Note(Command, key="name"):
    name: str


class Now(Command, key="name"):
    name: str


class Noted(Event, source="accounts", key="name"):
    name: str


class Desk:
    """A service whose handlers of some keys wait until they are let go."""

    def __init__(self, limit_s: float = 30.0) -> None:
        self.waiting: dict[str, asyncio.Event] = {}
        self.began: list[str] = []
        self.stubborn: set[str] = set()
        self.finds = False
        self.service = Service("accounts", partitions=4)
        self.service.entity(Seen)
        self.service.handle(handling=Handling(limit_s=limit_s))(self.note)
        self.service.handle(direct=True, handling=Handling(limit_s=limit_s))(self.now)

    def hold(self, *names: str) -> None:
        self.waiting.update({name: asyncio.Event() for name in names})

    async def note(self, command: Note, tx: Transaction) -> None:
        await self._do(command.name, tx)

    async def now(self, command: Now, tx: Transaction) -> None:
        await self._do(command.name, tx)

    async def _do(self, name: str, tx: Transaction) -> None:
        self.began.append(name)
        seen = await tx.load(Seen, name) or Seen(name)
        tx.save(Seen(name, seen.times + 1))
        if self.finds:
            await tx.find(Seen, name=name)
        while name in self.waiting:
            try:
                await self.waiting[name].wait()
                break
            except asyncio.CancelledError:
                if name not in self.stubborn:
                    raise
        tx.emit(Noted(name))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def context(desk: Desk, engines: Engines) -> Context:
    return await opened(desk.service, engines, timing=TIMING, retry=Retry(tries=2, first_s=0.0, longest_s=0.0))


async def until_done(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - a store is looked at
            await asyncio.sleep(0.005)


async def times(context: Context) -> dict[str, int]:
    return {name: each.times for name, each in (await rows(context.store, Seen)).items()}


@pytest.mark.parametrize("finds", [False, True], ids=["buffered", "written"])
async def test_commands_of_other_keys_go_on_while_one_waits_and_its_own_key_keeps_its_order(
    context: Context, desk: Desk, finds: bool
) -> None:
    desk.finds = finds
    desk.hold("slow")
    running = asyncio.ensure_future(CommandConsumer(context).run(frozenset(range(4))))
    try:
        await accept(context, Note("slow"), *[Note(f"n{i}") for i in range(20)], Note("slow"))

        async def others() -> bool:
            return len(await times(context)) == 20

        await until_done(others)
        assert "slow" not in await times(context)
        assert [row.state for row in await parked_of(context)] == ["retrying", "behind"]
        del desk.waiting["slow"]
        for waiter in list(desk.waiting.values()):
            waiter.set()
        desk.waiting.clear()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    executor = commands_executor(context)
    redriving = asyncio.ensure_future(keep_redriving(parking_of(context, COMMANDS), executor))

    async def done() -> bool:
        return (await times(context)).get("slow") == 2

    await until_done(done)
    redriving.cancel()
    assert await parked_of(context) == []


async def test_a_direct_command_waits_for_none_of_another_key_and_each_of_its_own(context: Context, desk: Desk) -> None:
    desk.hold("slow")
    intake = Intake(context)
    slow = asyncio.ensure_future(intake.execute(message_of(Now("slow"))))
    await asyncio.sleep(0.02)
    async with asyncio.timeout(60):
        assert (await intake.execute(message_of(Now("quick")))).state == "done"
    behind = asyncio.ensure_future(intake.execute(message_of(Now("slow"))))
    async with asyncio.timeout(60):
        assert (await intake.execute(message_of(Now("quick")))).state == "done"
    assert not slow.done()
    assert not behind.done()
    desk.waiting["slow"].set()
    assert [(await each).state for each in (slow, behind)] == ["done", "done"]
    assert await times(context) == {"quick": 2, "slow": 2}
    await intake.drain()


@pytest.mark.parametrize("stubborn", [False, True], ids=["", "and does not stop"])
async def test_a_handler_that_never_returns_counts_as_failed_after_its_limit(engines: Engines, stubborn: bool) -> None:
    desk = Desk(limit_s=0.05)
    context = await opened(desk.service, engines, timing=TIMING, retry=Retry(tries=2, first_s=0.0, longest_s=0.0))
    desk.hold("slow")
    if stubborn:
        desk.stubborn.add("slow")
    [message] = await accept(context, Note("slow"))
    await consume(context)
    parking, executor = parking_of(context, COMMANDS), commands_executor(context)
    assert [each.state for each in await parking.redrive(executor, "slow")] == ["retrying"]
    assert [each.state for each in await parking.redrive(executor, "slow")] == ["parked"]
    [row] = await parked_of(context)
    assert (row.tries, row.cause) == (2, "its handler was not done within 0.05 s, and was stopped")
    assert stubborn or ", in _do" in (row.traceback or "")
    assert (await CommandStates(context).get(message.id)).state == "parked"
    intake = Intake(context)
    assert (await intake.execute(message_of(Now("slow")))).state == "failed"
    desk.stubborn.clear()
    desk.waiting["slow"].set()
    await asyncio.sleep(0)


async def test_a_kind_of_command_that_is_slow_again_and_again_runs_alone_from_the_start(
    context: Context, desk: Desk
) -> None:
    desk.hold("a", "b", "c")
    intake = Intake(context)
    for name in "abc":
        running = asyncio.ensure_future(intake.execute(message_of(Now(name))))
        await asyncio.sleep(0.1)
        desk.waiting[name].set()
        await running
    assert desk.began.count("a") == 2
    assert desk.began.count("c") == 1


async def test_many_that_hang_in_one_batch_are_set_apart_one_right_after_the_other(
    context: Context, desk: Desk
) -> None:
    names = [f"slow{n}" for n in range(10)]
    desk.hold(*names)
    intake = Intake(context)
    slow = [asyncio.ensure_future(intake.execute(message_of(Now(name)))) for name in names]
    await asyncio.sleep(0)
    async with asyncio.timeout(1.5):
        assert (await intake.execute(message_of(Now("quick")))).state == "done"
    for name in names:
        desk.waiting[name].set()
    assert {(await each).state for each in slow} == {"done"}


async def test_a_stop_ends_while_a_handler_hangs(context: Context, desk: Desk) -> None:
    desk.hold("slow")
    running = asyncio.ensure_future(CommandConsumer(replace(context)).run(frozenset(range(4))))
    await accept(context, Note("slow"))

    async def hangs() -> bool:
        return desk.began.count("slow") >= 2

    await until_done(hangs)
    running.cancel()
    async with asyncio.timeout(2):
        with suppress(asyncio.CancelledError):
            await running
    assert [row.tried_by for row in await parked_of(context)] == [None]


async def test_a_transaction_that_waits_holds_nothing_and_finds_out_what_others_changed(context: Context) -> None:
    table, room = table_of(Seen), asyncio.Semaphore(1)

    async def wait_and_commit() -> None:
        async with detached(context.store, room, 0.001) as waiting:
            assert await waiting.load(table, [("a",)]) == []
            await waiting.save(table, [("b", 1)])
            await asyncio.sleep(0.05)
            async with asyncio.timeout(1), context.store.transaction() as other:
                await other.load(table, [("a",)])
                await other.save(table, [("a", 7)])

    with pytest.raises(Conflict):
        await wait_and_commit()
    assert await times(context) == {"a": 7}
    async with detached(context.store, room, 0.001) as waiting:
        await waiting.load(table, [("a",)])
        await waiting.save(table, [("b", 1)])
        await asyncio.sleep(0.05)
        assert list(await waiting.find(table, {"times": [1]})) == [("b", 1)]
    assert await times(context) == {"a": 7, "b": 1}
