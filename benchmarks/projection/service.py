"""Chimera: a view that counts a seller's orders by what became of them."""

from msgspec import Struct

from chimera import Event, Service

service = Service("bench-sales")


class Sales(Struct):
    seller_id: str
    counts: dict[str, int] = {}
    revenue_cents: int = 0


class _Order(Event):
    order_id: str
    seller_id: str
    amount_cents: int


class OrderPlaced(_Order, source="bench-sales", key="order_id"):
    pass


class OrderApproved(_Order, source="bench-sales", key="order_id"):
    pass


class OrderShipped(_Order, source="bench-sales", key="order_id"):
    pass


class OrderDelivered(_Order, source="bench-sales", key="order_id"):
    pass


class OrderCanceled(_Order, source="bench-sales", key="order_id"):
    pass


view = service.view(Sales, key="seller_id", path="/sellers/{seller_id}/sales")


@view.on(OrderPlaced)
def placed(sales: Sales, event: OrderPlaced) -> None:
    sales.revenue_cents += event.amount_cents
    _count(sales, "placed")


@view.on(OrderApproved)
def approved(sales: Sales, event: OrderApproved) -> None:
    _count(sales, "approved")


@view.on(OrderShipped)
def shipped(sales: Sales, event: OrderShipped) -> None:
    _count(sales, "shipped")


@view.on(OrderDelivered)
def delivered(sales: Sales, event: OrderDelivered) -> None:
    _count(sales, "delivered")


@view.on(OrderCanceled)
def canceled(sales: Sales, event: OrderCanceled) -> None:
    sales.revenue_cents -= event.amount_cents
    _count(sales, "canceled")


def _count(sales: Sales, what: str) -> None:
    sales.counts[what] = sales.counts.get(what, 0) + 1
