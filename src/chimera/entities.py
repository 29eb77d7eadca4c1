"""Entities: rows of the source of truth, in tables with typed columns that people can query."""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from inspect import signature
from operator import itemgetter
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec.structs import astuple

from chimera.errors import ChimeraError, DeclarationError, Unfit
from chimera.messages import MAX_KEY, Keyed

ColumnKind = Literal["text", "integer", "real", "boolean", "bytes", "time", "json"]
Row = tuple[Any, ...]
"""The values of an entity, in the order of its table's columns."""
Key = tuple[object, ...]
"""The values of a row's key, in the order of its table's key columns."""
Convert = Callable[[Any], Any]
"""From a field's value to a column's, or back; never called with None."""
Normalise = Callable[[str], str]
"""Makes one text of all that count as the same."""

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


class Unique:
    """Fields of an entity whose values, taken together, one row has at most: `Unique("email", normalise=str.casefold)`.

    Texts differ in every byte, unless `normalise` makes the same of them: of every text among the fields, or of those
    that it names, as in `normalise={"email": str.casefold}`. A row in which one of the fields is None has no such
    value.
    """

    def __init__(self, *fields: str, normalise: Normalise | Mapping[str, Normalise] | None = None) -> None:
        self.fields = fields
        self.normalise = normalise


class Column(msgspec.Struct, frozen=True):
    """A column: `kind` says what a row holds there (json: text), `optional` whether it may be None."""

    name: str
    kind: ColumnKind
    optional: bool


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


class UniqueRule(msgspec.Struct, frozen=True, eq=False):
    """What only one row of a table has: the values of its `fields`.

    `name` is the one under which they are reserved. `probe` is what the fields' normalisations make of some texts: with
    others, the same value is reserved as another. `at`: the columns' places in a row.
    """

    name: str
    fields: tuple[str, ...]
    probe: str
    at: tuple[int, ...]
    encoders: tuple[Convert | None, ...]
    normalises: tuple[Normalise | None, ...]

    def values_of(self, row: Row) -> list[object]:
        """The values of a row."""
        return [row[at] for at in self.at]

    def digest_of(self, row: Row) -> str:
        """The digest by which a row's values are reserved; empty for a row that has none."""
        return self.digest(self.values_of(row))

    def digest_by(self, values: Mapping[str, object]) -> str:
        """As `digest_of`, of the fields' values as an entity has them."""
        found = [values[field] for field in self.fields]
        return self.digest(
            [
                each if each is None or encode is None else encode(each)
                for each, encode in zip(found, self.encoders, strict=True)
            ]
        )

    def digest(self, values: list[object]) -> str:
        """As `digest_of`, of these values."""
        if None in values:
            return ""
        for at, normalise in enumerate(self.normalises):
            if normalise is not None:
                values[at] = normalised(normalise, str(values[at]), self.fields[at])
        return reserved_digest(self.name, self.probe, values)


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


def told(holder: str) -> str:
    """A holder as people know it."""
    who = msgspec.json.decode(holder)
    return "/".join(map(str, who)) if isinstance(who, list) else str(who)


def holder_of(who: Key | str) -> str:
    """The key of a row, or a text, as it holds a reservation."""
    return msgspec.json.encode(who).decode()


Reservable = str | int | tuple[str | int, ...]
"""What a handler can reserve: of a tuple, all parts together."""
_RESERVATION = re.compile(r"[\w.-]{1,100}")


def digest_under(name: str, value: Reservable) -> str:
    """The digest of what a handler reserves under a name. Raises Unfit for a value of another type."""
    if not _RESERVATION.fullmatch(name):
        raise ChimeraError(f"{name!r} can't name what is reserved; use up to 100 letters, digits, _ . and -")
    parts = parts_of(value)
    if not all(isinstance(part, str | int) for part in parts):
        raise Unfit(f"a value of {name} can't be reserved: it must be a text, an integer or a tuple of them")
    return reserved_digest(name, "", parts)


def parts_of(value: Reservable) -> tuple[str | int, ...]:
    """The parts of what is reserved."""
    return value if isinstance(value, tuple) else (value,)


def reserved_digest(name: str, probe: str, values: Sequence[object]) -> str:
    """The digest of values that are reserved under a name. Raises Unfit for what can't be told apart."""
    try:
        return blake2b(msgspec.msgpack.encode([name, probe, *values]), digest_size=20).hexdigest()
    except (TypeError, OverflowError, UnicodeError) as error:
        raise Unfit(f"a value of {name} can't be reserved: {error}") from error


