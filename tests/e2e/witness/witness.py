"""A service that watches the orders' events go by, and notes whatever comes out of its order's order."""

from msgspec import Struct

from chimera import Service
from marketplace.orders.messages import OrderMoved, OrderPlaced


class Watched(Struct):
    """`stage` is the last one seen, `broken` how many events did not follow from it."""

    order_id: str
    stage: str = ""
    events: int = 0
    broken: int = 0


witness = Service("witness")
watched = witness.view(Watched, key="order_id", path="/watched/{order_id}")


@watched.on(OrderPlaced)
def placed(order: Watched, event: OrderPlaced) -> None:
    order.broken += order.stage != ""
    order.events += 1
    order.stage = "placed"


@watched.on(OrderMoved)
def moved(order: Watched, event: OrderMoved) -> None:
    order.broken += order.stage != event.previous
    order.events += 1
    order.stage = event.stage
