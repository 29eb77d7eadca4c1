"""Nothing is swallowed (invariant 5): what fails is retried, parked with its cause, and can be got back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from chimera import Command, Rejected, Transaction, Unavailable
from chimera.commands.execute import Executor, Task
from chimera.commands.handlers import commands_executor, parking_of
from chimera.commands.states import CommandStates
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.tables import Handled
from chimera.core.timing import Retry
from chimera.entities import table_of
from chimera.messages import Message
from chimera.ports import Store, WriteSession
from chimera.testing.broken import WrappedStore
from chimera.testing.fuse import Fuse
from tests.support import (
    Bank,
    Deposit,
    Engines,
    Open,
    Withdraw,
    accept,
    balances,
    consume,
    direct,
    journal_of,
    make_context,
    message_of,
    opened,
    parked_of,
    reaction_of,
    redrive,
    rows,
)


async def due(context: Context, now: datetime) -> list[str]:
    """The keys whose first command is to be tried again by now."""
    return await parking_of(context, COMMANDS).due(commands_executor(context), now)


async def states(context: Context) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in await parked_of(context):
        found.setdefault(row.key, []).append(row.state)
    return found


async def test_a_failing_command_is_retried_with_backoff_and_then_parked_with_its_cause(
    bank: Bank, engines: Engines
) -> None:
    context = await opened(bank.service, engines, retry=Retry(tries=3, first_s=60.0, longest_s=600.0))
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(context, Deposit("a", 5))
    await consume(context)
    [row] = await parked_of(context)
    assert (row.state, row.tries, row.cause) == ("retrying", 1, "ValueError: as told")
    now = datetime.now(UTC)
    assert await due(context, now) == []
    assert await due(context, now + timedelta(seconds=61)) == ["a"]
    await redrive(context, "a")
    [row] = await parked_of(context)
    assert (row.state, row.tries) == ("retrying", 2)
    assert row.due is not None
    assert row.due > now + timedelta(seconds=85)
    await redrive(context, "a")
    [row] = await parked_of(context)
    assert (row.state, row.tries, row.due) == ("parked", 3, None)
    assert row.first_at < row.last_at
    assert await due(context, now + timedelta(days=1)) == []
    state = await CommandStates(context).get(message.id)
    assert (state.state, state.detail) == ("parked", "ValueError: as told")
    assert await journal_of(context.store) == []


async def test_later_commands_of_the_key_queue_behind_and_run_in_order_while_other_keys_go_on(
    context: Context, bank: Bank
) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(context, Deposit("a", 5), Deposit("b", 1), Withdraw("a", 2), Deposit("b", 2))
    await consume(context)
    await accept(context, Deposit("a", 10), Deposit("c", 1))
    await consume(context)
    assert await balances(context) == {"b": 3, "c": 1}
    assert await states(context) == {"a": ["retrying", "behind", "behind"]}
    bank.failing.clear()
    outcomes = await redrive(context, "a")
    assert [outcome.state for outcome in outcomes] == ["done", "done", "done"]
    assert await balances(context) == {"a": 13, "b": 3, "c": 1}
    assert await parked_of(context) == []
    own = [e for e in await journal_of(context.store) if e.key == "a" and not e.type.startswith("accounts.share.")]
    assert [msgspec.json.decode(event.data)["amount"] for event in own] == [5, 2, 10]


async def test_after_a_redrive_new_commands_of_the_key_run_at_once(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(context, Deposit("a", 5))
    await consume(context)
    bank.failing.clear()
    await redrive(context, "a")
    await accept(context, Deposit("a", 1))
    [outcome] = await consume(context)
    assert outcome.state == "done"
    assert await balances(context) == {"a": 6}


async def test_a_redrive_stops_at_the_first_that_fails_again(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(context, Deposit("a", 1), Deposit("a", 2), Deposit("a", 3))
    await consume(context)
    outcomes = await redrive(context, "a")
    assert [outcome.state for outcome in outcomes] == ["parked"]
    assert await states(context) == {"a": ["parked", "behind", "behind"]}
    assert await balances(context) == {}


async def test_a_refusal_in_a_redrive_settles_the_command_and_the_next_is_tried(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    messages = await accept(context, Deposit("a", 1), Withdraw("a", 50), Open("a"), Deposit("a", 2))
    await consume(context)
    bank.failing.clear()
    outcomes = await redrive(context, "a")
    assert [outcome.state for outcome in outcomes] == ["done", "rejected", "rejected", "done"]
    inbox = await rows(context.store, Handled)
    assert [inbox[message.id].state for message in messages] == ["done", "rejected", "rejected", "done"]
    assert inbox[messages[1].id].reason == "overdrawn"
    assert await balances(context) == {"a": 3}


async def test_dropping_gives_up_the_first_command_and_the_next_is_tried(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    messages = await accept(context, Deposit("a", 1), Deposit("a", 2))
    await consume(context)
    dropped = await parking_of(context, COMMANDS).drop(commands_executor(context), "a")
    assert dropped is not None
    assert dropped.id == messages[0].id
    bank.failing.clear()
    assert await due(context, datetime.now(UTC)) == ["a"]
    await redrive(context, "a")
    assert await balances(context) == {"a": 2}
    inbox = await rows(context.store, Handled)
    assert (inbox[messages[0].id].state, inbox[messages[0].id].reason) == ("rejected", "dropped")
    assert "as told" in inbox[messages[0].id].detail
    assert await parking_of(context, COMMANDS).drop(commands_executor(context), "a") is None


class Unheard(Command, key="account_id"):
    account_id: str


async def test_unknown_and_undecodable_commands_are_parked_not_lost(context: Context) -> None:
    nonsense = msgspec.structs.replace(message_of(Deposit("n", 1)), data=b"{nonsense")
    wrong = msgspec.structs.replace(message_of(Deposit("w", 1)), data=b'{"account_id":"w","amount":-5}')
    binary = msgspec.structs.replace(message_of(Deposit("x", 1)), data=b"\xff\x00\xfe")
    messages = await accept(context, Unheard("u"), nonsense, wrong, binary, Deposit("good", 1))
    await consume(context)
    assert await balances(context) == {"good": 1}
    parked = {row.key: row for row in await parked_of(context)}
    assert set(parked) == {"u", "n", "w", "x"}
    assert "accounts.Unheard" in parked["u"].cause
    assert "amount" in parked["w"].cause
    assert parked["x"].data == messages[3].data


async def test_a_redelivered_command_that_is_parked_is_not_parked_twice(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    message = message_of(Deposit("a", 5), "same")
    await accept(context, message, message)
    await consume(context)
    await accept(context, message)
    await consume(context)
    assert len(await parked_of(context)) == 1
    bank.failing.clear()
    await redrive(context, "a")
    assert await balances(context) == {"a": 5}


async def test_what_one_consumer_has_parked_does_not_hold_up_another(context: Context, bank: Bank) -> None:
    bank.failing_reactions["a"] = ValueError("as told")
    await direct(context, Deposit("a", 1))
    executor, parking = reaction_of(context, "thank")
    [event, *_] = await journal_of(context.store)
    await executor.run([Task(event, event.number)])
    await accept(context, Deposit("a", 2))
    [outcome] = await consume(context)
    assert outcome.state == "done"
    assert await due(context, datetime.now(UTC)) == []
    assert await parking.due(executor, datetime.now(UTC)) == ["a"]


@pytest.mark.parametrize("late", [False, True])
async def test_a_process_that_dies_during_a_redrive_leaves_each_command_done_once(
    bank: Bank, engines: Engines, late: bool
) -> None:
    await opened(bank.service, engines)
    for at in range(1, 60):
        healthy = make_context(bank.service, engines)
        key = f"k{at}"
        bank.failing[key] = ValueError("as told")
        await accept(healthy, Deposit(key, 1), Deposit(key, 10), Withdraw(key, 500), Deposit(key, 100))
        await consume(healthy)
        bank.failing.clear()
        fuse = Fuse(at, late=late)
        dying = make_context(bank.service, fuse.wrap(engines))
        with suppress(Unavailable):
            await redrive(dying, key)
        await redrive(healthy, key)
        assert (await balances(healthy))[key] == 111
        assert await parked_of(healthy) == []
        if fuse.calls < at:
            break
    assert at > 10


async def test_two_workers_that_redrive_one_key_do_each_command_once(context: Context, bank: Bank) -> None:
    other = make_context(bank.service, Engines(context.log, context.store, context.views))
    bank.failing["a"] = ValueError("as told")
    await accept(context, *(Deposit("a", 10**n) for n in range(6)))
    await consume(context)
    bank.failing.clear()
    await asyncio.gather(
        redrive(context, "a"),
        redrive(other, "a"),
        _arrive(context, Deposit("a", 10**6)),
    )
    await redrive(context, "a")
    assert await balances(context) == {"a": 1111111}
    assert await parked_of(context) == []


async def _arrive(context: Context, command: Command) -> None:
    await accept(context, command)
    await consume(context)


class Between(WrappedStore):
    """A store in which something happens between two transactions of a worker."""

    def __init__(self, store: Store, between: list[Callable[[], Awaitable[None]] | None]) -> None:
        super().__init__(store)
        self._between = between

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        if self._between and (what := self._between.pop(0)):
            await what()
        async with super().transaction() as session:
            yield session


@pytest.mark.parametrize("settled", ["the first", "all of them"])
async def test_a_failed_retry_does_not_overwrite_what_another_worker_settled_meanwhile(
    bank: Bank, engines: Engines, settled: str
) -> None:
    healthy = await opened(bank.service, engines)
    bank.failing["a"] = ValueError("as told")
    await accept(healthy, Deposit("a", 1), Deposit("a", 20))
    await consume(healthy)

    async def settle() -> None:
        bank.failing.clear()
        if settled == "the first":
            parking, executor = parking_of(healthy, COMMANDS), commands_executor(healthy)
            await parking._try_first(executor, *await parking._waiting(executor, "a"))
        else:
            await redrive(healthy, "a")

    store = Between(engines.store, [None, None, settle])
    slow = make_context(bank.service, engines._replace(store=store))
    await redrive(slow, "a")
    await redrive(healthy, "a")
    assert await balances(healthy) == {"a": 21}
    assert await parked_of(healthy) == []
    assert {row.state for row in (await rows(engines.store, Handled)).values()} == {"done"}


async def test_a_direct_command_that_settles_between_failure_and_parking_is_not_run_again(
    bank: Bank, engines: Engines
) -> None:
    """The log's delivery fails; before it is parked, the same command is sent directly and succeeds."""
    healthy = await opened(bank.service, engines)
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(healthy, Deposit("a", 1))

    async def settle() -> None:
        bank.failing.clear()
        await direct(healthy, message)

    store = Between(engines.store, [None, settle])
    slow = make_context(bank.service, engines._replace(store=store))
    [outcome] = await consume(slow)
    await redrive(healthy, "a")
    assert outcome.state == "done"
    assert await balances(healthy) == {"a": 1}


