"""The contract of the port `Store`: what only one row may have, and what is reserved, is one's over all of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from chimera.entities import RESERVED, Entity, table_of
from chimera.errors import Taken
from chimera.messages import Message
from chimera.ports import Store
from chimera.service import Service
from chimera.testing.contracts.bank import PARTITIONS, again
from chimera.testing.contracts.suite import NAMES, EngineSuite
from chimera.transaction import Transaction, Unit
from chimera.unique import Unique

Result = TypeVar("Result")

members = Service("contract", partitions=PARTITIONS)


@members.entity
class ClubMember(Entity, key="member_id", table="contract_members", unique=[("email",), Unique("club", "number")]):
    """A row that is unique by a text, and by two columns where neither is None."""

    member_id: str
    email: str
    club: str | None = None
    number: int | None = None


@members.entity
class Nickname(
    Entity, key=("club", "at"), table="contract_nicknames", unique=[Unique("name", normalise={"name": str.casefold})]
):
    """A row whose key has two columns, one of them a number, and whose name is the same in capitals."""

    club: str
    at: int
    name: str


TABLES = (table_of(ClubMember), table_of(Nickname), RESERVED)
ALIKE = ("ann@x", "Ann@x", "ann@x ", "änn@x", "a\u0308nn@x", "ann@\u00df", "ann@ss", "", " ")
"""Texts that one collation or another takes for the same."""


class UniqueGuarantees(EngineSuite):
    """The part of `StoreContract` about unique values: as handlers see them, on one engine and on two."""

    async def test_a_value_is_one_rows_and_who_comes_later_is_told_whose(self, engine: Store) -> None:
        """Whatever bytes it has; nothing of the second one is kept."""
        texts = [*ALIKE, *NAMES]
        for at, text in enumerate(texts):
            await handled(engine, saving(ClubMember(f"m{at}", text)))
        for at, text in enumerate(texts):
            with pytest.raises(Taken) as taken:
                await handled(engine, saving(ClubMember("late", text)))
            assert (taken.value.name, taken.value.value, taken.value.holder) == ("email", text, f"m{at}")
            assert (taken.value.reason, taken.value.status) == ("taken", 409)
        assert await found(engine, lambda tx: tx.load(ClubMember, "late")) is None

    async def test_a_value_may_be_longer_than_an_index_holds(self, engine: Store) -> None:
        """All of it counts."""
        long = "x" * 200_000
        await handled(engine, saving(Nickname("c", 1, long + "a")))
        await handled(engine, saving(Nickname("c", 2, long + "b")))
        with pytest.raises(Taken):
            await handled(engine, saving(Nickname("c", 3, long + "A")))

    async def test_a_value_moves_with_its_row_and_is_free_once_the_row_is_gone(self, engine: Store) -> None:
        """In the same transaction: what a row gives up another may take there."""
        await handled(engine, saving(ClubMember("a", "a@x"), ClubMember("b", "b@x")))
        await handled(engine, saving(ClubMember("a", "new@x")))
        await handled(engine, saving(ClubMember("c", "a@x")))
        await handled(engine, saving(ClubMember("b", "new@x"), ClubMember("a", "b@x")))  # the two swap
        assert [(await by_email(engine, text)) for text in ("a@x", "b@x", "new@x")] == ["c", "a", "b"]

        async def hand_over(tx: Transaction) -> None:
            tx.delete(ClubMember("a", ""))
            tx.save(ClubMember("d", "b@x"))

        await handled(engine, hand_over)
        assert await by_email(engine, "b@x") == "d"
        await handled(engine, deleting(ClubMember("d", ""), ClubMember("c", ""), ClubMember("b", "")))
        assert await reservations(engine) == 0

    async def test_values_of_several_columns_count_together_and_none_is_no_value(self, engine: Store) -> None:
        """A row that saves what it has already changes nothing."""
        await handled(engine, saving(ClubMember("a", "a@x", "chess", 1), ClubMember("b", "b@x", "chess", 2)))
        await handled(engine, saving(ClubMember("c", "c@x", None, 1), ClubMember("d", "d@x", None, 1)))
        await handled(engine, saving(ClubMember("a", "a@x", "chess", 1)))
        with pytest.raises(Taken) as taken:
            await handled(engine, saving(ClubMember("e", "e@x", "chess", 2)))
        assert (taken.value.name, taken.value.value, taken.value.holder) == ("club, number", "chess, 2", "b")
        assert await found(engine, lambda tx: tx.load_by(ClubMember, number=2, club="chess")) == ClubMember(
            "b", "b@x", "chess", 2
        )
        assert await found(engine, lambda tx: tx.load_by(ClubMember, club=None, number=1)) is None

    async def test_a_declared_normalisation_says_what_is_the_same(self, engine: Store) -> None:
        """What is stored is what was saved; a holder with a key of several columns is told whole."""
        await handled(engine, saving(Nickname("chess", 1, "Straße")))
        with pytest.raises(Taken) as taken:
            await handled(engine, saving(Nickname("chess", 2, "STRASSE")))
        assert (taken.value.value, taken.value.holder) == ("STRASSE", "chess/1")
        kept = await found(engine, lambda tx: tx.load_by(Nickname, name="strasse"))
        assert kept == Nickname("chess", 1, "Straße")

    async def test_a_handler_that_catches_it_goes_on(self, engine: Store) -> None:
        """After `claim`, the row is as it was before; of one that had been saved, that stays."""
        await handled(engine, saving(ClubMember("a", "a@x")))

        async def find_a_free_one(tx: Transaction) -> None:
            tx.save(ClubMember("b", "b@x"))
            for email in ("a@x", "b@x"):
                try:
                    await tx.claim(ClubMember("b", email))
                except Taken:
                    with pytest.raises(Taken):
                        await tx.claim(ClubMember("c", email))
            assert await tx.load(ClubMember, "c") is None

        await handled(engine, find_a_free_one)
        assert await by_email(engine, "b@x") == "b"
        assert await reservations(engine) == 2

    async def test_what_is_reserved_is_one_holders_until_it_is_released(self, engine: Store) -> None:
        """Under a name of its own; only who has it can release it."""
        await handled(engine, lambda tx: tx.reserve("email", "a@x", "a"))
        await handled(engine, lambda tx: tx.reserve("email", "a@x", "a"))
        await handled(engine, lambda tx: tx.reserve("phone", "a@x"))
        assert await found(engine, lambda tx: tx.reserved("email", "a@x")) == "a"
        assert await found(engine, lambda tx: tx.reserved("phone", "a@x")) == "key"
        assert await found(engine, lambda tx: tx.reserved("seat", ("hall", 7))) is None
        await handled(engine, lambda tx: tx.release("email", "a@x", "b"))
        with pytest.raises(Taken) as taken:
            await handled(engine, lambda tx: tx.reserve("email", "a@x", "b"))
        assert (taken.value.name, taken.value.value, taken.value.holder) == ("email", "a@x", "a")
        await handled(engine, lambda tx: tx.release("email", "a@x", "a"))
        await handled(engine, lambda tx: tx.reserve("email", "a@x", "b"))
        assert await found(engine, lambda tx: tx.reserved("email", "a@x")) == "b"

    async def test_a_reservation_whose_row_has_the_value_no_longer_is_nobodys(self, engine: Store) -> None:
        """For what changes rows without handlers."""
        await handled(engine, saving(ClubMember("a", "a@x"), ClubMember("b", "b@x")))
        table = table_of(ClubMember)
        async with engine.transaction() as session:
            await session.delete(table, [("a",)])
            await session.save(table, [("b", "other@x", None, None)])
        await handled(engine, saving(ClubMember("c", "a@x"), ClubMember("d", "b@x")))
        assert await by_email(engine, "a@x") == "c"
        assert await by_email(engine, "b@x") == "d"

    async def test_of_many_who_want_a_value_at_once_one_has_it(
        self, engine: Store, reopen: Callable[[], Store]
    ) -> None:
        """For engines that are shared: all others are told, and none waits for ever."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        engines = (engine, reopen())
        await engine.create(TABLES, PARTITIONS)
        emails = [f"{at}@x" for at in range(5)]

        async def register(member: int) -> bool:
            order = emails[member % 5 :] + emails[: member % 5]
            wanted = [Nickname("chess", 10 * member + at, email) for at, email in enumerate(order)]
            try:
                await handled(engines[member % 2], saving(*wanted))
            except Taken:
                return False
            return True

        async with asyncio.timeout(30):
            ended = await asyncio.gather(*(register(member) for member in range(20)))
        assert sum(ended) == 1
        assert await reservations(engine) == 5
        await engines[1].close()


