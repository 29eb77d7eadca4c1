"""The order of values as bytes: compared byte by byte, they are in the order of the values, on every engine.

Each value begins with a byte that says whether it is there (None comes before all else) and tells its own end, so that
several stand side by side. A field that descends has all bits inverted.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from chimera.errors import Unfit
from chimera.folds import ListField, ListKind

TEXT_BYTES = 400
"""Bytes of all texts together that a list is ordered by, so that any engine can index them: what is equal up to there
comes in the order of the keys."""
NONE, SOME = b"\0", b"\1"
_INVERTED = bytes(255 - each for each in range(256))
_INT_BYTES = 16
_GREATEST = (1 << 8 * _INT_BYTES) - 1
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - moments are counted in UTC, without a zone
_MICROSECOND = timedelta(microseconds=1)


def encoded(value: Any, kind: ListKind, most: int | None = None) -> bytes:
    """A value's bytes; of a text the first `most`. Raises Unfit for a float that is no number."""
    if value is None:
        return NONE
    return SOME + _ENCODERS[kind](_plain(value), most)


def descending(data: bytes) -> bytes:
    """The bytes of the opposite order."""
    return data.translate(_INVERTED)


class Order:
    """The places of documents in a list: the bytes of the fields that it is ordered by, then those of the key."""

    def __init__(self, fields: Sequence[ListField]) -> None:
        self._fields = fields
        texts = sum(field.kind == "text" for field in fields)
        self._most = TEXT_BYTES // texts if texts else 0

    def place(self, document: Any, key: str) -> bytes:
        """The place of a document. Raises Unfit."""
        return b"".join([*(self._encoded(field, document) for field in self._fields), key.encode()])

    def key(self, place: bytes) -> str:
        """The key that a place ends with."""
        at = 0
        for field in self._fields:
            at = _end(place, at, field)
        return place[at:].decode()

    def _encoded(self, field: ListField, document: Any) -> bytes:
        data = encoded(getattr(document, field.name), field.kind, self._most)
        return descending(data) if field.descends else data


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def _text(value: Any, most: int | None) -> bytes:
    text = value.isoformat() if isinstance(value, date) else str(value) if isinstance(value, UUID) else value
    return bytes(text.encode()[:most].replace(b"\0", b"\0\xff") + b"\0\0")


def _integer(value: int, most: int | None) -> bytes:
    value = max(-_GREATEST, min(_GREATEST, value))
    size = (abs(value).bit_length() + 7) // 8
    if value < 0:
        return bytes([0x80 - size]) + (value + (1 << 8 * size)).to_bytes(size, "big")
    return bytes([0x80 + size]) + value.to_bytes(size, "big")


def _real(value: float, most: int | None) -> bytes:
    value = float(value) + 0.0  # which makes -0.0 the same as 0.0
    if not math.isfinite(value):
        raise Unfit(f"a list can't be ordered or filtered by {value}, a float that is no number")
    data = struct.pack(">d", value)
    return descending(data) if data[0] & 0x80 else bytes([data[0] | 0x80]) + data[1:]


def _time(value: datetime, most: int | None) -> bytes:
    """Microseconds in UTC; a time without a zone is taken as UTC."""
    since = (value.replace(tzinfo=None) - _EPOCH) - (value.utcoffset() or timedelta())
    return (since // _MICROSECOND + (1 << 63)).to_bytes(8, "big")


def _boolean(value: bool, most: int | None) -> bytes:
    return bytes([value])


_ENCODERS: Mapping[ListKind, Callable[[Any, int | None], bytes]] = {
    "text": _text,
    "integer": _integer,
    "real": _real,
    "time": _time,
    "boolean": _boolean,
}
_SIZES: Mapping[ListKind, int] = {"real": 8, "time": 8, "boolean": 1}


def _end(place: bytes, at: int, field: ListField) -> int:
    """The end of a field's bytes, which begin at an index."""
    inverted = 255 if field.descends else 0
    if place[at] ^ inverted == NONE[0]:
        return at + 1
    at += 1
    if field.kind == "text":
        return place.index(bytes([inverted, inverted]), at) + 2
    if field.kind == "integer":
        return at + 1 + abs((place[at] ^ inverted) - 0x80)
    return at + _SIZES[field.kind]
