"""The parts of a service as it declares them: data that opens nothing and runs nothing."""

from __future__ import annotations

import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from chimera.caller import Caller, Request
from chimera.errors import DeclarationError
from chimera.forms import AnyDocument, cached, is_declared
from chimera.messages import AnyCommand, AnyEvent, type_at
from chimera.rules import Decide, Rule
from chimera.signature import Key, KeyOf, Page, Signature, is_list, signature_of, type_name

Doc_co = TypeVar("Doc_co", bound=AnyDocument, covariant=True)
Value = TypeVar("Value")

Mode = Literal["sync", "async", "hybrid"]
MODES: tuple[Mode, ...] = ("sync", "async", "hybrid")
Start = Literal["now", "beginning"]
STARTS: tuple[Start, ...] = ("now", "beginning")
AllKeys = Callable[..., Awaitable[Iterable[Key]]]

_PARAMETER = re.compile(r"\{(\w+)\}")


class NewId:
    """Marks the key of a command as one that is made where it is not given: `order_id: Annotated[str, NewId]`."""


@cached
def is_made(command: type[AnyCommand]) -> bool:
    """True for a command whose key is made where it is not given: it is an `Annotated[str, NewId]`, and not inside."""
    key = command.__key_fields__[0]
    hint = type_at(command, key)
    return "." not in key and any(
        each is NewId or isinstance(each, NewId) for each in getattr(hint, "__metadata__", ())
    )


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
    is annotated to return. `wrapped`: the one field of a body in which the command is. `allow`: who may send it.
    """

    command: type[AnyCommand]
    route: str | None
    direct: bool
    location: str | None
    result: object
    handling: Handling
    signature: Signature
    wrapped: str = ""
    allow: Rule | None = None

    @property
    def function(self) -> Callable[..., Awaitable[Any]]:
        """The author's function."""
        return self.signature.function


class Uploading(typing.NamedTuple):
    """A route that takes a body as it comes, at most `limit` bytes: its function makes the command of it."""

    route: str
    command: type[AnyCommand]
    limit: int
    signature: Signature
    allow: Rule | None = None

    @property
    def function(self) -> Callable[..., Awaitable[Any]]:
        """The author's function."""
        return self.signature.function


class Query(typing.NamedTuple):
    """A read that is more than a view: a function of the path's and the query's parameters and a Reader."""

    route: str
    page: Page | None
    signature: Signature
    allow: Rule | None = None

    @property
    def function(self) -> Callable[..., Awaitable[Any]]:
        """The author's function."""
        return self.signature.function


class Share(typing.NamedTuple):
    """The export of an owner: documents by key. Any of the events in `changed_by` may change the document of its key.

    `keys` tells every key that has a document, for those whose documents were never emitted. `also` are its other
    names. `typed_key` makes the keys that the function takes of their texts; None where it takes texts.
    """

    name: str
    document: object
    changed_by: Mapping[type[AnyEvent], KeyOf]
    keys: AllKeys | None
    also: tuple[str, ...]
    signature: Signature
    typed_key: Callable[[str], Any] | None = None

    @property
    def function(self) -> Callable[..., Awaitable[Any]]:
        """The author's function."""
        return self.signature.function


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


State = Literal["fresh", "stale", "absent"]


class Borrowed(typing.NamedTuple, Generic[Value]):
    """A borrowed value and how far it can be trusted.

    `fresh`: as the owner has it, as far as can be known within the budget. `stale`: the last known good
    value, `age` seconds old. `absent`: there is no value; `age` is None when the owner could not be asked.
    """

    value: Value | None
    state: State
    age: float | None


class Reaction(typing.NamedTuple):
    """Work done on events inside a transaction of the service's own store, together with its checkpoint.

    `name` is that of its checkpoints, `also` are its other names. `start`: where it begins in a source that has a past.
    `tables`: those that it alone writes, which can be built anew; `compared` then, where not all are.
    """

    name: str
    events: tuple[type[AnyEvent], ...]
    batch: bool
    start: Start | None
    also: tuple[str, ...]
    handling: Handling
    signature: Signature
    tables: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()

    @property
    def function(self) -> Callable[..., Awaitable[Any]]:
        """The author's function."""
        return self.signature.function

    @property
    def sources(self) -> list[str]:
        """The services whose events it takes, in order."""
        return sorted({event.__source__ for event in self.events})

    @property
    def types(self) -> set[str]:
        """The types on the wire of the events that it takes."""
        return {type_ for event in self.events for type_ in event.wire_types()}


