"""A small bank to test the core with, and the helpers that drive it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import msgspec
import pytest
from rich.console import Console

from chimera import DELETED, Command, Entity, Event, Reads, Rejected, Reply, Service, Transaction, Unavailable, View
from chimera.borrow.reads import BorrowedReads
from chimera.commands.execute import Executor, Task
from chimera.commands.handlers import commands_executor, direct_executor, parking_of, reaction_executor
from chimera.commands.inbox import Outcome
from chimera.commands.parking import Parking
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.tables import Parked
from chimera.core.timing import Retry, Timing
from chimera.entities import table_of
from chimera.journal.feed import Batch
from chimera.messages import Message, Position, partition_of
from chimera.parts import Mode
from chimera.ports import (
    BucketDigest,
    Checkpoint,
    ConsumerAt,
    Document,
    Entry,
    Epoch,
    Fetched,
    Log,
    Move,
    Owner,
    Record,
    Store,
    ViewStore,
)
from chimera.run.engines import context_of, supplied
from chimera.testing.broken import WrappedViews
from chimera.testing.engines import OpenEngines
from chimera.views.projections import ViewProjection
from chimera.views.projector import Projector
from chimera.web.identity.ways import Untold

PARTITIONS = 4
TIME = "2026-01-02T03:04:05.000006Z"
AT_ONCE = Retry(tries=2, first_s=0.0, longest_s=0.0)
QUICK = Timing(heads_s=0.01, refetch_s=0.005, quick_s=5.0, quick_store_s=5.0)


class Account(Entity, key="account_id", table="accounts"):
    account_id: str
    balance: int = 0
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it


class Thanks(Entity, key="account_id", table="thanks"):
    account_id: str
    count: int = 0
    total: int = 0


class Ledger(Entity, key="account_id", table="ledger"):
    account_id: str
    count: int = 0
    total: int = 0


class Open(Command, key="account_id"):
    account_id: str


class Deposit(Command, key="account_id"):
    account_id: str
    amount: Annotated[int, msgspec.Meta(gt=0)]


class Withdraw(Command, key="account_id"):
    account_id: str
    amount: int


class Close(Command, key="account_id"):
    account_id: str


class Advise(Command, key="account_id"):
    account_id: str
    text: str


class Opened(Event, source="accounts", key="account_id"):
    account_id: str


class Deposited(Event, source="accounts", key="account_id"):
    account_id: str
    amount: int


class Withdrawn(Event, source="accounts", key="account_id"):
    account_id: str
    amount: int


class Closed(Event, source="accounts", key="account_id"):
    account_id: str


class Advised(Event, source="accounts", key="account_id"):
    account_id: str
    text: str


class Balance(msgspec.Struct):
    """A view with a document per account."""

    account_id: str
    balance: int = 0
    events: int = 0


class Total(msgspec.Struct):
    """A view with one document that every partition feeds."""

    name: str
    total: int = 0
    events: int = 0


class Advice(msgspec.Struct):
    """An event-sourced entity."""

    account_id: str
    texts: list[str] = []


class Card(msgspec.Struct):
    """What the bank shares."""

    account_id: str
    balance: int
    texts: list[str] = []


class Bank:
    """A service, and the switches that make it misbehave."""

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self.failing: dict[str, Exception] = {}
        self.failing_views: set[str] = set()
        self.failing_reactions: dict[str, BaseException] = {}
        self.failing_batches: dict[str, Exception] = {}
        self.handled: list[str] = []
        self.service = Service("accounts", partitions=partitions)
        self.balance = self.service.view(Balance, key="account_id")
        self.total = self.service.view(Total, key="name", absent="empty")
        for entity in (Account, Thanks, Ledger):
            self.service.entity(entity)
        _declare_commands(self)
        _declare_views(self)
        _declare_share(self)
        _declare_reactions(self)

    def trouble(self, key: str) -> None:
        if key in self.failing:
            raise copy(self.failing[key])


def _declare_commands(bank: Bank) -> None:
    service = bank.service

    @service.handle("POST /accounts")
    async def open_account(command: Open, tx: Transaction) -> None:
        bank.handled.append(tx.command_id)
        if await tx.load(Account, command.account_id):
            raise Rejected("account_exists", "there is such an account")
        tx.save(Account(command.account_id))
        tx.emit(Opened(command.account_id))
        bank.trouble(command.account_id)

    @service.handle("POST /accounts/{account_id}/deposits", direct=True)
    async def deposit(command: Deposit, tx: Transaction) -> Reply[dict[str, int]]:
        bank.handled.append(tx.command_id)
        account = await tx.load(Account, command.account_id) or Account(command.account_id)
        account.balance += command.amount
        tx.save(account)
        tx.emit(Deposited(command.account_id, command.amount))
        bank.trouble(command.account_id)
        return Reply({"balance": account.balance}, 201)

    @service.handle()
    async def withdraw(command: Withdraw, tx: Transaction) -> None:
        """Saves first and looks afterwards, so that a refusal has to be rolled back."""
        bank.handled.append(tx.command_id)
        account = await tx.load(Account, command.account_id) or Account(command.account_id)
        account.balance -= command.amount
        tx.save(account)
        tx.emit(Withdrawn(command.account_id, command.amount))
        if any(found.balance < 0 for found in await tx.find(Account, account_id=command.account_id)):
            raise Rejected("overdrawn", f"{-account.balance} is missing")
        bank.trouble(command.account_id)

    @service.handle()
    async def close(command: Close, tx: Transaction) -> None:
        tx.delete(Account(command.account_id))
        tx.emit(Closed(command.account_id))

    @service.handle()
    async def advise(command: Advise, tx: Transaction) -> None:
        advice = await tx.load(Advice, command.account_id)
        if advice and command.text in advice.texts:
            raise Rejected("said_before")
        tx.emit(Advised(command.account_id, command.text))


def _declare_views(bank: Bank) -> None:
    advice = bank.service.event_sourced(Advice, key="account_id")
    amounts = {Deposited: 1, Withdrawn: -1}

    @advice.on(Advised)
    def advised(state: Advice, event: Advised) -> None:
        state.texts.append(event.text)

    @bank.balance.on(Opened)
    def opened(balance: Balance, event: Opened) -> None:
        balance.events += 1

    @bank.balance.on(Closed)
    def closed(balance: Balance, event: Closed) -> object:
        return DELETED

    for event_type, sign in amounts.items():

        def moved(balance: Balance, event: Any, sign: int = sign) -> None:
            balance.events += 1
            balance.balance += sign * event.amount
            if event.account_id in bank.failing_views:
                raise ValueError(f"{event.account_id} breaks the view")

        def summed(total: Total, event: Any, sign: int = sign) -> None:
            total.events += 1
            total.total += sign * event.amount

        bank.balance.on(event_type)(moved)
        bank.total.on(event_type, key=lambda event: "all")(summed)


def _declare_share(bank: Bank) -> None:
    @bank.service.share("cards", key="account_id", changed_by=[Opened, Deposited, Withdrawn, Closed, Advised])
    async def cards(account_ids: list[str], tx: Reads) -> dict[str, Card]:
        found = {}
        for account in await tx.find(Account, account_id=account_ids):
            advice = await tx.load(Advice, account.account_id)
            found[account.account_id] = Card(account.account_id, account.balance, advice.texts if advice else [])
        return found


def _declare_reactions(bank: Bank) -> None:
    @bank.service.on(Deposited)
    async def thank(event: Deposited, tx: Transaction) -> None:
        thanks = await tx.load(Thanks, event.account_id) or Thanks(event.account_id)
        tx.save(Thanks(event.account_id, thanks.count + 1, thanks.total + event.amount))
        if event.account_id in bank.failing_reactions:
            raise copy(bank.failing_reactions[event.account_id])

    @bank.service.project(Deposited, Withdrawn)
    async def enter(events: list[Event], tx: Transaction) -> None:
        for event in events:
            entry = await tx.load(Ledger, event.key) or Ledger(event.key)
            tx.save(Ledger(event.key, entry.count + 1, entry.total + event.amount))  # type: ignore[attr-defined]
            if event.key in bank.failing_batches:
                raise copy(bank.failing_batches[event.key])


class Shop:
    """A service that borrows the bank's cards, and keeps a view of the bank's events."""

    def __init__(self, *, mode: Mode = "sync", budget: float = 0.05, max_age: float = 5.0, partitions: int = 2) -> None:
        self.service = Service("shop", partitions=partitions)
        self.cards = self.service.borrow("cards", Card, owner="accounts", mode=mode, budget=budget, max_age=max_age)


Engines = OpenEngines


class NoOwner:
    """An owner that can't be reached."""

    def __init__(self, cause: BaseException | None = None) -> None:
        self.cause = cause or Unavailable("the owner is down")
        self.calls = 0

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        self.calls += 1
        raise self.cause

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        self.calls += 1
        raise self.cause

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        self.calls += 1
        raise self.cause

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        self.calls += 1
        raise self.cause

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        self.calls += 1
        raise self.cause

    async def heads(self) -> Mapping[int, int]:
        self.calls += 1
        raise self.cause

    async def epochs(self) -> Sequence[Epoch]:
        raise self.cause

    async def report(self, consumers: Sequence[ConsumerAt]) -> None:
        raise self.cause

    async def close(self) -> None: ...