async def test_a_batch_reaction_is_redriven_event_by_event_in_order(context: Context, bank: Bank) -> None:
    bank.failing_batches["a"] = ValueError("as told")
    await direct(context, Deposit("a", 1), Deposit("b", 1), Deposit("a", 2), Withdraw("a", 1))
    executor, parking = reaction_of(context, "enter")
    wanted = [e for e in await journal_of(context.store) if e.type in ("accounts.Deposited", "accounts.Withdrawn")]
    await executor.run([Task(event, event.number) for event in wanted])
    bank.failing_batches.clear()
    outcomes = await parking.redrive(executor, "a")
    assert [outcome.state for outcome in outcomes] == ["done"] * 3


async def test_a_reaction_that_refuses_in_a_redrive_stays_set_aside(context: Context) -> None:
    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        tx.written = True
        raise Rejected("no")

    executor = Executor(context, "stubborn", invoke, parking_of(context, COMMANDS))
    await executor.run([Task(message_of(Open("a")), 1)])
    await parking_of(context, COMMANDS).redrive(executor, "a")
    assert [row.state for row in await parked_of(context)] == ["parked"]


async def test_later_commands_stay_behind_when_the_log_was_made_anew(
    context: Context, bank: Bank, engines: Engines
) -> None:
    """Its offsets count from 1 again: nothing parked is overwritten, and nothing gets in front of it."""
    bank.failing["a"] = ValueError("as told")
    await accept(context, Deposit("b", 1), Deposit("a", 1), Deposit("a", 2))
    await consume(context)
    waiting = await parked_of(context)
    anew = [message_of(Deposit("a", 30)), message_of(Deposit("a", 400))]
    await commands_executor(context).run([Task(anew[0], waiting[0].number), Task(anew[1], waiting[1].number)])
    bank.failing.clear()
    await redrive(context, "a")
    own = [e for e in await journal_of(context.store) if e.key == "a" and e.type == "accounts.Deposited"]
    assert [msgspec.json.decode(event.data)["amount"] for event in own] == [1, 2, 30, 400]