def path_parameters(path: str) -> list[str]:
    """The names between braces in a path, in order."""
    return _PARAMETER.findall(path)


def check_route(route: str | None, names: Sequence[str]) -> None:
    """Raises DeclarationError for a route that is none, or has parameters that are not among `names`."""
    if route is None:
        return
    method, _, path = route.partition(" ")
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE") or not path.startswith("/"):
        raise DeclarationError(f"{route!r} is not a route; a route looks like: POST /orders/{{order_id}}/stage")
    for parameter in path_parameters(path):
        if parameter not in names:
            raise DeclarationError(f"{route}: nothing takes its parameter {parameter!r}; there are: {', '.join(names)}")


def check_plain(route: str, signature: Signature) -> None:
    """Raises DeclarationError for a route that does not fit a function whose parameters are read from text."""
    check_route(route, [each.name for each in signature.plain])
    for each in signature.plain:
        if each.name in path_parameters(route) and is_list(each.type):
            raise DeclarationError(
                f"{signature.at}: a path holds one value of {each.name!r}, and it is a list; take it from the "
                f"query, as in ?{each.name}=a&{each.name}=b"
            )


class Asked(Rule, frozen=True, eq=False):
    """Whoever may by a function of the author's own."""

    signature: Signature

    @property
    def command(self) -> type[AnyCommand] | None:
        """The class of the command that it takes; None where it takes none."""
        found = (need.type for need in self.signature.needs)
        return next((each for each in found if isinstance(each, type) and issubclass(each, AnyCommand)), None)

    @property
    def waits(self) -> bool:
        """True when it needs what was asked for, and not only who asks."""
        return self.command is not None or bool(self.signature.plain)

    def decide(self) -> Decide:
        return lambda caller, values, told: told.get(self)

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        return getattr(self.signature.function, "__name__", "rule")


def rule(function: Callable[..., Awaitable[bool]]) -> Rule:
    """Whoever may by a function: `async def writes_it(slug: str, caller: Caller, read: Reader) -> bool`.

    It takes the Caller, the Request, a Reader and resources by type, the command by its class, and parameters of the
    route, or fields of the command, by name. It is asked only where the rest of the rule leaves it open, before
    anything is written; what it has read may have changed by then. It changes nothing.
    """
    signature = signature_of(function, may_be_plain=True)
    if (said := signature.hints.get("return")) is not bool:
        raise DeclarationError(
            f"{signature.at} returns {type_name(said) if said else 'nobody knows what'}; a rule says yes or no: -> bool"
        )
    return Asked(signature)


def reaction_signature(function: Callable[..., Any], events: Sequence[type[AnyEvent]], *, batch: bool) -> Signature:
    """The signature of a function that reacts to these events. Raises DeclarationError for one that can't."""
    signature = signature_of(function, 1)
    hint = signature.hints.get(signature.first[0])
    one = hint if isinstance(hint, type) and is_declared(hint) else None
    if batch and one:
        raise DeclarationError(
            f"{signature.at}: it is handed a batch; write: {signature.first[0]}: list[{type_name(hint)}]"
        )
    if one and not all(issubclass(event, one) for event in events):
        raise DeclarationError(
            f"{signature.at}: it is declared on {', '.join(map(type_name, events))} and takes {type_name(one)}; "
            "make them one"
        )
    for need in signature.needs:
        if need.type is Request or (need.type is Caller and (batch or not need.optional)):
            what = "an event has no request" if need.type is Request else "an event may have come from nobody"
            instead = "" if batch or need.type is Request else f"; write: {need.name}: Caller | None"
            raise DeclarationError(f"{signature.at}: it can't need {type_name(need.type)}: {what}{instead}")
    return signature
