"""What a handler sees and does inside its transaction."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from chimera import ChimeraError, Event, Reads, Rejected, Transaction
from chimera.body import Body
from chimera.entities import Entity
from chimera.execution import Task
from chimera.messages import Message
from chimera.outcomes import Outcome
from chimera.sharing import SharedChange
from chimera.testing.broken import WrappedSession, WrappedStore
from tests.support import (
    Account,
    Advice,
    Advise,
    Advised,
    Bank,
    Close,
    Deposit,
    Deposited,
    Engines,
    Open,
    Withdraw,
    all_of,
    balances,
    direct,
    journal_of,
    message_of,
    opened,
    parked_of,
)

Work = Callable[[Transaction, str], Awaitable[Any]]


async def run(body: Body, work: Work, *keys: str) -> list[Any]:
    """Run the work once for each key, all in one transaction."""

    async def invoke(messages: Sequence[Message], tx: Transaction) -> Any:
        return await work(tx, messages[0].key)

    executor = body.executor("test", invoke, body.parking, inbox=True)
    return await executor.run([Task(message_of(Open(key)), number) for number, key in enumerate(keys or ("a",), 1)])


async def answer(body: Body, work: Work) -> Any:
    [outcome] = await run(body, work)
    assert outcome.state == "done", outcome
    return msgspec.json.decode(outcome.body) if outcome.body else None


async def test_what_was_saved_is_loaded_and_found_before_it_is_committed(body: Body) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        tx.save(Account("a", 1))
        tx.save(Account("b", 2))
        tx.save(Account("a", 3))
        loaded = await tx.load(Account, "a")
        found = await tx.find(Account)
        return loaded, found

    assert await answer(body, work) == [
        {"account_id": "a", "balance": 3, "tags": []},
        [{"account_id": "a", "balance": 3, "tags": []}, {"account_id": "b", "balance": 2, "tags": []}],
    ]


async def test_what_was_deleted_is_neither_loaded_nor_found(body: Body) -> None:
    await direct(body, Deposit("a", 1), Deposit("b", 1))

    async def work(tx: Transaction, key: str) -> Any:
        tx.delete(Account("a"))
        loaded = await tx.load(Account, "a")
        return loaded, [found.account_id for found in await tx.find(Account)]

    assert await answer(body, work) == [None, ["b"]]
    assert set(await balances(body)) == {"b"}


async def test_the_last_of_save_and_delete_wins_also_around_a_find(body: Body) -> None:
    await direct(body, Deposit("a", 1))

    async def work(tx: Transaction, key: str) -> Any:
        tx.delete(Account("a"))
        await tx.find(Account)
        tx.save(Account("a", 7))
        tx.save(Account("b", 7))
        await tx.find(Account)
        tx.delete(Account("b"))
        return None

    await answer(body, work)
    assert await balances(body) == {"a": 7}


async def test_find_takes_one_value_or_a_list_of_them(body: Body) -> None:
    await direct(body, *(Deposit(key, amount) for key, amount in [("a", 1), ("b", 2), ("c", 1)]))

    async def work(tx: Transaction, key: str) -> Any:
        return [
            [found.account_id for found in await tx.find(Account, **where)]
            for where in ({"balance": 1}, {"balance": [1, 2], "account_id": ["c", "b"]}, {"account_id": []})
        ]

    assert await answer(body, work) == [["a", "c"], ["b", "c"], []]


async def test_what_is_loaded_is_the_handlers_own_until_it_is_saved(body: Body) -> None:
    await direct(body, Deposit("a", 1))

    async def work(tx: Transaction, key: str) -> Any:
        first = await tx.load(Account, "a")
        first.balance = 100
        first.tags.append("changed")
        return await tx.load(Account, "a")

    assert await answer(body, work) == {"account_id": "a", "balance": 1, "tags": []}
    assert await balances(body) == {"a": 1}


async def test_what_is_saved_is_as_it_was_then(body: Body) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        account = Account("a", 1)
        tx.save(account)
        account.balance = 100

    await run(body, work)
    assert await balances(body) == {"a": 1}


async def test_commands_of_one_transaction_see_the_changes_of_those_before_but_not_of_refused_ones(body: Body) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        account = await tx.load(Account, "shared") or Account("shared")
        tx.save(Account("shared", account.balance + 1, [*account.tags, key]))
        if key == "refused":
            raise Rejected("no")

    await run(body, work, "a", "refused", "b")
    [account] = await all_of(body.store, Account)
    assert (account.balance, account.tags) == (2, ["a", "b"])


@pytest.mark.parametrize("engines", ["sqlite"], indirect=True)
async def test_sql_sees_what_was_saved_and_later_commands_see_what_sql_changed(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines)
    calls: list[str] = []

    async def work(tx: Transaction, key: str) -> Any:
        calls.append(key)
        if key == "look":
            assert await tx.load(Account, "a") is None
        elif key == "save":
            tx.save(Account("a", 1))
        elif key == "sql":
            assert await tx.execute("SELECT balance FROM accounts WHERE account_id = ?", "a") == [(1,)]
            await tx.execute("UPDATE accounts SET balance = balance + 10 WHERE account_id = ?", "a")
            assert (await tx.load(Account, "a")).balance == 11
        else:
            account = await tx.load(Account, "a")
            tx.save(Account("a", account.balance + 100))

    outcomes = await run(body, work, "look", "save", "sql", "more")
    assert [outcome.state for outcome in outcomes] == ["done"] * 4
    assert await balances(body) == {"a": 111}
    assert calls == ["look", "save", "sql", "more"]


async def test_ids_and_the_time_stay_the_same_when_the_work_is_tried_again(body: Body) -> None:
    seen: list[Any] = []

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        seen.append((tx.new_id(), tx.new_id(), tx.now, tx.command_id))
        if len(seen) < 3:
            raise ValueError("once more")

    executor = body.executor("ids", invoke, body.parking, inbox=True)
    message = message_of(Open("a"), "the-command")
    await executor.run([Task(message, 1)])
    await body.parking.redrive(executor, "a")
    assert len(seen) == 2
    await body.parking.redrive(executor, "a")
    assert seen[0] == seen[1] == seen[2]
    first, second, now, command_id = seen[0]
    assert first != second
    assert uuid.UUID(first)
    assert now == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert command_id == "the-command"


async def test_different_commands_get_different_ids(body: Body) -> None:
    seen = []

    async def work(tx: Transaction, key: str) -> None:
        seen.append(tx.new_id())

    await run(body, work, "a", "b", "a")
    assert len(set(seen)) == 3


async def test_events_carry_the_commands_time_trace_and_key(body: Body) -> None:
    message = msgspec.structs.replace(message_of(Deposit("a", 5)), traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    await direct(body, message)
    for event in await journal_of(body.store):
        assert (event.time, event.traceparent, event.key) == (message.time, message.traceparent, "a")
        assert event.id == str(event.position)


class Elsewhere(Event, source="orders", key="order_id"):
    order_id: str


class Undeclared(Entity, key="name"):
    name: str


class NotFolded(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda tx: tx.emit(Elsewhere("o")), "owned by 'orders'"),
        (lambda tx: tx.save(Undeclared("x")), "accounts.entity(Undeclared)"),
        (lambda tx: tx.load(NotFolded, "x"), "event_sourced"),
        (lambda tx: tx.find(Account, colour="red"), "has no colour; it has: account_id, balance, tags"),
    ],
)
async def test_a_wrong_use_says_what_to_do(body: Body, wrong: Any, says: str) -> None:
    told: list[str] = []

    async def work(tx: Transaction, key: str) -> None:
        try:
            found = wrong(tx)
            if found is not None:
                await found
        except ChimeraError as error:
            told.append(str(error))

    await run(body, work)
    assert len(told) == 1
    assert says in told[0]


# Event-sourced entities


async def test_an_event_sourced_entity_is_folded_from_its_events_also_from_those_of_the_same_transaction(
    body: Body,
) -> None:
    await direct(body, Advise("a", "save"), Advise("b", "other"))

    async def work(tx: Transaction, key: str) -> Any:
        tx.emit(Advised("a", "spend"))
        return await tx.load(Advice, "a")

    assert await answer(body, work) == {"account_id": "a", "texts": ["save", "spend"]}


async def test_commands_of_one_transaction_see_the_events_of_those_before(body: Body) -> None:
    outcomes = await direct(body, Advise("a", "save"), Advise("a", "save"), Advise("a", "spend"))
    assert [outcome.state for outcome in outcomes] == ["done", "rejected", "done"]


async def test_an_entity_without_events_is_none(body: Body) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        assert await tx.load(Advice, "nobody") is None

    await answer(body, work)


class RacyStore(WrappedStore):
    """A store whose transactions do not exclude each other: somebody emits between the fold and the commit."""

    def __init__(self, store: Any, event: Message) -> None:
        super().__init__(store)
        self.event = event
        self.races = 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with super().transaction() as session:
            yield RacySession(session, self)


class RacySession(WrappedSession):
    def __init__(self, session: Any, store: RacyStore) -> None:
        super().__init__(session)
        self._racy = store

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        found = await super().history(partition, key, after)
        if self._numbered and self._racy.races:
            self._racy.races -= 1
            return [*found, self._racy.event]
        return found

    _numbered = False

    async def reserve(self, counts: Any) -> Any:
        self._numbered = True
        return await super().reserve(counts)


async def test_a_conflict_on_an_event_sourced_entity_is_run_again_on_what_is_there_now(
    bank: Bank, engines: Engines
) -> None:
    await opened(bank.service, engines)
    handled: list[str] = []
    racy = RacyStore(engines.store, message_of(Open("a")))
    body = await opened(bank.service, engines._replace(store=racy))  # type: ignore[arg-type]

    async def work(tx: Transaction, key: str) -> None:
        handled.append(key)
        await tx.load(Advice, key)
        tx.emit(Advised(key, "again"))

    [outcome] = await run(body, work)
    assert (outcome.state, handled) == ("done", ["a", "a"])
    assert [event.type for event in await journal_of(engines.store)].count("accounts.Advised") == 1


async def test_who_only_reads_an_event_sourced_entity_does_not_conflict(bank: Bank, engines: Engines) -> None:
    await opened(bank.service, engines)
    racy = RacyStore(engines.store, message_of(Open("a")))
    body = await opened(bank.service, engines._replace(store=racy))  # type: ignore[arg-type]
    handled: list[str] = []

    async def work(tx: Transaction, key: str) -> None:
        handled.append(key)
        await tx.load(Advice, "b")
        tx.emit(Deposited(key, 1))

    await run(body, work)
    assert handled == ["a"]


async def test_concurrent_commands_on_one_event_sourced_entity_lose_nothing(body: Body) -> None:
    await asyncio.gather(*(direct(body, Advise("a", f"advice {n % 10}")) for n in range(40)))
    async with body.store.snapshot() as session:
        advice = await Reads(body.service, session).load(Advice, "a")
    assert advice is not None
    assert sorted(advice.texts) == sorted({f"advice {n}" for n in range(10)})


# Shares


async def changes(body: Body) -> list[tuple[str, Any]]:
    events = [event for event in await journal_of(body.store) if event.type == "accounts.share.cards"]
    decoded = [msgspec.json.decode(event.data, type=SharedChange) for event in sorted(events, key=_by_key)]
    return [(change.key, msgspec.json.decode(change.document)) for change in decoded]


def _by_key(event: Message) -> tuple[str, int]:
    return event.key, event.number


async def test_a_shares_new_document_goes_into_the_journal_with_the_event_that_changed_it(body: Body) -> None:
    await direct(body, Deposit("a", 5))
    await direct(body, Deposit("a", 1), Deposit("b", 2))
    found = await changes(body)
    assert [(key, card["balance"]) for key, card in found] == [("a", 5), ("a", 6), ("b", 2)]


async def test_several_changes_in_one_transaction_share_one_document(body: Body) -> None:
    await direct(body, *(Deposit("a", 1) for _ in range(10)))
    assert [card["balance"] for _, card in await changes(body)] == [10]


async def test_a_removed_document_is_told_as_null(body: Body) -> None:
    await direct(body, Deposit("a", 5))
    await direct(body, Close("a"))
    assert (await changes(body))[-1] == ("a", None)


async def test_a_refused_command_changes_no_share(body: Body) -> None:
    await direct(body, Deposit("a", 5), Withdraw("a", 100), Deposit("b", 1))
    assert [(key, card["balance"]) for key, card in await changes(body)] == [("a", 5), ("b", 1)]


async def test_a_share_sees_the_event_sourced_entities_as_they_are_after_the_transaction(body: Body) -> None:
    await direct(body, Deposit("a", 5), Advise("a", "save"))
    await direct(body, Advise("a", "spend"))
    assert [card["texts"] for _, card in await changes(body)] == [["save"], ["save", "spend"]]


async def test_the_position_of_a_result_covers_the_shares_change(body: Body) -> None:
    [outcome] = await direct(body, Deposit("a", 5))
    heads = await body.store.heads()
    [position] = outcome.positions.split(",")
    assert int(position.partition("@")[2]) == max(heads.values()) == 2


async def test_a_share_that_fails_fails_the_command_that_needs_it_and_no_other(bank: Bank, engines: Engines) -> None:
    share = bank.service.shares["cards"]

    async def fragile(keys: list[str], tx: Reads) -> Any:
        if "bad" in keys:
            raise ValueError("no card for that")
        return await share.function(keys, tx)

    bank.service.shares["cards"] = share._replace(function=fragile)
    body = await opened(bank.service, engines)
    outcomes: list[Outcome] = await body.commands.run(  # type: ignore[assignment]
        [Task(message_of(Deposit(key, 1)), number) for number, key in enumerate(["a", "bad", "b"], 1)]
    )
    assert [outcome.state for outcome in outcomes] == ["done", "retrying", "done"]
    [parked] = await parked_of(body)
    assert "no card for that" in parked.cause
