"""Whether whatever one side writes can be read by the other: few rules, each about what is read.

A field that is read has to be written, in every message, as a type that is read; a value that is read as one of several
has to be one of those; a limit of the reader has to be one of the writer; who refuses unknown fields has to know all of
them. Names of types, prose, defaults and order mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from chimera_contracts.schemas import Schema, alternatives

Kind = Literal["missing", "lacking", "type", "value", "limit", "unknown"]

_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("pattern", "multipleOf")
_TYPES: Sequence[tuple[type, str]] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


class Unfitting(NamedTuple):
    """What can't be read: the path of the field, empty for the whole; in words, after the path."""

    path: str
    kind: Kind
    says: str

    @property
    def field(self) -> str:
        """The field of the message that it is in, or the message's own."""
        return self.path.partition(".")[0].partition("[")[0]

    @property
    def words(self) -> str:
        """It as a clause."""
        return f"{self.path or 'it'} {self.says}"


def misfits(written: Schema, read: Schema, path: str = "", *, values: bool = True) -> list[Unfitting]:
    """What of all that is written can't be read. Without `values` only fields and types count, no value and limit."""
    if written == read or not read:
        return []
    found: list[Unfitting] = []
    for each in alternatives(written):
        tried = [list(_of_one(each, other, path, values=values)) for other in alternatives(read)]
        if len(tried) > 1 and all(tried):
            tried = [_of_many(each, read, path, tried)]
        best: list[Unfitting] = min(tried, key=len)
        found += best
    return list(dict.fromkeys(found))


def _of_many(written: Schema, read: Schema, path: str, tried: Sequence[list[Unfitting]]) -> list[Unfitting]:
    """The misfit with several alternatives: that of the one of the same kind, where there is one."""
    alike = [
        found
        for found, other in zip(tried, alternatives(read), strict=True)
        if _kinds(written) & _kinds(other) and "type" not in {each.kind for each in found if each.path == path}
    ]
    return min(alike, key=len) if alike else [_other_type(written, read, path)]


def _of_one(written: Schema, read: Schema, path: str, *, values: bool) -> Iterator[Unfitting]:
    if written == read or not read:
        return
    if not _is_of(written, read):
        yield _other_type(written, read, path)
        return
    if values:
        yield from _values(written, read, path)
        yield from _limits(written, read, path)
    if "items" in read:
        items = [written["items"]] if "items" in written else written.get("prefixItems", [{}])
        for each in items:
            yield from misfits(each, read["items"], f"{path}[]", values=values)
    for place, other in enumerate(read.get("prefixItems", ())):
        told = written.get("prefixItems", [])
        one = told[place] if place < len(told) else written.get("items", {})
        yield from misfits(one, other, f"{path}[{place}]", values=values)
    if "object" in _kinds(written):
        yield from _fields(written, read, path, values=values)


def _fields(written: Schema, read: Schema, path: str, *, values: bool) -> Iterator[Unfitting]:
    sent, known = written.get("properties", {}), read.get("properties", {})
    others, unknown = written.get("additionalProperties"), read.get("additionalProperties", True)
    start = f"{path}." if path else ""
    for name in read.get("required", ()):
        if name not in sent:
            yield Unfitting(f"{start}{name}", "missing", "is needed and not there")
        elif name not in written.get("required", ()):
            yield Unfitting(f"{start}{name}", "lacking", "is needed and may be missing")
    for name, schema in sent.items():
        of = known.get(name, unknown)
        if of is False:
            yield Unfitting(f"{start}{name}", "unknown", "is refused, because it is not known")
        elif isinstance(of, dict):
            yield from misfits(schema, of, f"{start}{name}", values=values)
    if isinstance(others, dict) and isinstance(unknown, dict):
        yield from misfits(others, unknown, f"{path}[…]", values=values)
    elif isinstance(others, dict) and unknown is False:
        yield Unfitting(path, "unknown", "may have any field, and unknown ones are refused")


def _values(written: Schema, read: Schema, path: str) -> Iterator[Unfitting]:
    if "enum" not in read:
        return
    if "enum" not in written:
        yield Unfitting(path, "value", f"may be any {_named(written)}, and is read as one of {_listed(read['enum'])}")
    elif more := [each for each in written["enum"] if each not in read["enum"]]:
        yield Unfitting(path, "value", f"may be {_listed(more)}, which is not known")


def _limits(written: Schema, read: Schema, path: str) -> Iterator[Unfitting]:
    if "enum" in written:
        return
    for name in (*_LEAST, *_MOST, *_SAME):
        if name not in read or written.get(name) == read[name]:
            continue
        has = written.get(name)
        if has is None or name in _SAME or (has < read[name] if name in _LEAST else has > read[name]):
            yield Unfitting(path, "limit", f"does not keep to {name} {read[name]!r}")


def _is_of(written: Schema, read: Schema) -> bool:
    """True where what is written is of a type that is read, whatever its values."""
    for name in ("format", "contentEncoding", "x-type"):
        if name in read and written.get(name) != read[name]:
            return False
    of = _kinds(read)
    return not of or (bool(_kinds(written)) and all(kind in of or _wider(kind) in of for kind in _kinds(written)))


def _wider(kind: str) -> str:
    return "number" if kind == "integer" else kind


def _kinds(schema: Schema) -> set[str]:
    """The JSON types that it may be; none where that is not told."""
    if "type" in schema:
        return {str(schema["type"])}
    return {kind for value in schema.get("enum", ()) for kind in [_kind_of(value)]}


def _kind_of(value: object) -> str:
    return next((name for type_, name in _TYPES if isinstance(value, type_)), "null")


def _other_type(written: Schema, read: Schema, path: str) -> Unfitting:
    return Unfitting(path, "type", f"may be {_named(written)}, and is read as {_named(read)}")


def _named(schema: Schema) -> str:
    """A type in a word or two."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_named, schema["anyOf"])))
    kinds = sorted(_kinds(schema))
    more = schema.get("format") or schema.get("contentEncoding") or schema.get("x-type")
    return f"{' or '.join(kinds) or 'anything'}{f' ({more})' if more else ''}"


def _listed(values: Sequence[object]) -> str:
    return ", ".join(msgspec.json.encode(each).decode() for each in values)