async def test_a_command_that_comes_again_while_it_is_parked_and_forgotten_is_done_once(
    context: Context, bank: Bank
) -> None:
    """The inbox does not forget by itself what is parked; if somebody deletes it, the second is a duplicate."""
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(context, Deposit("a", 1))
    await consume(context)
    inbox = await rows(context.store, Handled)
    assert inbox[message.id].at is None
    async with context.store.transaction() as session:
        await session.delete(table_of(Handled), [(message.id,)])
    await accept(context, message)
    await consume(context)
    assert len(await parked_of(context)) == 2
    bank.failing.clear()
    outcomes = await redrive(context, "a")
    assert [(outcome.state, outcome.duplicate) for outcome in outcomes] == [("done", False), ("done", True)]
    assert await redrive(context, "a") == []
    assert await balances(context) == {"a": 1}
    assert (await rows(context.store, Handled))[message.id].at is not None


async def test_one_that_was_done_directly_meanwhile_is_not_done_again_by_a_redrive(
    context: Context, bank: Bank
) -> None:
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(context, Deposit("a", 1))
    await consume(context)
    bank.failing.clear()
    async with context.store.transaction() as session:
        await session.delete(table_of(Handled), [(message.id,)])
    await direct(context, message)
    [outcome] = await redrive(context, "a")
    assert outcome.duplicate
    assert await balances(context) == {"a": 1}


