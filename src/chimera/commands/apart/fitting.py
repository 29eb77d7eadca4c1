"""Fitting data against a schema of other code: what is known to break it, and nothing else.

Whatever a schema does not tell, or this does not know of it, fits: then it is found out by whoever reads the data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from chimera.commands.apart.contracts import Schema

_KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_LIMITS: Mapping[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool]]] = {
    "minimum": ((int, float), lambda value, limit: value >= limit),
    "exclusiveMinimum": ((int, float), lambda value, limit: value > limit),
    "maximum": ((int, float), lambda value, limit: value <= limit),
    "exclusiveMaximum": ((int, float), lambda value, limit: value < limit),
    "minLength": (str, lambda value, limit: len(value) >= limit),
    "maxLength": (str, lambda value, limit: len(value) <= limit),
    "pattern": (str, lambda value, limit: re.search(limit, value) is not None),
    "minItems": (list, lambda value, limit: len(value) >= limit),
    "maxItems": (list, lambda value, limit: len(value) <= limit),
}


def misfit_of(data: bytes, schema: Schema) -> str:
    """Why the JSON is known not to fit, with its path, such as `$.note is not known`; empty where it may fit."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return f"it is no JSON: {error}"
    return _misfit(value, schema, schema.get("$defs", {}), "$")


def _misfit(value: object, schema: Schema, defined: Mapping[str, Schema], path: str) -> str:
    schema = _meant(value, schema, defined)
    if "anyOf" in schema:
        found = [_misfit(value, each, defined, path) for each in schema["anyOf"]]
        return "" if "" in found else max(found, key=lambda each: each.count("."), default="")
    if found_here := _misfit_itself(value, schema, path):
        return found_here
    if isinstance(value, dict):
        return _misfit_of_object(value, schema, defined, path)
    if isinstance(value, list):
        return _misfit_of_array(value, schema, defined, path)
    return ""


def _meant(value: object, schema: Schema, defined: Mapping[str, Schema]) -> Schema:
    """The schema itself, where it only names another; of structs with a tag the one that the value names."""
    if "discriminator" in schema and isinstance(value, dict):
        told = schema["discriminator"]
        named = told["mapping"].get(str(value.get(told["propertyName"])))
        schema = {"$ref": named} if named else schema
    return defined.get(schema["$ref"].rpartition("/")[2], {}) if "$ref" in schema else schema


def _misfit_itself(value: object, schema: Schema, path: str) -> str:
    """Why a value does not fit, whatever is in it."""
    if "enum" in schema:
        return "" if value in schema["enum"] else f"{path} is none of the values that are known"
    if "format" in schema or "contentEncoding" in schema:
        return ""
    kinds = _KINDS.get(schema.get("type", ""), (object,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
        return f"{path} is no {schema['type']}"
    for name, (type_, holds) in _LIMITS.items():
        if name in schema and isinstance(value, type_) and not holds(value, schema[name]):
            return f"{path} does not keep to {name} {schema[name]!r}"
    return ""


def _misfit_of_object(value: Mapping[str, Any], schema: Schema, defined: Mapping[str, Schema], path: str) -> str:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            return f"{path}.{name} is missing"
    for name, part in value.items():
        if name not in known and others is False:
            return f"{path}.{name[:64]} is not known"
        of = known.get(name, others)
        if isinstance(of, Mapping) and (found := _misfit(part, of, defined, f"{path}.{name[:64]}")):
            return found
    return ""


def _misfit_of_array(value: Sequence[Any], schema: Schema, defined: Mapping[str, Schema], path: str) -> str:
    first, others = schema.get("prefixItems", ()), schema.get("items", True)
    for index, part in enumerate(value):
        of = first[index] if index < len(first) else others
        if isinstance(of, Mapping) and (found := _misfit(part, of, defined, f"{path}[{index}]")):
            return found
    return ""
