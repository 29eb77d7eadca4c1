"""Commands, events, and their form on the wire.

A message on the wire is a CloudEvent 1.0 in binary mode with JSON data. An event's CloudEvents id is
its position, so that (source, id) is unique and a consumer can prove that it missed nothing.
"""

from __future__ import annotations

import inspect
import re
import typing
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, dataclass_transform

import msgspec

from chimera.caller import LONGEST_METADATA
from chimera.errors import DeclarationError, line_of, line_outside
from chimera.versions import Unknown, Upgrades, fault_of, fault_of_upgrade, type_of, types_of_all

MAX_KEY = 255
"""Characters that a key may have: as many as every engine can index."""
MAX_NAME = 100
"""Characters that a declared name may have."""


RenamedFrom = str | Sequence[str]
"""The name under which something is stored and sent, and stays so; of several, the first one."""

Upgrade = TypeVar("Upgrade", bound=Callable[..., Any])
_MAKERS = ("chimera", "pydantic", "abc", "dataclasses")

_UNFIT = re.compile(r"[\s~:/@\"'`]|^share\.|^$")


def names_of(default: str, name: str | None, renamed_from: RenamedFrom) -> tuple[str, ...]:
    """The names of what is declared: the first one is stored and sent, what bears any of them is read as it.

    So a rename moves nothing, and processes with the code before it may run beside those with the code after it, or
    come back. Raises DeclarationError for a name that can't be stored.
    """
    older = (renamed_from,) if isinstance(renamed_from, str) else tuple(renamed_from)
    for each in (*older, *([] if name is None else [name])):
        if _UNFIT.search(each) or len(each) > MAX_NAME:
            raise DeclarationError(
                f"{each!r} can't be the stored name of {default}: 1 to {MAX_NAME} characters, no space and none "
                "of ~ : / @ and quotes"
            )
    return tuple(dict.fromkeys((*older, name or default)))


@dataclass_transform(field_specifiers=(msgspec.field,))
class KeyedMeta(msgspec.StructMeta):
    """Lets a struct be declared with `key="field"` (and `source=`, `table=`, `name=`, …) beside its name.

    msgspec fixes the class keywords of a struct, so this is the only way to that spelling.
    """

    def __new__(
        mcs,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, object],
        /,
        *,
        key: str | tuple[str, ...] | None = None,
        source: str | None = None,
        table: str | None = None,
        name: str | None = None,
        renamed_from: RenamedFrom = (),
        unique: Sequence[Any] | None = None,
        version: int = 1,
        unknown: Unknown | None = None,
        **config: Any,
    ) -> KeyedMeta:
        declared = {"__key_fields__": key, "__source__": source, "__table__": table, "__unique__": unique}
        if unique is not None and not any(hasattr(base, "__unique__") for base in bases):
            _check(class_name, f"only rows can be unique, as in: class …(Entity, …, unique={unique!r})")
        namespace["__names__"] = names_of(class_name, name or table, renamed_from)
        if (version != 1 or unknown) and not any(issubclass(base, Evolving) for base in bases):
            _check(class_name, "version= and unknown= are of commands and events; leave them out")
        _check(class_name, fault_of(version, unknown))
        namespace["__version__"], namespace["__upgrades__"] = version, {}
        if unknown is not None:
            config["forbid_unknown_fields"] = unknown == "refuse"
        for attribute, value in declared.items():
            if value is not None:
                fields = (value,) if attribute == "__key_fields__" and isinstance(value, str) else value
                namespace[attribute] = fields
        struct = super().__new__(mcs, class_name, bases, namespace, **config)
        _check_key_fields(struct, key, may_be_inside=any(base.__name__ == "Command" for base in bases))
        return struct


def _check_key_fields(struct: KeyedMeta, key: str | tuple[str, ...] | None, *, may_be_inside: bool) -> None:
    for field in (key,) if isinstance(key, str) else key or ():
        if (field.partition(".")[0] if may_be_inside else field) not in struct.__struct_fields__:
            raise DeclarationError(
                f"{struct.__name__} has no field {field!r} to be its key; its fields are: "
                f"{', '.join(struct.__struct_fields__) or 'none'}"
            )


def _check(what: str, fault: str) -> None:
    if fault:
        raise DeclarationError(f"{what}: {fault}")


