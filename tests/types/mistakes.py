"""Mistakes that a type checker finds before anything runs: each line that ends in `# wrong` is one, and no other is."""

# ruff: noqa: B018
from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Struct as Document
from pydantic import BaseModel

from chimera import (
    Borrowed,
    Caller,
    Command,
    Entity,
    Event,
    Forgotten,
    ModelCommand,
    ModelEvent,
    NewId,
    Personal,
    Reader,
    Reads,
    Reply,
    Request,
    Service,
    Transaction,
    View,
)

shop = Service("shop")


class Placed(Event, source="shop", key="order_id"):
    order_id: str
    amount: int


class Paid(Event, source="shop", key="order_id"):
    order_id: str


class Place(Command, key="order_id"):
    order_id: Annotated[str, NewId]
    amount: int


class Order(Entity, key="order_id"):
    order_id: str
    amount: int


class Sales(Document):
    order_id: str
    amount: int = 0


@shop.handle("POST /orders", direct=True)
async def place(command: Place, tx: Transaction, caller: Caller) -> Reply[Order]:
    order = Order(command.order_id, command.amount)
    tx.save(order)
    tx.emit(Placed(command.order_id, command.amount))
    tx.save(command)  # wrong
    tx.emit(order)  # wrong
    tx.emit(Placed(command.order_id, "much"))  # wrong
    found = await tx.load(Order, command.order_id)
    found.amount  # wrong
    caller.name  # wrong
    return Reply(order, 201)


@shop.handle("POST /other")  # wrong
def sync(command: Place, tx: Transaction) -> None: ...


@shop.get("/orders/{order_id}")
async def order(order_id: str, read: Reader, request: Request) -> Order | None:
    read.save(Order(order_id, 1))  # wrong
    request.headers["x"].decode()  # wrong
    return await read.load(Order, order_id)


@shop.get("/sync")  # wrong
def sync_query() -> None: ...


@shop.on(Placed)
async def placed(event: Placed, tx: Transaction) -> None:
    event.colour  # wrong


@shop.on(Placed)  # wrong
async def paid(event: Paid, tx: Transaction) -> None: ...


@shop.on(Placed)  # wrong
def sync_reaction(event: Placed, tx: Transaction) -> None: ...


sales = shop.view(Sales, key="order_id")


@sales.on(Placed)
def fold(sale: Sales, event: Placed) -> None:
    sale.amount += event.amount


@sales.on(Paid)  # wrong
def other(sale: Sales, event: Placed) -> None: ...


borrowed = shop.borrow("cards", Sales, mode="push")  # wrong


@shop.get("/borrowed")
async def page(read: Reader) -> Any:
    found: Borrowed[Order] = await read.borrowed(shop.borrow("cards", Sales), "k")  # wrong
    return found


@shop.share("orders", key="order_id", changed_by=[Placed])
async def shared(keys: list[str], read: Reads) -> dict[str, Sales]:
    return {key: Sales(key) for key in keys}


everything: View[Order] = sales  # wrong


class Tokens:
    def __init__(self, app: Any, secret: str) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


shop.middleware(Tokens, secret="open")
shop.middleware(Tokens, secret=5)  # wrong
shop.middleware(Tokens)  # wrong
shop.middleware(placed)  # wrong


class Refund(ModelCommand, BaseModel, key="order_id"):
    order_id: str
    cents: int


@dataclass
class Refunded(ModelEvent, source="shop", key="order_id"):
    order_id: str
    cents: int


class Balance(BaseModel):
    order_id: str
    cents: int = 0


@shop.handle("POST /refunds", direct=True)
async def refund(command: Refund, tx: Transaction) -> Balance:
    tx.emit(Refunded(command.order_id, command.cents))
    tx.emit(Refunded(command.order_id, "much"))  # wrong
    tx.emit(command)  # wrong
    tx.save(command)  # wrong
    command.colour  # wrong
    Refund(order_id=command.order_id, cents="much")  # wrong
    Refund(order_id=command.order_id)  # wrong
    until = await tx.reserve("refund", command.order_id, until="soon")  # wrong
    until.year  # wrong
    return Balance(order_id=command.order_id)


@shop.on(Refunded)
async def refunded(event: Refunded, tx: Transaction) -> None:
    event.colour  # wrong


@shop.on(Refunded)  # wrong
async def not_that(event: Placed, tx: Transaction) -> None: ...


balances = shop.view(Balance, key="order_id")


@balances.on(Refunded)
def refunded_balance(balance: Balance, event: Refunded) -> None:
    balance.cents -= event.cents


@balances.on(Refunded)  # wrong
def other_balance(balance: Sales, event: Refunded) -> None: ...


@shop.get("/balances/{order_id}")
async def balance_of(order_id: str, read: Reader) -> Balance | None:
    found = await read.view(balances, order_id)
    found.cents  # wrong
    return found


class Welcome(Command, key="user_id"):
    user_id: str
    email: Personal[str]


@shop.handle("POST /welcomes", direct=True)
async def welcome(command: Welcome, tx: Transaction) -> None:
    command.email.upper()  # wrong
    email = await tx.reveal(command.email)
    email.upper()  # wrong
    if not isinstance(email, Forgotten):
        email.upper()
    Welcome(command.user_id, "ann@example.org")  # wrong
