"""Declaring a service. A declaration is data: it opens nothing and runs nothing."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from chimera.entities import Entity
from chimera.errors import DeclarationError
from chimera.messages import Command, Event

Doc = TypeVar("Doc", bound=msgspec.Struct)
Ev = TypeVar("Ev", bound=Event)
Result = TypeVar("Result")
AnyEntity = TypeVar("AnyEntity", bound=Entity)
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

Mode = Literal["sync", "async", "hybrid"]
MODES: tuple[Mode, ...] = ("sync", "async", "hybrid")
AllKeys = Callable[..., Awaitable[Iterable[str]]]
KeyOf = Callable[[Any], "str | Iterable[str]"]
Page = Callable[[Any], str]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_PARAMETER = re.compile(r"\{(\w+)\}")


class _Deleted:
    """The type of DELETED."""

    def __repr__(self) -> str:
        return "DELETED"


DELETED = _Deleted()
"""What a projection returns to remove the document."""


class Fold(Generic[Doc]):
    """A document type and, for each event, a pure function that folds the event into the document."""

    def __init__(self, document: type[Doc], key: str) -> None:
        if key not in document.__struct_fields__:
            raise DeclarationError(f"{document.__name__} has no field {key!r} to be its key")
        self.document = document
        self.key = key
        self.steps: dict[type[Event], tuple[KeyOf, Callable[[Any, Any], Any]]] = {}

    def on(
        self, event: type[Ev], *, key: str | Callable[[Ev], str | Iterable[str]] | None = None
    ) -> Callable[[Callable[[Doc, Ev], Any]], Callable[[Doc, Ev], Any]]:
        """Fold `event` by the decorated function: it changes the document it is given, or returns a new one or DELETED.

        The document's key is the event's field of the same name, or the field `key` names, or what the
        function `key` returns for the event: one key or several.
        """
        key_of = _key_of(event, key if key is not None else self.key)

        def declare(step: Callable[[Doc, Ev], Any]) -> Callable[[Doc, Ev], Any]:
            if event in self.steps:
                raise DeclarationError(f"{self.document.__name__} already folds {event.__name__}")
            self.steps[event] = (key_of, step)
            return step

        return declare

    def new(self, key: str) -> Doc:
        """The document before its first event."""
        return self.document(**{self.key: key})

    @property
    def sources(self) -> set[str]:
        return {event.__source__ for event in self.steps}


class View(Fold[Doc]):
    """Documents by key, folded from events, read in O(1)."""

    def __init__(
        self,
        name: str,
        document: type[Doc],
        key: str,
        path: str | None,
        absent: Absent,
        page: Page | None,
        version: str | int = "",
    ) -> None:
        super().__init__(document, key)
        self.name = name
        self.path = path
        self.absent = absent
        self.page = page
        self.version = version


Absent = Literal["404", "empty"]


class Reply(typing.NamedTuple, Generic[Result]):
    """What a direct command's handler may return to choose the HTTP status: 201 for created, 200 for replaced."""

    body: Result
    status: int = 200


class Handler(typing.NamedTuple):
    """How one command is handled. `route` is `METHOD /path`, or None for a command without a route."""

    command: type[Command]
    function: Callable[..., Awaitable[Any]]
    route: str | None
    direct: bool
    location: str | None
    result: Any


class Query(typing.NamedTuple):
    """A read that is more than a view: a function of the path's and the query's parameters and a Reader."""

    route: str
    function: Callable[..., Awaitable[Any]]
    page: Page | None


class Share(typing.NamedTuple):
    """What an owner exports by key. Any of the events in `changed_by` may change the document of its key.

    `keys` tells every key that has a document, for those whose documents were never emitted.
    """

    name: str
    document: Any
    function: Callable[..., Awaitable[Mapping[str, Any]]]
    changed_by: Mapping[type[Event], KeyOf]
    keys: AllKeys | None = None


class Borrow(Generic[Doc]):
    """What a service uses of another's share, and how it gets at it unless it is set otherwise."""

    def __init__(self, owner: str, share: str, document: type[Doc], mode: Mode, budget: float, max_age: float) -> None:
        self.owner = owner
        self.share = share
        self.document = document
        self.mode = mode
        self.budget = budget
        self.max_age = max_age

    @property
    def name(self) -> str:
        return self.share


