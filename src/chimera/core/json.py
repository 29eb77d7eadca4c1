"""JSON from strangers: read so that every reader understands the same, and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from chimera.errors import FieldError, Invalid
from chimera.forms import fields_of, take_inside, write_inside
from chimera.personal import Personal

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)')


def read_object(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of the object in a body; none for an empty one.

    Raises Invalid for what is no JSON object, for a name given twice and for U+0000, which not every engine can store.
    """
    if not body.strip():
        return {}
    try:
        fields = _FIELDS.decode(body)
        if b"\\u0000" in body and _holds_nul(msgspec.json.decode(body)):
            raise Invalid("text must not hold the character U+0000")
        if _may_repeat(body, fields):
            json.loads(body, object_pairs_hook=_each_once, parse_int=str, parse_float=str)
    except NOT_JSON as error:
        raise invalid(error) from error
    return fields


def with_whole_numbers(data: bytes) -> bytes:
    """The same JSON with numbers such as 71.0 written as 71: JSON Schema, and so openapi.json, calls both integers."""
    return _TOKEN.sub(_whole, data)


def invalid(error: Exception, prefix: str = "$") -> Invalid:
    """The refusal of what msgspec found wrong, with the path of the field at fault, which begins with `prefix`."""
    text, _, place = str(error).partition(" - at `")
    if isinstance(error, RecursionError):
        return Invalid("the JSON is nested too deeply", field=prefix, status=400)
    if not isinstance(error, msgspec.ValidationError):
        return Invalid(f"not valid JSON: {text}", field=prefix, status=400)
    field = prefix + place.rstrip("`").removeprefix("$")
    named = text.rpartition("field `")[2].rstrip("`") if "field `" in text else ""
    return Invalid(text, field=f"{field}.{named}" if named else field)


def faults_of(type_: type, data: bytes) -> list[FieldError]:
    """What is wrong with each field of an object that is no such command; none where it is less than two."""
    try:
        given = _FIELDS.decode(data)
    except NOT_JSON:
        return []
    fields = {field.encode_name: field for field in fields_of(type_)}
    found = [FieldError(f"$.{name[:64]}", "unknown") for name in given if name not in fields]
    for name, field in fields.items():
        if name in given:
            try:
                msgspec.json.decode(with_whole_numbers(bytes(given[name])), type=field.type, dec_hook=take_inside)
            except NOT_JSON as error:
                wrong = invalid(error, f"$.{name}")
                found.append(FieldError(wrong.field, wrong.detail))
        elif field.required:
            found.append(FieldError(f"$.{name}", "required"))
    return found if len(found) > 1 else []


def collector_of(found: list[Personal[Any]]) -> msgspec.json.Encoder:
    """What writes a value as JSON, and adds the personal values in it to a list."""

    def collect(value: object) -> object:
        if not isinstance(value, Personal):
            return write_inside(value)
        found.append(value)
        return None

    return msgspec.json.Encoder(enc_hook=collect)


def _tell_inside(value: object) -> object:
    return value.told if isinstance(value, Personal) else write_inside(value)


tell = msgspec.json.Encoder(enc_hook=_tell_inside).encode
"""A value as JSON for who asks: personal values, which have to be revealed, as what they hold."""


def _whole(token: re.Match[bytes]) -> bytes:
    number = token["number"]
    if number is None or not (value := Decimal(number.decode())).is_finite():
        return token[0]
    return b"%d" % int(value) if abs(value) < 2**63 and value == value.to_integral_value() else token[0]


def _may_repeat(body: bytes, fields: Mapping[str, msgspec.Raw]) -> bool:
    """Cheap, and never wrong when it says no: whether an object in a body might hold a name twice.

    A flat object without escapes and without space before a colon holds `":` once for each name.
    """
    if b"\\" in body or b" :" in body or b"\n:" in body or b"\t:" in body or b"\r:" in body or body.count(b"{") > 1:
        return True
    return body.count(b'":') != len(fields)


def _each_once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"{twice[:64]} is given more than once", field=f"$.{twice[:64]}", status=400)
    return found


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(_holds_nul(part) for part in value)
