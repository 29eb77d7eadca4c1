"""Two small services that use all that keeps something, for data written by one build and opened by the next."""

from __future__ import annotations

import msgspec

from chimera import Borrowed, Command, Entity, Event, Reader, Reads, Rejected, Reply, Service, Transaction

shop = Service("shop", partitions=4)
desk = Service("desk", partitions=2)


class Item(Entity, key="item_id", table="items"):
    item_id: str
    sold: int = 0
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it


class Stocked(Entity, key="item_id", table="stocked"):
    item_id: str
    times: int = 0


class Sell(Command, key="item_id"):
    item_id: str
    count: int


class Rename(Command, key="item_id"):
    item_id: str
    tag: str


class Say(Command, key="item_id"):
    item_id: str
    text: str


class Sold(Event, source="shop", key="item_id"):
    item_id: str
    count: int


class Said(Event, source="shop", key="item_id"):
    item_id: str
    text: str


class Sales(msgspec.Struct):
    item_id: str
    orders: int = 0
    count: int = 0


class Total(msgspec.Struct):
    name: str
    count: int = 0


class Talk(msgspec.Struct):
    item_id: str
    texts: list[str] = []


class Card(msgspec.Struct):
    item_id: str
    sold: int
    tags: list[str]


class Page(msgspec.Struct):
    item_id: str
    sold: int
    tags: list[str]
    stocked: int
    texts: list[str]


shop.entity(Item)
shop.entity(Stocked)
sales = shop.view(Sales, key="item_id", path="/items/{item_id}/sales")
total = shop.view(Total, key="name", path="/totals/{name}")
talk = shop.event_sourced(Talk, key="item_id")


@talk.on(Said)
def said(state: Talk, event: Said) -> None:
    state.texts.append(event.text)


@sales.on(Sold)
def sold(sale: Sales, event: Sold) -> None:
    if event.count == 13:
        raise ValueError("thirteen brings bad luck")
    sale.orders += 1
    sale.count += event.count


@total.on(Sold, key=lambda event: "all")
def summed(sums: Total, event: Sold) -> None:
    sums.count += event.count


@shop.handle("POST /sales")
async def sell(command: Sell, tx: Transaction) -> None:
    if command.count < 0:
        raise Rejected("negative")
    if command.count == 666:
        raise RuntimeError("the devil's own number")
    item = await tx.load(Item, command.item_id) or Item(command.item_id)
    item.sold += command.count
    tx.save(item)
    tx.emit(Sold(command.item_id, command.count))


@shop.handle("PUT /items/{item_id}/tags", direct=True)
async def rename(command: Rename, tx: Transaction) -> Reply[dict[str, int]]:
    item = await tx.load(Item, command.item_id) or Item(command.item_id)
    item.tags.append(command.tag)
    tx.save(item)
    tx.emit(Sold(command.item_id, 0))
    return Reply({"tags": len(item.tags)})


@shop.handle("POST /talks")
async def say(command: Say, tx: Transaction) -> None:
    state = await tx.load(Talk, command.item_id)
    if state is not None and command.text in state.texts:
        raise Rejected("said_before")
    tx.emit(Said(command.item_id, command.text))


@shop.on(Sold)
async def stock(event: Sold, tx: Transaction) -> None:
    stocked = await tx.load(Stocked, event.item_id) or Stocked(event.item_id)
    tx.save(Stocked(event.item_id, stocked.times + 1))


@shop.get("/items/{item_id}")
async def item(item_id: str, read: Reader) -> Page | None:
    found, stocked = await read.load(Item, item_id), await read.load(Stocked, item_id)
    told = await read.load(Talk, item_id)
    if found is None:
        return None
    return Page(item_id, found.sold, found.tags, stocked.times if stocked else 0, told.texts if told else [])


@shop.share("cards", key="item_id", changed_by=[Sold])
async def cards_of(item_ids: list[str], reads: Reads) -> dict[str, Card]:
    found = await reads.find(Item, item_id=item_ids)
    return {each.item_id: Card(each.item_id, each.sold, each.tags) for each in found}


cards = desk.borrow("cards", Card, owner="shop", mode="async", budget=0.2)


@desk.get("/desk/{item_id}")
async def desk_page(item_id: str, read: Reader) -> Borrowed[Card]:
    return await read.borrowed(cards, item_id)
