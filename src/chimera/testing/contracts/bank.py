"""The tables that the store's suites work on, and short ways to change and read them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar, TypeVar

from chimera.core.clock import Clock, stamp_of
from chimera.entities import Entity, Row, table_of
from chimera.errors import Conflict
from chimera.messages import Message, chained
from chimera.ports import Store, WriteSession
from chimera.testing.contracts.suite import event

Result = TypeVar("Result")

PARTITIONS = 4
BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class HandClock(Clock):
    """Wall time that stands still until it is set."""

    def __init__(self, at: datetime = BEGAN) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def stamp(self) -> str:
        return stamp_of(self.at)


class BankAccount(Entity, key="account_id", table="contract_accounts"):
    """A row whose balance changes, such as `("a", 1, None)`."""

    account_id: str
    balance: int = 0
    nickname: str | None = None


class Everything(Entity, key="number", table="contract_everything"):
    """A row with a column of every kind, some of them optional."""

    number: int
    text: str
    real: float
    flag: bool
    raw: bytes
    moment: datetime
    tags: list[str]
    maybe_text: str | None = None
    maybe_flag: bool | None = None
    maybe_moment: datetime | None = None


class Visit(Entity, key="visit_id", table="contract_visits"):
    """A row that expires: it has an index on its time."""

    __indexes__: ClassVar[tuple[str, ...]] = ("at",)

    visit_id: str
    at: datetime | None = None


class Pair(Entity, key=("left", "right"), table="contract_pairs"):
    """A row that is nothing but its key, of two columns."""

    left: str
    right: int


ACCOUNTS, EVERYTHING, PAIRS, VISITS = table_of(BankAccount), table_of(Everything), table_of(Pair), table_of(Visit)
TABLES = (ACCOUNTS, EVERYTHING, PAIRS, VISITS)


class Undo(Exception):  # noqa: N818 - raised to leave a transaction
    """Leaves a transaction without committing it."""


async def committed(engine: Store, work: Callable[[WriteSession], Awaitable[object]]) -> None:
    """Do the work in a transaction, again for as long as there is a conflict."""

    async def in_a_transaction() -> None:
        async with engine.transaction() as tx:
            await work(tx)

    await again(in_a_transaction)


async def trimmed(engine: Store, partition: int, through: int) -> None:
    """Trim a partition of the journal up to a number, in a transaction of its own."""
    await committed(engine, lambda tx: tx.trim(partition, through))


async def expired(engine: Store, before: datetime, limit: int) -> int:
    """The number of visits from before a time that expired, `limit` at most."""
    counts: list[int] = []

    async def work(tx: WriteSession) -> None:
        counts.append(await tx.expire(VISITS, "at", before, limit))

    await committed(engine, work)
    return counts[-1]


async def again(work: Callable[[], Awaitable[Result]]) -> Result:
    """Do the work until there is no conflict.

    In between it waits for some random time, since those who start again at once meet again.
    """
    for tries in itertools.count():
        try:
            return await work()
        except Conflict:
            await asyncio.sleep(random.random() * 0.01 * 2 ** min(tries, 6))  # noqa: S311 - no secret
    raise AssertionError("it counts for ever")


async def put(engine: Store, *rows: Row) -> None:
    """Create the tables, and save accounts in a transaction of its own."""
    await engine.create(TABLES, PARTITIONS)
    await committed(engine, lambda tx: tx.save(ACCOUNTS, rows))


async def get(engine: Store, account_id: str) -> Row | None:
    """The account of an id as it is committed; None without one."""
    async with engine.snapshot() as session:
        rows = await session.load(ACCOUNTS, [(account_id,)])
    return rows[0] if rows else None


async def emit(tx: WriteSession, partition: int, *keys: str) -> list[Message]:
    """Append an event for each key, inside a transaction; returns them."""
    tip = (await tx.hold([partition]))[partition]
    events = chained(tip.chain, [event(partition, number, key) for number, key in enumerate(keys, tip.number + 1)])
    await tx.append(events)
    return events


async def emitted(engine: Store, partition: int, *keys: str) -> None:
    """As `emit`, in a transaction of its own."""
    await committed(engine, lambda tx: emit(tx, partition, *keys))


async def numbers(engine: Store, partition: int) -> list[int]:
    """The numbers of all events of a partition, in order."""
    return [message.number for message in await engine.journal(partition, 0, 100_000)]


async def emit_all(tx: WriteSession, counts: Mapping[int, int], *, undo: bool) -> None:
    """Append so many events to each partition, inside a transaction; with `undo` raise Undo after that."""
    tips = await tx.hold(counts)
    await asyncio.sleep(0)
    events: list[Message] = []
    for partition, count in counts.items():
        following = tips[partition].number + 1
        events += chained(tips[partition].chain, [event(partition, following + at) for at in range(count)])
    await tx.append(events)
    if undo:
        raise Undo


async def churn(engine: Store, writer: int) -> int:
    """Transactions of different sizes, of which every third rolls back; says how many events were committed."""
    count = 0
    for step in range(9):
        counts = {(writer + step) % PARTITIONS: 1 + step % 3, (writer * step) % PARTITIONS: 2}
        try:
            await committed(engine, partial(emit_all, counts=counts, undo=step % 3 == 2))
            count += sum(counts.values())
        except Undo:
            continue
    return count


async def crossed(*engines: Store) -> None:
    """Concurrent transactions that take the same rows and partitions in different orders; checks what they leave."""
    for engine in engines:
        await engine.create(TABLES, PARTITIONS)
    orders = [_order(writer) for writer in range(6)]
    await asyncio.gather(
        *(
            committed(engines[writer % len(engines)], partial(_cross, writer=writer, order=order))
            for writer, order in enumerate(orders)
        )
    )
    async with engines[0].snapshot() as session:
        balances = {row[0]: row[1] for row in await session.find(ACCOUNTS, {})}
    assert balances == {f"{at}": sum(order.index(at) - 1 for order in orders) for at in range(3)}
    for partition in range(3):
        found = await engines[0].journal(partition, 0, 100)
        assert [message.number for message in found] == list(range(1, len(orders) + 1))
        assert {message.key for message in found} == {f"{writer}" for writer in range(len(orders))}


def _order(writer: int) -> list[int]:
    """Each of the six orders of 0, 1, 2 in turn."""
    step = 1 if writer % 2 else -1
    return [(writer + at * step) % 3 for at in range(3)]


async def _cross(tx: WriteSession, writer: int, order: Sequence[int]) -> None:
    for change, account in enumerate(order, -1):
        rows = await tx.load(ACCOUNTS, [(f"{account}",)])
        await asyncio.sleep(0)
        await tx.save(ACCOUNTS, [(f"{account}", change + (rows[0][1] if rows else 0), None)])
    for partition in order:
        await emit(tx, partition, f"{writer}")
