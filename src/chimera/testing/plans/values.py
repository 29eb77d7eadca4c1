"""Values of a type, by chance: commands that a service can take, without anybody writing them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
from msgspec import inspect as kinds

from chimera.errors import DeclarationError
from chimera.messages import AnyCommand

KEYS = 3
"""Fields that name something draw from so many names, so that commands meet."""
_NAMING = re.compile(r"(.+?)_?(id|key|name|sku|code|slug)$")
_WORDS = ("red", "green", "blue", "north", "south")
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def draw_body(command: type[AnyCommand], chance: Random) -> dict[str, Any]:
    """The body of a command of a type. Raises DeclarationError for a field that chance can't fill."""
    fields = kinds.type_info(command)
    if not isinstance(fields, kinds.StructType | kinds.DataclassType):
        raise DeclarationError(
            f"{command.__name__} is a model, which can't be drawn by chance; say how, as in: "
            f"Fleet(…, commands={{{command.__name__}: lambda chance: {command.__name__}(…)}})"
        )
    body = {field.encode_name: _field(command.__name__, field, chance) for field in fields.fields}
    return {name: value for name, value in body.items() if value is not msgspec.UNSET}


def _field(owner: str, field: kinds.Field, chance: Random) -> Any:
    if not field.required and chance.random() < 0.5:
        return msgspec.UNSET
    return _value(f"{owner}.{field.name}", field.name, field.type, chance)


def _value(where: str, name: str, type_: kinds.Type, chance: Random) -> Any:
    for kind, draw in _DRAWS.items():
        if isinstance(type_, kind):
            return draw(where, name, type_, chance)
    raise DeclarationError(
        f"{where}: a {type(type_).__name__.removesuffix('Type').lower()} can't be drawn by chance; say how, as in: "
        f"Fleet(…, commands={{{where.partition('.')[0]}: lambda chance: {where.partition('.')[0]}(…)}})"
    )


def _text(where: str, name: str, type_: Any, chance: Random) -> str:
    naming = _NAMING.match(name)
    stem = naming[1] if naming else name
    number = 1 + int(chance.random() * KEYS)
    words = [f"{stem}-{number}"] if naming else []
    word = chance.choice(_WORDS)
    words += [word, f"{stem}-{number}", f"{stem}{number}", word.upper(), word[0], str(number), f"{number}" * 8]
    words += ["".join(chance.choices(string.ascii_lowercase, k=length)) for length in (2, 5, 12, 40)]
    least, most = type_.min_length or 0, type_.max_length or 10_000
    for each in words:
        padded = each.ljust(least, "x")
        if len(padded) <= most and (not type_.pattern or re.search(type_.pattern, padded)):
            return padded
    raise DeclarationError(
        f"{where}: no word was found that matches {type_.pattern!r}; say how it is drawn, as in: "
        f"Fleet(…, commands={{{where.partition('.')[0]}: lambda chance: {where.partition('.')[0]}(…)}})"
    )


def _whole(where: str, name: str, type_: Any, chance: Random) -> int:
    low = type_.ge if type_.ge is not None else type_.gt + 1 if type_.gt is not None else 1
    high = type_.le if type_.le is not None else type_.lt - 1 if type_.lt is not None else max(low, 1) + 9
    step = type_.multiple_of or 1
    return int(-(-chance.randint(int(low), max(int(low), min(int(high), int(low) + 20))) // step) * step)


def _real(where: str, name: str, type_: Any, chance: Random) -> float:
    low = type_.ge if type_.ge is not None else type_.gt if type_.gt is not None else 0.0
    high = type_.le if type_.le is not None else type_.lt if type_.lt is not None else low + 10.0
    return round(low + (high - low) * (0.01 + 0.98 * chance.random()), 2)


def _list(where: str, name: str, type_: Any, chance: Random) -> list[Any]:
    least, most = type_.min_length or 0, type_.max_length if type_.max_length is not None else 3
    count = chance.randint(max(least, min(1, most)), max(least, min(most, least + 3)))
    return [_value(where, name.removesuffix("s"), type_.item_type, chance) for _ in range(count)]


def _dict(where: str, name: str, type_: Any, chance: Random) -> dict[Any, Any]:
    return {
        _value(where, name, type_.key_type, chance): _value(where, name, type_.value_type, chance) for _ in range(2)
    }


def _union(where: str, name: str, type_: Any, chance: Random) -> Any:
    return _value(where, name, chance.choice(type_.types), chance)


def _struct(where: str, name: str, type_: Any, chance: Random) -> dict[str, Any]:
    drawn = {field.encode_name: _field(where, field, chance) for field in type_.fields}
    if type_.tag_field:
        drawn[type_.tag_field] = type_.tag
    return {key: value for key, value in drawn.items() if value is not msgspec.UNSET}


Drawn = Callable[[str, str, Any, Random], Any]
_DRAWS: dict[type[kinds.Type], Drawn] = {
    kinds.StrType: _text,
    kinds.BoolType: lambda where, name, type_, chance: chance.random() < 0.5,
    kinds.IntType: _whole,
    kinds.FloatType: _real,
    kinds.NoneType: lambda where, name, type_, chance: None,
    kinds.LiteralType: lambda where, name, type_, chance: chance.choice(type_.values),
    kinds.EnumType: lambda where, name, type_, chance: chance.choice(list(type_.cls)).value,
    kinds.DateTimeType: lambda where, name, type_, chance: (
        (_FIRST + timedelta(minutes=chance.randint(0, 10_000))).isoformat().replace("+00:00", "Z")
    ),
    kinds.DateType: lambda where, name, type_, chance: date(2026, 1, chance.randint(1, 28)).isoformat(),
    kinds.DecimalType: lambda where, name, type_, chance: str(Decimal(chance.randint(1, 9999)) / 100),
    kinds.UUIDType: lambda where, name, type_, chance: f"00000000-0000-4000-8000-00000000000{chance.randint(1, KEYS)}",
    kinds.CollectionType: _list,
    kinds.TupleType: lambda where, name, type_, chance: [
        _value(where, name, each, chance) for each in type_.item_types
    ],
    kinds.DictType: _dict,
    kinds.UnionType: _union,
    kinds.StructType: _struct,
}
