"""Who asks what became of a command is told the truth."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from chimera import Unavailable
from chimera.commands.accept import Intake
from chimera.commands.states import CommandStates
from chimera.core.context import Context
from chimera.messages import Message
from chimera.testing.broken import WrappedLog
from tests.support import Bank, Deposit, Engines, Withdraw, accept, balances, consume, message_of, opened, redrive


async def test_a_command_is_pending_until_it_is_done(context: Context) -> None:
    states = CommandStates(context)
    [message] = await accept(context, Deposit("a", 5))
    assert (await states.get(message.id)).state == "pending"
    await consume(context)
    found = await states.get(message.id)
    assert found.state == "done"
    assert found.positions


async def test_a_refusal_is_told_with_its_reason(context: Context) -> None:
    [message] = await accept(context, Withdraw("a", 5))
    await consume(context)
    found = await CommandStates(context).get(message.id)
    assert (found.state, found.reason, found.detail) == ("rejected", "overdrawn", "5 is missing")


async def test_a_failed_command_is_pending_while_it_is_retried_and_then_parked(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(context, Deposit("a", 5))
    await consume(context)
    states = CommandStates(context)
    assert (await states.get(message.id)).state == "pending"
    await redrive(context, "a")
    assert (await states.get(message.id)).state == "parked"


async def test_a_command_that_nobody_sent_is_unknown(context: Context) -> None:
    await accept(context, Deposit("a", 5))
    await consume(context)
    assert (await CommandStates(context).get("never-heard-of")).state == "unknown"


async def test_who_waits_is_told_as_soon_as_the_command_is_settled(context: Context) -> None:
    [message] = await accept(context, Deposit("a", 5))
    waiting = asyncio.ensure_future(CommandStates(context).get(message.id, wait=60.0))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    started = time.monotonic()
    await consume(context)
    assert (await waiting).state == "done"
    assert time.monotonic() - started < 50.0


async def test_who_waits_too_long_is_told_pending(context: Context) -> None:
    [message] = await accept(context, Deposit("a", 5))
    assert (await CommandStates(context).get(message.id, wait=0.02)).state == "pending"


async def test_many_commands_are_looked_up_in_their_order(context: Context) -> None:
    messages = await accept(context, Deposit("a", 5), Withdraw("b", 5))
    await consume(context)
    found = await CommandStates(context).get_many([messages[1].id, "unknown", messages[0].id])
    assert [state.state for state in found] == ["rejected", "unknown", "done"]


class Between(WrappedLog):
    """A log between whose answer and the next look something happens."""

    between: Any = None

    async def ends(self, topic: str) -> Mapping[int, int]:
        found = await super().ends(topic)
        if self.between is not None:
            happens, self.between = self.between, None
            await happens()
        return found


async def test_a_command_that_is_handled_while_it_is_looked_up_is_never_called_unknown(
    bank: Bank, engines: Engines
) -> None:
    log = Between(engines.log)
    context = await opened(bank.service, engines._replace(log=log))
    [message] = await accept(context, Deposit("a", 5))
    consuming = [lambda: consume(context)]
    log.between = consuming.pop()
    assert (await CommandStates(context).get(message.id)).state in ("done", "pending")


async def test_a_command_that_was_accepted_is_never_called_unknown_by_those_who_ask_all_the_time(
    context: Context,
) -> None:
    states, seen = CommandStates(context), set()
    done = asyncio.Event()
    accepted: list[str] = []

    async def ask() -> None:
        while not done.is_set():
            for command_id in accepted[-3:]:
                seen.add((await states.get(command_id)).state)
            await asyncio.sleep(0)

    asking = [asyncio.ensure_future(ask()) for _ in range(3)]
    for _ in range(30):
        [message] = await accept(context, Deposit("a", 1))
        accepted.append(message.id)
        await asyncio.sleep(0)
        await consume(context)
    done.set()
    await asyncio.gather(*asking)
    assert seen <= {"pending", "done"}


# Taking commands in (invariant 4)


class Unconfirmed(WrappedLog):
    """A log that can't confirm."""

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        if topic.endswith(".commands"):
            raise Unavailable("no confirm")
        await super().append(topic, messages)


async def test_a_log_that_can_not_confirm_means_unavailable_and_nothing_is_kept(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines._replace(log=Unconfirmed(engines.log)))
    intake = Intake(context)
    messages = [message_of(Deposit("a", 1)) for _ in range(3)]
    results = await asyncio.gather(*map(intake.append, messages), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    assert sum((await context.log.ends(context.commands_topic)).values()) == 0
    assert await balances(context) == {}
    found = await CommandStates(context).get_many([message.id for message in messages])
    assert {state.state for state in found} == {"unknown"}


async def test_commands_that_arrive_together_share_one_append_and_what_is_confirmed_is_in_the_log(
    context: Context,
) -> None:
    calls: list[int] = []
    append = context.log.append

    async def counted(topic: str, messages: Sequence[Message]) -> None:
        calls.append(len(messages))
        await append(topic, messages)

    context.log.append = counted  # type: ignore[method-assign]
    intake = Intake(context)
    await asyncio.gather(*(intake.append(message_of(Deposit(f"k{n}", 1))) for n in range(50)))
    assert calls == [50]
    assert sum((await context.log.ends(context.commands_topic)).values()) == 50


async def test_direct_commands_that_arrive_together_share_one_transaction(context: Context, bank: Bank) -> None:
    opened_transactions = []
    transaction = context.store.transaction

    def counted() -> Any:
        opened_transactions.append(1)
        return transaction()

    context.store.transaction = counted  # type: ignore[method-assign]
    intake = Intake(context)
    bank.failing["bad"] = ValueError("as told")
    outcomes = await asyncio.gather(*(intake.execute(message_of(Deposit(f"k{n}", 1))) for n in range(50)))
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert len(opened_transactions) == 1


@pytest.mark.parametrize("times", [2, 3])
async def test_the_same_idempotency_id_asked_for_concurrently_has_one_effect(context: Context, times: int) -> None:
    intake, message = Intake(context), message_of(Deposit("a", 5), "same")
    outcomes = await asyncio.gather(*(intake.execute(message) for _ in range(times)))
    assert await balances(context) == {"a": 5}
    assert {(outcome.state, outcome.body, outcome.positions) for outcome in outcomes} == {
        (outcomes[0].state, outcomes[0].body, outcomes[0].positions)
    }
