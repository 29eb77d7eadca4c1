"""Declaring a service. A declaration is data: it opens nothing and runs nothing."""

from __future__ import annotations

import inspect
import os
import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from chimera.entities import Entity
from chimera.errors import DeclarationError
from chimera.folds import Absent, Doc_co, Fold, KeyOf, Page, View, key_of_event
from chimera.messages import Command, Event, RenamedFrom, names_of, types_of

Doc = TypeVar("Doc", bound=msgspec.Struct)
Result = TypeVar("Result")
AnyEntity = TypeVar("AnyEntity", bound=Entity)
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

Mode = Literal["sync", "async", "hybrid"]
MODES: tuple[Mode, ...] = ("sync", "async", "hybrid")
Start = Literal["now", "beginning"]
STARTS: tuple[Start, ...] = ("now", "beginning")
AllKeys = Callable[..., Awaitable[Iterable[str]]]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_PARAMETER = re.compile(r"\{(\w+)\}")


class Reply(typing.NamedTuple, Generic[Result]):
    """An answer with its HTTP status, for a direct command's handler to return: 201 for created, 200 for replaced."""

    body: Result
    status: int = 200


Seconds = Annotated[float, msgspec.Meta(ge=0, le=604_800)]


class Handling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a handler runs, declared or set; what is None is as it is set elsewhere.

    `limit_s`: after so many seconds, those of its SQL included, it is stopped and counts as failed (10 unless it is
    set). What failed is tried again, `tries` times in all (30), after pauses of `first_s` seconds (0.2) that double, up
    to `longest_s` (60); later messages of its key wait. Then it is parked.
    """

    limit_s: Annotated[float, msgspec.Meta(gt=0, le=604_800)] | None = None
    tries: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    first_s: Seconds | None = None
    longest_s: Seconds | None = None

    def over(self, other: Handling) -> Handling:
        """This, and what the other says where this says nothing."""
        own = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(other, **own)


AS_SET = Handling()
"""As it is set, or as ever."""


class Handler(typing.NamedTuple):
    """The handler of one command. `route` is `METHOD /path`, or None for a command without a route.

    `direct`: it runs inside the request. `location`: the Location header of a 201. `result`: the type that the function
    is annotated to return.
    """

    command: type[Command]
    function: Callable[..., Awaitable[object]]
    route: str | None
    direct: bool
    location: str | None
    result: object
    handling: Handling = AS_SET


class Query(typing.NamedTuple):
    """A read that is more than a view: a function of the path's and the query's parameters and a Reader."""

    route: str
    function: Callable[..., Awaitable[object]]
    page: Page | None


class Share(typing.NamedTuple):
    """The export of an owner: documents by key. Any of the events in `changed_by` may change the document of its key.

    `keys` tells every key that has a document, for those whose documents were never emitted. `also` are its other
    names.
    """

    name: str
    document: object
    function: Callable[..., Awaitable[Mapping[str, object]]]
    changed_by: Mapping[type[Event], KeyOf]
    keys: AllKeys | None = None
    also: tuple[str, ...] = ()


class Borrow(Generic[Doc_co]):
    """The use of another service's share, and how it is got at unless it is set otherwise.

    `budget`: seconds that a read may wait for the owner; `max_age`: seconds after which a copy is stale whose owner was
    not heard of.
    """

    def __init__(
        self, owner: str, share: str, document: type[Doc_co], mode: Mode, budget: float, max_age: float
    ) -> None:
        self.owner = owner
        self.share = share
        self.document = document
        self.mode = mode
        self.budget = budget
        self.max_age = max_age

    @property
    def name(self) -> str:
        """The name of the borrow, which is the share's."""
        return self.share


