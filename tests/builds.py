"""Builds of a small shop, from text: each is a module of its own, which is gone when the next one runs."""

from __future__ import annotations

import itertools
import sys
from types import ModuleType

import pytest

from chimera import Event, Service

SHOP = """
from msgspec import Struct
from chimera import Command, Entity, Event, Service, Transaction

shop = Service("shop", partitions=2)

@shop.entity
class Mail(Entity, key="order_id", table="mails"):
    order_id: str
    count: int = 0

class Place(Command, key="order_id"):
    order_id: str

class Placed(Event, source="shop", key="order_id"):
    order_id: str

class Sale(Struct):
    order_id: str
    count: int = 0

@shop.handle("POST /orders")
async def place(command: Place, tx: Transaction) -> None:
    tx.emit(Placed(command.order_id))

@shop.on(Placed)
async def send_mail(event: Placed, tx: Transaction) -> None:
    mail = await tx.load(Mail, event.order_id) or Mail(event.order_id)
    tx.save(Mail(event.order_id, mail.count + 1))

sales = shop.view(Sale, key="order_id", path="/orders/{order_id}")

@sales.on(Placed)
def placed(sale: Sale, event: Placed) -> None:
    sale.count += 1
"""
LOADED: list[str] = []
_ids = itertools.count(1)


def forget(name: str) -> None:
    """A build's code is gone, as when its process has ended."""
    LOADED.remove(name)
    module = sys.modules.pop(name)
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Event) and value is not Event:
            value.__source__ = "nobody"  # a class may outlive its module in some cache
    module.__dict__.clear()


def forget_all() -> None:
    """No build runs any more."""
    while LOADED:
        forget(LOADED[-1])


def build(*changes: tuple[str, str], text: str = SHOP, keep: bool = False) -> Service:
    """A build of the shop, with some of its code changed; the one before it is forgotten unless it runs beside it."""
    if not keep:
        forget_all()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    name = f"build_{next(_ids)}"
    module = ModuleType(name)
    sys.modules[name] = module
    LOADED.append(name)
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    found = module.__dict__["shop"]
    assert isinstance(found, Service)
    return found


def hide_others_events(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the events of a source that other tests of this process have declared: they live on in their modules."""
    for each in Event.__subclasses__():
        if each.__source__ == source and each.__module__ not in LOADED:
            monkeypatch.setattr(each, "__source__", "nobody")
