"""Rooms with few seats, which guests take at once; and mistakes about what was looked for and not found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random

from chimera import Command, Entity, Event, Handling, Rejected, Service, Transaction
from chimera.entities import Row, Table
from chimera.ports import Store, WriteSession
from chimera.testing.broken import WrappedSession, WrappedStore, Wrong
from chimera.testing.fleets.state import State
from chimera_faults.patching import Mistake

SEATS = 1
ROOMS = 2
PAY_S = 1.0


class Seat(Entity, key=("room", "guest"), table="seats"):
    """A guest who has a seat in a room."""

    room: str
    guest: str


class Sit(Command, key="guest"):
    """Take a seat, inside the request. Guests of one room have different keys, and meet at its seats."""

    guest: str
    room: str


class Seated(Event, source="echo", key="room"):
    """A guest has a seat."""

    room: str
    guest: str


def with_seats(service: Service) -> None:
    """Let guests take the seats of a service's rooms, for as long as there are some."""
    service.entity(Seat)

    @service.handle("POST /seats", direct=True, handling=Handling(limit_s=60.0))
    async def sit(command: Sit, tx: Transaction) -> None:
        if len(await tx.find(Seat, room=command.room)) >= SEATS:
            raise Rejected("full", f"{command.room} has {SEATS} seats")
        await asyncio.sleep(PAY_S)  # the guest pays, and others look meanwhile
        tx.save(Seat(command.room, command.guest))
        tx.emit(Seated(command.room, command.guest))


def draw_guest(chance: Random) -> Sit:
    """Any guest in any room."""
    return Sit(f"g{chance.randrange(10**6)}", f"room-{chance.randint(1, ROOMS)}")


def nobody_stands(state: State) -> None:
    """No room has more guests than seats."""
    guests: dict[str, list[str]] = {}
    for seat in state.rows(Seat):
        guests.setdefault(seat.room, []).append(seat.guest)
    for room, seated in guests.items():
        assert len(seated) <= SEATS, f"{room} has {SEATS} seats, and the guests {seated}"


class _GlancingStore(WrappedStore):
    """Breaks "what was found, and what was not, holds": rows are looked for outside the transaction."""

    def __init__(self, store: Store, wrong: Wrong) -> None:
        super().__init__(store)
        self._wrong = wrong

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with self._store.transaction() as session:
            yield _GlancingSession(session, self._store, self._wrong)


class _GlancingSession(WrappedSession):
    def __init__(self, session: WriteSession, store: Store, wrong: Wrong) -> None:
        super().__init__(session)
        self._store = store
        self._wrong = wrong
        self._saved: set[str] = set()

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        if not table.guarded or table.name in self._saved or not self._wrong():
            return await super().find(table, where)
        async with self._store.snapshot(once=True) as glance:
            return await glance.find(table, where)

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        self._saved.add(table.name)
        await super().save(table, rows)


SEATING = {
    "phantoms-not-noticed": Mistake(
        "what others add to what a handler has looked for is not noticed", "", store=_GlancingStore
    ),
}
