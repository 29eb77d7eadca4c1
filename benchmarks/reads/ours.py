"""Chimera: a view that is served by key."""

from msgspec import Struct

from chimera import Event, Service


class Sales(Struct):
    seller_id: str
    name: str = ""
    country: str = ""
    orders: int = 0
    revenue_cents: int = 0
    counts: dict[str, int] = {}
    by_day: dict[str, int] = {}
    updated_at: str = ""


class Sold(Event, source="bench-reads", key="seller_id"):
    seller_id: str
    amount_cents: int


service = Service("bench-reads")
view = service.view(Sales, key="seller_id", path="/sellers/{seller_id}/sales")


@view.on(Sold)
def sold(document: Sales, event: Sold) -> None:
    document.orders += 1
    document.revenue_cents += event.amount_cents
