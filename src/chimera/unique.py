"""What only one may have: declared of an entity's fields, and told apart by the digests of its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from chimera.errors import ChimeraError, DeclarationError, Unfit

Normalise = Callable[[str], str]
"""Makes one text of all that count as the same."""
Reservable = str | int | tuple[str | int, ...]
"""What a handler can reserve: of a tuple, all parts together."""

LONGEST = 255
"""Characters of the name under which values are reserved."""
_RESERVATION = re.compile(r"[\w.-]{1,100}")


class ReservedChange(msgspec.Struct, omit_defaults=True):
    """The data of the event that says who has a reserved value from now on; its key is the value's digest.

    `holder` is empty where it was given back. `until`: when it is anybody's again; None for never.
    """

    name: str
    holder: str = ""
    until: datetime | None = None


class Unique:
    """Fields of an entity whose values, taken together, one row has at most: `Unique("email", normalise=str.casefold)`.

    Texts differ in every byte, unless `normalise` makes the same of them: of every text among the fields, or of those
    that it names, as in `normalise={"email": str.casefold}`. A row in which one of the fields is None has no such
    value.
    """

    def __init__(self, *fields: str, normalise: Normalise | Mapping[str, Normalise] | None = None) -> None:
        self.fields = fields
        self.normalise = normalise


class UniqueRule(msgspec.Struct, frozen=True, eq=False):
    """What only one row of a table has: the values of its `fields`.

    `name` is the one under which they are reserved. `probe` is what the fields' normalisations make of some texts: with
    others, the same value is reserved as another. `at`: the columns' places in a row.
    """

    name: str
    fields: tuple[str, ...]
    probe: str
    at: tuple[int, ...]
    encoders: tuple[Callable[[Any], Any] | None, ...]
    normalises: tuple[Normalise | None, ...]

    def values_of(self, row: Sequence[Any]) -> list[object]:
        """The values of a row."""
        return [row[at] for at in self.at]

    def digest_of(self, row: Sequence[Any]) -> str:
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


class UniqueField(NamedTuple):
    """A field as rows have it: its place in a row, the kind of its column and the column's name; how it gets there."""

    at: int
    kind: str
    column: str
    encode: Callable[[Any], Any] | None
    is_personal: bool = False


def told(holder: str) -> str:
    """A holder as people know it."""
    who = msgspec.json.decode(holder)
    return "/".join(map(str, who)) if isinstance(who, list) else str(who)


def holder_of(who: Sequence[object] | str) -> str:
    """The key of a row, or a text, as it holds a reservation."""
    return msgspec.json.encode(who).decode()


def reserved_type(service: str) -> str:
    """The CloudEvents type of a `ReservedChange`: one that no declared event can have."""
    return f"{service}.~reserved"


def is_under_a_name(name: str) -> bool:
    """True for the name of what a handler reserves; false for that of a rule."""
    return bool(_RESERVATION.fullmatch(name))


def end_of(until: datetime | timedelta | None, now: datetime) -> datetime | None:
    """The moment until which something is reserved, in UTC; None for good. Raises Unfit for one without a zone."""
    if until is None:
        return None
    if isinstance(until, timedelta):
        return now + until
    if until.tzinfo is None:
        raise Unfit(f"until={until!r} has no time zone: give it one, or say for how long: until=timedelta(minutes=15)")
    return until.astimezone(UTC)


def is_longer(end: datetime | None, than: datetime | None) -> bool:
    """True where a reservation until `end` lasts longer; None is for good."""
    return than is not None and (end is None or end > than)


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


def unique_rule(entity: str, table: str, given: object, fields: Mapping[str, UniqueField]) -> UniqueRule:
    """The rule that is given in an entity's `unique=`. Raises DeclarationError for what can't be unique."""
    unique = Unique(*given) if isinstance(given, tuple) else given
    if not isinstance(unique, Unique) or not unique.fields or not all(isinstance(each, str) for each in unique.fields):
        raise DeclarationError(
            f"{entity}: unique= takes a list of tuples of fields, or of Unique(…), not {given!r}; "
            f'type: class {entity}(Entity, …, unique=[("{[*fields][-1]}",)])'
        )
    normalise = unique.normalise
    by_field = normalise if isinstance(normalise, Mapping) else dict.fromkeys(unique.fields, normalise)
    for field in (*unique.fields, *by_field):
        if field not in fields:
            raise DeclarationError(f"{entity} has no field {field!r} to be unique; its fields are: {', '.join(fields)}")
        if fields[field].is_personal:
            raise DeclarationError(
                f"{entity}.{field} is personal and can't be unique, as every value of it is concealed apart; reserve "
                f'it in the handler: await tx.reserve("{field}", await tx.blind("{field}", value), holder=…)'
            )
        if fields[field].kind in ("json", "real"):
            raise DeclarationError(
                f"{entity}.{field} can't be unique: of floats, and of what is stored as JSON, nobody can tell which "
                "are the same; give it a field of another type"
            )
    found = [fields[field] for field in unique.fields]
    normalises = tuple(by_field.get(field) if fields[field].kind == "text" else None for field in unique.fields)
    name = f"{table}({','.join(each.column for each in found)})"
    if len(name) > LONGEST:
        raise DeclarationError(f"{entity} is unique by too many fields: {name} has over {LONGEST} characters")
    return UniqueRule(
        name,
        unique.fields,
        _probe_of(normalises, unique.fields),
        tuple(each.at for each in found),
        tuple(each.encode for each in found),
        normalises,
    )


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
