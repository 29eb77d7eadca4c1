"""Entities: rows of the source of truth, in tables with typed columns that people can query."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from inspect import signature
from operator import itemgetter
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec.structs import astuple

from chimera.errors import ChimeraError, DeclarationError
from chimera.messages import Keyed
from chimera.unique import Unique, UniqueField, UniqueRule, told, unique_rule

ColumnKind = Literal["text", "integer", "real", "boolean", "bytes", "time", "json"]
Row = tuple[Any, ...]
"""The values of an entity, in the order of its table's columns."""
Key = tuple[object, ...]
"""The values of a row's key, in the order of its table's key columns."""
Convert = Callable[[Any], Any]
"""From a field's value to a column's, or back; never called with None."""

_KINDS: dict[type, ColumnKind] = {
    str: "text",
    int: "integer",
    float: "real",
    bool: "boolean",
    bytes: "bytes",
    datetime: "time",
    date: "text",
    Decimal: "text",
}


class Entity(Keyed):
    """A row of the source of truth: `class Order(Entity, key="order_id", table="orders")`.

    Plain field types (str, int, float, bool, bytes, datetime, date, Decimal, enums and their
    optionals) become columns of their own; anything else is stored as JSON text in its column.
    Integers must fit 64 bits; times are stored in UTC. A key of several fields is a tuple:
    `key=("seller_id", "client_id")`. Without `table`, the table has the class's name in lower case;
    `renamed_from="orders"` is the table that its rows are in, whatever it is called now, and they stay there.
    Each of its `__indexes__`, names of fields, gets an index of its own. `unique=[("email",), Unique("tax_id")]`: what
    only one row has, see `Unique`.
    """

    __indexes__: ClassVar[tuple[str, ...]] = ()
    __guarded__: ClassVar[bool] = True
    __unique__: ClassVar[Sequence[tuple[str, ...] | Unique]] = ()


class Column(msgspec.Struct, frozen=True):
    """A column: `kind` says what a row holds there (json: text), `optional` whether it may be None.

    `default`: what rows of before the column have there, where it may not be None; None for nothing.
    """

    name: str
    kind: ColumnKind
    optional: bool
    default: Any = None


class Table(msgspec.Struct, frozen=True, eq=False):
    """The table of an entity class. Its rows are tuples of str, int, float, bool, bytes, UTC datetime or None.

    `key` and `indexes` name columns. `to_row` makes a row of an entity, `from_row` an entity of a row, `key_of` tells
    a row's key. `guarded`: what a transaction did not find there holds until it commits; rows of Chimera's own are kept
    apart by leases and checkpoints instead. `rules`: what only one row has.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    to_row: Callable[[Entity], Row]
    from_row: Callable[[Row], Any]
    key_of: Callable[[Row], Key]
    indexes: tuple[str, ...] = ()
    guarded: bool = True
    rules: tuple[UniqueRule, ...] = ()

    def rule_of(self, fields: Mapping[str, object]) -> UniqueRule:
        """The rule about these fields. Raises ChimeraError where they are not unique."""
        for rule in self.rules:
            if set(rule.fields) == set(fields):
                return rule
        known = "; ".join(", ".join(rule.fields) for rule in self.rules)
        raise ChimeraError(
            f"table {self.name} is not unique by {', '.join(fields)}; it is by: {known or 'its key alone'}"
        )

    def key_in(self, holder: str) -> Key:
        """The key of the row that holds a reservation (see `Reserved`)."""
        kinds = {column.name: column.kind for column in self.columns}
        return tuple(msgspec.json.decode(holder, type=tuple[tuple(_HELD[kinds[each]] for each in self.key)]))  # type: ignore[misc]


class Sought(NamedTuple):
    """Values that a handler has looked for among what is reserved: by a table's rule, or under a name of its own."""

    table: Table
    what: UniqueRule | str
    values: Sequence[object]


class Reserved(Entity, key="digest", table="chimera_reserved"):
    """A value that somebody has reserved under a name: so that it fits an index and is nobody's to read, by its digest.

    `holder` is JSON: the key of the row that has it, as a list, or the text that a handler gave. `probe`: see
    `UniqueRule`.
    """

    digest: str
    name: str
    holder: str
    probe: str = ""

    @property
    def by(self) -> str:
        """The holder as people know it: the text, or the parts of the key with slashes between."""
        return told(self.holder)


