"""Protean: a projector, an event at a time, each in a unit of work; without the engine that would fetch the events.

`python -m benchmarks.projection.with_protean COUNT`. Prints the events per second.
"""

import os
import sys
import time
from typing import Any

from protean import Domain, handle
from protean.exceptions import ObjectNotFoundError
from protean.fields import Identifier, Integer, String
from protean.utils.globals import current_domain

from benchmarks.projection.events import events

URL = os.environ["BENCH_URL"]
CONFIG = {
    "databases": {
        "default": {"provider": "postgresql", "database_uri": URL.replace("postgresql:", "postgresql+psycopg:")}
    },
    "event_processing": "sync",
    "command_processing": "sync",
}
domain = Domain(name="Sales", config=CONFIG)
WORDS = ("placed", "approved", "shipped", "delivered", "canceled")


@domain.aggregate
class Order:
    seller_id = String(max_length=64)


class _Happened:
    order_id = Identifier()
    seller_id = String(max_length=64)
    amount_cents = Integer()


@domain.event(part_of=Order)
class OrderPlaced:
    order_id = Identifier()
    seller_id = String(max_length=64)
    amount_cents = Integer()


@domain.event(part_of=Order)
class OrderApproved:
    order_id = Identifier()
    seller_id = String(max_length=64)
    amount_cents = Integer()


@domain.event(part_of=Order)
class OrderShipped:
    order_id = Identifier()
    seller_id = String(max_length=64)
    amount_cents = Integer()


@domain.event(part_of=Order)
class OrderDelivered:
    order_id = Identifier()
    seller_id = String(max_length=64)
    amount_cents = Integer()


@domain.event(part_of=Order)
class OrderCanceled:
    order_id = Identifier()
    seller_id = String(max_length=64)
    amount_cents = Integer()


@domain.projection
class Sales:
    seller_id = Identifier(identifier=True)
    revenue_cents = Integer(default=0)
    placed = Integer(default=0)
    approved = Integer(default=0)
    shipped = Integer(default=0)
    delivered = Integer(default=0)
    canceled = Integer(default=0)


@domain.projector(projector_for=Sales, aggregates=[Order])
class SalesProjector:
    @handle(OrderPlaced)
    def placed(self, event: OrderPlaced) -> None:
        _count(event, "placed", event.amount_cents)

    @handle(OrderApproved)
    def approved(self, event: OrderApproved) -> None:
        _count(event, "approved", 0)

    @handle(OrderShipped)
    def shipped(self, event: OrderShipped) -> None:
        _count(event, "shipped", 0)

    @handle(OrderDelivered)
    def delivered(self, event: OrderDelivered) -> None:
        _count(event, "delivered", 0)

    @handle(OrderCanceled)
    def canceled(self, event: OrderCanceled) -> None:
        _count(event, "canceled", -event.amount_cents)


def _count(event: Any, word: str, worth: int) -> None:
    repository = current_domain.repository_for(Sales)
    try:
        sales = repository.get(event.seller_id)
    except ObjectNotFoundError:
        sales = Sales(seller_id=event.seller_id)
    setattr(sales, word, getattr(sales, word) + 1)
    sales.revenue_cents += worth
    repository.add(sales)


def main(count: int) -> None:
    domain.init(traverse=False)
    types = {each.__name__: each for each in (OrderPlaced, OrderApproved, OrderShipped, OrderDelivered, OrderCanceled)}
    with domain.domain_context():
        domain.create_database_artifacts() if hasattr(domain, "create_database_artifacts") else domain.setup_database()
        happened = [
            types[each.type](order_id=each.order_id, seller_id=each.seller_id, amount_cents=each.amount_cents)
            for each in events(count)
        ]
        began = time.perf_counter()
        for event in happened:
            SalesProjector._handle(event)  # noqa: SLF001 - what its engine calls
        spent = time.perf_counter() - began
    print(count / spent)


if __name__ == "__main__":
    main(int(sys.argv[1]))