class Evolving:
    """A message whose class says which version of it is sent, and how those before it are read."""

    __slots__ = ()
    __names__: ClassVar[tuple[str, ...]] = ()
    __version__: ClassVar[int] = 1
    __upgrades__: ClassVar[Upgrades] = {}
    __closed__: ClassVar[bool] = False
    __key_fields__: ClassVar[tuple[str, ...]] = ()
    __source__: ClassVar[str] = ""

    @classmethod
    def upgrade(cls, version: int) -> Callable[[Upgrade], Upgrade]:
        """Read this version by the decorated function, which makes the next one of it: `@OrderPlaced.upgrade(1)`.

        It is given the JSON as a dict, or as the type that its parameter has, and returns what is written as the next
        version's JSON. Raises DeclarationError for a version that never was, or that is upgraded already.
        """

        def declare(function: Upgrade) -> Upgrade:
            places = {each: line_of(known) for each, known in cls.__upgrades__.items()}
            _check(f"{line_of(function)}: {cls.__name__}", fault_of_upgrade(function, version, cls.__version__, places))
            cls.__upgrades__[version] = function
            return function

        return declare

    @classmethod
    def types_in(cls, service: str) -> list[str]:
        """The CloudEvents types that are read as this message of a service, the one that is sent first."""
        return types_of_all(service, cls.__names__, cls.__version__)


class AnyCommand(Evolving):
    """A command, whatever its values are made of: see `Command` and `ModelCommand`."""

    __slots__ = ()

    @property
    def key(self) -> str:
        """The value of the key field, as text."""
        return str(attrgetter(self.__key_fields__[0])(self))


class AnyEvent(Evolving):
    """An event, whatever its values are made of: see `Event` and `ModelEvent`."""

    __slots__ = ()

    @property
    def key(self) -> str:
        """The value of the key field, as text."""
        return str(getattr(self, self.__key_fields__[0]))

    @classmethod
    def wire_type(cls) -> str:
        """The CloudEvents type, such as `orders.OrderPlaced`."""
        return type_of(cls.__source__, cls.__names__[0], cls.__version__)

    @classmethod
    def wire_types(cls) -> list[str]:
        """The CloudEvents types that are read as this event, the one that is sent first."""
        return cls.types_in(cls.__source__)


def type_at(command: type, field: str) -> Any:
    """The type of a field, such as `order_id`, or `order.order_id` for one inside. Raises DeclarationError for none."""
    name, _, rest = field.partition(".")
    hints = typing.get_type_hints(command, include_extras=True)
    if name not in hints:
        raise DeclarationError(f"{command.__name__} has no field {name!r} to be its key; it has: {', '.join(hints)}")
    if not rest:
        return hints[name]
    if not (isinstance(hints[name], type) and typing.get_type_hints(hints[name])):
        raise DeclarationError(f"{command.__name__}.{name} is no struct, so that its key can't be inside: {field!r}")
    return type_at(hints[name], rest)


class Keyed(msgspec.Struct, metaclass=KeyedMeta):
    """A struct that names the fields of its key: the base of commands, events and entities."""

    __names__: ClassVar[tuple[str, ...]] = ()
    __key_fields__: ClassVar[tuple[str, ...]] = ()
    __source__: ClassVar[str] = ""
    __table__: ClassVar[str] = ""


class Command(Keyed, AnyCommand, forbid_unknown_fields=True):
    """A request to change something: `class PlaceOrder(Command, key="order_id")`.

    Commands of one key are handled in the order in which they were accepted; of several fields, the first one says it.
    The key may be inside of another field: `key="order.order_id"`. Its name in the log is that of its class, or
    `name=`. Once it was sent, another class is the same command with `renamed_from="PlaceOrder"`. `version=`: as that
    of an `Event`. Unknown fields are refused, or with `unknown="ignore"` passed over.
    """


class Event(Keyed, AnyEvent):
    """A fact, past tense: `class OrderPlaced(Event, source="orders", key="order_id")`.

    `source` is the service that owns the event. Events of one key keep their order everywhere.
    Unknown fields are ignored when an event is read, so that an owner may add some; with `unknown="refuse"` it can't be
    read. Its name in the journal is that of its class, or `name=`. Once it was emitted, another class is the same event
    with `renamed_from="OrderPlaced"`: read under either name, and sent under the old one. `version=2`, where its data
    have changed: then `@OrderPlaced.upgrade(1)` reads those of before.
    """


