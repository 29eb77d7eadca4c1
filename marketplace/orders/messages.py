from datetime import date, datetime
from typing import Annotated, Literal

from chimera import Command, Event, NewId
from marketplace.types import Amount, Id, Moment, check_moment

Stage = Literal["placed", "paid", "started", "delivered", "completed", "cancelled"]


class PlaceOrder(Command, key="order_id"):
    order_id: Annotated[Id, NewId]
    buyer_id: Id
    seller_id: Id
    gig_id: Id
    amount_cents: Amount
    at: Moment | None = None

    def __post_init__(self) -> None:
        check_moment(self.at)


class MoveOrder(Command, key="order_id"):
    order_id: Id
    stage: Stage
    at: Moment | None = None

    def __post_init__(self) -> None:
        check_moment(self.at)


class OrderPlaced(Event, source="orders", key="order_id"):
    order_id: Annotated[str, NewId]
    buyer_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    placed_on: date
    at: datetime


class OrderMoved(Event, source="orders", key="order_id"):
    """Carries all that a view by seller needs, so that views of different orders' events may fold in any order."""

    order_id: str
    seller_id: str
    amount_cents: int
    placed_on: date
    previous: Stage
    stage: Stage
    at: datetime
