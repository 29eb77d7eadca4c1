"""Messages in AMQP 1.0, as streams store them: a content type, application properties and a body.

Source: OASIS AMQP 1.0, part 1 (the types, by their codes) and part 3, section 3.2 (the sections of a message).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

# The sections, by their descriptors.
_PROPERTIES, _APPLICATION_PROPERTIES, _DATA, _AMQP_VALUE = 0x73, 0x74, 0x75, 0x77
_SMALL_ULONG = 0x53
_STR8, _SYM8, _VBIN32, _STR32, _SYM32, _LIST8, _MAP32 = 0xA1, 0xA3, 0xB0, 0xB1, 0xB3, 0xC0, 0xD1
_STRINGS = frozenset({_STR8, _STR32, _SYM8, _SYM32})
_CONSTANTS: Mapping[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: ()}
_TIMESTAMP = 0x83
_LETTERS = {"B": (0x50, 0x52, 0x53), "b": (0x51, 0x54, 0x55), "?": (0x56,), "H": (0x60,), "h": (0x61,)} | {
    "I": (0x70,), "i": (0x71,), "f": (0x72,), "Q": (0x80,), "q": (0x81,), "d": (0x82,),
}  # fmt: skip
_NUMBERS = {code: struct.Struct(f">{letter}") for letter, codes in _LETTERS.items() for code in codes}
_OF_ANY_SIZE, _WITH_ELEMENTS = 0xA, 0xC
_SIZES = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}
_INT, _LONG = struct.Struct(">Bi"), struct.Struct(">Bq")
_UINT = struct.Struct(">I")


def _opened(section: int, code: int) -> bytes:
    """A section up to its content, which is a value of the type `code`."""
    return bytes((0x00, 0x53, section, code))


_PAIRS, _BODY = _opened(_APPLICATION_PROPERTIES, _MAP32), _opened(_DATA, _VBIN32)


def text(value: str) -> bytes:
    """A string, encoded: str8 up to 255 bytes, else str32."""
    data = value.encode()
    size = len(data)
    return (bytes((_STR8, size)) if size < 256 else bytes((_STR32,)) + _UINT.pack(size)) + data


def int32(value: int) -> bytes:
    """An int, encoded."""
    return _INT.pack(0x71, value)


def int64(value: int) -> bytes:
    """A long, encoded."""
    return _LONG.pack(0x81, value)


def properties(content_type: str) -> bytes:
    """The section `properties` with nothing but the content type (at most 200 characters), its seventh field."""
    name = content_type.encode()
    fields = b"\x40" * 6 + bytes((_SYM8, len(name))) + name
    return _opened(_PROPERTIES, _LIST8) + bytes((len(fields) + 1, 7)) + fields


def encode(sections: bytes, pairs: Sequence[bytes], body: bytes) -> bytes:
    """A message: sections as they are, the application properties (key, value, key, value, …), the body."""
    packed = b"".join(pairs)
    size_and_count = _UINT.pack(len(packed) + 4) + _UINT.pack(len(pairs))
    return b"".join((sections, _PAIRS, size_and_count, packed, _BODY, _UINT.pack(len(body)), body))


def decode(data: bytes, names: Mapping[bytes, str]) -> tuple[dict[str, Any], bytes]:
    """The application properties whose keys are among `names`, under those names, and the body.

    Raises ValueError for what is no message. A null is left out. Timestamps become datetimes; what is in lists, maps
    and arrays, and types that have no like in Python, stay encoded. A body that is a value is its text.
    """
    found: dict[str, Any] = {}
    body = b""
    at = 0
    try:
        while at < len(data):
            if data[at]:
                raise ValueError(f"a section should begin at byte {at}")
            if data[at + 1] == _SMALL_ULONG:
                section, at = data[at + 2], at + 3
            else:
                section, at = _value(data, at + 1)
            content, at = _value(data, at)
            if section == _APPLICATION_PROPERTIES:
                found = _named(content, names)
            elif section in (_DATA, _AMQP_VALUE):
                body += content if isinstance(content, bytes) else str(content).encode()
    except (IndexError, struct.error, TypeError) as error:
        raise ValueError("it is cut off") from error
    return found, body


def _named(pairs: bytes, names: Mapping[bytes, str]) -> dict[str, Any]:
    """Most of the time of reading goes by in here, so short strings are not left to `_value`."""
    found: dict[str, Any] = {}
    value: Any
    at, end = 0, len(pairs)
    while at < end:
        if pairs[at] == _STR8:
            start = at + 2
            at = start + pairs[at + 1]
            name = names.get(pairs[start:at])
        else:
            key, at = _value(pairs, at)
            name = names.get(str(key).encode())
        if pairs[at] == _STR8:
            start = at + 2
            at = start + pairs[at + 1]
            value = pairs[start:at].decode()
        else:
            value, at = _value(pairs, at)
        if name is not None and value is not None:
            found[name] = value
    _checked(pairs, at)
    return found


def _value(data: bytes, at: int) -> tuple[Any, int]:
    """A value, and where the next one begins."""
    code = data[at]
    if number := _NUMBERS.get(code):
        [value] = number.unpack_from(data, at + 1)
        return value, at + 1 + number.size
    kind = code >> 4
    if kind >= _OF_ANY_SIZE:
        width = 4 if kind & 1 else 1
        start = at + 1 + width
        end = _checked(data, start + int.from_bytes(data[at + 1 : start], "big"))
        if code in _STRINGS:
            return str(data[start:end], "utf-8"), end
        # A list, map or array begins with the number of its elements.
        return data[start if kind < _WITH_ELEMENTS else start + width : end], end
    if code in _CONSTANTS:
        return _CONSTANTS[code], at + 1
    if kind not in _SIZES:
        raise ValueError(f"0x{code:02x} is no type of AMQP 1.0")
    end = _checked(data, at + 1 + _SIZES[kind])
    raw = data[at + 1 : end]
    return moment(int.from_bytes(raw, "big", signed=True)) if code == _TIMESTAMP else raw, end


def _checked(data: bytes, end: int) -> int:
    if end > len(data):
        raise ValueError("it is cut off")
    return end


def moment(milliseconds: int) -> datetime:
    """A timestamp of AMQP. Raises ValueError for one that Python has no datetime for."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{milliseconds} ms is no time") from error
