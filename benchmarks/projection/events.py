"""The events: five types, 5,000 sellers of whom a few have most of the orders."""

import random
from collections.abc import Iterator
from typing import NamedTuple

SELLERS = 5000
TYPES = ("OrderPlaced", "OrderApproved", "OrderShipped", "OrderDelivered", "OrderCanceled")


class Each(NamedTuple):
    type: str
    order_id: str
    seller_id: str
    amount_cents: int


def events(count: int) -> Iterator[Each]:
    """The same ones each time; the cube makes a tenth of the sellers have nearly half of the events."""
    chance = random.Random(7)  # noqa: S311 - made-up data
    for number in range(count):
        seller = int(SELLERS * chance.random() ** 3)
        yield Each(TYPES[number % len(TYPES)], f"o{number // 5}", f"s{seller}", 1000 + seller)