async def die_in_a_redrive(bank: Bank, engines: Engines, key: str) -> None:
    """A process that ends while it tries a message again: nothing that it does afterwards has an effect."""
    fuse = Fuse()
    dying = make_context(bank.service, fuse.wrap(engines), retry=STUBBORN)

    class Gone(dict[str, Exception]):
        def __contains__(self, each: object) -> bool:
            fuse.blown.set()
            return False

    bank.failing = Gone()
    with suppress(Unavailable):
        await redrive(dying, key)
    bank.failing = {}
    assert fuse.blown.is_set()


STUBBORN = Retry(tries=1000, first_s=0.0, longest_s=0.0, ends=3)


async def test_a_message_whose_retries_end_the_process_waits_for_a_person(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines, retry=STUBBORN)
    bank.failing["a"] = ValueError("as told")
    [message, _] = await accept(context, Deposit("a", 1), Deposit("a", 10))
    await consume(context)
    for _ in range(STUBBORN.ends):
        await die_in_a_redrive(bank, engines, "a")
    [outcome] = await redrive(context, "a")
    assert (outcome.state, outcome.detail) == ("parked", "the process ended 3 times while handling it")
    assert await balances(context) == {}
    assert await due(context, datetime.now(UTC) + timedelta(days=1)) == []
    assert (await CommandStates(context).get(message.id)).state == "parked"
    await redrive(context, "a", by_hand=True)
    assert await balances(context) == {"a": 11}


async def test_retries_that_fail_in_order_and_engines_that_go_away_are_not_ends_of_a_process(
    bank: Bank, engines: Engines
) -> None:
    context = await opened(bank.service, engines, retry=STUBBORN)
    bank.failing["a"] = ValueError("as told")
    await accept(context, Deposit("a", 1))
    await consume(context)
    for _ in range(STUBBORN.ends + 1):
        other = make_context(bank.service, engines, retry=STUBBORN)
        [outcome] = await redrive(other, "a")
        assert outcome.state == "retrying"
    for _ in range(STUBBORN.ends + 1):
        store = Between(engines.store, [None, away])
        cut = make_context(bank.service, engines._replace(store=store), retry=STUBBORN)
        with pytest.raises(Unavailable):
            await redrive(cut, "a")
    bank.failing.clear()
    await redrive(context, "a")
    assert await balances(context) == {"a": 1}


async def away() -> None:
    raise Unavailable("the store is away")
