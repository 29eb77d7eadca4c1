"""The service that takes orders in, writes them and emits an event for each; others fold those."""

from chimera import Command, Entity, Event, Service, Transaction


class PlaceOrder(Command, key="order_id"):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str = ""


class Order(Entity, key="order_id", table="orders"):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str
    changes: int


class OrderPlaced(Event, source="bench-orders", key="order_id"):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int


service = Service("bench-orders")
service.entity(Order)


@service.handle("POST /orders")
async def place_order(command: PlaceOrder, tx: Transaction) -> None:
    before = await tx.load(Order, command.order_id)
    changes = before.changes + 1 if before else 0
    tx.save(Order(command.order_id, command.seller_id, command.gig_id, command.amount_cents, command.note, changes))
    tx.emit(OrderPlaced(command.order_id, command.seller_id, command.gig_id, command.amount_cents))


class PutOrder(Command, key="order_id"):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str = ""


@service.handle("POST /direct-orders", direct=True)
async def put_order(command: PutOrder, tx: Transaction) -> None:
    tx.save(Order(command.order_id, command.seller_id, command.gig_id, command.amount_cents, command.note, 0))
    tx.emit(OrderPlaced(command.order_id, command.seller_id, command.gig_id, command.amount_cents))
