"""A service of ten handlers and a view, such as somebody tests with the kit."""

from __future__ import annotations

from msgspec import Struct

from chimera import Command, Entity, Event, Rejected, Service, Transaction

shop = Service("bench-shop")


@shop.entity
class Order(Entity, key="order_id", table="orders"):
    order_id: str
    amount: int
    stage: str = "placed"
    note: str = ""


class Place(Command, key="order_id"):
    order_id: str
    amount: int


class Raise(Command, key="order_id"):
    order_id: str
    amount: int


class Note(Command, key="order_id"):
    order_id: str
    note: str


class Step(Command, key="order_id"):
    """One that moves an order on."""

    order_id: str


class Pay(Step, key="order_id"): ...


class Pack(Step, key="order_id"): ...


class Ship(Step, key="order_id"): ...


class Deliver(Step, key="order_id"): ...


class Complete(Step, key="order_id"): ...


class Return(Step, key="order_id"): ...


class Cancel(Step, key="order_id"): ...


class Changed(Event, source="bench-shop", key="order_id"):
    order_id: str
    amount: int
    stage: str


class Seen(Struct):
    order_id: str
    changes: int = 0
    amount: int = 0
    stage: str = ""


STEPS: dict[type[Step], tuple[str, str]] = {
    Pay: ("placed", "paid"),
    Pack: ("paid", "packed"),
    Ship: ("packed", "shipped"),
    Deliver: ("shipped", "delivered"),
    Complete: ("delivered", "completed"),
    Return: ("delivered", "returned"),
    Cancel: ("placed", "cancelled"),
}
"""The stages before and after each step."""


def keep(order: Order, tx: Transaction) -> None:
    tx.save(order)
    tx.emit(Changed(order.order_id, order.amount, order.stage))


async def order_of(order_id: str, tx: Transaction) -> Order:
    order = await tx.load(Order, order_id)
    if order is None:
        raise Rejected("order_unknown", status=404)
    return order


async def take(step: Step, tx: Transaction) -> None:
    order = await order_of(step.order_id, tx)
    before, after = STEPS[type(step)]
    if order.stage != before:
        raise Rejected("not_now")
    order.stage = after
    keep(order, tx)


@shop.handle("POST /orders")
async def place(command: Place, tx: Transaction) -> None:
    if await tx.load(Order, command.order_id) is not None:
        raise Rejected("order_exists")
    keep(Order(command.order_id, command.amount), tx)


@shop.handle("POST /orders/{order_id}/raise", direct=True)
async def raise_amount(command: Raise, tx: Transaction) -> None:
    order = await order_of(command.order_id, tx)
    order.amount += command.amount
    keep(order, tx)


@shop.handle("PUT /orders/{order_id}/note", direct=True)
async def note(command: Note, tx: Transaction) -> None:
    order = await order_of(command.order_id, tx)
    order.note = command.note
    keep(order, tx)


@shop.handle("POST /orders/{order_id}/pay")
async def pay(command: Pay, tx: Transaction) -> None:
    await take(command, tx)


@shop.handle("POST /orders/{order_id}/pack")
async def pack(command: Pack, tx: Transaction) -> None:
    await take(command, tx)


@shop.handle("POST /orders/{order_id}/ship")
async def ship(command: Ship, tx: Transaction) -> None:
    await take(command, tx)


@shop.handle("POST /orders/{order_id}/deliver")
async def deliver(command: Deliver, tx: Transaction) -> None:
    await take(command, tx)


@shop.handle("POST /orders/{order_id}/complete", direct=True)
async def complete(command: Complete, tx: Transaction) -> None:
    await take(command, tx)


@shop.handle("POST /orders/{order_id}/return", direct=True)
async def return_order(command: Return, tx: Transaction) -> None:
    await take(command, tx)


@shop.handle("POST /orders/{order_id}/cancel", direct=True)
async def cancel(command: Cancel, tx: Transaction) -> None:
    await take(command, tx)


seen = shop.view(Seen, key="order_id", path="/seen/{order_id}")


@seen.on(Changed)
def changed(document: Seen, event: Changed) -> None:
    document.changes += 1
    document.amount, document.stage = event.amount, event.stage
