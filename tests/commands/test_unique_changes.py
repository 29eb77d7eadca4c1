"""Whatever handlers do to unique rows, no two have the same, and what is reserved is exactly what rows have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import Entity, Service, Taken, Transaction
from chimera.entities import RESERVED, Reserved, table_of
from chimera.messages import Message
from chimera.ports import Store
from chimera.testing.memory import MemoryStore
from chimera.transaction import Unit
from tests.support import TIME, all_of

club = Service("club")
Rows = dict[str, str | None]


@club.entity
class Guest(Entity, key="name", unique=[("seat",)]):
    name: str
    seat: str | None


class Step(NamedTuple):
    """What a handler does: `save`, `claim` and go on where it is taken, `delete`, or `find`, which writes before."""

    what: str
    name: str
    seat: str | None


steps = st.builds(
    Step,
    st.sampled_from(["save", "save", "claim", "delete", "find"]),
    st.sampled_from("abc"),
    st.sampled_from(["1", "2", "3", None]),
)
handlers = st.lists(st.lists(steps, min_size=1, max_size=5), min_size=1, max_size=8)


class Refused(Exception):  # noqa: N818 - leaves a transaction
    """A handler was refused after it had written."""


@settings(derandomize=True, deadline=None, max_examples=300)
@given(handlers)
def test_no_two_rows_have_the_same_and_nothing_else_is_reserved(handlers: Sequence[Sequence[Step]]) -> None:
    asyncio.run(_play(handlers))


async def _play(handlers: Sequence[Sequence[Step]]) -> None:
    store, rows = MemoryStore(), Rows()
    await store.create([table_of(Guest), RESERVED], 1)
    for batch in _batches(handlers):
        expected: Rows | None = None
        try:
            async with store.transaction() as session:
                unit = Unit(club, session)
                for handler in batch:
                    expected = _after(rows, handler)
                    assert await _handled(unit, handler) is (expected is not None)
                    rows = rows if expected is None else expected
                await unit.flush()
        except Refused:
            assert expected is None
        assert {guest.name: guest.seat for guest in await all_of(store, Guest)} == rows
        reserved: list[Reserved] = await all_of(store, Reserved)
        rule = table_of(Guest).rules[0]
        assert {each.digest: each.by for each in reserved} == {
            rule.digest([seat]): name for name, seat in rows.items() if seat
        }
        await _found_by_seat(store, rows)


def _batches(handlers: Sequence[Sequence[Step]]) -> list[list[Sequence[Step]]]:
    """Those that write in between are handled alone, others share a transaction."""
    batches: list[list[Sequence[Step]]] = [[]]
    for handler in handlers:
        alone = any(step.what == "find" for step in handler)
        batches += [[handler], []] if alone else []
        if not alone:
            batches[-1].append(handler)
    return [batch for batch in batches if batch]


async def _handled(unit: Unit, handler: Sequence[Step]) -> bool:
    tx = Transaction(unit, Message("c", "club", "club.Do", "key", TIME, b"{}", 0))
    try:
        for step in handler:
            await _do(tx, step)
        await tx.settle()
    except Taken as taken:
        if tx.written:
            raise Refused from taken
        return False
    tx.merge()
    return True


async def _do(tx: Transaction, step: Step) -> None:
    match step.what:
        case "save":
            tx.save(Guest(step.name, step.seat))
        case "delete":
            tx.delete(Guest(step.name, None))
        case "find":
            await tx.find(Guest)
        case "claim":
            await tx.settle()
            try:
                await tx.claim(Guest(step.name, step.seat))
            except Taken:
                assert step.seat is not None


def _after(rows: Rows, handler: Sequence[Step]) -> Rows | None:
    """The rows after a handler; None where it is refused."""
    now = dict(rows)
    for what, name, seat in handler:
        if what in ("find", "claim") and _clash(now):
            return None
        if what == "delete":
            now.pop(name, None)
        elif what != "find" and not (what == "claim" and _clash(now | {name: seat})):
            now[name] = seat
    return None if _clash(now) else now


def _clash(rows: Rows) -> bool:
    seats = [seat for seat in rows.values() if seat]
    return len(seats) != len(set(seats))


async def _found_by_seat(store: Store, rows: Rows) -> None:
    async with store.transaction() as session:
        tx = Transaction(Unit(club, session), Message("c", "club", "club.Do", "key", TIME, b"{}", 0))
        for seat in ("1", "2", "3"):
            guest = await tx.load_by(Guest, seat=seat)
            assert (guest.name if guest else None) == next((name for name, each in rows.items() if each == seat), None)
