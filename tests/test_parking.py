"""Nothing is swallowed (invariant 5): what fails is retried, set aside with its cause, and can be got back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from chimera import Command, Transaction, Unavailable
from chimera.body import Body
from chimera.commands import CommandStates
from chimera.entities import table_of
from chimera.execution import Task
from chimera.messages import Message
from chimera.parking import Retry
from chimera.records import Handled
from chimera.testing.broken import WrappedStore
from tests.support import (
    Bank,
    Deposit,
    Engines,
    Fuse,
    Open,
    Withdraw,
    accept,
    balances,
    consume,
    direct,
    journal_of,
    make_body,
    message_of,
    opened,
    parked_of,
    rows,
)


@pytest.mark.parametrize(
    ("tries", "pause"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5, None), (6, None)], ids=lambda value: str(value)
)
def test_pauses_double_up_to_the_longest_and_then_it_is_a_persons_turn(tries: int, pause: float | None) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    due = Retry(tries=5, first_s=1.0, longest_s=5.0).due(tries, now)
    assert due == (None if pause is None else now + timedelta(seconds=pause))


async def states(body: Body) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in await parked_of(body):
        found.setdefault(row.key, []).append(row.state)
    return found


async def test_a_failing_command_is_retried_with_backoff_and_then_parked_with_its_cause(
    bank: Bank, engines: Engines
) -> None:
    body = await opened(bank.service, engines, retry=Retry(tries=3, first_s=60.0, longest_s=600.0))
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(body, Deposit("a", 5))
    await consume(body)
    [row] = await parked_of(body)
    assert (row.state, row.tries, row.cause) == ("retrying", 1, "ValueError: as told")
    now = datetime.now(UTC)
    assert await body.parking.due(body.commands, now) == []
    assert await body.parking.due(body.commands, now + timedelta(seconds=61)) == ["a"]
    await body.parking.redrive(body.commands, "a")
    [row] = await parked_of(body)
    assert (row.state, row.tries) == ("retrying", 2)
    assert row.due is not None
    assert row.due > now + timedelta(seconds=100)
    await body.parking.redrive(body.commands, "a")
    [row] = await parked_of(body)
    assert (row.state, row.tries, row.due) == ("parked", 3, None)
    assert row.first_at < row.last_at
    assert await body.parking.due(body.commands, now + timedelta(days=1)) == []
    state = await CommandStates(body).get(message.id)
    assert (state.state, state.detail) == ("parked", "ValueError: as told")
    assert await journal_of(body.store) == []


async def test_later_commands_of_the_key_queue_behind_and_run_in_order_while_other_keys_go_on(
    body: Body, bank: Bank
) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(body, Deposit("a", 5), Deposit("b", 1), Withdraw("a", 2), Deposit("b", 2))
    await consume(body)
    await accept(body, Deposit("a", 10), Deposit("c", 1))
    await consume(body)
    assert await balances(body) == {"b": 3, "c": 1}
    assert await states(body) == {"a": ["retrying", "behind", "behind"]}
    bank.failing.clear()
    outcomes = await body.parking.redrive(body.commands, "a")
    assert [outcome.state for outcome in outcomes] == ["done", "done", "done"]
    assert await balances(body) == {"a": 13, "b": 3, "c": 1}
    assert await parked_of(body) == []
    own = [e for e in await journal_of(body.store) if e.key == "a" and not e.type.startswith("accounts.share.")]
    assert [msgspec.json.decode(event.data)["amount"] for event in own] == [5, 2, 10]


async def test_after_a_redrive_new_commands_of_the_key_run_at_once(body: Body, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(body, Deposit("a", 5))
    await consume(body)
    bank.failing.clear()
    await body.parking.redrive(body.commands, "a")
    await accept(body, Deposit("a", 1))
    [outcome] = await consume(body)
    assert outcome.state == "done"
    assert await balances(body) == {"a": 6}


async def test_a_redrive_stops_at_the_first_that_fails_again(body: Body, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(body, Deposit("a", 1), Deposit("a", 2), Deposit("a", 3))
    await consume(body)
    outcomes = await body.parking.redrive(body.commands, "a")
    assert [outcome.state for outcome in outcomes] == ["parked"]
    assert await states(body) == {"a": ["parked", "behind", "behind"]}
    assert await balances(body) == {}


async def test_a_refusal_in_a_redrive_settles_the_command_and_the_next_is_tried(body: Body, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    messages = await accept(body, Deposit("a", 1), Withdraw("a", 50), Open("a"), Deposit("a", 2))
    await consume(body)
    bank.failing.clear()
    outcomes = await body.parking.redrive(body.commands, "a")
    assert [outcome.state for outcome in outcomes] == ["done", "rejected", "rejected", "done"]
    inbox = await rows(body.store, Handled)
    assert [inbox[message.id].state for message in messages] == ["done", "rejected", "rejected", "done"]
    assert inbox[messages[1].id].reason == "overdrawn"
    assert await balances(body) == {"a": 3}


async def test_dropping_gives_up_the_first_command_and_the_next_is_tried(body: Body, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    messages = await accept(body, Deposit("a", 1), Deposit("a", 2))
    await consume(body)
    dropped = await body.parking.drop(body.commands, "a")
    assert dropped is not None
    assert dropped.id == messages[0].id
    bank.failing.clear()
    assert await body.parking.due(body.commands, datetime.now(UTC)) == ["a"]
    await body.parking.redrive(body.commands, "a")
    assert await balances(body) == {"a": 2}
    inbox = await rows(body.store, Handled)
    assert (inbox[messages[0].id].state, inbox[messages[0].id].reason) == ("rejected", "dropped")
    assert "as told" in inbox[messages[0].id].detail
    assert await body.parking.drop(body.commands, "a") is None


class Unheard(Command, key="account_id"):
    account_id: str


async def test_unknown_and_undecodable_commands_are_parked_not_lost(body: Body) -> None:
    nonsense = msgspec.structs.replace(message_of(Deposit("n", 1)), data=b"{nonsense")
    wrong = msgspec.structs.replace(message_of(Deposit("w", 1)), data=b'{"account_id":"w","amount":-5}')
    binary = msgspec.structs.replace(message_of(Deposit("x", 1)), data=b"\xff\x00\xfe")
    messages = await accept(body, Unheard("u"), nonsense, wrong, binary, Deposit("good", 1))
    await consume(body)
    assert await balances(body) == {"good": 1}
    parked = {row.key: row for row in await parked_of(body)}
    assert set(parked) == {"u", "n", "w", "x"}
    assert "accounts.Unheard" in parked["u"].cause
    assert "amount" in parked["w"].cause
    assert parked["x"].data == messages[3].data


async def test_a_redelivered_command_that_is_parked_is_not_parked_twice(body: Body, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    message = message_of(Deposit("a", 5), "same")
    await accept(body, message, message)
    await consume(body)
    await accept(body, message)
    await consume(body)
    assert len(await parked_of(body)) == 1
    bank.failing.clear()
    await body.parking.redrive(body.commands, "a")
    assert await balances(body) == {"a": 5}


async def test_what_one_consumer_has_parked_does_not_hold_up_another(body: Body, bank: Bank) -> None:
    bank.failing_reactions["a"] = ValueError("as told")
    await direct(body, Deposit("a", 1))
    executor, parking = body.reaction(bank.service.reactions["thank"], "accounts")
    [event, *_] = await journal_of(body.store)
    await executor.run([Task(event, event.number)])
    await accept(body, Deposit("a", 2))
    [outcome] = await consume(body)
    assert outcome.state == "done"
    assert await body.parking.due(body.commands, datetime.now(UTC)) == []
    assert await parking.due(executor, datetime.now(UTC)) == ["a"]


@pytest.mark.parametrize("late", [False, True])
async def test_a_process_that_dies_during_a_redrive_leaves_each_command_done_once(
    bank: Bank, engines: Engines, late: bool
) -> None:
    await opened(bank.service, engines)
    for at in range(1, 60):
        healthy = make_body(bank.service, engines)
        key = f"k{at}"
        bank.failing[key] = ValueError("as told")
        await accept(healthy, Deposit(key, 1), Deposit(key, 10), Withdraw(key, 500), Deposit(key, 100))
        await consume(healthy)
        bank.failing.clear()
        fuse = Fuse(at, late=late)
        dying = make_body(bank.service, fuse.wrap(engines))
        with suppress(Unavailable):
            await dying.parking.redrive(dying.commands, key)
        await healthy.parking.redrive(healthy.commands, key)
        assert (await balances(healthy))[key] == 111
        assert await parked_of(healthy) == []
        if fuse.calls < at:
            break
    assert at > 10


async def test_two_workers_that_redrive_one_key_do_each_command_once(body: Body, bank: Bank) -> None:
    other = make_body(bank.service, Engines(body.log, body.store, body.views))
    bank.failing["a"] = ValueError("as told")
    await accept(body, *(Deposit("a", 10**n) for n in range(6)))
    await consume(body)
    bank.failing.clear()
    await asyncio.gather(
        body.parking.redrive(body.commands, "a"),
        other.parking.redrive(other.commands, "a"),
        _arrive(body, Deposit("a", 10**6)),
    )
    await body.parking.redrive(body.commands, "a")
    assert await balances(body) == {"a": 1111111}
    assert await parked_of(body) == []


async def _arrive(body: Body, command: Command) -> None:
    await accept(body, command)
    await consume(body)


class Between(WrappedStore):
    """A store in which something happens between two transactions of a worker."""

    def __init__(self, store: Any, between: list[Any]) -> None:
        super().__init__(store)
        self._between = between

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
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
            await healthy.parking._try_first(healthy.commands, *await healthy.parking._waiting(healthy.commands, "a"))
        else:
            await healthy.parking.redrive(healthy.commands, "a")

    store: Any = Between(engines.store, [None, None, settle])
    slow = make_body(bank.service, engines._replace(store=store))
    await slow.parking.redrive(slow.commands, "a")
    await healthy.parking.redrive(healthy.commands, "a")
    assert await balances(healthy) == {"a": 21}
    assert await parked_of(healthy) == []
    assert {row.state for row in (await rows(engines.store, Handled)).values()} == {"done"}


async def test_a_direct_command_that_settles_between_failure_and_parking_is_not_run_again(
    bank: Bank, engines: Engines
) -> None:
    """The log's delivery fails; before it is set aside, the same command is sent directly and succeeds."""
    healthy = await opened(bank.service, engines)
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(healthy, Deposit("a", 1))

    async def settle() -> None:
        bank.failing.clear()
        await direct(healthy, message)

    store: Any = Between(engines.store, [None, settle])
    slow = make_body(bank.service, engines._replace(store=store))
    [outcome] = await consume(slow)
    await healthy.parking.redrive(healthy.commands, "a")
    assert outcome.state == "done"
    assert await balances(healthy) == {"a": 1}


