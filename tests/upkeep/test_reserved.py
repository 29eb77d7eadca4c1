"""What handlers reserve is in the journal, and made anew from it: at a start, by hand, and past trimmed events."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chimera import Command, Entity, Event, Service, Transaction
from chimera.cli import rebuilds
from chimera.core.context import Context
from chimera.core.names import RELAY
from chimera.core.tables import Progress, StoredName
from chimera.core.timing import Limits, Retention
from chimera.entities import RESERVED, Reserved, table_of
from chimera.messages import partition_of
from chimera.ports import Checkpoint
from chimera.testing.contracts.bank import BEGAN, HandClock
from chimera.testing.waiting import eventually, running
from chimera.unique import is_under_a_name
from chimera.upkeep.admission.naming import admit
from chimera.upkeep.drift.reserved import MARK, remake
from chimera.upkeep.drift.unique import keep_unique
from chimera.upkeep.retention import Trimming
from tests.support import QUICK, Engines, all_of, at_hand, direct, opened


class TakeSeat(Command, key="guest"):
    guest: str
    seat: int
    minutes: int = 0


class Seated(Event, source="accounts", key="guest"):
    guest: str


class Guest(Entity, key="guest", table="hall_guests", unique=[("email",)]):
    guest: str
    email: str


async def hall(engines: Engines, clock: HandClock | None = None) -> Context:
    """A process of a service as it starts."""
    service = Service("accounts", partitions=2)
    service.entity(Guest)

    @service.handle("POST /seats", direct=True)
    async def take_seat(command: TakeSeat, tx: Transaction) -> None:
        until = timedelta(minutes=command.minutes) if command.minutes else None
        await tx.reserve("seat", command.seat, until=until)
        tx.save(Guest(command.guest, f"{command.guest}@x"))
        tx.emit(Seated(command.guest))

    context = await opened(service, engines)
    context = replace(context, limits=Limits(trim_page=3), clock=clock or HandClock())
    await admit(context)
    return context


async def seats(context: Context) -> dict[str, str]:
    """Who has what of the seats, by digest."""
    rows: list[Reserved] = await all_of(context.store, Reserved)
    return {row.digest: row.by for row in rows if is_under_a_name(row.name)}


async def lose(context: Context) -> None:
    async with context.store.transaction() as session:
        await session.delete(RESERVED, [(row[0],) for row in await session.find(RESERVED, {})])


async def is_said(context: Context, digest: str) -> bool:
    """True once the journal says who has it."""
    async with context.store.snapshot() as session:
        return bool(await session.history(partition_of(digest, 2), digest))


async def relayed(context: Context) -> None:
    """Nobody needs the events that there are."""
    table = table_of(Progress)
    async with context.store.transaction() as session:
        heads = await session.heads()
        rows = [Progress.of(RELAY, "accounts", at, Checkpoint(head, 0)) for at, head in heads.items()]
        await session.save(table, list(map(table.to_row, rows)))


async def test_a_start_makes_a_table_that_was_lost_anew_from_journal_and_rows(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    context = await hall(engines)
    await direct(context, *(TakeSeat(f"g{at}", at) for at in range(8)))
    before = sorted(await all_of(context.store, Reserved), key=repr)
    assert len(before) == 17
    await lose(context)
    again = await hall(engines)
    assert sorted(await all_of(again.store, Reserved), key=repr) == before
    assert "accounts: what was reserved had been lost, and is made anew: 0 equal, 8 missing" in caplog.text
    caplog.clear()
    [refused] = await direct(again, TakeSeat("late", 3))
    assert (refused.state, refused.reason) == ("rejected", "taken")
    await hall(engines)
    assert "lost" not in caplog.text


async def test_what_earlier_releases_have_reserved_is_in_the_journal_after_a_start_or_soon(engines: Engines) -> None:
    """Of a store that has no mark yet; and what they reserve beside this one, minutes later."""
    context = await hall(engines)
    digest, other = "a" * 40, "b" * 40
    async with context.store.transaction() as session:
        await session.delete(RESERVED, [(MARK.digest,)])
        await session.delete(table_of(StoredName), [("reserved", "journal")])
        await session.save(RESERVED, [RESERVED.to_row(Reserved(digest, "seat", '"old"'))])
    context = await hall(engines)
    assert (await remake(context)).told == "1 equal, 0 of rows"
    async with context.store.transaction() as session:
        await session.save(RESERVED, [RESERVED.to_row(Reserved(other, "seat", '"old"'))])
    beside = replace(context, timing=msgspec.structs.replace(QUICK, audit_s=0.01))
    async with running(keep_unique(beside, frozenset({0}))):
        await eventually(lambda: is_said(context, other))
    await lose(context)
    assert await seats(await hall(engines)) == {digest: "old", other: "old"}


async def test_trimmed_events_take_no_reservation_with_them(engines: Engines) -> None:
    clock = HandClock()
    context = await hall(engines, clock)
    await direct(context, *(TakeSeat(f"g{at}", at, 30 if at % 2 else 0) for at in range(8)))
    clock.at = BEGAN + timedelta(days=3)
    context = replace(context, retention=Retention(journal_days=1))
    await relayed(context)
    assert await Trimming(context, range(2)).trim_store()
    assert all(number > 1 for number in (await context.store.oldest()).values())
    await lose(context)
    again = await hall(engines, clock)
    assert sorted((await seats(again)).values()) == [f"g{at}" for at in range(0, 8, 2)]


async def test_an_operator_makes_reservations_anew_and_is_told_what_was_wrong(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = await hall(engines)
    await direct(context, *(TakeSeat(f"g{at}", at) for at in range(8)))
    before = await seats(context)
    async with context.store.transaction() as session:
        await session.delete(RESERVED, [(digest,) for digest in list(before)[:3]])
    at_hand(monkeypatch, rebuilds, context)
    settings: Any = SimpleNamespace(services={"accounts": None})
    await rebuilds.rebuild_reserved(settings, "accounts", as_json=True)
    assert capsys.readouterr().out.strip() == (
        '{"equal":5,"missing":3,"changed":0,"extra":0,"unsaid":0,"over":0,"by_rows":0,"left":0}'
    )
    assert await seats(context) == before
    await rebuilds.rebuild_reserved(settings, "accounts")
    shown = capsys.readouterr().out
    assert "accounts: what is reserved" in shown
    assert "missing" in shown
