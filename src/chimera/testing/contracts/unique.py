"""The contract of the port `Store`: what only one may have, for good or a while, is one's; the journal tells of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
import pytest

from chimera.core.context import Context
from chimera.core.tables import framework_tables
from chimera.core.timing import Limits
from chimera.entities import RESERVED, Entity, Reserved, table_of
from chimera.errors import Expired, Taken, Unfit
from chimera.finding import Now
from chimera.messages import Message, partition_of
from chimera.ports import Owner, Store
from chimera.run.engines import context_of
from chimera.service import Service
from chimera.testing.contracts.bank import BEGAN, PARTITIONS, HandClock, again
from chimera.testing.contracts.suite import NAMES, EngineSuite
from chimera.testing.memory import MemoryLog, MemoryViews
from chimera.transaction import Transaction, Unit
from chimera.unique import ReservedChange, Unique, digest_under, is_under_a_name, reserved_type
from chimera.upkeep.drift.reserved import are_lost, mend_reserved, note_kept, remake, say_again

Result = TypeVar("Result")
Work = Callable[[Transaction], Awaitable[object]]
FOR = timedelta(minutes=15)
STEP = timedelta(microseconds=1)

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

        async with asyncio.timeout(90):
            ended = await asyncio.gather(*(register(member) for member in range(20)))
        assert sum(ended) == 1
        assert await reservations(engine) == 5
        await engines[1].close()


class ReservationGuarantees(EngineSuite):
    """The part of `StoreContract` about `tx.reserve`: as handlers see it, on one engine and on two."""

    async def test_what_is_reserved_for_a_while_is_its_holders_to_the_microsecond(self, engine: Store) -> None:
        """Then it is anybody's, and the one who comes first has it; the one before is told so."""
        clock = HandClock()
        await handled(engine, reserving("email", "a@x", "a", until=FOR), clock.now)
        clock.at = BEGAN + FOR - STEP
        assert await _holder(engine, clock) == "a"
        with pytest.raises(Taken) as taken:
            await handled(engine, reserving("email", "a@x", "b"), clock.now)
        assert taken.value.holder == "a"
        clock.at = BEGAN + FOR
        assert await _holder(engine, clock) is None
        with pytest.raises(Expired) as expired:
            await handled(engine, confirming("email", "a@x", "a"), clock.now)
        assert (expired.value.reason, expired.value.status, expired.value.field) == ("expired", 409, "email")
        assert (expired.value.name, expired.value.value) == ("email", "a@x")
        await handled(engine, reserving("email", "a@x", "b", until=BEGAN + 2 * FOR), clock.now)
        for late in (confirming("email", "a@x", "a"), reserving("email", "a@x", "a")):
            with pytest.raises(Taken):
                await handled(engine, late, clock.now)
        await handled(engine, releasing("email", "a@x", "a"), clock.now)
        assert await _holder(engine, clock) == "b"

    async def test_what_is_confirmed_in_time_stays_whoever_does_it_twice(self, engine: Store) -> None:
        """The same holder may reserve again, too, and never has it for a shorter time by that."""
        clock, ends = HandClock(), list[datetime | None]()

        def reserve(until: timedelta) -> Work:
            async def work(tx: Transaction) -> None:
                ends.append(await tx.reserve("email", "a@x", "a", until=until))

            return work

        for until in (FOR, 2 * FOR, FOR):
            await handled(engine, reserve(until), clock.now)
        assert ends == [BEGAN + FOR, BEGAN + 2 * FOR, BEGAN + 2 * FOR]
        clock.at = BEGAN + FOR
        for _ in range(2):
            await handled(engine, confirming("email", "a@x", "a"), clock.now)
        await handled(engine, reserve(FOR), clock.now)  # sent once more, and late
        clock.at = BEGAN + 1000 * FOR
        await handled(engine, confirming("email", "a@x", "a"), clock.now)
        assert (ends[-1], await _holder(engine, clock)) == (None, "a")
        assert [change.until for change in await _changes(engine)] == [BEGAN + FOR, BEGAN + 2 * FOR, None]

    async def test_what_was_given_back_or_never_reserved_can_not_be_confirmed(self, engine: Store) -> None:
        """Nor can anything be reserved until a moment that has passed, or one without a zone."""
        clock = HandClock()
        with pytest.raises(Expired):
            await handled(engine, confirming("email", "a@x", "a"), clock.now)
        await handled(engine, reserving("email", "a@x", "a", until=FOR), clock.now)
        await handled(engine, releasing("email", "a@x", "a"), clock.now)
        with pytest.raises(Expired):
            await handled(engine, confirming("email", "a@x", "a"), clock.now)
        for past in (BEGAN, timedelta(0), -FOR):
            with pytest.raises(Expired):
                await handled(engine, reserving("email", "a@x", "a", until=past), clock.now)
        naive = BEGAN.replace(tzinfo=None)
        with pytest.raises(Unfit, match="no time zone"):
            await handled(engine, reserving("email", "a@x", "a", until=naive), clock.now)
        assert await _holder(engine, clock) is None

    async def test_every_change_of_a_reservation_is_in_the_journal_in_order(self, engine: Store) -> None:
        """Under its digest, with the chain of all else; what changes nothing, or is refused, is not."""
        clock = HandClock()
        for holder, until in (("a", FOR), ("a", FOR), ("b", None)):
            try:
                await handled(engine, reserving("email", "a@x", holder, until=until), clock.now)
            except Taken:
                assert holder == "b"
        clock.at = BEGAN + FOR
        await handled(engine, reserving("email", "a@x", "b"), clock.now)
        await handled(engine, releasing("email", "a@x", "b"), clock.now)
        assert await _changes(engine) == [
            ReservedChange("email", "a", BEGAN + FOR),
            ReservedChange("email", "b"),
            ReservedChange("email"),
        ]
        digest = digest_under("email", "a@x")
        journal = await engine.journal(partition_of(digest, PARTITIONS), 0, 10)
        assert [(each.number, each.type, bool(each.chain)) for each in journal] == [
            (number, "contract.~reserved", True) for number in (1, 2, 3)
        ]

    async def test_what_is_over_is_taken_once_by_however_many(self, engine: Store, reopen: Callable[[], Store]) -> None:
        """On two engines; and a holder whose clock is behind confirms it, or finds it taken, never both."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        engines = (engine, reopen())
        late, early = HandClock(BEGAN + FOR), HandClock()
        names = [f"seat-{at}" for at in range(4)]
        for name in names:
            await handled(engine, reserving(name, 1, "first", until=FOR), early.now)

        async def has(who: int, name: str) -> bool:
            try:
                if who == 0:
                    await handled(engines[0], confirming(name, 1, "first"), early.now)
                else:
                    await handled(engines[who % 2], reserving(name, 1, f"{who}"), late.now)
            except Taken:
                return False
            return True

        async with asyncio.timeout(90):
            ended = await asyncio.gather(*(has(who, name) for who in range(8) for name in names))
        for at, name in enumerate(names):
            [winner] = [who for who in range(8) if ended[who * len(names) + at]]
            assert await _holder(engine, late, name, 1) == (f"{winner}" if winner else "first")
        await engines[1].close()

    async def test_reservations_that_are_lost_are_made_anew_from_the_journal(self, engine: Store) -> None:
        """All of them, or some; the proof says what was wrong, and that nothing is any more."""
        clock = HandClock()
        context = await _context(engine, clock)
        await note_kept(context)
        await _fill(engine, clock)
        before = await _rows(engine)
        assert len(before) == 12
        assert (await remake(context)).told == "12 equal, 0 of rows"
        table = RESERVED
        async with engine.transaction() as session:
            await session.delete(table, [(digest,) for digest in before])
        assert not await are_lost(context)
        lost = await remake(context)
        assert (lost.missing, lost.equal, lost.left) == (12, 0, 0)
        assert await _rows(engine) == before
        first, second, third = list(before)[:3]
        stranger = Reserved(digest_under("email", "nobody@x"), "email", '"x"', told=True)
        async with engine.transaction() as session:
            await session.delete(table, [(first,)])
            await session.save(table, [table.to_row(msgspec.structs.replace(before[second], holder='"x"'))])
            await session.save(table, [table.to_row(msgspec.structs.replace(before[third], told=None))])
            await session.save(table, [table.to_row(stranger)])
        mixed = await remake(context)
        assert mixed.told == "9 equal, 1 missing, 1 changed, 1 extra, 1 unsaid, 0 of rows"
        assert mixed.left == 0
        assert await _rows(engine) == before

    async def test_a_table_of_reservations_that_is_another_one_is_noticed(self, engine: Store) -> None:
        """Whoever has reserved something before it was in the journal is found in it from then on."""
        clock = HandClock()
        context = await _context(engine, clock)
        assert not await are_lost(context)
        old = Reserved(digest_under("email", "old@x"), "email", '"old"')
        async with engine.transaction() as session:
            await session.save(RESERVED, [RESERVED.to_row(old)])
        await note_kept(context)
        async with engine.transaction() as session:
            rows = await session.find(RESERVED, {})
            await session.delete(RESERVED, [(row[0],) for row in rows])
        assert await are_lost(context)
        assert (await remake(context)).missing == 1
        assert not await are_lost(context)
        assert [row.by for row in (await _rows(engine)).values()] == ["old"]

    async def test_what_only_trimmed_events_say_is_said_again(self, engine: Store) -> None:
        """As long as it is in force; what is over has no row after a while."""
        clock = HandClock()
        context = await _context(engine, clock)
        await note_kept(context)
        await _fill(engine, clock)
        clock.at = BEGAN + FOR
        still = {digest: row for digest, row in (await _rows(engine)).items() if not row.is_over(clock.at)}
        for partition, head in (await engine.heads()).items():
            said = {each.key for each in await engine.journal(partition, 0, 100)}
            async with engine.transaction() as session:
                await say_again(context, session, said, head)
                await session.trim(partition, head)
        async with engine.transaction() as session:
            await session.delete(RESERVED, [(digest,) for digest in await _rows(engine)])
        assert (await remake(context)).missing == len(still) == 8
        assert await _rows(engine) == still
        await handled(engine, reserving("seat", 99, "late", until=FOR), clock.now)
        clock.at += FOR + timedelta(seconds=context.timing.audit_s)
        assert await mend_reserved(context)
        assert await _rows(engine) == still
        assert not await mend_reserved(context)


_numbers = itertools.count(1)


def command(id_: str) -> Message:
    """A command that is handled."""
    return Message(id_, "members", "", "key", "2026-01-02T03:04:05Z", b"", 0)


async def handled(engine: Store, work: Work, now: Now | None = None, key: str = "key") -> None:
    """Do the work as a handler does, in a transaction of its own; again for as long as there is a conflict."""
    await engine.create(TABLES, PARTITIONS)

    async def once() -> None:
        async with engine.transaction() as session:
            unit = Unit(members, session)
            tx = Transaction(unit, command(f"command-{next(_numbers)}"), key, None, now)
            await work(tx)
            await tx.settle()
            tx.merge()
            await unit.flush()
            await unit.number()

    await again(once)


async def found(engine: Store, read: Callable[[Transaction], Awaitable[Result]], now: Now | None = None) -> Result:
    """What a handler reads."""
    async with engine.transaction() as session:
        return await read(Transaction(Unit(members, session), command("command"), now=now))


async def by_email(engine: Store, email: str) -> str | None:
    """The member with an e-mail."""
    member = await found(engine, lambda tx: tx.load_by(ClubMember, email=email))
    return None if member is None else member.member_id


async def reservations(engine: Store) -> int:
    """How many values are reserved."""
    async with engine.snapshot() as session:
        return len(await session.find(RESERVED, {}))


def saving(*entities: Entity) -> Work:
    """A handler that saves these."""

    async def work(tx: Transaction) -> None:
        for each in entities:
            tx.save(each)

    return work


def deleting(*entities: Entity) -> Work:
    """A handler that deletes these."""

    async def work(tx: Transaction) -> None:
        for each in entities:
            tx.delete(each)

    return work


def reserving(name: str, value: int | str, holder: str, until: timedelta | datetime | None = None) -> Work:
    """A handler that reserves a value."""
    return lambda tx: tx.reserve(name, value, holder, until=until)


def confirming(name: str, value: int | str, holder: str) -> Work:
    """A handler that keeps it for good."""
    return lambda tx: tx.confirm(name, value, holder)


def releasing(name: str, value: int | str, holder: str) -> Work:
    """A handler that gives it back."""
    return lambda tx: tx.release(name, value, holder)


async def _fill(engine: Store, clock: HandClock) -> None:
    """Reserve twelve values, four of them for a while; four more are given back."""
    for at in range(16):
        until = FOR if at % 4 == 1 else 2 * FOR if at % 4 == 2 else None
        await handled(engine, reserving("seat", at, f"{at}", until=until), clock.now)
        if at % 4 == 2:
            await handled(engine, confirming("seat", at, f"{at}"), clock.now)
        if at % 4 == 3:
            await handled(engine, releasing("seat", at, f"{at}"), clock.now)


async def _context(engine: Store, clock: HandClock) -> Context:
    await engine.create([*dict.fromkeys([*TABLES, *framework_tables()])], PARTITIONS)
    context = context_of(members, MemoryLog(), engine, MemoryViews(), _nobody, clock=clock)
    return replace(context, limits=Limits(trim_page=3))


def _nobody(name: str) -> Owner:
    raise AssertionError(f"{name} is not asked")


async def _holder(engine: Store, clock: HandClock, name: str = "email", value: int | str = "a@x") -> str | None:
    return await found(engine, lambda tx: tx.reserved(name, value), clock.now)


async def _changes(engine: Store) -> Sequence[ReservedChange]:
    """What the journal says of the e-mail."""
    digest = digest_under("email", "a@x")
    async with engine.snapshot() as session:
        events = await session.history(partition_of(digest, PARTITIONS), digest)
    assert {each.type for each in events} == {reserved_type("contract")}
    return [msgspec.json.decode(each.data, type=ReservedChange) for each in events]


async def _rows(engine: Store) -> dict[str, Any]:
    """What handlers have reserved, by digest."""
    async with engine.snapshot() as session:
        rows: list[Reserved] = [RESERVED.from_row(row) for row in await session.find(RESERVED, {})]
    return {row.digest: row for row in rows if is_under_a_name(row.name)}