class Reaction(typing.NamedTuple):
    """Work done on events inside a transaction of the service's own store, together with its checkpoint.

    `name` is that of its checkpoints, `also` are its other names. `start`: where it begins in a source that has a past.
    """

    name: str
    events: tuple[type[Event], ...]
    function: Callable[..., Awaitable[None]]
    batch: bool
    start: Start | None = None
    also: tuple[str, ...] = ()
    handling: Handling = AS_SET

    @property
    def sources(self) -> list[str]:
        """The services whose events it takes, in order."""
        return sorted({event.__source__ for event in self.events})

    @property
    def types(self) -> set[str]:
        """The types on the wire of the events that it takes."""
        return {type_ for event in self.events for type_ in event.wire_types()}


class Service:
    """A bounded context: its commands, entities, events, views, what it shares and what it borrows.

    `name` is lower case letters, digits and dashes; it names the service on the wire and in addresses.
    `partitions` is the number of partitions of its journal and its command log; it can't change later. `forgot`: the
    names that were given up, by what they named (events, commands, views, reactions, tables, shares).
    """

    def __init__(self, name: str, *, partitions: int = 8) -> None:
        if not _NAME.fullmatch(name):
            raise DeclarationError(f"{name!r} can't name a service; use lower case letters, digits and dashes")
        if not 1 <= partitions <= 256:
            raise DeclarationError(f"service {name}: partitions is from 1 to 256, not {partitions}")
        self.name = name
        self.partitions = partitions
        self.declared_at = _declared_at()
        self._read: frozenset[str] | set[str] = frozenset()
        self.forgot: dict[str, frozenset[str]] = {}
        self.entities: dict[type[Entity], None] = {}
        self.folds: dict[type[msgspec.Struct], Fold[msgspec.Struct]] = {}
        self.handlers: dict[str, Handler] = {}
        self.queries: dict[str, Query] = {}
        self.views: dict[str, View[msgspec.Struct]] = {}
        self.shares: dict[str, Share] = {}
        self.borrows: dict[str, Borrow[msgspec.Struct]] = {}
        self.reactions: dict[str, Reaction] = {}
        self.statements: dict[str, tuple[str, ...]] = {}

    def entity(self, entity: type[AnyEntity]) -> type[AnyEntity]:
        """Declare an entity stored as rows; usable as a decorator."""
        self.entities[entity] = None
        return entity

    def event_sourced(self, document: type[Doc], *, key: str) -> Fold[Doc]:
        """Declare an entity whose state is folded from its own events in the journal: `tx.load(document, key)`."""
        fold = Fold(document, key)
        self.folds[document] = fold
        return fold

    def forgotten(
        self,
        *,
        events: Sequence[str] = (),
        commands: Sequence[str] = (),
        views: Sequence[str] = (),
        reactions: Sequence[str] = (),
        tables: Sequence[str] = (),
        shares: Sequence[str] = (),
    ) -> None:
        """Give up names under which something is stored, so that the start does not miss them; what is stored stays.

        Events of such a type are passed over by whoever reads the journal. Without this, the start refuses when an
        event in the journal has a type that no class is read from, or when something else has appeared beside what is
        gone, because that looks like a rename: `renamed_from=` says that it is one.
        """
        given = {
            "events": events,
            "commands": commands,
            "views": views,
            "reactions": reactions,
            "tables": tables,
            "shares": shares,
        }
        for what, gone in given.items():
            self.forgot[what] = self.forgot.get(what, frozenset()) | ({gone} if isinstance(gone, str) else {*gone})

    def reads(self, type_: str) -> bool:
        """True for a type in this service's journal that a class is read from, or that was given up, or of a share."""
        if type_ not in self._read and type_.startswith(f"{self.name}."):
            given_up = {f"{self.name}.{name}" for name in self.forgot.get("events", ())}
            self._read = types_of(self.name) | given_up
        return type_ in self._read or type_.startswith(f"{self.name}.share.") or not type_.startswith(f"{self.name}.")

    def schema(self, statements: Mapping[str, Sequence[str]]) -> None:
        """SQL of the service's own, by dialect, run when the store is opened; it must be idempotent."""
        for dialect, lines in statements.items():
            self.statements[dialect] = (*self.statements.get(dialect, ()), *lines)

    def handle(
        self,
        route: str | None = None,
        *,
        direct: bool = False,
        location: str | None = None,
        handling: Handling = AS_SET,
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Handle the command that the decorated function's first parameter names; its second is the Transaction.

        `route`, such as `POST /orders/{order_id}/stage`, is where the read head accepts it; parameters of
        the path are fields of the command. `direct` runs the handler inside the request, in a transaction
        on the source of truth, and answers with what the handler returns. `location`, such as
        `/orders/{order_id}`, is the Location header of a 201. `handling` says how long it may take and how often it is
        tried; settings have the last word.
        """

        def declare(function: AnyFunction) -> AnyFunction:
            hints = _hints(function)
            command = hints.get(next(iter(inspect.signature(function).parameters), ""))
            if not (isinstance(command, type) and issubclass(command, Command)):
                raise DeclarationError(f"{function.__name__}: its first parameter must be annotated with a Command")
            if not command.__key_fields__:
                raise DeclarationError(f'{command.__name__} needs a key: class {command.__name__}(Command, key="…")')
            self._check_route(route, command.__struct_fields__)
            for other in self.handlers.values():
                if other.command is not command and not set(command.__names__).isdisjoint(other.command.__names__):
                    raise DeclarationError(
                        f"{located(function)}: service {self.name} handles a command of the same name at "
                        f"{located(other.function)}: give {command.__name__} another, as in: class "
                        f'{command.__name__}(Command, key="…", name="{command.__name__}2")'
                    )
            self._add(
                self.handlers,
                command.__names__[0],
                Handler(command, function, route, direct, location, hints.get("return"), handling),
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
        renamed_from: RenamedFrom = (),
        absent: Absent = "404",
        page: Page | None = None,
        version: str | int = "",
    ) -> View[Doc]:
        """Declare a view; `path` serves its documents by key, such as `/sellers/{seller_id}/sales?by=day`.

        `absent` says what is served for a key without a document: a 404, or the document as it is
        before its first event.

        `name` (that of the document unless given) is the one under which its documents are stored. Once it is, the same
        view of another name is declared with `renamed_from="sales"`, and stays stored as it is. A view begins at the
        beginning of its events.

        When the document or one of its functions changes, the view is built anew beside the old one. `version` is for
        what can't be seen of a change, such as one in a helper: another version is another view to build.
        """
        stored, *also = names_of(name or _snake(document.__name__), None, renamed_from)
        if "~" in stored:
            raise DeclarationError(f"view {stored}: its name must not hold ~, which numbers its generations")
        view = View(stored, document, key, path, absent, page, version, tuple(also), _declared_at())
        if path and _PARAMETER.findall(path) != [key]:
            raise DeclarationError(f"view {view.name}: its path must hold {{{key}}} and no other parameter")
        self._add(self.views, view.name, view, "view")
        return view

    def share(
        self,
        name: str,
        *,
        key: str,
        changed_by: Sequence[type[Event]],
        keys: AllKeys | None = None,
        renamed_from: RenamedFrom = (),
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Export what the decorated function returns: a document for each key asked for that has one.

        The function takes the keys and Reads; it is annotated with the dict it returns. The same rows must give
        the same document, whenever it is asked. Whenever an event of `changed_by` is emitted, the new document of
        the event's `key` goes into the journal in the same transaction, for those who keep copies.

        A share that is added to a service with data says with `keys` which keys there are:
        `async def every_key(read: Reads) -> list[str]`. Their documents are then put into the journal once.

        A share that is called otherwise now is declared with `renamed_from=`; who borrows it goes on by the old name.
        """
        stored, *also = names_of(name, None, renamed_from)

        def declare(function: AnyFunction) -> AnyFunction:
            arguments = typing.get_args(_hints(function).get("return"))
            if len(arguments) != 2:
                raise DeclarationError(f"{function.__name__}: annotate what it returns, as dict[str, YourDocument]")
            events = {event: key_of_event(event, key) for event in changed_by}
            for event in events:
                if event.__source__ != self.name:
                    raise DeclarationError(
                        f"share {name}: {event.__name__} is owned by {event.__source__!r}, not {self.name!r}"
                    )
            self._add(self.shares, stored, Share(stored, arguments[1], function, events, keys, tuple(also)), "share")
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
        renamed_from: str | None = None,
    ) -> Borrow[Doc]:
        """Use what `owner` (the service of the share's name unless given) shares, as `document`.

        `budget` is the seconds that a read may wait for the owner. A copy whose owner has not been
        heard of for `max_age` seconds is marked stale. `renamed_from`: the name by which the owner still knows the
        share.
        """
        if mode not in MODES:
            raise DeclarationError(f"borrow {share}: mode is one of {', '.join(MODES)}, not {mode!r}")
        known = renamed_from or share
        borrow = Borrow(owner or share, known, document, mode, budget, max_age)
        self._add(self.borrows, known, borrow, "borrow")
        return borrow

    def on(
        self,
        event: type[Event],
        *,
        name: str | None = None,
        renamed_from: RenamedFrom = (),
        start: Start | None = None,
        handling: Handling = AS_SET,
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Do work for each such event: `async def function(event, tx)`, once, in order by key, parked if it fails.

        `name` (that of the function unless given) is the one of its checkpoints. Once there are some, the same work in
        a function of another name is declared with `renamed_from="send_mail"`, and goes on where it is. `start` says
        where new work begins when there are events already: with those from `"now"` on, or at the `"beginning"`; it
        means nothing later. `handling` as for `handle`.
        """
        return self._react((event,), name, renamed_from, start, handling, batch=False)

    def project(
        self,
        *events: type[Event],
        name: str | None = None,
        renamed_from: RenamedFrom = (),
        start: Start | None = None,
        handling: Handling = AS_SET,
    ) -> Callable[[AnyFunction], AnyFunction]:
        """Do work for batches of such events: `async def function(events, tx)`, in the checkpoint's transaction.

        `name`, `renamed_from` and `start` as in `on`; `handling` as for `handle`, its limit is that of a batch.
        """
        return self._react(events, name, renamed_from, start, handling, batch=True)

    def _react(
        self,
        events: tuple[type[Event], ...],
        name: str | None,
        renamed_from: RenamedFrom,
        start: Start | None,
        handling: Handling,
        *,
        batch: bool,
    ) -> Callable[[AnyFunction], AnyFunction]:
        def declare(function: AnyFunction) -> AnyFunction:
            if start is not None and start not in STARTS:
                raise DeclarationError(f"{located(function)}: start is one of {', '.join(STARTS)}, not {start!r}")
            stored, *also = names_of(function.__name__, name, renamed_from)
            reaction = Reaction(stored, events, function, batch, start, tuple(also), handling)
            self._add(self.reactions, stored, reaction, "reaction")
            return function

        return declare

    def _add(self, declared: dict[str, Any], name: str, what: object, word: str) -> None:
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


def located(function: Callable[..., object]) -> str:
    """The file and line of a function, such as `shop.py:12`; the file as seen from the current folder."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return at_line(code.co_filename, code.co_firstlineno) if code else repr(function)


def at_line(path: str, line: int) -> str:
    """A place in a file, as it is told to people."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # another drive
        near = path
    return f"{path if near.startswith('..') else near}:{line}"


def _declared_at() -> str:
    """The place outside this module that is declaring something now."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    assert frame is not None
    return at_line(frame.f_code.co_filename, frame.f_lineno)


def path_parameters(path: str) -> list[str]:
    """The names between braces in a path, in order."""
    return _PARAMETER.findall(path)


def _hints(function: Callable[..., object]) -> dict[str, object]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{function.__name__}: {error}; annotations must be importable where it is declared"
        ) from error


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
