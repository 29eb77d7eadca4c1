"""Chimera: two-headed microservices with commands, events, O(1) views, and shared data in three strategies."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from chimera.caller import Caller, FormPart, Request, Upload
from chimera.entities import Entity, InColumn, Range
from chimera.errors import (
    ChimeraError,
    Conflict,
    DeclarationError,
    Expired,
    FieldError,
    Invalid,
    Rejected,
    SettingsError,
    Taken,
    Unavailable,
)
from chimera.folds import DELETED, View, ViewList
from chimera.messages import Command, Event, Message, ModelCommand, ModelEvent, Position
from chimera.parts import Borrow, Borrowed, Handling, NewId, rule
from chimera.personal import Forgotten, Personal, Secret, Subject
from chimera.reader import Lagging, ListPage, Reader
from chimera.reads import Reads
from chimera.replies import Cookie, Problem, Reply, ServerEvent, ServerEvents, Stream, redirect
from chimera.rules import Rule, anyone, owner_of, role, scope, somebody, tenant_of
from chimera.service import Service
from chimera.supplies import Work
from chimera.transaction import Transaction
from chimera.unique import Unique

__all__ = [
    "DELETED",
    "Application",
    "Borrow",
    "Borrowed",
    "Caller",
    "ChimeraError",
    "Command",
    "Conflict",
    "Cookie",
    "DeclarationError",
    "Entity",
    "Event",
    "Expired",
    "FieldError",
    "Forgotten",
    "FormPart",
    "Handling",
    "InColumn",
    "Invalid",
    "Lagging",
    "ListPage",
    "Message",
    "ModelCommand",
    "ModelEvent",
    "NewId",
    "Personal",
    "Position",
    "Problem",
    "Range",
    "Reader",
    "Reads",
    "Rejected",
    "Reply",
    "Request",
    "Rule",
    "Secret",
    "ServerEvent",
    "ServerEvents",
    "Service",
    "SettingsError",
    "Stream",
    "Subject",
    "Taken",
    "Transaction",
    "Unavailable",
    "Unique",
    "Upload",
    "View",
    "ViewList",
    "Work",
    "anyone",
    "asgi",
    "owner_of",
    "redirect",
    "role",
    "rule",
    "scope",
    "somebody",
    "tenant_of",
]

Side = Literal["read", "write"]
"""A head of a service."""
READ: tuple[Side, ...] = ("read",)
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Application(Protocol):
    """Services as one ASGI application, for any server, and below a path of any other application."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or run from a server's startup to its shutdown: a 503 until it is started."""

    def lifespan(self, host: object = None) -> AbstractAsyncContextManager[None]:
        """From start to stop, for a host that runs no lifespan of what is mounted in it: `FastAPI(lifespan=…)`.

        At the start engines are opened and heads begin; at the end they stop in order. Raises ChimeraError.
        """

    def in_front_of(
        self, other: Callable[[Any, Any, Any], Awaitable[None]], path: str
    ) -> Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]:
        """An application that answers below `path` as this one, and everywhere else as `other`, such as Django's.

        Raises SettingsError for a path that is none.
        """


def asgi(
    config: str | Path = "chimera.toml", *, services: Sequence[str] = (), heads: Sequence[Side] = READ
) -> Application:
    """The services of a settings file as an ASGI application; all of them unless `services` names some.

    `heads`: with `("read", "write")` the write heads work in the server's processes as well. By themselves, as
    `chimera run NAME --write`, they outlive its restarts. Settings are read when it starts, where what is wrong with
    them is one line. Raises SettingsError for heads that there are not.
    """
    return cast("Application", import_module("chimera.run.hosting").hosting(config, services, heads))
