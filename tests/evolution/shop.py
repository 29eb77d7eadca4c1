"""A shop whose event has been changed twice, and all who read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from chimera import Command, Entity, Event, Service, Transaction
from chimera.core.context import Context
from chimera.messages import partition_of
from chimera.ports import WriteSession
from chimera.testing.kit.running import RunningServices
from chimera.transaction import Pending, Unit
from chimera.versions import type_of
from tests.support import TIME


class SecondPlaced(msgspec.Struct):
    """What `Placed` was in its second version."""

    order_id: str
    cents: int
    buyer: str = "nobody"


class Written(NamedTuple):
    """An event of an earlier version as it was written, and what it is today."""

    version: int
    data: dict[str, Any]


def today_of(written: Written) -> tuple[str, tuple[int, ...], str]:
    """What the fields of an event have to be, worked out without any upgrade."""
    data = written.data
    if written.version == 1:
        return data["order_id"], (data["euros"] * 100,), "nobody"
    if written.version == 2:
        return data["order_id"], (data["cents"],), data.get("buyer", "nobody")
    return data["order_id"], tuple(data["lines"]), data["customer"]


class Readers:
    """A shop and a desk that consumes its events. Each reader notes what it is handed; `failing` ones fail."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[str, tuple[int, ...], str]]] = {}
        self.failing: set[str] = set()
        self.shop = Service("vshop", partitions=2)
        self.desk = Service("vdesk", partitions=2)
        self.placed = _own_event()
        self.consumed = _consumed_event()
        _declare_shop(self)
        _declare_desk(self)

    def note(self, reader: str, event: Any) -> None:
        if reader in self.failing:
            raise ValueError(f"{reader} fails")
        self.seen.setdefault(reader, []).append((event.order_id, tuple(event.lines), event.customer))

    async def append(self, running: RunningServices, written: Sequence[Written]) -> None:
        """Put events into the shop's journal as earlier builds have."""
        await append(running.contexts["vshop"], "vshop", "Placed", written)


async def append(context: Context, source: str, name: str, written: Sequence[Written]) -> None:
    """Put events of earlier versions into a journal, as earlier builds have."""
    async with context.store.transaction() as session:
        await _append(context, session, source, name, written)


async def _append(context: Context, session: WriteSession, source: str, name: str, written: Sequence[Written]) -> None:
    unit = Unit(context.service, session)
    for each in written:
        key, data = each.data["order_id"], msgspec.json.encode(each.data)
        type_ = type_of(source, name, each.version)
        unit.events.append(Pending(type_, key, partition_of(key, context.service.partitions), data, TIME))
    await unit.flush()
    await unit.number()


def _own_event() -> Any:
    class Placed(Event, source="vshop", key="order_id", version=3):
        order_id: str
        lines: list[int]
        customer: str

    @Placed.upgrade(1)
    def in_cents(old: dict[str, Any]) -> dict[str, Any]:
        return {"order_id": old["order_id"], "cents": old["euros"] * 100}

    @Placed.upgrade(2)
    def with_lines(old: SecondPlaced) -> Any:
        return Placed(old.order_id, [old.cents], old.buyer)

    return Placed


def _consumed_event() -> Any:
    """The desk's own class of the shop's event, with its own upgrades."""

    class Bought(Event, source="vshop", key="order_id", name="Placed", version=3):
        order_id: str
        lines: list[int] = []  # noqa: RUF012 - msgspec copies it
        customer: str = "nobody"

    @Bought.upgrade(1)
    def second(old: dict[str, Any]) -> SecondPlaced:
        return SecondPlaced(old["order_id"], old["euros"] * 100)

    @Bought.upgrade(2)
    def third(old: dict[str, Any]) -> dict[str, Any]:
        return {"order_id": old["order_id"], "lines": [old["cents"]], "customer": old.get("buyer", "nobody")}

    return Bought


class Sale(msgspec.Struct):
    """A document per order."""

    order_id: str
    lines: list[int] = []
    customer: str = ""
    count: int = 0


class Order(msgspec.Struct):
    """An event-sourced order."""

    order_id: str
    placed: list[tuple[list[int], str]] = []


class Handled(Entity, key="order_id", table="vhandled"):
    order_id: str
    count: int = 0


class Look(Command, key="order_id"):
    order_id: str


def _declare_shop(readers: Readers) -> None:
    shop, placed = readers.shop, readers.placed
    sales = shop.view(Sale, key="order_id", path="/vsales/{order_id}")

    @sales.on(placed)
    def sold(sale: Sale, event: Any) -> None:
        readers.note("view", event)
        sale.lines, sale.customer, sale.count = [*sale.lines, *event.lines], event.customer, sale.count + 1

    orders = shop.event_sourced(Order, key="order_id")

    @orders.on(placed)
    def ordered(order: Order, event: Any) -> None:
        readers.note("entity", event)
        order.placed.append((event.lines, event.customer))

    shop.entity(Handled)

    @shop.handle("POST /vlooks", direct=True)
    async def look(command: Look, tx: Transaction) -> list[Any]:
        order = await tx.load(Order, command.order_id)
        return [] if order is None else [(command.order_id, lines, who) for lines, who in order.placed]

    @shop.on(placed, start="beginning")
    async def react(event: Any, tx: Transaction) -> None:
        readers.note("reaction", event)

    @shop.project(placed, start="beginning")
    async def project(events: list[Any], tx: Transaction) -> None:
        for event in events:
            readers.note("project", event)


def _declare_desk(readers: Readers) -> None:
    desk, bought = readers.desk, readers.consumed
    sales = desk.view(Sale, key="order_id", name="bought", path="/vbought/{order_id}")

    @sales.on(bought)
    def sold(sale: Sale, event: Any) -> None:
        readers.note("borrowed view", event)
        sale.lines, sale.customer, sale.count = [*sale.lines, *event.lines], event.customer, sale.count + 1

    @desk.on(bought, start="beginning")
    async def notice(event: Any, tx: Transaction) -> None:
        readers.note("borrowed reaction", event)