async def test_a_batch_reaction_is_redriven_event_by_event_in_order(body: Body, bank: Bank) -> None:
    bank.failing_batches["a"] = ValueError("as told")
    await direct(body, Deposit("a", 1), Deposit("b", 1), Deposit("a", 2), Withdraw("a", 1))
    executor, parking = body.reaction(bank.service.reactions["enter"], "accounts")
    wanted = [e for e in await journal_of(body.store) if e.type in ("accounts.Deposited", "accounts.Withdrawn")]
    await executor.run([Task(event, event.number) for event in wanted])
    bank.failing_batches.clear()
    outcomes = await parking.redrive(executor, "a")
    assert [outcome.state for outcome in outcomes] == ["done"] * 3


async def test_a_reaction_that_refuses_in_a_redrive_stays_set_aside(body: Body) -> None:
    from chimera import Rejected

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        tx.written = True
        raise Rejected("no")

    executor = body.executor("stubborn", invoke, body.parking)
    await executor.run([Task(message_of(Open("a")), 1)])
    await body.parking.redrive(executor, "a")
    assert [row.state for row in await parked_of(body)] == ["parked"]


async def test_later_commands_stay_behind_when_the_log_was_made_anew(body: Body, bank: Bank, engines: Engines) -> None:
    """Its offsets count from 1 again: nothing parked is overwritten, and nothing gets in front of it."""
    bank.failing["a"] = ValueError("as told")
    await accept(body, Deposit("b", 1), Deposit("a", 1), Deposit("a", 2))
    await consume(body)
    waiting = await parked_of(body)
    anew = [message_of(Deposit("a", 30)), message_of(Deposit("a", 400))]
    await body.commands.run([Task(anew[0], waiting[0].number), Task(anew[1], waiting[1].number)])
    bank.failing.clear()
    await body.parking.redrive(body.commands, "a")
    own = [e for e in await journal_of(body.store) if e.key == "a" and e.type == "accounts.Deposited"]
    assert [msgspec.json.decode(event.data)["amount"] for event in own] == [1, 2, 30, 400]


