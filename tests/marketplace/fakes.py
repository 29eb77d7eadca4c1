"""What stands for a transaction, a reader and a projector where a handler is tried by itself."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from chimera import Borrowed, Reader, Service, Transaction, View
from chimera.entities import Entity
from chimera.folds import Fold
from chimera.forms import AnyDocument
from chimera.messages import AnyEvent, Message
from chimera.parts import Borrow
from chimera.ports import WriteSession
from chimera.signature import Key
from chimera.transaction import Unit
from marketplace.gig_page.model import Gig
from marketplace.orders.model import Order
from marketplace.top_clients.model import Client
from marketplace.user_page.model import User

Doc = TypeVar("Doc", bound=AnyDocument)
Kept = TypeVar("Kept", bound=AnyDocument)
Stored = TypeVar("Stored", bound=Entity)

ENTITIES = (Order, Gig, Client, User)


class HandlersTransaction(Transaction):
    """A transaction that any service's handlers may use: keeps the events, and reads everything from the engine."""

    def __init__(self, session: WriteSession) -> None:
        service = Service("tests")
        for entity in ENTITIES:
            service.entity(entity)
        super().__init__(Unit(service, session), Message("command", "tests", "", "", "2025-05-04T23:59:00Z", b"", 0))
        self.emitted: list[AnyEvent] = []

    async def load(self, entity: type[Kept], *key: Any) -> Kept | None:
        await self._flush()
        self._unit.rows.clear()
        return await super().load(entity, *key)

    def emit(self, event: AnyEvent) -> None:
        self.emitted.append(event)

    def new_id(self) -> str:
        return "made-1"


class FakeReader(Reader):
    """A transaction's rows, no views yet, and an owner who is down."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def load(self, entity: type[Kept], *key: Any) -> Kept | None:
        return await self._tx.load(entity, *key)

    async def find(self, entity: type[Stored], **where: Any) -> list[Stored]:
        return await self._tx.find(entity, **where)

    async def view(self, view: View[Doc], key: Key) -> Doc | None:
        return view.new(str(key))

    async def borrowed(self, borrow: Borrow[Doc], key: Key) -> Borrowed[Doc]:
        return Borrowed(None, "absent", None)


class Folded(Protocol):
    """The document of one key after these events, each through the wire format; None when none of them touched it."""

    def __call__(self, view: Fold[Doc], key: str, *events: AnyEvent) -> Doc | None: ...
