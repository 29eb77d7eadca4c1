from typing import Self

from msgspec import Struct

from chimera import Borrowed, Command, Event
from chimera.parts import State
from marketplace.types import Id, Line


class AddClient(Command, key="seller_id"):
    seller_id: Id
    name: Line
    client_id: Id | None = None
    industry: Line | None = None


class RemoveClient(Command, key="seller_id"):
    seller_id: Id
    client_id: Id


class ClientAdded(Event, source="top-clients", key="seller_id"):
    seller_id: str
    client_id: str
    name: str
    industry: str | None = None


class ClientRemoved(Event, source="top-clients", key="seller_id"):
    seller_id: str
    client_id: str


class TopClient(Struct):
    client_id: str
    name: str
    industry: str | None = None


class TopClients(Struct):
    """What is shared as `top-clients`: a seller's clients, in the order in which they were added."""

    seller_id: str
    clients: list[TopClient]


class ShownClients(Struct):
    """How borrowers show a seller's clients: whatever the owner does, there is something to show."""

    state: State
    age_s: float | None
    clients: list[TopClient]

    @classmethod
    def of(cls, borrowed: Borrowed[TopClients]) -> Self:
        age_s = None if borrowed.age is None else round(borrowed.age, 3)
        return cls(borrowed.state, age_s, borrowed.value.clients if borrowed.value else [])