def make_context(
    service: Service,
    engines: Engines,
    *,
    owners: Mapping[str, Owner] | None = None,
    timing: Timing = QUICK,
    clock: Clock | None = None,
    **others: Any,
) -> Context:
    """A service on these engines; `others` are fields of the context."""
    context = context_of(
        service,
        engines.log,
        engines.store,
        engines.views,
        lambda name: (owners or {}).get(name) or NoOwner(),
        timing=timing,
        clock=clock,
        callers=Untold(),
    )
    return supplied(replace(context, **{"retry": AT_ONCE, **others}))


async def opened(service: Service, engines: Engines, **options: Any) -> Context:
    """As `make_context`, with its tables and topics."""
    context = make_context(service, engines, **options)
    await context.prepare()
    return context


def at_hand(monkeypatch: pytest.MonkeyPatch, commands: Any, *contexts: Context) -> None:
    """Let a module of the command line work on these, in this process and on wide paper."""

    @asynccontextmanager
    async def opened_here(settings: Any, names: Collection[str], *, used: bool) -> AsyncIterator[list[Context]]:
        yield [context for context in contexts if context.service.name in names]

    monkeypatch.setattr(commands, "opened", opened_here)
    monkeypatch.setattr(commands, "Console", partial(Console, width=400))


_ids = itertools.count(1)


