from datetime import datetime
from typing import get_args

from msgspec import Struct

from chimera import Entity
from marketplace.orders.messages import OrderMoved, OrderPlaced, Stage

_WAY: tuple[Stage, ...] = get_args(Stage)
FINAL: frozenset[Stage] = frozenset({"completed", "cancelled"})


class Order(Entity, key="order_id", table="orders"):
    order_id: str
    buyer_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    stage: Stage
    placed_at: datetime
    changed_at: datetime


class SellerOrder(Struct):
    """An order as its seller's list of orders shows it."""

    order_id: str
    seller_id: str = ""
    buyer_id: str = ""
    gig_id: str = ""
    amount_cents: int = 0
    stage: Stage = "placed"
    placed_at: datetime | None = None


def list_placed(order: SellerOrder, event: OrderPlaced) -> SellerOrder:
    return SellerOrder(
        order.order_id, event.seller_id, event.buyer_id, event.gig_id, event.amount_cents, placed_at=event.at
    )


def list_moved(order: SellerOrder, event: OrderMoved) -> None:
    order.stage = event.stage


def refusal(current: Stage, wanted: Stage) -> tuple[str, str] | None:
    """Why an order can't move so: a reason and a sentence; None when it can. Stages may be skipped forward."""
    if wanted == current:
        return "stage_repeated", f"the order is {current} already"
    if current in FINAL:
        return "order_final", f"the order is {current} and can't become {wanted}"
    if _WAY.index(wanted) < _WAY.index(current):
        return "stage_backwards", f"the order is {current} and can't go back to {wanted}"
    return None