@cache
def table_of(entity: type[Entity]) -> Table:
    """The table of an entity class. Raises DeclarationError when the class names no key."""
    if not entity.__key_fields__:
        raise DeclarationError(f'{entity.__name__} needs a key: class {entity.__name__}(Entity, key="…")')
    fields = msgspec.structs.fields(entity)
    shapes = [_shape(field.type) for field in fields]
    columns = tuple(
        Column(field.name, kind, optional, None if optional else _default(field, kind, plain))
        for field, (kind, optional, plain) in zip(fields, shapes, strict=True)
    )
    encoders = [(index, _encoder(columns[index].kind, plain)) for index, (_, _, plain) in enumerate(shapes)]
    decoders = [(index, _decoder(columns[index].kind, plain)) for index, (_, _, plain) in enumerate(shapes)]
    named = table_name(entity)
    unique_fields = {
        column.name: UniqueField(at, column.kind, column.name, encoders[at][1]) for at, column in enumerate(columns)
    }
    return Table(
        name=named,
        columns=columns,
        key=entity.__key_fields__,
        to_row=_row_maker([(i, f) for i, f in encoders if f]),
        from_row=_entity_maker(entity, [column.name for column in columns], [(i, f) for i, f in decoders if f]),
        key_of=_key_maker([column.name for column in columns], entity.__key_fields__),
        indexes=entity.__indexes__,
        guarded=entity.__guarded__,
        rules=tuple(unique_rule(entity.__name__, named, each, unique_fields) for each in entity.__unique__),
    )


def table_name(entity: type[Entity]) -> str:
    """The name of an entity class's table."""
    named = entity.__names__[0]
    return named if named != entity.__name__ else entity.__table__ or named.lower()


def to_utc(moment: datetime) -> datetime:
    """The same moment in UTC; a time without a zone is taken as UTC. Raises ValueError outside years 1 to 9999."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time lies outside the years 1 to 9999 in UTC") from error


_HELD: Mapping[ColumnKind, type] = {
    "text": str,
    "integer": int,
    "real": float,
    "boolean": bool,
    "bytes": bytes,
    "time": datetime,
    "json": str,
}


def _shape(annotation: object) -> tuple[ColumnKind, bool, object]:
    """The column kind of an annotation, whether None is allowed, and the type without its None."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _shape(typing.get_args(annotation)[0])
    optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        optional = len(members) < len(typing.get_args(annotation))
        if len(members) == 1:
            return _shape(members[0])[0], optional, _shape(members[0])[2]
    if typing.get_origin(annotation) is Literal and all(
        isinstance(value, str) for value in typing.get_args(annotation)
    ):
        return "text", optional, str
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ("integer" if issubclass(annotation, int) else "text"), optional, annotation
    kind = _KINDS.get(annotation, "json") if isinstance(annotation, type) else "json"
    return kind, optional, annotation


def _default(field: msgspec.structs.FieldInfo, kind: ColumnKind, plain: object) -> Any:
    """The default of a field as its column holds it; of a factory only what is JSON, for others may tell the time."""
    default = field.default
    if default is msgspec.NODEFAULT:
        if field.default_factory is msgspec.NODEFAULT or kind != "json":
            return None
        default = field.default_factory()
    encode = _encoder(kind, plain)
    return default if default is None or encode is None else encode(default)


def _encoder(kind: ColumnKind, plain: object) -> Convert | None:
    if kind == "json":
        return lambda value: msgspec.json.encode(value).decode()
    if kind == "time":
        return to_utc
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return lambda value: value.value
    return str if plain in (date, Decimal) else None


def _decoder(kind: ColumnKind, plain: object) -> Convert | None:
    if kind == "json":
        return msgspec.json.Decoder(plain).decode
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return plain
    if plain is date:
        return date.fromisoformat
    return Decimal if plain is Decimal else None


def _key_maker(names: Sequence[str], key: Sequence[str]) -> Callable[[Row], Key]:
    indexes = [names.index(field) for field in key]
    if len(indexes) > 1:
        return itemgetter(*indexes)
    [only] = indexes
    return lambda row: (row[only],)


def _row_maker(special: Sequence[tuple[int, Convert]]) -> Callable[[Entity], Row]:
    def to_row(entity: Entity) -> Row:
        values = list(astuple(entity))
        for index, encode in special:
            if values[index] is not None:
                values[index] = encode(values[index])
        return tuple(values)

    return to_row if special else astuple


def _entity_maker(
    entity: type[Entity], names: Sequence[str], special: Sequence[tuple[int, Convert]]
) -> Callable[[Row], Entity]:
    is_positional = all(each.kind is each.POSITIONAL_OR_KEYWORD for each in signature(entity).parameters.values())

    def from_row(row: Row) -> Entity:
        values: Sequence[object] = row
        if special:
            values = list(row)
            for index, decode in special:
                if values[index] is not None:
                    values[index] = decode(values[index])
        return entity(*values) if is_positional else entity(**dict(zip(names, values, strict=True)))

    return from_row


RESERVED = table_of(Reserved)
"""The table of all that is reserved."""
