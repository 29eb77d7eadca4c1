"""The OpenAPI 3.1 description of what is served, made from the declarations."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from itertools import count
from typing import Any

import msgspec
from msgspec.structs import FieldInfo

from chimera.folds import View, ViewList
from chimera.forms import AnyDocument, fields_of, is_model, model_schema
from chimera.messages import type_at
from chimera.parts import Handler, Query, Uploading, is_made, path_parameters
from chimera.personal import is_personal, plain_type
from chimera.reader import POSITIONS_LIMIT, ListPage
from chimera.replies import Problem, Reply, ServerEvents, Stream
from chimera.service import Service
from chimera.signature import Page
from chimera.web.wire.http import BODY_LIMIT, NoQuery
from chimera.web.wire.routing import Endpoint, Route
from chimera.web.wire.sent import OF_COMMANDS

POSITION = "[a-z][a-z0-9-]{0,62}/[0-9]{1,3}@[0-9]{1,15}"
REF = "#/components/schemas/{name}"
TEXT = "text/plain"
Described = dict[str, Any]
"""A part of the description as JSON has it, such as a response or a parameter; `_Typed` stands for a schema."""
Operation = Described
"""The part that describes a route."""

ABOUT = f"""\
Errors are problem documents (RFC 9457) with the `field` at fault, or a `reason` for programs.
A path answers 405 with `Allow` to a method it does not have, and HEAD wherever it answers GET.
Pages answer `application/json`, or `text/html` to those whose `Accept` prefers it.
A body may have {BODY_LIMIT >> 20} MiB (413 above), an address 64 KiB (414), headers 64 KiB (431).
"""

REFUSALS = {
    400: "It can't be read: malformed JSON, text, or header.",
    401: "It is not known who asks.",
    403: "Whoever asks may not do this.",
    413: "The body is too large.",
    414: "The address is too long.",
    422: "It breaks the declared types; `field` is the one at fault.",
    431: "The headers are too long.",
    503: "It can't be done now, and nothing was kept; try again.",
}
ANYWHERE = (400, 414, 422, 431, 503)


class _Typed(msgspec.Struct, frozen=True):
    """A type in the place of its schema, until all types are known and described together."""

    type: object


def command(service: Service, handler: Handler, template: str) -> Operation:
    """The description of a command's route. `template` is its path."""
    key = handler.command.__key_fields__[0]
    in_path = path_parameters(template)
    fields = {field.name: field for field in fields_of(handler.command)}
    in_body = [name for name in fields if name not in in_path]
    made = key if is_made(handler.command) else ""
    required = [fields[name].encode_name for name in in_body if fields[name].required and name != made]
    operation = _operation(
        service.name,
        f"{service.name}.{handler.command.__names__[0]}",
        _text(handler.function, handler.command),
        _words(handler.command.__name__),
        [_parameter(name, "path", fields[name].type) for name in in_path] + OF_COMMANDS,
    )
    if in_body:
        properties = _properties(handler.command, [fields[name] for name in in_body])
        body = {"type": "object", "additionalProperties": False, "required": required, "properties": properties}
        if handler.wrapped:
            inner = {handler.wrapped: body}
            body = {"type": "object", "additionalProperties": False, "required": [handler.wrapped], "properties": inner}
        operation["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": body}}}
    operation["responses"]["413"] = _refused(413)
    operation["responses"]["409"] = _problem("Its Idempotency-Key was used with another payload before.")
    key_types = {name.rpartition(".")[2]: type_at(handler.command, name) for name in handler.command.__key_fields__}
    accepted = {
        "type": "object",
        "required": ["command_id", *key_types],
        "properties": {
            "command_id": {"type": "string", "format": "uuid"},
            **{name: _Typed(type_) for name, type_ in key_types.items()},
        },
    }
    if handler.direct:
        _direct_answers(operation, handler, accepted)
    else:
        operation["responses"]["201"] = _response(
            "Accepted: it is durable, and will be handled.", accepted, _location(handler)
        )
    for status in operation["responses"].keys() & {"200", "201"}:
        where = "$response.header.Chimera-Command" if handler.direct else "$response.body#/command_id"
        operation["responses"][status]["links"] = {"outcome": _link(service, where)}
    return operation


