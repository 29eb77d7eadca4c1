"""Another service, with a view of the orders' events."""

from msgspec import Struct

from benchmarks.orders import OrderPlaced
from chimera import Service

service = Service("bench-viewer")


class Watched(Struct):
    order_id: str
    amount_cents: int = 0


view = service.view(Watched, key="order_id", path="/watched/{order_id}")


@view.on(OrderPlaced)
def placed(watched: Watched, event: OrderPlaced) -> None:
    watched.amount_cents = event.amount_cents