async def test_a_command_that_comes_again_while_it_is_parked_and_forgotten_is_done_once(body: Body, bank: Bank) -> None:
    """The inbox does not forget by itself what is set aside; if somebody deletes it, the second is a duplicate."""
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(body, Deposit("a", 1))
    await consume(body)
    inbox = await rows(body.store, Handled)
    assert inbox[message.id].at is None
    async with body.store.transaction() as session:
        await session.delete(table_of(Handled), [(message.id,)])
    await accept(body, message)
    await consume(body)
    assert len(await parked_of(body)) == 2
    bank.failing.clear()
    outcomes = await body.parking.redrive(body.commands, "a")
    assert [(outcome.state, outcome.duplicate) for outcome in outcomes] == [("done", False), ("done", True)]
    assert await body.parking.redrive(body.commands, "a") == []
    assert await balances(body) == {"a": 1}
    assert (await rows(body.store, Handled))[message.id].at is not None


async def test_one_that_was_done_directly_meanwhile_is_not_done_again_by_a_redrive(body: Body, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(body, Deposit("a", 1))
    await consume(body)
    bank.failing.clear()
    async with body.store.transaction() as session:
        await session.delete(table_of(Handled), [(message.id,)])
    await direct(body, message)
    [outcome] = await body.parking.redrive(body.commands, "a")
    assert outcome.duplicate
    assert await balances(body) == {"a": 1}


async def die_in_a_redrive(bank: Bank, engines: Engines, key: str) -> None:
    """A process that ends while it tries a message again: nothing that it does afterwards has an effect."""
    fuse = Fuse()
    dying = make_body(bank.service, fuse.wrap(engines), retry=STUBBORN)

    class Gone(dict[str, Exception]):
        def __contains__(self, each: object) -> bool:
            fuse.blown.set()
            return False

    bank.failing = Gone()
    with suppress(Unavailable):
        await dying.parking.redrive(dying.commands, key)
    bank.failing = {}
    assert fuse.blown.is_set()


STUBBORN = Retry(tries=1000, first_s=0.0, longest_s=0.0, ends=3)


async def test_a_message_whose_retries_end_the_process_waits_for_a_person(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines, retry=STUBBORN)
    bank.failing["a"] = ValueError("as told")
    [message, _] = await accept(body, Deposit("a", 1), Deposit("a", 10))
    await consume(body)
    for _ in range(STUBBORN.ends):
        await die_in_a_redrive(bank, engines, "a")
    [outcome] = await body.parking.redrive(body.commands, "a")
    assert (outcome.state, outcome.detail) == ("parked", "the process ended 3 times while handling it")
    assert await balances(body) == {}
    assert await body.parking.due(body.commands, datetime.now(UTC) + timedelta(days=1)) == []
    assert (await CommandStates(body).get(message.id)).state == "parked"
    await body.parking.redrive(body.commands, "a", by_hand=True)
    assert await balances(body) == {"a": 11}


async def test_retries_that_fail_in_order_and_engines_that_go_away_are_not_ends_of_a_process(
    bank: Bank, engines: Engines
) -> None:
    body = await opened(bank.service, engines, retry=STUBBORN)
    bank.failing["a"] = ValueError("as told")
    await accept(body, Deposit("a", 1))
    await consume(body)
    for _ in range(STUBBORN.ends + 1):
        other = make_body(bank.service, engines, retry=STUBBORN)
        [outcome] = await other.parking.redrive(other.commands, "a")
        assert outcome.state == "retrying"
    for _ in range(STUBBORN.ends + 1):
        store: Any = Between(engines.store, [None, away])
        cut = make_body(bank.service, engines._replace(store=store), retry=STUBBORN)
        with pytest.raises(Unavailable):
            await cut.parking.redrive(cut.commands, "a")
    bank.failing.clear()
    await body.parking.redrive(body.commands, "a")
    assert await balances(body) == {"a": 1}


async def away() -> None:
    raise Unavailable("the store is away")