def _properties(command: type, fields: Sequence[FieldInfo]) -> Described:
    """The schemas of these fields of a command, by name."""
    if is_model(command):
        described = model_schema(command)["properties"]
        return {each.encode_name: described.get(each.encode_name, {}) for each in fields}
    return {each.encode_name: _property(plain_type(each.type), each.default) for each in fields}


def _direct_answers(operation: Operation, handler: Handler, without_result: Described) -> None:
    method = (handler.route or "").partition(" ")[0]
    replies = handler.result is Reply or typing.get_origin(handler.result) is Reply
    result = (*typing.get_args(handler.result), None)[0] if replies else handler.result
    schema: Described | _Typed = (
        _Typed(result) if result not in (None, type(None)) else {} if replies else without_result
    )
    headers = {"Chimera-Position": _POSITIONS, "Chimera-Command": _header("The command's id.")}
    for status in [*(["200"] if method != "POST" else []), *(["201"] if replies or method == "POST" else [])]:
        located = _location(handler) if status == "201" else {}
        operation["responses"][status] = _response("Done: it is stored.", schema, {**headers, **located})
    operation["responses"]["404"] = _problem("There is no such thing to change; `reason` says what.")
    operation["responses"]["409"] = _problem(
        "It is refused, for the `reason` given, or its Idempotency-Key was used with another payload; nothing was kept."
    )
    operation["responses"]["500"] = _problem("It failed, and nothing of it was kept.")


def upload(
    service: Service, declared: Uploading, handler: Handler, parameters: Sequence[tuple[str, object, object]]
) -> Operation:
    """The description of an upload's route: it is answered as its command is."""
    operation = command(service, handler, "")
    function, in_path = declared.function, path_parameters(declared.route)
    name, text = function.__name__, _text(function)
    described = [
        _parameter(each, "path" if each in in_path else "query", hint, default) for each, hint, default in parameters
    ]
    own = _operation(service.name, f"{service.name}.{name}", text, _words(name), [*described, *OF_COMMANDS])
    body = {"required": False, "content": {"*/*": {}, "multipart/form-data": {"schema": {"type": "object"}}}}
    return {**operation, **own, "requestBody": body, "responses": operation["responses"]}


def query(
    service: Service, declared: Query, parameters: Sequence[tuple[str, object, object]], *, waits: bool
) -> Operation:
    """The description of a query's route; a parameter is its name, type and default.

    `waits`: it has a Reader, and so waits for `Chimera-After`.
    """
    in_path = path_parameters(declared.route)
    described = [
        _parameter(name, "path" if name in in_path else "query", hint, default) for name, hint, default in parameters
    ]
    operation = _operation(
        service.name,
        f"{service.name}.{declared.function.__name__}",
        _text(declared.function),
        _words(declared.function.__name__),
        [*described, *([_AFTER] if waits else [])],
    )
    hint = declared.signature.hints.get("return", Any)
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    optional = isinstance(hint, types.UnionType) and len(members) < len(typing.get_args(hint))
    result = members[0] if optional and len(members) == 1 else hint
    said = _SAID if waits else {}
    if result is Reply or typing.get_origin(result) is Reply:
        result = (*typing.get_args(result), Any)[0]
    if _has_schema(result):
        operation["responses"]["200"] = _page("Found.", result, declared.page, said)
    else:
        operation["responses"]["200"] = {"description": "Found.", "content": {"*/*": {}}, "headers": dict(said)}
    if optional:
        operation["responses"]["404"] = _problem("There is none.", said)
    return operation


