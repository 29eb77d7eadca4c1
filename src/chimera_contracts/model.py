"""A service's contract, as data: what it promises, what it reads of others; and what a comparison of them finds."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct, field

from chimera_contracts.schemas import Schema

Wholly = Literal["all"]


class EventPromise(Struct, kw_only=True, omit_defaults=True):
    """An event: its key and its names, the first of which is sent; what its class reads, and all that was ever written.

    `stored` is by version. In it what some event may lack is not required. `upgrades`: the versions that are upgraded.
    """

    key: str
    names: list[str]
    schema: Schema
    stored: dict[str, Schema]
    version: int = 1
    upgrades: list[int] = []


class CommandPromise(Struct, kw_only=True, omit_defaults=True):
    """A command that clients send; `schema` is what is accepted."""

    key: str
    names: list[str]
    schema: Schema
    route: str = ""
    wrapped: str = ""


class SharePromise(Struct, kw_only=True, omit_defaults=True):
    """A share: the documents that borrowers get, and all that was ever written."""

    keys: Schema
    names: list[str]
    schema: Schema
    stored: Schema


class ListPromise(Struct, kw_only=True, omit_defaults=True):
    """A list that is served."""

    path: str
    where: list[str] = []
    order: list[str] = []


class ViewPromise(Struct, kw_only=True, omit_defaults=True):
    """A view that is served, or that has lists which are."""

    schema: Schema
    path: str = ""
    lists: dict[str, ListPromise] = {}


class Promised(Struct, kw_only=True, omit_defaults=True):
    """What a service promises, each by the name that is stored or sent; `forgotten`: the names that were given up."""

    partitions: int
    events: dict[str, EventPromise] = {}
    commands: dict[str, CommandPromise] = {}
    shares: dict[str, SharePromise] = {}
    views: dict[str, ViewPromise] = {}
    forgotten: dict[str, list[str]] = {}


class EventUse(Struct, kw_only=True, omit_defaults=True):
    """What one reader of an event reads: its fields, and what its own class needs, where that is not the owner's.

    `names` are those that its own class is read from. `strange` is read and not there. `perhaps` as well, where the
    reader is handed other events too, which may have it.
    """

    fields: list[str] | Wholly
    own: Schema | None = None
    names: list[str] = []
    version: int = 1
    upgrades: list[int] = []
    strange: list[str] = []
    perhaps: list[str] = []


class ShareUse(Struct, kw_only=True, omit_defaults=True):
    """What a borrower reads of a share: what its own class needs, where that is not the owner's."""

    fields: list[str] | Wholly
    own: Schema | None = None


class Uses(Struct, kw_only=True, omit_defaults=True):
    """What a service reads: of events by their type and reader, of shares by `owner/share`."""

    events: dict[str, dict[str, EventUse]] = {}
    shares: dict[str, ShareUse] = {}


class ServiceContract(Struct, kw_only=True, omit_defaults=True):
    """What a service promises, and what it uses."""

    promises: Promised
    uses: Uses = field(default_factory=Uses)


Contracts = dict[str, ServiceContract]
"""The contracts of a fleet, by service."""

CLIENTS = "clients"
"""Whoever comes from outside: nobody knows what they read."""


class Break(NamedTuple):
    """What a change would break: where, which consumer, what of it reads, what is wrong in words, what to do.

    `may_be_accepted`: it can be right, which only people know; with `chimera contract export --accept PLACE` it is.
    """

    place: str
    consumer: str
    reader: str
    says: str
    todo: str
    may_be_accepted: bool = False

    @property
    def line(self) -> str:
        """It in one line."""
        whom = f" — it breaks {self.consumer}{f' ({self.reader})' if self.reader else ''}" if self.consumer else ""
        accept = (
            f"; if that is right, type: chimera contract export --accept {self.place}" if self.may_be_accepted else ""
        )
        return f"{self.place}: {self.says}{whom}; {self.todo}{accept if self.may_be_accepted else ''}"


class First(NamedTuple):
    """One service that has to be deployed before another one, and why."""

    first: str
    then: str
    why: str

    @property
    def line(self) -> str:
        """It in one line."""
        return f"deploy {self.first} before {self.then}: {self.why}"


class FoundBreaks(NamedTuple):
    """What a change would break, and in which order services are deployed."""

    breaks: list[Break]
    order: list[First]