def normalised(normalise: Normalise, text: str, field: str) -> str:
    """The text that stands for all that count as the same. Raises Unfit where it is none."""
    found = normalise(text)
    if not isinstance(found, str):
        raise Unfit(f"normalise= of {field} makes {type(found).__name__} of a text, not another text")
    return found


@cache
def table_of(entity: type[Entity]) -> Table:
    """The table of an entity class. Raises DeclarationError when the class names no key."""
    if not entity.__key_fields__:
        raise DeclarationError(f'{entity.__name__} needs a key: class {entity.__name__}(Entity, key="…")')
    fields = msgspec.structs.fields(entity)
    shapes = [_shape(field.type) for field in fields]
    columns = tuple(
        Column(field.name, kind, optional) for field, (kind, optional, _) in zip(fields, shapes, strict=True)
    )
    encoders = [(index, _encoder(columns[index].kind, plain)) for index, (_, _, plain) in enumerate(shapes)]
    decoders = [(index, _decoder(columns[index].kind, plain)) for index, (_, _, plain) in enumerate(shapes)]
    return Table(
        name=table_name(entity),
        columns=columns,
        key=entity.__key_fields__,
        to_row=_row_maker([(i, f) for i, f in encoders if f]),
        from_row=_entity_maker(entity, [column.name for column in columns], [(i, f) for i, f in decoders if f]),
        key_of=_key_maker([column.name for column in columns], entity.__key_fields__),
        indexes=entity.__indexes__,
        guarded=entity.__guarded__,
        rules=tuple(_rule(entity, unique, columns, dict(encoders)) for unique in entity.__unique__),
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


def _rule(
    entity: type[Entity], given: object, columns: Sequence[Column], encoders: Mapping[int, Convert | None]
) -> UniqueRule:
    """Raises DeclarationError for what can't be unique."""
    spelled = f'class {entity.__name__}(Entity, …, unique=[("{entity.__struct_fields__[-1]}",)])'
    unique = Unique(*given) if isinstance(given, tuple) else given
    if not isinstance(unique, Unique) or not unique.fields or not all(isinstance(each, str) for each in unique.fields):
        raise DeclarationError(
            f"{entity.__name__}: unique= takes a list of tuples of fields, or of Unique(…), not {given!r}; "
            f"type: {spelled}"
        )
    places = {column.name: at for at, column in enumerate(columns)}
    normalise = unique.normalise
    by_field = normalise if isinstance(normalise, Mapping) else dict.fromkeys(unique.fields, normalise)
    for field in (*unique.fields, *by_field):
        if field not in places:
            raise DeclarationError(
                f"{entity.__name__} has no field {field!r} to be unique; its fields are: {', '.join(places)}"
            )
        if columns[places[field]].kind in ("json", "real"):
            raise DeclarationError(
                f"{entity.__name__}.{field} can't be unique: of floats, and of what is stored as JSON, nobody can tell "
                "which are the same; give it a field of another type"
            )
    normalises = tuple(
        by_field.get(field) if columns[places[field]].kind == "text" else None for field in unique.fields
    )
    name = f"{table_name(entity)}({','.join(unique.fields)})"
    if len(name) > MAX_KEY:
        raise DeclarationError(f"{entity.__name__} is unique by too many fields: {name} has over {MAX_KEY} characters")
    return UniqueRule(
        name,
        unique.fields,
        _probe_of(normalises, unique.fields),
        tuple(places[field] for field in unique.fields),
        tuple(encoders.get(places[field]) for field in unique.fields),
        normalises,
    )


_HELD: Mapping[ColumnKind, type] = {
    "text": str,
    "integer": int,
    "real": float,
    "boolean": bool,
    "bytes": bytes,
    "time": datetime,
    "json": str,
}
_PROBES = (
    "Ann",
    "ann",
    " a\tb ",
    "a.b+c@Ex-ample.COM",
    "+1 (23) 45-67.8",
    "STRASSE straße",
    "é e\u0301 Å ﬁ ① İıΣς",
    "",
)


def _probe_of(normalises: Sequence[Normalise | None], fields: Sequence[str]) -> str:
    """Tells normalisations apart by what they do, whatever they are called and compiled to; empty for none."""
    if not any(normalises):
        return ""
    made: list[object] = []
    for normalise, field in zip(normalises, fields, strict=True):
        made.append([_made_of(normalise, probe, field) for probe in _PROBES] if normalise is not None else None)
    return blake2b(msgspec.msgpack.encode(made), digest_size=8).hexdigest()


def _made_of(normalise: Normalise, text: str, field: str) -> str:
    try:
        return normalised(normalise, text, field)
    except Unfit as error:
        raise DeclarationError(str(error)) from error
    except Exception as error:  # noqa: BLE001 - it may refuse what is no value
        return type(error).__name__


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
