"""Entities: rows of the source of truth, in tables with typed columns that people can query."""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cache, partial
from inspect import signature
from operator import itemgetter
from typing import Any, ClassVar, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec.structs import astuple

from chimera.errors import ChimeraError, DeclarationError, Unfit, class_at
from chimera.messages import Keyed
from chimera.personal import fault_of_column, holds_annotated, is_personal, read_personal, unfindable
from chimera.unique import Unique, UniqueField, UniqueRule, told, unique_rule

ColumnKind = Literal["text", "integer", "real", "boolean", "bytes", "time", "json"]
Row = tuple[Any, ...]
"""The values of an entity, in the order of its table's columns."""
Where = Mapping[str, Sequence[object]]
"""The values that each column may have."""
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


_FAMILIES: Mapping[str, str] = {
    "varchar": "varchar, character varying",
    "char": "char, character, bpchar",
    "text": "text, tinytext, mediumtext, longtext",
    "uuid": "uuid",
    "integer": "integer, int, int2, int4, int8, smallint, mediumint, bigint, tinyint, serial, smallserial, bigserial",
    "numeric": "numeric, decimal",
    "real": "real, float, float4, float8, double, double precision",
    "boolean": "boolean, bool",
    "bytes": "bytea, blob, mediumblob, longblob, binary, varbinary",
    "timestamp": "timestamp, timestamp without time zone, datetime",
    "timestamptz": "timestamptz, timestamp with time zone",
    "date": "date",
    "json": "json",
    "jsonb": "jsonb",
}
_FAMILY_OF = {name: family for family, names in _FAMILIES.items() for name in names.split(", ")}
_HOLDS: Mapping[object, str] = {
    Decimal: "numeric varchar char text",
    date: "date varchar char text",
    UUID: "uuid char varchar text",
    "text": "varchar char text uuid",
    "integer": "integer",
    "real": "real",
    "boolean": "boolean",
    "bytes": "bytes",
    "time": "timestamp timestamptz",
    "json": "json jsonb text",
}
"""The families of SQL types that can hold a field, by its type or else the kind of its column."""


class InColumn:
    """The column of a field in a table that may be there already: `Annotated[str, InColumn("mail", "varchar(120)")]`.

    `name`: what it is called, as the field is unless given. `sql`: its type there, where Chimera would make another.
    """

    def __init__(self, name: str = "", sql: str = "") -> None:
        self.name = name
        self.sql = sql


def family_of(sql: str) -> str:
    """What an SQL type is a kind of, whatever it is called: `varchar` of `character varying(20)`; empty if unknown."""
    return _FAMILY_OF.get(" ".join(re.sub(r"\([^)]*\)|\bunsigned\b", " ", sql.lower()).split()), "")


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

    `default`: what rows of before the column have there, where it may not be None; None for nothing. `sql`: its type,
    as it was declared (see `InColumn`), and `family` what that is a kind of; empty where the engine has its own.
    """

    name: str
    kind: ColumnKind
    optional: bool
    default: Any = None
    sql: str = ""
    family: str = ""


class Table(msgspec.Struct, frozen=True, eq=False):
    """The table of an entity class. Its rows are tuples of str, int, float, bool, bytes, UTC datetime or None.

    `key` and `indexes` name columns. `to_row` makes a row of an entity, `from_row` an entity of a row, `key_of` tells
    a row's key. `guarded`: what a transaction did not find there holds until it commits; rows of Chimera's own are kept
    apart by leases and checkpoints instead. `rules`: what only one row has. `fields` are the places of their columns,
    `encoders` tell what a column holds of a field, `key_encoders` those of the key, if any. `personal`: hidden.
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
    fields: Mapping[str, int] = {}
    encoders: tuple[Convert | None, ...] = ()
    key_encoders: tuple[Convert | None, ...] = ()
    personal: frozenset[str] = frozenset()

    def where(self, fields: Mapping[str, object]) -> dict[str, list[object]]:
        """The columns of these fields, and what they may hold. Raises ChimeraError for a field that there is not."""
        if unknown := fields.keys() - self.fields.keys():
            raise ChimeraError(
                f"table {self.name} has no {', '.join(sorted(unknown))}; it has: {', '.join(sorted(self.fields))}"
            )
        found: dict[str, list[object]] = {}
        if hidden := self.personal.intersection(fields):
            raise ChimeraError(unfindable(self.name, min(hidden)))
        for field, value in fields.items():
            at = self.fields[field]
            found[self.columns[at].name] = [
                _held(each, self.encoders[at]) for each in (value if isinstance(value, list) else [value])
            ]
        return found

    def key_for(self, values: Key) -> Key:
        """A key as rows have it, of the values that fields have."""
        return tuple(map(_held, values, self.key_encoders)) if self.key_encoders else values

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
    `UniqueRule`. `until`: when it is anybody's again; None for never. `told`: the journal says so, too; only of what
    handlers have reserved by themselves.
    """

    digest: str
    name: str
    holder: str
    probe: str = ""
    until: datetime | None = None
    told: bool | None = None

    @property
    def by(self) -> str:
        """The holder as people know it: the text, or the parts of the key with slashes between."""
        return told(self.holder)

    def is_over(self, now: datetime) -> bool:
        """True from the moment on until which it was reserved."""
        return self.until is not None and self.until <= now


class Snapshot(Entity, key=("entity", "key"), table="chimera_snapshots"):
    """An event-sourced entity as it was after an event of its key, so that only what follows is folded.

    `number`: that of the event. `code`: the fingerprint of the fold; other code folds all of it again. `data`: JSON,
    empty where there was no entity.
    """

    __guarded__: ClassVar[bool] = False

    entity: str
    key: str
    number: int
    code: str
    data: bytes


class SubjectKey(Entity, key="subject", table="chimera_subjects"):
    """The key of a person's values, `wrapped` by the master key `master`; empty once it was destroyed."""

    subject: str
    id: str
    wrapped: bytes
    master: str
    made_at: datetime
    forgotten_at: datetime | None = None


