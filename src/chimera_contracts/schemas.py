"""The JSON of a type, as plain data: its meaning and nothing of Python; and all that ever was written, as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from chimera.commands.apart.contracts import schema_of

Schema = dict[str, Any]
"""A JSON Schema without references, titles, prose and defaults."""

_PROSE = {"title", "description", "default", "examples", "discriminator", "$defs", "$ref"}
_ALTERNATIVES = ("anyOf", "oneOf")


def meaning_of(type_: Any) -> Schema:
    """The meaning of a struct, a dataclass, a model, or any other type that is written as JSON."""
    found = plain_schema(schema_of(type_))
    try:
        _put_times(found, msgspec.inspect.type_info(type_), ())
    except TypeError:  # it names what only its own module has
        return found
    return found


def plain_schema(schema: Mapping[str, Any]) -> Schema:
    """The meaning of a schema as builds announce it."""
    closed = {"additionalProperties": False} if schema.get("additionalProperties") is False else {}
    if isinstance(model := schema.get("model"), Mapping):
        return {**_plain(model, {}, ()), **closed}
    return _plain(schema, schema.get("$defs", {}), ())


def _put_times(schema: Schema, info: object, within: tuple[object, ...]) -> None:
    """Say which texts are times: msgspec says so only of those that must have a zone."""
    if isinstance(info, msgspec.inspect.UnionType):
        for each in alternatives(schema):
            for member in info.types:
                _put_times(each, member, within)
    elif isinstance(info, msgspec.inspect.DateTimeType | msgspec.inspect.TimeType) and schema.get("type") == "string":
        schema.setdefault("format", "date-time" if isinstance(info, msgspec.inspect.DateTimeType) else "time")
    elif isinstance(info, msgspec.inspect.StructType | msgspec.inspect.DataclassType) and info.cls not in within:
        for field in info.fields:
            if isinstance(of := schema.get("properties", {}).get(field.encode_name), dict):
                _put_times(of, field.type, (*within, info.cls))
    else:
        _put_times_inside(schema, info, within)


def _put_times_inside(schema: Schema, info: object, within: tuple[object, ...]) -> None:
    if isinstance(info, msgspec.inspect.Metadata):
        _put_times(schema, info.type, within)
    elif isinstance(info, msgspec.inspect.TupleType):
        for of, member in zip(schema.get("prefixItems", ()), info.item_types, strict=False):
            _put_times(of, member, within)
    elif isinstance(info, msgspec.inspect.DictType):
        if isinstance(of := schema.get("additionalProperties"), dict):
            _put_times(of, info.value_type, within)
    elif isinstance(items := schema.get("items"), dict) and hasattr(info, "item_type"):
        _put_times(items, info.item_type, within)


def always_written(schema: Schema) -> Schema:
    """The same, as its class writes it: every field is there, those with a default as well."""
    return {**schema, "required": sorted(schema["properties"])} if "properties" in schema else schema


def _plain(schema: Mapping[str, Any], defined: Mapping[str, Any], within: tuple[str, ...]) -> Schema:
    if isinstance(reference := schema.get("$ref"), str):
        name = reference.rpartition("/")[2]
        return {} if name in within else _plain(defined.get(name, {}), defined, (*within, name))
    for name in _ALTERNATIVES:
        if name in schema:
            return either([_plain(each, defined, within) for each in schema[name]])
    if isinstance(kinds := schema.get("type"), Sequence) and not isinstance(kinds, str):
        return either([_plain({**schema, "type": kind}, defined, within) for kind in kinds])
    found = {key: each for key, each in schema.items() if key not in _PROSE}
    if not found and "title" in schema:
        return {"x-type": str(schema["title"]).rpartition(".")[2]}
    return _with_inner(found, defined, within)


def _with_inner(found: Schema, defined: Mapping[str, Any], within: tuple[str, ...]) -> Schema:
    if "const" in found:
        found["enum"] = [found.pop("const")]
    if "enum" in found:
        found["enum"] = sorted(found["enum"], key=text_of)
    if "required" in found:
        found["required"] = sorted(found["required"])
    if found.get("items") is False:
        del found["items"]  # of a tuple, whose length says it as well
    for name in ("items", "additionalProperties"):
        if isinstance(found.get(name), Mapping):
            found[name] = _plain(found[name], defined, within)
    if "prefixItems" in found:
        found["prefixItems"] = [_plain(each, defined, within) for each in found["prefixItems"]]
    if "properties" in found:
        found["properties"] = {name: _plain(each, defined, within) for name, each in found["properties"].items()}
    return found


def alternatives(schema: Schema) -> list[Schema]:
    """What it may be, each by itself."""
    return list(schema.get("anyOf", [schema]))


def either(schemas: Iterable[Schema]) -> Schema:
    """What is any of these; values of several enums are those of one."""
    found: dict[str, Schema] = {}
    values: list[object] = []
    for each in (part for schema in schemas for part in alternatives(schema)):
        if not each:
            return {}
        if set(each) == {"enum"}:
            values += [value for value in each["enum"] if value not in values]
        else:
            found[text_of(each)] = each
    if values:
        one = {"enum": sorted(values, key=text_of)}
        found[text_of(one)] = one
    ordered = [found[text] for text in sorted(found)]
    return ordered[0] if len(ordered) == 1 else {"anyOf": ordered}


def widened(old: Schema, new: Schema) -> Schema:
    """All that either has written: what only one of them always has may be missing."""
    if old == new:
        return new
    if "properties" not in old or "properties" not in new:
        return either([old, new])
    before, after = old["properties"], new["properties"]
    properties = {
        name: widened(before[name], after[name]) if name in before and name in after else {**before, **after}[name]
        for name in sorted({*before, *after})
    }
    required = sorted({*old.get("required", ())} & {*new.get("required", ())})
    kept = {key: each for key, each in new.items() if key not in ("properties", "required", "additionalProperties")}
    return {**kept, "properties": properties, "required": required}


def text_of(value: object) -> str:
    """JSON that is the same wherever the value is."""
    return msgspec.json.encode(value, order="sorted").decode()
