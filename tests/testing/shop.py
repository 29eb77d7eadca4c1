"""A box office with a planted mistake: it counts what it sold a moment after it did, and sells one more."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from chimera import Command, Entity, Event, Rejected, Service, Transaction
from chimera.testing.simulate import Fleet, State

SEATS = 2


class Ticket(Entity, key=("show_id", "buyer_id"), table="tickets"):
    show_id: str
    buyer_id: str


class Show(Entity, key="show_id", table="shows"):
    show_id: str
    sold: int = 0


class Buy(Command, key="buyer_id"):
    buyer_id: str
    show_id: str


class Sold(Event, source="box-office", key="show_id"):
    show_id: str
    buyer_id: str


class Sales(Struct):
    show_id: str
    tickets: int = 0


async def pay() -> None:
    """The bank takes its time."""
    await asyncio.sleep(0.05)


def box_office(*, right: bool) -> Service:
    """The service; the right one looks for the tickets themselves, in the transaction that adds one."""
    service = Service("box-office", partitions=2)
    service.entity(Ticket)
    service.entity(Show)

    @service.handle("POST /tickets", direct=True)
    async def buy(command: Buy, tx: Transaction) -> None:
        if right:
            sold = len(await tx.find(Ticket, show_id=command.show_id))
        else:
            show = await tx.load(Show, command.show_id)
            sold = show.sold if show else 0
        if await tx.load(Ticket, command.show_id, command.buyer_id):
            raise Rejected("has_one")
        if sold >= SEATS:
            raise Rejected("sold_out")
        await pay()
        tx.save(Ticket(command.show_id, command.buyer_id))
        tx.emit(Sold(command.show_id, command.buyer_id))

    @service.on(Sold)
    async def count(event: Sold, tx: Transaction) -> None:
        show = await tx.load(Show, event.show_id) or Show(event.show_id)
        show.sold += 1
        tx.save(show)

    sales = service.view(Sales, key="show_id", path="/shows/{show_id}/sales", name="sales")

    @sales.on(Sold)
    def sold(document: Sales, event: Sold) -> None:
        document.tickets += 1

    return service


def nobody_stands(state: State) -> None:
    shows = {ticket.show_id: 0 for ticket in state.rows(Ticket)}
    for ticket in state.rows(Ticket):
        shows[ticket.show_id] += 1
    assert all(sold <= SEATS for sold in shows.values()), f"{SEATS} seats, and sold: {shows}"


def fleet(*, right: bool = False) -> Fleet:
    return Fleet(
        box_office(right=right),
        commands={Buy: lambda chance: Buy(f"buyer-{chance.randint(1, 9)}", f"show-{chance.randint(1, 2)}")},
    )


wrong_fleet = fleet()
right_fleet = fleet(right=True)