@cache
def table_of(entity: type[Entity]) -> Table:
    """The table of an entity class. Raises DeclarationError when the class names no key."""
    if not entity.__key_fields__:
        raise DeclarationError(f'{entity.__name__} needs a key: class {entity.__name__}(Entity, key="…")')
    fields = msgspec.structs.fields(entity)
    parts = [_field(entity, field) for field in fields]
    columns, encoders = tuple(part.column for part in parts), tuple(part.encode for part in parts)
    places = {field.name: at for at, field in enumerate(fields)}
    unique_fields = {
        name: UniqueField(at, columns[at].kind, columns[at].name, encoders[at], holds_annotated(fields[at].type))
        for name, at in places.items()
    }
    key = tuple(places[field] for field in entity.__key_fields__)
    named = table_name(entity)
    return Table(
        name=named,
        columns=columns,
        key=tuple(columns[at].name for at in key),
        to_row=_row_maker([(at, encode) for at, encode in enumerate(encoders) if encode]),
        from_row=_entity_maker(entity, [*places], [(at, part.decode) for at, part in enumerate(parts) if part.decode]),
        key_of=_key_maker(key),
        indexes=tuple(columns[places[field]].name for field in entity.__indexes__),
        guarded=entity.__guarded__,
        rules=tuple(unique_rule(entity.__name__, named, each, unique_fields) for each in entity.__unique__),
        fields=places,
        encoders=encoders,
        personal=frozenset(each.name for each in fields if holds_annotated(each.type)),
        key_encoders=tuple(encoders[at] for at in key) if any(encoders[at] for at in key) else (),
    )


def table_name(entity: type[Entity]) -> str:
    """The name of an entity class's table."""
    named = entity.__names__[0]
    return named if named != entity.__name__ else entity.__table__ or named.lower()


def to_utc(moment: datetime) -> datetime:
    """The same moment in UTC; a time without a zone is taken as UTC. Raises ValueError outside years 1 to 9999."""
    if moment.tzinfo is UTC:
        return moment
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
    if is_personal(annotation):
        return "text", optional, annotation
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ("integer" if issubclass(annotation, int) else "text"), optional, annotation
    kind = _KINDS.get(annotation, "json") if isinstance(annotation, type) else "json"
    return kind, optional, annotation


class _Field(NamedTuple):
    column: Column
    encode: Convert | None
    decode: Convert | None


