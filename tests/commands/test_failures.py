"""One message's failure is one message's: what becomes of it, by what it is, and what goes on meanwhile."""

import asyncio
from dataclasses import replace

import pytest

from chimera import Command, Handling, Rejected, Service, Transaction, Unavailable
from chimera.commands.apart.contracts import code_of
from chimera.commands.apart.redriving import keep_redriving
from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor, parking_of
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.tables import Handled
from chimera.core.timing import Retry, Timing
from chimera.errors import CutShort
from chimera.messages import Message
from chimera.parts import AS_SET
from chimera.ports import Checkpoint, Move
from tests.support import (
    Bank,
    Deposit,
    Deposited,
    Engines,
    accept,
    balances,
    consume,
    direct,
    handled,
    journal_of,
    message_of,
    opened,
    parked_of,
    reaction_of,
    redrive,
    rows,
)

CUTS = 3
QUICKLY = Timing(redrive_s=0.02)
MANY = Retry(tries=10, first_s=0.0, longest_s=0.0, cuts=CUTS)


@pytest.fixture
async def patient(bank: Bank, engines: Engines) -> Context:
    """A context in which what fails is tried many times."""
    return await opened(bank.service, engines, retry=MANY)


@pytest.mark.parametrize("error", [CutShort("canceled: too long"), Unavailable("what it calls is away")])
async def test_a_message_that_an_engine_cuts_short_each_time_is_parked_and_the_others_go_on(
    patient: Context, bank: Bank, error: Exception
) -> None:
    bank.failing["a"] = error
    await accept(patient, Deposit("b", 1), Deposit("a", 5), Deposit("c", 2))
    await consume(patient)
    assert await balances(patient) == {"b": 1, "c": 2}
    states = [(await parked_of(patient))[0].state]
    while states[-1] == "retrying":
        await redrive(patient, "a")
        states.append((await parked_of(patient))[0].state)
    assert states == ["retrying"] * (CUTS - 1) + ["parked"]


async def test_others_that_came_with_a_direct_command_that_is_cut_short_are_done(patient: Context, bank: Bank) -> None:
    bank.failing["a"] = CutShort("canceled: too long")
    outcomes = handled(await direct(patient, Deposit("b", 1), Deposit("a", 5), Deposit("c", 2)))
    assert [(each.state, each.status) for each in outcomes] == [("done", 201), ("failed", 503), ("done", 201)]
    assert await balances(patient) == {"b": 1, "c": 2}


async def test_a_failure_is_kept_with_its_traceback(patient: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(patient, Deposit("a", 5))
    await consume(patient)
    [row] = await parked_of(patient)
    assert "in trouble" in (row.traceback or "")
    assert (row.traceback or "").rstrip().endswith("ValueError: as told")


async def test_a_command_that_can_not_be_read_waits_for_other_code_and_is_done_by_it(
    engines: Engines,
) -> None:
    old, new = shop_of(old_place()), shop_of(new_place())
    context = await opened(old, engines, retry=MANY)
    [message] = await accept(context, placed("o1"))
    await consume(context)
    [row] = await parked_of(context)
    assert (row.state, row.tries, row.due, row.unread_by) == ("unread", 1, None, code_of(old))
    parking, executor = parking_of(context, COMMANDS), commands_executor(context)
    assert await parking.due(executor, context.clock.now()) == []
    upgraded = replace(context, service=new)
    parking, executor = parking_of(upgraded, COMMANDS), commands_executor(upgraded)
    assert await parking.due(executor, context.clock.now()) == ["o1"]
    [outcome] = await parking.redrive(executor, "o1")
    assert (outcome.state, message.key) == ("done", "o1")


async def test_code_that_could_not_read_a_command_does_not_try_it_again_after_other_code_could_not_either(
    engines: Engines,
) -> None:
    first, second = shop_of(old_place()), shop_of(other_place())
    context = await opened(first, engines, retry=MANY)
    await accept(context, placed("o1"))
    await consume(context)
    other = replace(context, service=second)
    await parking_of(other, COMMANDS).redrive(commands_executor(other), "o1")
    for each in (context, other):
        assert await parking_of(each, COMMANDS).due(commands_executor(each), context.clock.now()) == []


async def test_a_reaction_that_refuses_an_event_does_not_wait(patient: Context, bank: Bank) -> None:
    bank.failing_reactions["a"] = Rejected("no")
    await direct(patient, Deposit("a", 5))
    executor, _ = reaction_of(patient, "thank")
    [event] = [each for each in await journal_of(patient.store) if each.type == Deposited.wire_type()]
    move = Move("accounts", event.partition, 0, Checkpoint(event.number))
    await executor.run([Task(event, event.number)], [move])
    assert [row.state for row in await parked_of(patient)] == ["parked"]


async def test_how_often_a_command_is_tried_is_declared_and_settings_have_the_last_word(engines: Engines) -> None:
    for declared, set_, tries in ((Handling(tries=2), {}, 2), (Handling(tries=2), {"Place": Handling(tries=1)}, 1)):
        service = shop_of(new_place(), declared, fails=True)
        context = await opened(service, engines, retry=MANY, handling={"": Handling(tries=7), **set_})
        await accept(context, placed(f"o{tries}"))
        await consume(context)
        states = []
        while (row := (await parked_of(context))[-1]).state == "retrying":
            states.append(row.state)
            await redrive(context, row.key)
        assert len(states) == tries - 1
        await parking_of(context, COMMANDS).drop(commands_executor(context), row.key)


def old_place() -> type[Command]:
    class Place(Command, key="order_id"):
        order_id: str

    return Place


def new_place() -> type[Command]:
    class Place(Command, key="order_id"):
        order_id: str
        note: str = ""

    return Place


def other_place() -> type[Command]:
    class Place(Command, key="order_id"):
        order_id: str
        other: int = 0

    return Place


def shop_of(command: type[Command], handling: Handling = AS_SET, *, fails: bool = False) -> Service:
    """A shop whose command "Place" is this one."""
    service = Service("accounts", partitions=4)

    async def place(_: Command, tx: Transaction) -> None:
        if fails:
            raise ValueError("as told")

    place.__annotations__["_"] = command
    service.handle(handling=handling)(place)
    return service


def placed(key: str) -> Message:
    """A command as new code sends it."""
    return message_of(new_place()(key, "n"))


async def test_while_old_code_goes_and_new_code_comes_nothing_waits_for_a_person(engines: Engines) -> None:
    heads = [await opened(shop_of(place()), engines, retry=MANY, timing=QUICKLY) for place in (old_place, new_place)]
    old, new = (commands_executor(head) for head in heads)
    redriving = [
        asyncio.ensure_future(keep_redriving(parking_of(head, COMMANDS), executor, range(4)))
        for head, executor in zip(heads, (old, new), strict=True)
    ]
    messages = await accept(heads[0], *[placed(f"o{n}") for n in range(5)])
    await consume(heads[0], executor=old)
    async with asyncio.timeout(60):
        while await parked_of(heads[0]):  # noqa: ASYNC110 - a store is looked at
            await asyncio.sleep(0.01)
    for each in redriving:
        each.cancel()
    await asyncio.gather(*redriving, return_exceptions=True)
    assert {(await rows(heads[0].store, Handled))[each.id].state for each in messages} == {"done"}