def view(service: Service, declared: View[AnyDocument], key_type: object) -> Operation:
    """The description of a view's route."""
    operation = _operation(
        service.name,
        f"{service.name}.{declared.name}",
        _text(declared.document),
        _words(declared.name),
        [_parameter(declared.key, "path", key_type), _AFTER],
    )
    operation["responses"]["200"] = _page("Found.", declared.document, declared.page, _SAID)
    if declared.absent == "404":
        operation["responses"]["404"] = _problem("There is none.", _SAID)
    return operation


def listed(
    service: Service,
    declared: ViewList[AnyDocument],
    parameters: Sequence[tuple[str, object]],
    query: type[msgspec.Struct],
) -> Operation:
    """The description of a list's route; a parameter is its name and type."""
    operation = _operation(
        service.name,
        f"{service.name}.{declared.view.name}.{declared.name}",
        "",
        _words(f"{declared.view.name}_{declared.name}".replace("-", "_")),
        [
            *(_parameter(name, "path", hint) for name, hint in parameters),
            *(_parameter(each.name, "query", each.type, each.default) for each in msgspec.structs.fields(query)),
            _AFTER,
        ],
    )
    page = ListPage[declared.view.document]  # type: ignore[name-defined]
    operation["responses"]["200"] = _response("Found.", _Typed(page), _SAID)
    return operation


def added(
    tag: str,
    path: str,
    what: str,
    answer: object,
    query: type[msgspec.Struct],
    *,
    body: type[msgspec.Struct] | None = None,
    refusals: Mapping[int, str] = {},
) -> Operation:
    """The description of a route that Chimera adds. `answer` is a type, or TEXT; `refusals` are more than any has."""
    parameters = [_parameter(name, "path", str) for name in path_parameters(path)]
    parameters += [
        _parameter(field.name, "query", field.type, field.default) for field in msgspec.structs.fields(query)
    ]
    name = re.sub(r"\W+", "_", path).strip("_")
    operation = _operation(tag, f"{tag}.chimera.{'set_' if body else ''}{name}", "", what, parameters)
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _Typed(body)}}}
        operation["responses"]["413"] = _refused(413)
    if answer is TEXT:
        operation["responses"]["200"] = {"description": what, "content": {TEXT: {"schema": {"type": "string"}}}}
    else:
        operation["responses"]["200"] = _response(what, _Typed(answer), {})
    if path_parameters(path):
        operation["responses"]["404"] = _problem("There is none.")
    operation["responses"] |= {str(status): _problem(words) for status, words in refusals.items()}
    return operation


