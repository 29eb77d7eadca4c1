"""The owner of orders: commands through the broker, state in a table, every change a fact."""

from typing import Annotated

from msgspec import Meta

from chimera import Caller, ListPage, Reader, Rejected, Service, Transaction, owner_of, rule
from chimera.entities import to_utc
from marketplace.callers import look_again, operator
from marketplace.orders.messages import MoveOrder, OrderMoved, OrderPlaced, PlaceOrder, Stage
from marketplace.orders.model import Order, SellerOrder, list_moved, list_placed, refusal
from marketplace.orders.pages import order_page
from marketplace.types import Id

orders = Service("orders")
orders.entity(Order)

listed = orders.view(SellerOrder, key="order_id")
listed.on(OrderPlaced)(list_placed)
listed.on(OrderMoved)(list_moved)
by_seller = listed.list("by-seller", where="seller_id", order="-placed_at")
by_stage = listed.list("by-stage", where=("seller_id", "stage"), order="-placed_at")


@rule
async def takes_part(order_id: str, caller: Caller, read: Reader) -> bool:
    """The buyer or the seller of an order; somebody, of one that is not there: it may be on its way, and hers."""
    order = await read.load(Order, order_id)
    return order is None or caller.subject in (order.buyer_id, order.seller_id)


@orders.handle("POST /orders", location="/orders/{order_id}", allow=owner_of("buyer_id") | operator)
async def place_order(command: PlaceOrder, tx: Transaction) -> None:
    if await tx.load(Order, command.order_id):
        raise Rejected("order_exists", f"there is an order {command.order_id} already")
    at = to_utc(command.at or tx.now)
    tx.save(
        Order(
            order_id=command.order_id,
            buyer_id=command.buyer_id,
            seller_id=command.seller_id,
            gig_id=command.gig_id,
            amount_cents=command.amount_cents,
            stage="placed",
            placed_at=at,
            changed_at=at,
        )
    )
    tx.emit(
        OrderPlaced(
            order_id=command.order_id,
            buyer_id=command.buyer_id,
            seller_id=command.seller_id,
            gig_id=command.gig_id,
            amount_cents=command.amount_cents,
            placed_on=at.date(),
            at=at,
        )
    )


@orders.handle("POST /orders/{order_id}/stage", location="/orders/{order_id}", allow=takes_part | operator)
async def move_order(command: MoveOrder, tx: Transaction, caller: Caller | None) -> None:
    order = await tx.load(Order, command.order_id)
    if order is None:
        raise Rejected("order_unknown", f"there is no order {command.order_id}", status=404)
    look_again(caller, order.buyer_id, order.seller_id)
    if refused := refusal(order.stage, command.stage):
        raise Rejected(*refused)
    previous, at = order.stage, to_utc(command.at or tx.now)
    order.stage, order.changed_at = command.stage, at
    tx.save(order)
    tx.emit(
        OrderMoved(
            order_id=order.order_id,
            seller_id=order.seller_id,
            amount_cents=order.amount_cents,
            placed_on=to_utc(order.placed_at).date(),
            previous=previous,
            stage=order.stage,
            at=at,
        )
    )


@orders.get("/orders/{order_id}", page=order_page, allow=takes_part | operator)
async def show_order(order_id: Id, read: Reader, caller: Caller | None) -> Order | None:
    order = await read.load(Order, order_id)
    if order is not None:
        look_again(caller, order.buyer_id, order.seller_id)
    return order


@orders.get("/sellers/{seller_id}/orders", allow=owner_of("seller_id") | operator)
async def list_orders(
    seller_id: Id,
    read: Reader,
    stage: Stage | None = None,
    limit: Annotated[int, Meta(ge=1, le=200)] = 20,
    after: str = "",
) -> ListPage[SellerOrder]:
    """A seller's orders, the newest first, all of them or those in one stage; a page at a time."""
    if stage is None:
        return await read.list(by_seller, seller_id, limit=limit, after=after)
    return await read.list(by_stage, seller_id, stage, limit=limit, after=after)