def message_of(command: Command, command_id: str = "", partitions: int = PARTITIONS) -> Message:
    """A command as the read head would put it on its way."""
    return Message(
        id=command_id or f"command-{next(_ids)}",
        source="accounts",
        type=f"accounts.{type(command).__name__}",
        key=command.key,
        time=TIME,
        data=msgspec.json.encode(command),
        partition=partition_of(command.key, partitions),
    )


async def accept(context: Context, *commands: Command | Message) -> list[Message]:
    """Put commands into the log."""
    messages = [
        each if isinstance(each, Message) else message_of(each, partitions=context.service.partitions)
        for each in commands
    ]
    await context.log.append(context.commands_topic, messages)
    return messages


async def direct(context: Context, *commands: Command | Message, executor: Executor | None = None) -> list[Outcome]:
    """Handle commands in one call, as direct ones."""
    tasks = [Task(each if isinstance(each, Message) else message_of(each)) for each in commands]
    return handled(await (executor or direct_executor(context)).run(tasks))


async def read_all(log: Log, topic: str, after: Mapping[int, int]) -> list[Record]:
    """Everything that the log has now."""
    left = {partition: end for partition, end in (await log.ends(topic)).items() if partition in after}
    records: list[Record] = []
    if all(after[partition] >= end for partition, end in left.items()):
        return records
    async with aclosing(log.read(topic, after)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            records += batch
            at = dict(after)
            at.update({record.message.partition: record.offset for record in records})
            if all(at[partition] >= end for partition, end in left.items()):
                break
    return records


async def consume(context: Context, *, size: int = 500, executor: Executor | None = None) -> list[Outcome]:
    """Handle the commands in the log, as the write head does, `size` in a transaction."""
    executor, topic = executor or commands_executor(context), context.commands_topic
    at = {p: c.number for p, c in (await executor.checkpoints(topic, range(context.service.partitions))).items()}
    records = await read_all(context.log, topic, at)
    outcomes: list[Outcome] = []
    for start in range(0, len(records), size):
        batch = records[start : start + size]
        after = {**at, **{record.message.partition: record.offset for record in batch}}
        moves = [Move(topic, p, at[p], Checkpoint(n, n)) for p, n in after.items() if n != at[p]]
        outcomes += handled(await executor.run([Task(message, offset, offset) for offset, message in batch], moves))
        at = after
    return outcomes


async def journal_of(store: Store, partitions: int = PARTITIONS) -> list[Message]:
    """Every event, partition by partition. Fails where numbers have a hole."""
    events: list[Message] = []
    for partition in range(partitions):
        found = await store.journal(partition, 0, 1_000_000)
        assert [event.number for event in found] == list(range(1, len(found) + 1)), f"partition {partition} has holes"
        events += found
    assert dict(await store.heads()) == {p: sum(e.partition == p for e in events) for p in range(partitions)}
    return events


async def all_of(store: Store, entity: type[Entity]) -> list[Any]:
    """Every entity of a class, Chimera's own records too."""
    table = table_of(entity)
    async with store.snapshot() as session:
        return [table.from_row(row) for row in await session.find(table, {})]


async def rows(store: Store, entity: type[Entity]) -> dict[str, Any]:
    """Every entity of a class, by the first field of its key."""
    return {getattr(each, entity.__key_fields__[0]): each for each in await all_of(store, entity)}


async def parked_of(context: Context) -> list[Parked]:
    """What is parked in the store, in order."""
    return sorted(await all_of(context.store, Parked), key=lambda row: (row.key, row.number))


async def balances(context: Context) -> dict[str, int]:
    return {key: found.balance for key, found in (await rows(context.store, Account)).items()}


async def stored(views: ViewStore, view: str) -> dict[str, Any]:
    """The view as it is."""
    return {document.key: json.loads(document.data or b"") for document in await views.scan(view, limit=1_000_000)}


async def project(context: Context, view: View[Any], size: int = 500) -> None:
    """Fold what the journal holds into a view, without a log."""
    projector = projector_of(context, view)
    source = context.service.name
    at = await projector.checkpoints(source, range(context.service.partitions))
    for partition, checkpoint in at.items():
        number = checkpoint.number
        while page := await context.store.journal(partition, number, size):
            moves = [Move(source, partition, number, Checkpoint(page[-1].number))]
            assert await projector.apply(Batch(page, moves))
            number = page[-1].number


def projector_of(context: Context, view: View[Any], views: ViewStore | None = None) -> Projector:
    """What folds a view's first generation, into other views where they are given."""
    return Projector(replace(context, views=views or context.views), ViewProjection(view))


class Ahead(Clock):
    """A clock that a test puts ahead of the system's, by `ahead_s` seconds."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    def time(self) -> float:
        return super().time() + self.ahead_s


async def settle(reads: BorrowedReads[Any]) -> None:
    """As if every read head had followed the borrow's setting for long, and the copy had all that its owner has."""
    await reads.look()
    reads._follower.is_careful = False


async def redrive(context: Context, key: str, *, by_hand: bool = False) -> list[Outcome]:
    """Try a key's commands again that are parked; what became of each."""
    return await parking_of(context, COMMANDS).redrive(commands_executor(context), key, by_hand=by_hand)


def handled(outcomes: Sequence[Outcome | Unavailable]) -> list[Outcome]:
    """These outcomes, where the store was there for all of them."""
    found = [each for each in outcomes if isinstance(each, Outcome)]
    assert len(found) == len(outcomes), outcomes
    return found


def positions_of(outcome: Outcome) -> list[Position]:
    """The positions that an outcome carries."""
    return [Position.parse(text) for text in outcome.positions.split(",") if text]


def reaction_of(context: Context, name: str, source: str = "accounts") -> tuple[Executor, Parking]:
    """What runs a reaction on one source's events, and what it has parked."""
    executor = reaction_executor(context, context.service.reactions[name], source)
    return executor, parking_of(context, executor.consumer)


class TurnMeter(WrappedViews):
    """A watchdog of the event loop that needs no clock: `most` documents were read of this view store in one turn."""

    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self.most = self._now = 0

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        found = await super().get(view, keys)
        self._count(len(found))
        return found

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        found = await super().scan(view, after, limit)
        self._count(len(found))
        return found

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Count, while the block runs, from turn to turn."""
        self.most = self._now = 0
        watch = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    def _count(self, documents: int) -> None:
        self._now += documents
        self.most = max(self.most, self._now)

    async def _watch(self) -> None:
        while True:
            self._now = 0
            await asyncio.sleep(0)