class _Modelled(Evolving):
    """A message that is a dataclass or a pydantic model: what is said beside its name, as structs say it."""

    def __init_subclass__(
        cls,
        *,
        source: str | None = None,
        key: str | tuple[str, ...] | None = None,
        name: str | None = None,
        renamed_from: RenamedFrom = (),
        version: int | None = None,
        unknown: Unknown | None = None,
        **more: Any,
    ) -> None:
        """`@dataclass(slots=True)` makes a class once more, without saying them: then they stay."""
        super().__init_subclass__(**more)
        at = line_outside(_MAKERS)
        try:
            if "__names__" not in vars(cls) or name or renamed_from:
                cls.__names__ = names_of(cls.__name__, name, renamed_from)
            _check(cls.__name__, fault_of(1 if version is None else version, unknown))
            if "__upgrades__" not in vars(cls):
                cls.__version__, cls.__upgrades__ = version or 1, {}
            if key is not None:
                cls.__key_fields__ = (key,) if isinstance(key, str) else key
                _check_annotated(cls, cls.__key_fields__)
        except DeclarationError as error:
            raise DeclarationError(f"{at}: {error}") from None
        if unknown is not None:
            cls.__closed__ = unknown == "refuse"
        if source is not None:
            cls.__source__ = source


class ModelCommand(_Modelled, AnyCommand):
    """As `Command`, for a dataclass or a pydantic model: `class PlaceOrder(ModelCommand, BaseModel, key="order_id")`.

    A dataclass has `@dataclass` above it. An unknown field is refused, unless `unknown="ignore"`, or a model's own
    `model_config` says something else with `extra`.
    """

    __closed__: ClassVar[bool] = True


class ModelEvent(_Modelled, AnyEvent):
    """As `Event`, for a dataclass or a pydantic model, as `ModelCommand`.

    `class OrderPlaced(ModelEvent, BaseModel, source="orders", key="order_id")`.
    """


def _check_annotated(cls: type, key: Iterable[str]) -> None:
    try:
        fields = [name for base in reversed(cls.__mro__) for name in inspect.get_annotations(base)]
    except NameError:  # it names what comes later
        return
    if wrong := [field for field in key if field.partition(".")[0] not in fields]:
        known = ", ".join(name for name in fields if not name.startswith("_")) or "none"
        raise DeclarationError(f"{cls.__name__} has no field {wrong[0]!r} to be its key; its fields are: {known}")


def types_of(source: str, of: type[AnyEvent] = AnyEvent) -> set[str]:
    """The types that the classes of a source's events are read from, as far as this process has them."""
    found = {type_ for each in of.__subclasses__() if each.__source__ == source for type_ in each.wire_types()}
    return found.union(*(types_of(source, each) for each in of.__subclasses__()))


class Position(msgspec.Struct, frozen=True, order=True):
    """The position of an event in its journal; written `orders/3@1042`. Numbers count from 1."""

    source: str
    partition: int
    number: int

    def __str__(self) -> str:
        return f"{self.source}/{self.partition}@{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `source/partition@number`. Raises ValueError with the expected form."""
        place, at, number = text.strip().rpartition("@")
        source, slash, partition = place.rpartition("/")
        if not (at and slash and source and _is_number(partition) and _is_number(number)):
            raise ValueError(f"{text!r} is not a position; a position looks like orders/3@1042")
        return cls(source, int(partition), int(number))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


class Message(msgspec.Struct, frozen=True):
    """A command or an event on its way: the CloudEvents attributes, and the JSON data as bytes.

    `number` is the event's number in its journal partition, 0 for a command.
    `time` is RFC 3339 UTC; `traceparent` is W3C Trace Context, or empty. `chain` is the digest of the event's journal
    partition up to it, see `chain_of`; empty for a command, and for an event from before there were chains.
    `metadata`: JSON of who did what (see `Metadata`); empty in what older builds wrote. A seal covers it, no digest.
    `fault`: why the record that it came in can't be read; then `data` are the first bytes of its own (see `received`).
    """

    id: str
    source: str
    type: str
    key: str
    time: str
    data: bytes
    partition: int
    number: int = 0
    traceparent: str = ""
    chain: str = ""
    metadata: str = ""
    fault: str = ""

    @property
    def position(self) -> Position:
        """The position of the event; a command has none, its number is 0."""
        return Position(self.source, self.partition, self.number)


class Attributes(NamedTuple):
    """The CloudEvents attributes of a record, as text; empty where they are missing. `number` may be an int as well."""

    id: str = ""
    source: str = ""
    type: str = ""
    key: str = ""
    time: str = ""
    number: object = ""
    traceparent: str = ""
    chain: str = ""
    metadata: str = ""


LONGEST_ID = 255
"""Characters of an id, a source, a type or a time: as many as every engine can index."""
LONGEST_KEY = 4096
"""Characters of a foreign writer's key: the longest that is told from others by itself."""
KEPT_BYTES = 64 << 10
"""Bytes that are kept of a record that can't be read."""


