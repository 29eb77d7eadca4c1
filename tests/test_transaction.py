"""What a handler sees and does inside its transaction."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from chimera import ChimeraError, Event, Range, Reads, Rejected, Service, Transaction
from chimera.commands.execute import Executor, Task
from chimera.commands.handlers import commands_executor, parking_of
from chimera.commands.inbox import Outcome
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.entities import Entity, table_of
from chimera.messages import Message
from chimera.ports import Store, Tip, WriteSession
from chimera.share.digests import SharedChange
from chimera.testing.broken import WrappedSession, WrappedStore
from chimera.transaction import Unit
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
    handled,
    journal_of,
    message_of,
    opened,
    parked_of,
)

Work = Callable[[Transaction, str], Awaitable[Any]]


async def run(context: Context, work: Work, *keys: str) -> list[Outcome]:
    """Run the work once for each key, all in one transaction."""

    async def invoke(messages: Sequence[Message], tx: Transaction) -> Any:
        return await work(tx, messages[0].key)

    executor = Executor(context, "test", invoke, parking_of(context, COMMANDS), inbox=True)
    tasks = [Task(message_of(Open(key)), number) for number, key in enumerate(keys or ("a",), 1)]
    return handled(await executor.run(tasks))


async def answer(context: Context, work: Work) -> Any:
    [outcome] = await run(context, work)
    assert outcome.state == "done", outcome
    return msgspec.json.decode(outcome.body) if outcome.body else None


async def test_what_was_saved_is_loaded_and_found_before_it_is_committed(context: Context) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        tx.save(Account("a", 1))
        tx.save(Account("b", 2))
        tx.save(Account("a", 3))
        loaded = await tx.load(Account, "a")
        found = await tx.find(Account)
        return loaded, found

    assert await answer(context, work) == [
        {"account_id": "a", "balance": 3, "tags": []},
        [{"account_id": "a", "balance": 3, "tags": []}, {"account_id": "b", "balance": 2, "tags": []}],
    ]


async def test_what_was_deleted_is_neither_loaded_nor_found(context: Context) -> None:
    await direct(context, Deposit("a", 1), Deposit("b", 1))

    async def work(tx: Transaction, key: str) -> Any:
        tx.delete(Account("a"))
        loaded = await tx.load(Account, "a")
        return loaded, [found.account_id for found in await tx.find(Account)]

    assert await answer(context, work) == [None, ["b"]]
    assert set(await balances(context)) == {"b"}


async def test_the_last_of_save_and_delete_wins_also_around_a_find(context: Context) -> None:
    await direct(context, Deposit("a", 1))

    async def work(tx: Transaction, key: str) -> Any:
        tx.delete(Account("a"))
        await tx.find(Account)
        tx.save(Account("a", 7))
        tx.save(Account("b", 7))
        await tx.find(Account)
        tx.delete(Account("b"))
        return None

    await answer(context, work)
    assert await balances(context) == {"a": 7}


async def test_find_takes_one_value_or_a_list_of_them(context: Context) -> None:
    await direct(context, *(Deposit(key, amount) for key, amount in [("a", 1), ("b", 2), ("c", 1)]))

    async def work(tx: Transaction, key: str) -> Any:
        wheres: list[dict[str, Any]] = [
            {"balance": 1},
            {"balance": [1, 2], "account_id": ["c", "b"]},
            {"account_id": []},
        ]
        return [[found.account_id for found in await tx.find(Account, **where)] for where in wheres]

    assert await answer(context, work) == [["a", "c"], ["b", "c"], []]


async def test_what_is_loaded_is_the_handlers_own_until_it_is_saved(context: Context) -> None:
    await direct(context, Deposit("a", 1))

    async def work(tx: Transaction, key: str) -> Any:
        first = await tx.load(Account, "a")
        assert first is not None
        first.balance = 100
        first.tags.append("changed")
        return await tx.load(Account, "a")

    assert await answer(context, work) == {"account_id": "a", "balance": 1, "tags": []}
    assert await balances(context) == {"a": 1}


async def test_what_is_saved_is_as_it_was_then(context: Context) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        account = Account("a", 1)
        tx.save(account)
        account.balance = 100

    await run(context, work)
    assert await balances(context) == {"a": 1}


async def test_commands_of_one_transaction_see_the_changes_of_those_before_but_not_of_refused_ones(
    context: Context,
) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        account = await tx.load(Account, "shared") or Account("shared")
        tx.save(Account("shared", account.balance + 1, [*account.tags, key]))
        if key == "refused":
            raise Rejected("no")

    await run(context, work, "a", "refused", "b")
    [account] = await all_of(context.store, Account)
    assert (account.balance, account.tags) == (2, ["a", "b"])


@pytest.mark.parametrize("engines", ["sqlite"], indirect=True)
async def test_sql_sees_what_was_saved_and_later_commands_see_what_sql_changed(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines)
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
            changed = await tx.load(Account, "a")
            assert changed is not None
            assert changed.balance == 11
        else:
            account = await tx.load(Account, "a")
            assert account is not None
            tx.save(Account("a", account.balance + 100))

    outcomes = await run(context, work, "look", "save", "sql", "more")
    assert [outcome.state for outcome in outcomes] == ["done"] * 4
    assert await balances(context) == {"a": 111}
    assert calls == ["look", "save", "sql", "more"]


async def test_ids_and_the_time_stay_the_same_when_the_work_is_tried_again(context: Context) -> None:
    seen: list[Any] = []

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        seen.append((tx.new_id(), tx.new_id(), tx.now, tx.command_id))
        if len(seen) < 3:
            raise ValueError("once more")

    executor = Executor(context, "ids", invoke, parking_of(context, COMMANDS), inbox=True)
    message = message_of(Open("a"), "the-command")
    await executor.run([Task(message, 1)])
    await parking_of(context, COMMANDS).redrive(executor, "a")
    assert len(seen) == 2
    await parking_of(context, COMMANDS).redrive(executor, "a")
    assert seen[0] == seen[1] == seen[2]
    first, second, now, command_id = seen[0]
    assert first != second
    assert uuid.UUID(first)
    assert now == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert command_id == "the-command"


async def test_different_commands_get_different_ids(context: Context) -> None:
    seen = []

    async def work(tx: Transaction, key: str) -> None:
        seen.append(tx.new_id())

    await run(context, work, "a", "b", "a")
    assert len(set(seen)) == 3


async def test_events_carry_the_commands_time_trace_and_key(context: Context) -> None:
    message = msgspec.structs.replace(message_of(Deposit("a", 5)), traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    await direct(context, message)
    for event in await journal_of(context.store):
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
async def test_a_wrong_use_says_what_to_do(context: Context, wrong: Any, says: str) -> None:
    told: list[str] = []

    async def work(tx: Transaction, key: str) -> None:
        try:
            found = wrong(tx)
            if found is not None:
                await found
        except ChimeraError as error:
            told.append(str(error))

    await run(context, work)
    assert len(told) == 1
    assert says in told[0]


# Event-sourced entities


async def test_an_event_sourced_entity_is_folded_from_its_events_also_from_those_of_the_same_transaction(
    context: Context,
) -> None:
    await direct(context, Advise("a", "save"), Advise("b", "other"))

    async def work(tx: Transaction, key: str) -> Any:
        tx.emit(Advised("a", "spend"))
        return await tx.load(Advice, "a")

    assert await answer(context, work) == {"account_id": "a", "texts": ["save", "spend"]}


async def test_commands_of_one_transaction_see_the_events_of_those_before(context: Context) -> None:
    outcomes = await direct(context, Advise("a", "save"), Advise("a", "save"), Advise("a", "spend"))
    assert [outcome.state for outcome in outcomes] == ["done", "rejected", "done"]


async def test_an_entity_without_events_is_none(context: Context) -> None:
    async def work(tx: Transaction, key: str) -> Any:
        assert await tx.load(Advice, "nobody") is None

    await answer(context, work)


class RacyStore(WrappedStore):
    """A store whose transactions do not exclude each other: somebody emits between the fold and the commit."""

    def __init__(self, store: Store, event: Message) -> None:
        super().__init__(store)
        self.event = event
        self.races = 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with super().transaction() as session:
            yield RacySession(session, self)


class RacySession(WrappedSession):
    def __init__(self, session: WriteSession, store: RacyStore) -> None:
        super().__init__(session)
        self._racy = store

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        found = await super().history(partition, key, after)
        if self._numbered and self._racy.races:
            self._racy.races -= 1
            return [*found, self._racy.event]
        return found

    _numbered = False

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        self._numbered = True
        return await super().hold(partitions)


async def test_a_conflict_on_an_event_sourced_entity_is_run_again_on_what_is_there_now(
    bank: Bank, engines: Engines
) -> None:
    await opened(bank.service, engines)
    tried: list[str] = []
    racy = RacyStore(engines.store, message_of(Open("a")))
    context = await opened(bank.service, engines._replace(store=racy))

    async def work(tx: Transaction, key: str) -> None:
        tried.append(key)
        await tx.load(Advice, key)
        tx.emit(Advised(key, "again"))

    [outcome] = await run(context, work)
    assert (outcome.state, tried) == ("done", ["a", "a"])
    assert [event.type for event in await journal_of(engines.store)].count("accounts.Advised") == 1


async def test_an_event_sourced_entity_that_is_only_read_holds_until_the_commit(bank: Bank, engines: Engines) -> None:
    await opened(bank.service, engines)
    racy = RacyStore(engines.store, message_of(Open("a")))
    context = await opened(bank.service, engines._replace(store=racy))
    tried: list[str] = []

    async def work(tx: Transaction, key: str) -> None:
        tried.append(key)
        await tx.load(Advice, "b")
        tx.emit(Deposited(key, 1))

    await run(context, work)
    assert tried == ["a", "a"]


async def test_two_that_each_advise_unless_the_other_is_advised_do_not_both_advise(context: Context) -> None:
    both = asyncio.Barrier(2)

    async def work(tx: Transaction, key: str) -> None:
        other = await tx.load(Advice, "b" if key == "a" else "a")
        with suppress(TimeoutError, asyncio.BrokenBarrierError):
            async with asyncio.timeout(0.2):
                await both.wait()
        if other is None:
            tx.emit(Advised(key, "save"))

    await asyncio.gather(run(context, work, "a"), run(context, work, "b"))
    assert [event.type for event in await journal_of(context.store)].count("accounts.Advised") == 1


async def test_concurrent_commands_on_one_event_sourced_entity_lose_nothing(context: Context) -> None:
    await asyncio.gather(*(direct(context, Advise("a", f"advice {n % 10}")) for n in range(40)))
    async with context.store.snapshot() as session:
        advice = await Reads(context.service, session).load(Advice, "a")
    assert advice is not None
    assert sorted(advice.texts) == sorted({f"advice {n}" for n in range(10)})


# Shares


async def changes(context: Context) -> list[tuple[str, Any]]:
    events = [event for event in await journal_of(context.store) if event.type == "accounts.share.cards"]
    decoded = [msgspec.json.decode(event.data, type=SharedChange) for event in sorted(events, key=_by_key)]
    return [(change.key, msgspec.json.decode(change.document)) for change in decoded]


def _by_key(event: Message) -> tuple[str, int]:
    return event.key, event.number


async def test_a_shares_new_document_goes_into_the_journal_with_the_event_that_changed_it(context: Context) -> None:
    await direct(context, Deposit("a", 5))
    await direct(context, Deposit("a", 1), Deposit("b", 2))
    found = await changes(context)
    assert [(key, card["balance"]) for key, card in found] == [("a", 5), ("a", 6), ("b", 2)]


async def test_several_changes_in_one_transaction_share_one_document(context: Context) -> None:
    await direct(context, *(Deposit("a", 1) for _ in range(10)))
    assert [card["balance"] for _, card in await changes(context)] == [10]


async def test_a_removed_document_is_told_as_null(context: Context) -> None:
    await direct(context, Deposit("a", 5))
    await direct(context, Close("a"))
    assert (await changes(context))[-1] == ("a", None)


async def test_a_refused_command_changes_no_share(context: Context) -> None:
    await direct(context, Deposit("a", 5), Withdraw("a", 100), Deposit("b", 1))
    assert [(key, card["balance"]) for key, card in await changes(context)] == [("a", 5), ("b", 1)]


async def test_a_share_sees_the_event_sourced_entities_as_they_are_after_the_transaction(context: Context) -> None:
    await direct(context, Deposit("a", 5), Advise("a", "save"))
    await direct(context, Advise("a", "spend"))
    assert [card["texts"] for _, card in await changes(context)] == [["save"], ["save", "spend"]]


async def test_the_position_of_a_result_covers_the_shares_change(context: Context) -> None:
    [outcome] = await direct(context, Deposit("a", 5))
    heads = await context.store.heads()
    [position] = outcome.positions.split(",")
    assert int(position.partition("@")[2]) == max(heads.values()) == 2


async def test_a_share_that_fails_fails_the_command_that_needs_it_and_no_other(bank: Bank, engines: Engines) -> None:
    share = bank.service.shares["cards"]

    async def fragile(keys: list[str], tx: Reads) -> Any:
        if "bad" in keys:
            raise ValueError("no card for that")
        return await share.function(keys, tx)

    bank.service.shares["cards"] = share._replace(signature=share.signature._replace(function=fragile))
    context = await opened(bank.service, engines)
    tasks = [Task(message_of(Deposit(key, 1)), number) for number, key in enumerate(["a", "bad", "b"], 1)]
    outcomes = handled(await commands_executor(context).run(tasks))
    assert [outcome.state for outcome in outcomes] == ["done", "retrying", "done"]
    [parked] = await parked_of(context)
    assert "no card for that" in parked.cause


NAN = float("nan")
TEXT: Any = "much"


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda tx, key: tx.emit(Deposited(key, TEXT)), "Deposited.amount is of type str: Expected `int`, got `str`"),
        (lambda tx, key: tx.emit(Deposited(key, NAN)), "Deposited.amount is nan, a float that JSON can't hold"),  # type: ignore[arg-type]
        (lambda tx, key: tx.save(Account(key, TEXT)), "Account.balance is of type str: Expected `int`, got `str`"),
        (lambda tx, key: tx.save(Account(key, tags=[TEXT, 3])), "Account.tags[1] is of type int"),  # type: ignore[list-item]
        (lambda tx, key: {"share": [1.0, NAN]}, "the reply['share'][1] is nan, a float that JSON can't hold"),
        (lambda tx, key: NAN, "the reply is nan, a float that JSON can't hold"),
    ],
)
async def test_what_could_not_be_read_again_fails_its_command_and_no_other(
    context: Context, work: Callable[[Transaction, str], Any], said: str
) -> None:
    async def handler(tx: Transaction, key: str) -> Any:
        if key == "b":
            tx.emit(Deposited(key, 1))
            return None
        return work(tx, key)

    outcomes = await run(context, handler, "a", "b")
    assert [outcome.state for outcome in outcomes] == ["parked", "done"]
    assert said in outcomes[0].detail
    assert {event.key for event in await journal_of(context.store)} == {"b"}


async def test_a_shared_document_that_could_not_be_read_again_fails_what_changed_it(engines: Engines) -> None:
    shop = Service("shop", partitions=2)

    @shop.entity
    class Item(Entity, key="item"):
        item: str
        price: float | None = None

    class Priced(Event, source="shop", key="item"):
        item: str

    class Tag(msgspec.Struct):
        item: str
        price: float

    @shop.share("tags", key="item", changed_by=[Priced])
    async def tags(items: list[str], tx: Reads) -> dict[str, Tag]:
        return {each.item: Tag(each.item, each.price) for each in await tx.find(Item, item=items)}  # type: ignore[arg-type]

    async def work(tx: Transaction, key: str) -> None:
        tx.save(Item(key, 1.5 if key == "b" else None))
        tx.emit(Priced(key))

    outcomes = await run(await opened(shop, engines), work, "a", "b")
    assert [outcome.state for outcome in outcomes] == ["parked", "done"]
    assert "Tag.price is of type NoneType: Expected `float`, got `null`" in outcomes[0].detail


# pages of entities


class Offer(Entity, key="offer_id", table="offers"):
    offer_id: str
    seller_id: str
    price: int
    on: date | None = None
    limit: int = 0
    exact: Decimal = Decimal(0)


async def offers_found(engines: Engines, *asked: dict[str, Any]) -> list[list[str]]:
    """What a handler and a query find, which is the same."""
    service = Service("offers", partitions=1)
    service.entity(Offer)
    context = await opened(service, engines)
    day = date(2026, 1, 2)
    offers = [Offer(f"o{n}", "ann" if n % 3 else "bob", n // 2, None if n == 4 else day, n % 2) for n in range(7)]
    async with context.store.transaction() as session:
        await session.save(table_of(Offer), [table_of(Offer).to_row(each) for each in offers])
        written = Transaction(Unit(service, session), message_of(Open("any")))
        inside = [[each.offer_id for each in await written.find(Offer, **each)] for each in asked]
        inside_counts = [await written.count(Offer, seller_id="ann", price=Range(gt=0))]
    async with context.store.snapshot() as snapshot:
        reads = Reads(service, snapshot)
        outside = [[each.offer_id for each in await reads.find(Offer, **each)] for each in asked]
        assert inside_counts == [await reads.count(Offer, seller_id="ann", price=Range(gt=0))] == [3]
    assert inside == outside
    return inside


async def test_entities_are_found_in_an_order_a_page_at_a_time(engines: Engines) -> None:
    last = Offer("o5", "ann", 2, date(2026, 1, 2))
    found = await offers_found(
        engines,
        {"order": "-price"},
        {"order": ("-price",), "after": last},
        {"order": ["on", "-price"]},
        {"order": "-on", "seller_id": "ann", "after": Offer("o2", "ann", 1, date(2026, 1, 2))},
        {"price": Range(ge=1, lt=3), "seller_id": ["ann", "nobody"]},
        {"on": Range(ge=date(2026, 1, 2)), "order": "price", "after": last},
        {"limit": 1},
    )
    assert found == [
        ["o6", "o4", "o5", "o2", "o3", "o0", "o1"],
        ["o2", "o3", "o0", "o1"],
        ["o4", "o6", "o5", "o2", "o3", "o0", "o1"],
        ["o5", "o4"],
        ["o2", "o4", "o5"],
        ["o6"],
        ["o1", "o3", "o5"],
    ]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"order": "colour"}, "table offers has no colour; it has: exact, limit, offer_id, on, price, seller_id"),
        ({"colour": Range(gt=1)}, "table offers has no colour"),
        ({"order": "-exact"}, "Offer can't be ordered by exact, nor looked for in a range of it: engines do not"),
        ({"exact": Range(gt=Decimal(1))}, "give it a field of type int, float, str"),
    ],
)
async def test_what_can_not_be_ordered_by_says_so(engines: Engines, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ChimeraError, match=says):
        await offers_found(engines, asked)