def _field(entity: type[Entity], field: msgspec.structs.FieldInfo) -> _Field:
    """The column of a field. Raises DeclarationError for an SQL type that can't hold it."""
    kind, optional, plain = _shape(field.type)
    if wrong := fault_of_column(field.type, plain, is_key=field.name in entity.__key_fields__):
        raise DeclarationError(f"{class_at(entity)}: {entity.__name__}.{field.name} {wrong}")
    declared = _in_column(field.type) or InColumn()
    family = family_of(declared.sql)
    if plain is UUID and declared.sql:
        kind = "text"
    if declared.sql and family not in (holds := (_HOLDS.get(plain) or _HOLDS[kind]).split()):
        raise DeclarationError(
            f"{entity.__name__}.{field.name} can't be in a column of type {declared.sql!r}; what holds it is: "
            f"{', '.join(_FAMILIES[each].partition(',')[0] for each in holds)}"
        )
    encode, decode = _encoder(kind, plain), _decoder(kind, plain)
    if family in ("numeric", "varchar", "char") and "(" in declared.sql and plain in (Decimal, str):
        encode = _within(declared.sql, field.name)
    elif family == "uuid" and plain is str:
        encode = _uuid_text
    default = None if optional else _default(field, kind, encode)
    return _Field(Column(declared.name or field.name, kind, optional, default, declared.sql, family), encode, decode)


def _in_column(annotation: object) -> InColumn | None:
    if typing.get_origin(annotation) is typing.Annotated:
        return next((each for each in typing.get_args(annotation)[1:] if isinstance(each, InColumn)), None)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(filter(None, map(_in_column, typing.get_args(annotation))), None)
    return None


def _within(sql: str, field: str) -> Convert:
    """Encodes what fits a type such as `numeric(10,2)` or `varchar(20)`. Raises Unfit for what does not."""
    length, _, scale = sql[sql.index("(") + 1 : sql.index(")")].partition(",")
    most, unit = int(length), Decimal(1).scaleb(-int(scale or 0))

    def number(value: Decimal) -> str:
        rounded = value.quantize(unit, ROUND_HALF_UP, Context(prec=1_000)) if value.is_finite() else value
        if rounded != value or len(rounded.as_tuple().digits) > most:
            raise Unfit(f"{field} can't hold {value}: its column is {sql}")
        return format(rounded, "f")

    def text(value: str) -> str:
        if len(value) > most:
            raise Unfit(f"{field} has {len(value)} characters: its column is {sql}")
        return value

    return number if family_of(sql) == "numeric" else text


def _uuid_text(value: str) -> str:
    """A UUID's text as every engine gives it back."""
    try:
        return str(UUID(value))
    except ValueError as error:
        raise Unfit(f"{value!r} is no UUID, and its column holds no other text") from error


def _held(value: object, encode: Convert | None) -> object:
    """A value as a row has it, whether it is one of a field or of a row."""
    if encode is _uuid_text and isinstance(value, str):
        return _uuid_text(value)
    return encode(value) if encode and isinstance(value, enum.Enum | Decimal | date | UUID) else value


def _default(field: msgspec.structs.FieldInfo, kind: ColumnKind, encode: Convert | None) -> Any:
    """The default of a field as its column holds it; of a factory only what is JSON, for others may tell the time."""
    default = field.default
    if default is msgspec.NODEFAULT:
        if field.default_factory is msgspec.NODEFAULT or kind != "json":
            return None
        default = field.default_factory()
    return default if default is None or encode is None else encode(default)


def _encoder(kind: ColumnKind, plain: object) -> Convert | None:
    if is_personal(plain):
        return lambda value: value.text
    if kind == "json":
        return lambda value: msgspec.json.encode(value).decode()
    if kind == "time":
        return to_utc
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return lambda value: value.value
    return str if plain in (date, Decimal, UUID) else None


def _decoder(kind: ColumnKind, plain: object) -> Convert | None:
    if is_personal(plain):
        return partial(read_personal, plain)
    if kind == "json":
        return msgspec.json.Decoder(plain).decode
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return plain
    if plain is date:
        return date.fromisoformat
    if plain is Decimal:
        return Decimal
    return UUID if plain is UUID else None


def _key_maker(places: Sequence[int]) -> Callable[[Row], Key]:
    if len(places) > 1:
        return itemgetter(*places)
    [only] = places
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
SUBJECT_KEYS = table_of(SubjectKey)


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a column between bounds, each of which may be left out: `Range(gt=…, ge=…, lt=…, le=…)`.

    None is in no range.
    """

    gt: Any = None
    ge: Any = None
    lt: Any = None
    le: Any = None


class Window(NamedTuple):
    """A part of rows: those in the ranges of columns, in an order, after a place, so many.

    `order`: columns, and whether they descend; then by key. None comes before all else, text by its UTF-8 bytes.
    `after`: the values of the columns of `order` and of the key that the row before has.
    """

    ranges: Mapping[str, Range] = {}
    order: Sequence[tuple[str, bool]] = ()
    after: Sequence[object] | None = None
    limit: int | None = None
