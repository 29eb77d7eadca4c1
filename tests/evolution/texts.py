"""Builds of a shop as text: what it says of an order has been changed three times."""

from __future__ import annotations

FIRST = """
from msgspec import Struct
from chimera import Command, Entity, Event, Service, Transaction

shop = Service("shop", partitions=2)

class Place(Command, key="order_id"):
    order_id: str
    euros: int

class Check(Command, key="order_id"):
    order_id: str

class Placed(Event, source="shop", key="order_id"):
    order_id: str
    euros: int

class Order(Struct):
    order_id: str
    amounts: list[int] = []

class Sale(Struct):
    order_id: str
    amounts: list[int] = []

@shop.entity
class Mail(Entity, key="order_id", table="mails"):
    order_id: str
    amounts: list[int] = []

orders = shop.event_sourced(Order, key="order_id")

def amount(event: Placed) -> int:
    return event.euros * 100

@orders.on(Placed)
def ordered(order: Order, event: Placed) -> None:
    order.amounts.append(amount(event))

@shop.handle("POST /orders")
async def place(command: Place, tx: Transaction) -> None:
    tx.emit(Placed(command.order_id, command.euros))

@shop.handle("POST /checks")
async def check(command: Check, tx: Transaction) -> None:
    order = await tx.load(Order, command.order_id)
    tx.save(Mail(f"checked {command.order_id}", order.amounts))

@shop.on(Placed)
async def send_mail(event: Placed, tx: Transaction) -> None:
    mail = await tx.load(Mail, event.order_id) or Mail(event.order_id)
    tx.save(Mail(event.order_id, [*mail.amounts, amount(event)]))

sales = shop.view(Sale, key="order_id", path="/sales/{order_id}")

@sales.on(Placed)
def placed(sale: Sale, event: Placed) -> None:
    sale.amounts.append(amount(event))
"""
SECOND_CHANGES = (
    ('class Place(Command, key="order_id"):', 'class Place(Command, key="order_id", version=2):'),
    ('source="shop", key="order_id"):', 'source="shop", key="order_id", version=2):'),
    ("    euros: int\n", "    cents: int\n"),
    ("event.euros * 100", "event.cents"),
    ("command.euros", "command.cents"),
)
TO_SECOND = """
@Place.upgrade(1)
def place_in_cents(old):
    return {"order_id": old["order_id"], "cents": old["euros"] * 100}

@Placed.upgrade(1)
def placed_in_cents(old):
    return {"order_id": old["order_id"], "cents": old["euros"] * 100}
"""


def changed(text: str, *changes: tuple[str, str]) -> str:
    """A text with all of these changed."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


SECOND = changed(FIRST, *SECOND_CHANGES) + TO_SECOND

THIRD_CHANGES = (
    ("version=2", "version=3"),
    ("    cents: int\n", "    lines: list[int]\n    customer: str\n"),
    ("event.cents", "sum(event.lines)"),
    ("command.cents", "command.lines, command.customer"),
)
TO_THIRD = """
@Place.upgrade(2)
def place_lines(old: SecondForm):
    return {"order_id": old.order_id, "lines": [old.cents], "customer": "nobody"}

@Placed.upgrade(2)
def placed_lines(old: SecondForm) -> "ThirdForm":
    return ThirdForm(old.order_id, [old.cents], "nobody")
"""
FORMS = """
class SecondForm(Struct):
    order_id: str
    cents: int

class ThirdForm(Struct):
    order_id: str
    lines: list[int]
    customer: str
"""
THIRD = changed(SECOND, *THIRD_CHANGES) + FORMS + TO_THIRD

TODAY_CHANGES = (
    ("version=3", "version=4"),
    (
        "    lines: list[int]\n    customer: str\n\nclass Check",
        "    items: dict[str, int]\n    buyer_id: str\n\nclass Check",
    ),
    (
        "    lines: list[int]\n    customer: str\n\nclass Order",
        "    items: dict[str, int]\n    buyer_id: str\n\nclass Order",
    ),
    ("sum(event.lines)", "sum(event.items.values())"),
    ("command.lines, command.customer", "command.items, command.buyer_id"),
    ('key="order_id")\n\ndef amount', 'key="order_id", snapshot=2)\n\ndef amount'),
)
TO_TODAY = """
def as_items(old: ThirdForm):
    items = {str(number): cents for number, cents in enumerate(old.lines)}
    return {"order_id": old.order_id, "items": items, "buyer_id": old.customer}

Place.upgrade(3)(as_items)
Placed.upgrade(3)(as_items)
"""
TODAY = changed(THIRD, *TODAY_CHANGES) + TO_TODAY