class Reaction(typing.NamedTuple):
    """Work done on events inside a transaction of the service's own store, together with its checkpoint."""

    name: str
    events: tuple[type[Event], ...]
    function: Callable[..., Awaitable[None]]
    batch: bool


class Service:
    """A bounded context: its commands, entities, events, views, what it shares and what it borrows.

    `name` is lower case letters, digits and dashes; it names the service on the wire and in addresses.
    `partitions` is the number of partitions of its journal and its command log; it can't change later.
    """

    def __init__(self, name: str, *, partitions: int = 8) -> None:
        if not _NAME.fullmatch(name):
            raise DeclarationError(f"{name!r} can't name a service; use lower case letters, digits and dashes")
        if not 1 <= partitions <= 256:
            raise DeclarationError(f"service {name}: partitions is from 1 to 256, not {partitions}")
        self.name = name
        self.partitions = partitions
        self.entities: dict[type[Entity], None] = {}
        self.folds: dict[type[msgspec.Struct], Fold[Any]] = {}
        self.handlers: dict[str, Handler] = {}
        self.queries: dict[str, Query] = {}
        self.views: dict[str, View[Any]] = {}
        self.shares: dict[str, Share] = {}
        self.borrows: dict[str, Borrow[Any]] = {}
        self.reactions: dict[str, Reaction] = {}
        self.statements: dict[str, tuple[str, ...]] = {}

    def entity(self, entity: type[AnyEntity]) -> type[AnyEntity]:
        """Declare an entity kept as rows; usable as a decorator."""
        self.entities[entity] = None
        return entity

    def event_sourced(self, document: type[Doc], *, key: str) -> Fold[Doc]:
        """Declare an entity whose state is folded from its own events in the journal: `tx.load(document, key)`."""
        fold = Fold(document, key)
        self.folds[document] = fold
        return fold

    def schema(self, statements: Mapping[str, Sequence[str]]) -> None:
        """SQL of the service's own, by dialect, run when the store is opened; it must be idempotent."""
        for dialect, lines in statements.items():
            self.statements[dialect] = (*self.statements.get(dialect, ()), *lines)

    def handle(
        self, route: str | None = None, *, direct: bool = False, location: str | None = None
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Handle the command that the decorated function's first parameter names; its second is the Transaction.

        `route`, such as `POST /orders/{order_id}/stage`, is where the read head accepts it; parameters of
        the path are fields of the command. `direct` runs the handler inside the request, in a transaction
        on the source of truth, and answers with what the handler returns. `location`, such as
        `/orders/{order_id}`, is the Location header of a 201.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            hints = _hints(function)
            command = hints.get(next(iter(inspect.signature(function).parameters), ""))
            if not (isinstance(command, type) and issubclass(command, Command)):
                raise DeclarationError(f"{function.__name__}: its first parameter must be annotated with a Command")
            if not command.__key_fields__:
                raise DeclarationError(f'{command.__name__} needs a key: class {command.__name__}(Command, key="…")')
            self._check_route(route, command.__struct_fields__)
            self._add(
                self.handlers,
                command.__name__,
                Handler(command, function, route, direct, location, hints.get("return")),
                "command",
            )
            return function

        return declare

    def get(self, path: str, *, page: Page | None = None) -> Callable[[AnyFunction], AnyFunction]:
        """Answer GET by the decorated function: parameters named in the path, others from the query, and a Reader.

        None becomes a 404. `page` renders the answer as HTML for those who accept it. The function only reads: where
        rows change while it does, it is called once more.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            self._check_route(f"GET {path}", tuple(inspect.signature(function).parameters))
            self._add(self.queries, path, Query(f"GET {path}", function, page), "path")
            return function

        return declare

    def view(
        self,
        document: type[Doc],
        *,
        key: str,
        path: str | None = None,
        name: str | None = None,
        absent: Absent = "404",
        page: Page | None = None,
        version: str | int = "",
    ) -> View[Doc]:
        """Declare a view; `path` serves its documents by key, such as `/sellers/{seller_id}/sales?by=day`.

        `absent` says what is served for a key without a document: a 404, or the document as it is
        before its first event.

        When the document or one of its functions changes, the view is built anew beside the old one. `version` is for
        what can't be seen of a change, such as one in a helper: another version is another view to build.
        """
        view = View(name or _snake(document.__name__), document, key, path, absent, page, version)
        if "~" in view.name:
            raise DeclarationError(f"view {view.name}: its name must not hold ~, which numbers its generations")
        if path and _PARAMETER.findall(path) != [key]:
            raise DeclarationError(f"view {view.name}: its path must hold {{{key}}} and no other parameter")
        self._add(self.views, view.name, view, "view")
        return view

    def share(
        self, name: str, *, key: str, changed_by: Sequence[type[Event]], keys: AllKeys | None = None
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Export what the decorated function returns: a document for each key asked for that has one.

        The function takes the keys and Reads; it is annotated with the dict it returns. The same rows must give
        the same document, whenever it is asked. Whenever an event of `changed_by` is emitted, the new document of
        the event's `key` goes into the journal in the same transaction, for those who keep copies.

        A share that is added to a service with data says with `keys` which keys there are:
        `async def every_key(read: Reads) -> list[str]`. Their documents are then put into the journal once.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            arguments = typing.get_args(_hints(function).get("return"))
            if len(arguments) != 2:
                raise DeclarationError(f"{function.__name__}: annotate what it returns, as dict[str, YourDocument]")
            events = {event: _key_of(event, key) for event in changed_by}
            for event in events:
                if event.__source__ != self.name:
                    raise DeclarationError(
                        f"share {name}: {event.__name__} is owned by {event.__source__!r}, not {self.name!r}"
                    )
            self._add(self.shares, name, Share(name, arguments[1], function, events, keys), "share")
            return function

        return declare

    def borrow(
        self,
        share: str,
        document: type[Doc],
        *,
        mode: Mode = "sync",
        budget: float = 0.05,
        max_age: float = 5.0,
        owner: str | None = None,
    ) -> Borrow[Doc]:
        """Use what `owner` (the service of the share's name unless given) shares, as `document`.

        `budget` is the seconds that a read may wait for the owner. A copy whose owner has not been
        heard of for `max_age` seconds is marked stale.
        """
        if mode not in MODES:
            raise DeclarationError(f"borrow {share}: mode is one of {', '.join(MODES)}, not {mode!r}")
        borrow = Borrow(owner or share, share, document, mode, budget, max_age)
        self._add(self.borrows, share, borrow, "borrow")
        return borrow

    def on(self, event: type[Event]) -> Callable[[AnyFunction], AnyFunction]:
        """Do work for each such event: `async def function(event, tx)`, once, in order by key, parked if it fails."""

        def declare(function: AnyFunction) -> AnyFunction:
            self._add(
                self.reactions,
                function.__name__,
                Reaction(function.__name__, (event,), function, batch=False),
                "reaction",
            )
            return function

        return declare

    def project(self, *events: type[Event]) -> Callable[[AnyFunction], AnyFunction]:
        """Do work for batches of such events: `async def function(events, tx)`, in the checkpoint's transaction."""

        def declare(function: AnyFunction) -> AnyFunction:
            self._add(
                self.reactions, function.__name__, Reaction(function.__name__, events, function, batch=True), "reaction"
            )
            return function

        return declare

    def _add(self, declared: dict[str, Any], name: str, what: Any, word: str) -> None:
        if name in declared:
            raise DeclarationError(f"service {self.name} already has a {word} {name!r}")
        declared[name] = what

    def _check_route(self, route: str | None, names: Sequence[str]) -> None:
        if route is None:
            return
        method, _, path = route.partition(" ")
        if method not in ("GET", "POST", "PUT", "PATCH", "DELETE") or not path.startswith("/"):
            raise DeclarationError(f"{route!r} is not a route; a route looks like: POST /orders/{{order_id}}/stage")
        for parameter in _PARAMETER.findall(path):
            if parameter not in names:
                raise DeclarationError(
                    f"{route}: nothing takes its parameter {parameter!r}; there are: {', '.join(names)}"
                )


def path_parameters(path: str) -> list[str]:
    """The names between braces in a path, in order."""
    return _PARAMETER.findall(path)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{function.__name__}: {error}; annotations must be importable where it is declared"
        ) from error


def _key_of(event: type[Event], key: str | Callable[[Any], Any]) -> KeyOf:
    if not event.__source__ or not event.__key_fields__:
        raise DeclarationError(
            f'{event.__name__} needs an owner and a key: class {event.__name__}(Event, source="…", key="…")'
        )
    if callable(key):
        return key
    if key not in event.__struct_fields__:
        raise DeclarationError(f"{event.__name__} has no field {key!r}; name the field that holds the key with key=…")
    return lambda happened: str(getattr(happened, key))


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
