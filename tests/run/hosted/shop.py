"""A shop that takes orders, and a page of another service that shows what it shares."""

from __future__ import annotations

import msgspec

from chimera import Command, Event, Reader, Reads, Service, Transaction

shop = Service("kiosk", partitions=2)
page = Service("page", partitions=2)


class PlaceOrder(Command, key="order_id"):
    order_id: str
    seller_id: str
    cents: int = 0


class OrderPlaced(Event, source="kiosk", key="seller_id"):
    seller_id: str
    order_id: str
    cents: int


class Sales(msgspec.Struct):
    seller_id: str
    orders: int = 0


class Stand(msgspec.Struct):
    seller_id: str
    motto: str


@shop.handle("POST /orders", location="/orders/{order_id}")
async def place_order(command: PlaceOrder, tx: Transaction) -> None:
    tx.emit(OrderPlaced(command.seller_id, command.order_id, command.cents))


sales = shop.view(Sales, key="seller_id", path="/sellers/{seller_id}/sales", absent="empty")


@sales.on(OrderPlaced)
def placed(sale: Sales, event: OrderPlaced) -> None:
    sale.orders += 1


@shop.share("stands", key="seller_id", changed_by=[OrderPlaced])
async def stands(seller_ids: list[str], tx: Reads) -> dict[str, Stand]:
    if "broken" in seller_ids:
        raise ZeroDivisionError
    return {seller_id: Stand(seller_id, f"{seller_id} sells") for seller_id in seller_ids}


borrowed = page.borrow("stands", Stand, owner="kiosk", mode="sync", budget=1.0)


@page.get("/pages/{seller_id}")
async def show(seller_id: str, read: Reader) -> list[str]:
    found = await read.borrowed(borrowed, seller_id)
    return [found.value.motto if found.value else "", found.state]