_numbers = itertools.count(1)


def command(id_: str) -> Message:
    """A command that is handled."""
    return Message(id_, "members", "", "key", "2026-01-02T03:04:05Z", b"", 0)


async def handled(engine: Store, work: Callable[[Transaction], Awaitable[object]]) -> None:
    """Do the work as a handler does, in a transaction of its own; again for as long as there is a conflict."""
    await engine.create(TABLES, PARTITIONS)

    async def once() -> None:
        async with engine.transaction() as session:
            unit = Unit(members, session)
            tx = Transaction(unit, command(f"command-{next(_numbers)}"), "key")
            await work(tx)
            await tx.settle()
            tx.merge()
            await unit.flush()

    await again(once)


async def found(engine: Store, read: Callable[[Transaction], Awaitable[Result]]) -> Result:
    """What a handler reads."""
    async with engine.transaction() as session:
        return await read(Transaction(Unit(members, session), command("command")))


async def by_email(engine: Store, email: str) -> str | None:
    """The member with an e-mail."""
    member = await found(engine, lambda tx: tx.load_by(ClubMember, email=email))
    return None if member is None else member.member_id


async def reservations(engine: Store) -> int:
    """How many values are reserved."""
    async with engine.snapshot() as session:
        return len(await session.find(RESERVED, {}))


def saving(*entities: Entity) -> Callable[[Transaction], Awaitable[None]]:
    """A handler that saves these."""

    async def work(tx: Transaction) -> None:
        for each in entities:
            tx.save(each)

    return work


def deleting(*entities: Entity) -> Callable[[Transaction], Awaitable[None]]:
    """A handler that deletes these."""

    async def work(tx: Transaction) -> None:
        for each in entities:
            tx.delete(each)

    return work