def document(title: str, routes: Sequence[Route], about: Mapping[str, str] = {}) -> Described:
    """The whole description. Routes that differ only in a literal query become one, with that query as a parameter."""
    paths: dict[str, dict[str, Operation]] = {}
    for route in sorted(routes, key=lambda route: "?" in route.template):
        path, _, literal = route.template.partition("?")
        if route.describe is None:
            continue
        existing = paths.setdefault(path, {}).setdefault(route.method.lower(), operation := route.describe())
        if existing is not operation:
            _merge_variant(existing, operation, literal)
    every = {id(typed.type): typed.type for typed in _typed(paths)}
    schemas, components = _schemas([*every.values(), Problem])
    by_type = dict(zip(every, schemas, strict=False))
    tags = {tag: None for path in paths.values() for operation in path.values() for tag in operation["tags"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": ABOUT},
        "tags": [{"name": tag, **({"description": about[tag]} if about.get(tag) else {})} for tag in tags],
        "paths": _without_nul(_resolve(paths, by_type)),
        "components": {
            "schemas": components,
            "responses": {str(status): _problem(words, status=status) for status, words in REFUSALS.items()},
        },
    }


def _schemas(types: Sequence[Any]) -> tuple[Sequence[Described], Described]:
    """The schema of each type, and their components; classes of one full name, as functions make them, get numbers."""
    with suppress(KeyError):  # msgspec's word for two classes of one full name
        return msgspec.json.schema_components(types, schema_hook=_schema_inside, ref_template=REF)
    schemas: list[Described] = []
    components: Described = {}
    for each in types:
        for number in count(1):
            end = f".{number}" if number > 1 else ""
            [schema], found = msgspec.json.schema_components([each], schema_hook=_schema_inside, ref_template=REF + end)
            named = {name + end: component for name, component in found.items()}
            if all(components.get(name, component) == component for name, component in named.items()):
                components |= named
                schemas.append(schema)
                break
    return schemas, components


def _schema_inside(type_: type) -> Described:
    return {"description": "Personal: null once it is forgotten."} if is_personal(type_) else model_schema(type_)


def _merge_variant(operation: Operation, variant: Operation, literal: str) -> None:
    name, _, value = literal.partition("=")
    known = next((parameter for parameter in operation["parameters"] if parameter["name"] == name), None)
    if known is None:
        known = {"name": name, "in": "query", "required": False, "schema": {"type": "string", "enum": []}}
        known["description"] = ""
        operation["parameters"].append(known)
    known["schema"]["enum"].append(value)
    known["description"] += f"`{value}`: {variant.get('description') or variant['summary']} "
    answers = operation["responses"]["200"]["content"]
    for kind, content in variant["responses"]["200"]["content"].items():
        known_schema = answers.setdefault(kind, {"schema": content["schema"]})["schema"]
        if kind == "application/json":
            others = known_schema["anyOf"] if isinstance(known_schema, dict) else [known_schema]
            answers[kind]["schema"] = {"anyOf": [*others, content["schema"]]}


def _operation(tag: str, operation_id: str, text: str, words: str, parameters: Sequence[Described]) -> Operation:
    """`text` is a docstring; its first sentence is the summary, or else `words`."""
    paragraph = text.partition("\n\n")[0].replace("\n", " ").strip()
    operation = {
        "tags": [tag],
        "operationId": operation_id,
        "summary": paragraph.rstrip(".") if 0 < len(paragraph) <= 80 else words,
        "description": text,
        "parameters": list(parameters),
        "responses": {str(status): _refused(status) for status in ANYWHERE},
    }
    return operation if text else {name: value for name, value in operation.items() if name != "description"}


def _text(*declared: object) -> str:
    """The first docstring that somebody wrote."""
    for each in declared:
        written = vars(each).get("__doc__") if isinstance(each, type) else each.__doc__
        if written:
            return "\n".join(line.strip() for line in written.strip().splitlines())
    return ""


def _words(name: str) -> str:
    """`PlaceOrder` or `place_order` as `Place order`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name).capitalize()


def _has_schema(result: object) -> bool:
    """False for what is sent as it comes: a Stream, an ASGI application, and whatever else has no schema."""
    if isinstance(result, type) and issubclass(result, Stream | ServerEvents):
        return False
    try:
        msgspec.json.schema(result, schema_hook=_schema_inside)
    except (TypeError, NotImplementedError):
        return False
    return True


def _response(description: str, schema: Described | _Typed, headers: Described) -> Described:
    answer: Described = {"description": description, "content": {"application/json": {"schema": schema}}}
    return {**answer, "headers": dict(headers)} if headers else answer


def _page(description: str, result: object, page: Page | None, headers: Described) -> Described:
    response = _response(description, _Typed(result), headers)
    if page is not None:
        response["content"]["text/html"] = {"schema": {"type": "string"}}
    return response


def _refused(status: int) -> Described:
    return {"$ref": f"#/components/responses/{status}"}


def _problem(description: str, headers: Mapping[str, Any] = {}, *, status: int = 0) -> Described:
    problem: Described = {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": REF.format(name="Problem")}}},
    }
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {**headers, "Retry-After": _RETRY_AFTER}
    return {**problem, "headers": headers} if headers else problem


def _header(description: str) -> Described:
    return {"description": description, "schema": {"type": "string"}}


def _link(service: Service, command_id: str) -> Described:
    return {
        "operationId": f"{service.name}.chimera.commands_command_id",
        "parameters": {"command_id": command_id},
        "description": "What became of the command.",
    }


def _location(handler: Handler) -> Described:
    return {"Location": _header(f"Where it is: {handler.location}")} if handler.location else {}


def _parameter(name: str, place: str, type_: object, default: object = msgspec.NODEFAULT) -> Described:
    return {
        "name": name,
        "in": place,
        "required": place == "path" or default is msgspec.NODEFAULT,
        "schema": _property(type_, default),
    }


def _property(type_: object, default: object) -> Described | _Typed:
    """The schema of a field; msgspec knows the default of a struct's field only, so it is added here."""
    if default in (msgspec.NODEFAULT, None) or isinstance(default, msgspec.Struct | list | dict):
        return _Typed(type_)
    return {"allOf": [_Typed(type_)], "default": default}


def _typed(value: object) -> list[_Typed]:
    if isinstance(value, _Typed):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [typed for part in parts for typed in _typed(part)]


def _resolve(value: object, by_type: Mapping[int, Described]) -> Any:
    if isinstance(value, _Typed):
        return by_type[id(value.type)]
    if isinstance(value, dict):
        if value.keys() == {"allOf", "default"}:
            return {**_resolve(value["allOf"][0], by_type), "default": value["default"]}
        return {key: _resolve(part, by_type) for key, part in value.items()}
    return [_resolve(part, by_type) for part in value] if isinstance(value, list) else value


def _without_nul(paths: Described) -> Described:
    """Say of every text that is taken, and says nothing else of its characters, that U+0000 is refused."""
    for operation in [operation for path in paths.values() for operation in path.values()]:
        schemas = [parameter["schema"] for parameter in operation["parameters"]]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schemas += content.get("schema", {}).get("properties", {}).values()
        parts = [part for schema in schemas for part in (schema, schema.get("items"), *schema.get("anyOf", ()))]
        for schema in parts:
            if schema and schema.get("type") == "string" and not schema.keys() & {"pattern", "enum", "format"}:
                schema["pattern"] = "^[^\\u0000]*$"
    return paths


_RETRY_AFTER = {
    "description": "Seconds after which to try again.",
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
}
_POSITIONS = {
    "description": "Where its events are; bring it back as `Chimera-After` to read your own writes.",
    "schema": {"type": "string"},
}
_SAID: Described = {
    "Chimera-Behind": {
        "description": "How far it is, where it has not reached `Chimera-After` in time.",
        "schema": {"type": "string"},
    },
    "Chimera-Lacks": {
        "description": "The first events that it lacks, or may lack, because they are set aside: positions.",
        "schema": {"type": "string"},
    },
    "Chimera-Position": {
        "description": "The positions that cover what is shown, for who brought some back: bring these back next time.",
        "schema": {"type": "string"},
    },
}
"""What an answer says besides what it shows."""
_AFTER = {
    "name": "Chimera-After",
    "in": "header",
    "required": False,
    "schema": {
        "type": "array",
        "items": {"type": "string", "pattern": f"^{POSITION}$"},
        "minItems": 1,
        "maxItems": POSITIONS_LIMIT,
    },
    "description": "Wait, for two seconds at most, until the answer has what is at these positions.",
}


def added_route(
    service: str,
    path: str,
    endpoint: Endpoint,
    what: str,
    answer: object,
    query: type[msgspec.Struct] = NoQuery,
    refusals: Mapping[int, str] = {},
) -> Route:
    """A GET below `/_chimera/<service>`, described as `added` does; `what` is its summary."""
    describe = partial(added, service, path, what, answer, query, refusals=refusals)
    return Route("GET", f"/_chimera/{service}{path}", endpoint, describe)
