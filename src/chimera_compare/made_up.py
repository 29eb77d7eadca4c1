"""Made-up documents of a declared type, of plausible size; the same ones for the same seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect

from chimera.errors import SettingsError

DEEPEST = 5
MOST_ITEMS = 6
WORDS = ("amber", "bridge", "cedar", "delta", "ember", "field", "garden", "harbor", "island", "juniper", "lantern")


def made_up(document: object, count: int, seed: int) -> list[bytes]:
    """`count` documents as JSON. Raises SettingsError when the type asks for what can't be made up."""
    maker = _Maker(random.Random(f"{seed} documents"))  # noqa: S311 - made-up data, no secrets
    type_ = inspect.type_info(document)
    decoder = msgspec.json.Decoder(document)
    documents = []
    for _ in range(count):
        try:
            made = msgspec.json.encode(maker.make(type_, "", 0))
            decoder.decode(made)
        except (msgspec.ValidationError, _NotMade) as error:
            name = getattr(document, "__name__", document)
            raise SettingsError(f"no {name} can be made up ({error}); compare a share with a plainer type") from error
        documents.append(made)
    return documents


class _NotMade(Exception):  # noqa: N818 - raised and caught here
    """A type of which no value is made up."""


class _Maker:
    """Values, as JSON has them, of types as msgspec sees them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._by_type: dict[type[inspect.Type], Callable[[Any, str, int], Any]] = {
            inspect.AnyType: lambda type_, name, depth: self._words(2),
            inspect.RawType: lambda type_, name, depth: self._words(2),
            inspect.NoneType: lambda type_, name, depth: None,
            inspect.BoolType: lambda type_, name, depth: self._rng.random() < 0.5,
            inspect.IntType: self._int,
            inspect.FloatType: self._float,
            inspect.StrType: self._str,
            inspect.BytesType: lambda type_, name, depth: "AAEC",
            inspect.ByteArrayType: lambda type_, name, depth: "AAEC",
            inspect.DateTimeType: self._time,
            inspect.DateType: lambda type_, name, depth: f"2026-01-{self._rng.randint(10, 28)}",
            inspect.TimeType: lambda type_, name, depth: "03:04:05",
            inspect.TimeDeltaType: lambda type_, name, depth: "PT5S",
            inspect.UUIDType: lambda type_, name, depth: f"{self._rng.getrandbits(128):032x}",
            inspect.DecimalType: lambda type_, name, depth: f"{self._rng.randint(0, 99_999) / 100:.2f}",
            inspect.EnumType: lambda type_, name, depth: self._rng.choice(list(type_.cls)).value,
            inspect.LiteralType: lambda type_, name, depth: self._rng.choice(type_.values),
            inspect.UnionType: self._union,
            inspect.StructType: self._struct,
            inspect.DataclassType: self._object,
            inspect.TypedDictType: self._object,
            inspect.NamedTupleType: lambda type_, name, depth: [*self._object(type_, name, depth).values()],
            inspect.DictType: self._dict,
            inspect.TupleType: self._tuple,
            inspect.ListType: self._list,
            inspect.SetType: self._list,
            inspect.FrozenSetType: self._list,
            inspect.VarTupleType: self._list,
            inspect.CollectionType: self._list,
        }

    def make(self, type_: inspect.Type, name: str, depth: int) -> Any:
        """A value of a type, for a field of this name, so many levels below the document."""
        if isinstance(type_, inspect.Metadata):
            return self.make(type_.type, name, depth)
        if type(type_) not in self._by_type:
            raise _NotMade(f"{name or 'the document'} is a {type(type_).__name__.removesuffix('Type')}")
        return self._by_type[type(type_)](type_, name, depth)

    def _words(self, count: int) -> str:
        return " ".join(self._rng.choice(WORDS) for _ in range(count))

    def _str(self, type_: inspect.StrType, name: str, depth: int) -> str:
        is_id = name == "id" or name.endswith(("_id", "Id", "key"))
        text = f"{self._rng.getrandbits(48):012x}" if is_id else self._words(self._rng.randint(1, 4))
        if type_.min_length and len(text) < type_.min_length:
            text = text.ljust(type_.min_length, "x")
        return text if type_.max_length is None else text[: type_.max_length].strip() or text[: type_.max_length]

    def _int(self, type_: inspect.IntType, name: str, depth: int) -> int:
        low, high = _bounds(type_, 1)
        step = int(type_.multiple_of or 1)
        if high is None:
            high = (low or 0) + 10_000 * step
        if low is None:
            low = min(0, high - 10_000 * step)
        first = math.ceil(low / step)
        return self._rng.randint(first, max(first, math.floor(high / step))) * step

    def _float(self, type_: inspect.FloatType, name: str, depth: int) -> float:
        low, high = _bounds(type_, 1e-6)
        if high is None:
            high = (low or 0.0) + 100.0
        return round(self._rng.uniform(min(0.0, high) if low is None else low, high), 6)

    def _union(self, type_: inspect.UnionType, name: str, depth: int) -> Any:
        has_none = any(isinstance(each, inspect.NoneType) for each in type_.types)
        others = [each for each in type_.types if not isinstance(each, inspect.NoneType)]
        if has_none and (depth > DEEPEST or self._rng.random() < 0.3):
            return None
        return self.make(self._rng.choice(others), name, depth)

    def _struct(self, type_: inspect.StructType, name: str, depth: int) -> Any:
        values = self._object(type_, name, depth)
        if type_.array_like:
            return [*([] if type_.tag is None else [type_.tag]), *values.values()]
        return values if type_.tag_field is None else {type_.tag_field: type_.tag, **values}

    def _object(self, type_: Any, name: str, depth: int) -> dict[str, Any]:
        return {field.encode_name: self.make(field.type, field.name, depth + 1) for field in type_.fields}

    def _count(self, type_: Any, depth: int) -> int:
        least = type_.min_length or 0
        if depth > DEEPEST:
            return least
        most = MOST_ITEMS if type_.max_length is None else min(MOST_ITEMS, type_.max_length)
        return self._rng.randint(max(1, least), max(1, least, most)) if most else least

    def _list(self, type_: Any, name: str, depth: int) -> list[Any]:
        return [self.make(type_.item_type, name.removesuffix("s"), depth + 1) for _ in range(self._count(type_, depth))]

    def _time(self, type_: inspect.DateTimeType, name: str, depth: int) -> str:
        return "2026-01-02T03:04:05" if type_.tz is False else "2026-01-02T03:04:05Z"

    def _tuple(self, type_: inspect.TupleType, name: str, depth: int) -> list[Any]:
        return [self.make(each, name, depth + 1) for each in type_.item_types]

    def _dict(self, type_: inspect.DictType, name: str, depth: int) -> dict[Any, Any]:
        return {
            self.make(type_.key_type, "key", depth + 1): self.make(type_.value_type, name, depth + 1)
            for _ in range(self._count(type_, depth))
        }


def _bounds(type_: Any, least: Any) -> tuple[Any, Any]:
    """The smallest and the largest value that a number's type takes, None where it has no such bound."""
    low = type_.ge if type_.gt is None else type_.gt + least
    high = type_.le if type_.lt is None else type_.lt - least
    return low, high