def received(place: str, partition: int, attributes: Attributes, data: bytes) -> Message:
    """The message of a record that anybody may have written; one with a `fault` where it can't be a message.

    `place` says where the record is, and names it where it has no id.
    """
    id_, source, type_, key, time, number, traceparent, chain, metadata = attributes
    if len(metadata) > LONGEST_METADATA or "\0" in metadata:
        metadata = ""
    text = f"{id_}{source}{type_}{key}{time}{traceparent}{chain}"
    if len(text) > LONGEST_ID or "\0" in text or not type_:
        if fault := _fault_of(attributes):
            return unreadable(place, partition, data, fault, key)
        traceparent, chain = (
            "" if len(value) > LONGEST_ID or "\0" in value else value for value in (traceparent, chain)
        )
    if type(number) is not int:
        if not _is_number(str(number) or "0"):
            return unreadable(place, partition, data, "its number is none", key)
        number = int(str(number) or "0")
    if not 0 <= number < 10**18:
        return unreadable(place, partition, data, f"its number is {number}", key)
    return Message(
        id_ or place, source, type_, key, time, data, partition, number, traceparent, chain, metadata=metadata
    )


def unreadable(place: str, partition: int, data: bytes, fault: str, key: str = "") -> Message:
    """What stands for a record that can't be read: set aside under its key, if that is known, else under its place."""
    fits = 0 < len(key) <= LONGEST_KEY and "\0" not in key
    fault = f"the record at {place}, of {len(data):,} bytes, can't be read: {fault[:500]}"
    return Message(place, "", "", key if fits else place, "", data[:KEPT_BYTES], partition, fault=fault)


def _fault_of(attributes: Attributes) -> str:
    if not attributes.type:
        return "it has no type, so that it is no CloudEvent"
    for name in ("id", "source", "type", "key", "time"):
        value, most = getattr(attributes, name), LONGEST_KEY if name == "key" else LONGEST_ID
        if len(value) > most:
            return f"its {name} has {len(value):,} characters; at most {most:,} fit"
        if "\0" in value:
            return f"its {name} has the character U+0000"
    return ""


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: CRC-32 of its UTF-8 bytes, modulo the number of partitions."""
    return zlib.crc32(key.encode()) % partitions


def position_of(source: str, key: str, heads: Mapping[int, int]) -> Position:
    """The head of a key's partition, given all of a journal's (partition to number)."""
    partition = partition_of(key, len(heads))
    return Position(source, partition, heads[partition])


Chaining = Callable[[str, str, str, str, bytes, str], str]
"""Makes the chain after an event: of the chain before it, and of its type, key, time, data and metadata."""


def chain_of(before: str, type_: str, key: str, time: str, data: bytes, metadata: str = "") -> str:
    """The digest of a journal partition up to an event: of the digest before it and of the event as it is stored.

    The first half of SHA-256, 32 hex digits; metadata is not in it. Two partitions with the same digest at a number
    have the same history.
    """
    return sha256(f"{before}\n{type_}\n{key}\n{time}\n".encode() + data).hexdigest()[:32]


def chained(before: str, events: Iterable[Message]) -> list[Message]:
    """Events of one partition, in order, each with its chain after a digest."""
    made: list[Message] = []
    for each in events:
        before = chain_of(before, each.type, each.key, each.time, each.data)
        made.append(msgspec.structs.replace(each, chain=before))
    return made


def follows(message: Message, before: str) -> bool:
    """True when an event's chain is that of the event after a digest."""
    return message.chain == chain_of(before, message.type, message.key, message.time, message.data)


def to_cloud_event(message: Message) -> dict[str, object]:
    """A message as a CloudEvent in JSON format (structured mode); data is embedded, not re-encoded."""
    event = {
        "specversion": "1.0",
        "id": message.id,
        "source": message.source,
        "type": message.type,
        "subject": message.key,
        "time": message.time,
        "datacontenttype": "application/json",
        "partition": message.partition,
        "number": message.number,
        "data": msgspec.Raw(message.data),
    }
    if message.traceparent:
        event["traceparent"] = message.traceparent
    if message.chain:
        event["chain"] = message.chain
    if message.metadata:
        event["metadata"] = message.metadata
    return event


class CloudEvent(msgspec.Struct):
    """An event as a page of a journal carries it; the reverse of `to_cloud_event`."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    partition: int
    number: int
    data: msgspec.Raw
    traceparent: str = ""
    chain: str = ""
    metadata: str = ""

    def to_message(self) -> Message:
        """The event as a message, with its data as the bytes they came in."""
        return Message(
            self.id,
            self.source,
            self.type,
            self.subject,
            self.time,
            bytes(self.data),
            self.partition,
            self.number,
            self.traceparent,
            self.chain,
            metadata=self.metadata,
        )
