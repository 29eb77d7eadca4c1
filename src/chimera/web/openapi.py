"""The OpenAPI 3.1 description of what is served, made from the declarations."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from chimera.service import Handler, Query, Reply, Service, View, path_parameters
from chimera.web.http import Problem
from chimera.web.routing import Route

REF = "#/components/schemas/{name}"
Operation = dict[str, Any]


class _Typed(msgspec.Struct, frozen=True):
    """A type in the place of its schema, until all types are known and described together."""

    type: Any


def command(service: Service, handler: Handler, template: str) -> Operation:
    """A command's route."""
    key = handler.command.__key_fields__[0]
    in_path = path_parameters(template)
    fields = {field.name: field for field in msgspec.structs.fields(handler.command)}
    wire = [
        (name, field.type) if field.required and name != key else (name, field.type, None)
        for name, field in fields.items()
        if name not in in_path
    ]
    required = [name for name, field in fields.items() if name not in in_path and field.required and name != key]
    body = {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": {name: _Typed(fields[name].type) for name, *_ in wire},
    }
    method = (handler.route or "").partition(" ")[0]
    operation = _operation(
        service.name,
        f"{service.name}.{handler.command.__name__}",
        handler.command.__doc__ or "",
        [_parameter(name, "path", fields[name].type) for name in in_path] + [_IDEMPOTENCY],
    )
    if wire:
        operation["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": body}}}
    taken = {
        "type": "object",
        "required": ["command_id", key],
        "properties": {"command_id": {"type": "string"}, key: {"type": "string"}},
    }
    if handler.direct:
        answer = handler.result if handler.result not in (None, type(None), Reply) else None
        schema: Any = _Typed(answer) if answer else {"type": "object"}
        for status in {"POST": ["201"], "PUT": ["200", "201"]}.get(method, ["200"]):
            operation["responses"][status] = _response("done", schema)
        operation["responses"] |= {"404": _PROBLEM, "409": _PROBLEM}
    else:
        operation["responses"]["201"] = _response("accepted: it is durable, and will be handled", taken)
    return operation


def query(service: Service, declared: Query, parameters: Sequence[tuple[str, Any, Any]]) -> Operation:
    """A query's route."""
    in_path = path_parameters(declared.route)
    described = [
        _parameter(name, "path" if name in in_path else "query", hint, default) for name, hint, default in parameters
    ]
    operation = _operation(
        service.name, f"{service.name}.{declared.function.__name__}", declared.function.__doc__ or "", described
    )
    result = declared.function.__annotations__.get("return", None)
    operation["responses"]["200"] = _response("found", _Typed(_without_none(declared.function)) if result else {})
    operation["responses"]["404"] = _PROBLEM
    return operation


def view(service: Service, declared: View[Any], key_type: Any) -> Operation:
    """A view's route."""
    operation = _operation(
        service.name,
        f"{service.name}.{declared.name}",
        declared.document.__doc__ or "",
        [_parameter(declared.key, "path", key_type)],
    )
    operation["responses"]["200"] = _response("found", _Typed(declared.document))
    if declared.absent == "404":
        operation["responses"]["404"] = _PROBLEM
    return operation


def added(
    service: str,
    path: str,
    query: type[msgspec.Struct],
    what: str,
    *,
    body: type[msgspec.Struct] | None = None,
    content_type: str = "application/json",
) -> Operation:
    """A route that Chimera adds."""
    parameters = [_parameter(name, "path", str) for name in path_parameters(path)]
    parameters += [
        _parameter(field.name, "query", field.type, field.default) for field in msgspec.structs.fields(query)
    ]
    name = re.sub(r"\W+", "_", path).strip("_")
    operation = _operation(service, f"{service}.chimera.{'set_' if body else ''}{name}", what, parameters)
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _Typed(body)}}}
    schema = {"type": "object"} if content_type == "application/json" else {"type": "string"}
    operation["responses"]["200"] = {"description": what, "content": {content_type: {"schema": schema}}}
    operation["responses"]["404"] = _PROBLEM
    return operation


def document(title: str, routes: Sequence[Route]) -> dict[str, Any]:
    """The whole description. Routes that differ only in a literal query become one, with that query as a parameter."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path, _, literal = route.template.partition("?")
        method = route.method.lower()
        existing = paths.setdefault(path, {}).get(method)
        if existing is None:
            paths[path][method] = _copy(route.operation)
        elif literal:
            _merge_variant(existing, route.operation, literal)
    types = list({id(typed.type): typed.type for typed in _typed(paths)}.values())
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=REF)
    by_type = {id(type_): schema for type_, schema in zip(types, schemas, strict=False)}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": _resolve(paths, by_type),
        "components": {"schemas": components},
    }


def _merge_variant(operation: Operation, variant: Operation, literal: str) -> None:
    name, _, value = literal.partition("=")
    operation["parameters"].append(
        {"name": name, "in": "query", "required": False, "schema": {"type": "string", "enum": [value]}}
    )
    content = operation["responses"]["200"]["content"]["application/json"]
    other = variant["responses"]["200"]["content"]["application/json"]["schema"]
    content["schema"] = {"anyOf": [content["schema"], other]}


def _operation(tag: str, operation_id: str, summary: str, parameters: list[dict[str, Any]]) -> Operation:
    return {
        "tags": [tag],
        "operationId": operation_id,
        "summary": summary.strip().split("\n")[0],
        "parameters": parameters,
        "responses": {"400": _PROBLEM, "413": _PROBLEM, "422": _PROBLEM, "503": _PROBLEM},
    }


def _response(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _parameter(name: str, place: str, type_: Any, default: Any = msgspec.NODEFAULT) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path" or default is msgspec.NODEFAULT,
        "schema": _Typed(type_),
    }


def _without_none(function: Any) -> Any:
    result = typing.get_type_hints(function, include_extras=True)["return"]
    kept = [member for member in typing.get_args(result) if member is not type(None)]
    return kept[0] if isinstance(result, types.UnionType) and len(kept) == 1 else result


def _typed(value: Any) -> list[_Typed]:
    if isinstance(value, _Typed):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [typed for part in parts for typed in _typed(part)]


def _resolve(value: Any, by_type: dict[int, Any]) -> Any:
    if isinstance(value, _Typed):
        return by_type[id(value.type)]
    if isinstance(value, dict):
        return {key: _resolve(part, by_type) for key, part in value.items()}
    return [_resolve(part, by_type) for part in value] if isinstance(value, list) else value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value


_PROBLEM = {
    "description": "a problem",
    "content": {"application/problem+json": {"schema": {"$ref": REF.format(name="Problem")}}},
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "the same key is the same command, however often it is sent",
}
