"""Fingerprints: they tell whether two processes run the same code of a view.

A fingerprint is made of the `version` that the view declares, the schema of its documents, its lists, its events' types
and what their functions are compiled to, with the plain values that they have as defaults or have closed over. It is
the same in every process and after every restart of one Python version; comments, names of variables and lines don't
matter. It does not see what a function calls or reads elsewhere: that is what `version` is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from hashlib import sha256
from types import CodeType, FunctionType, MethodType

import msgspec

from chimera.folds import View
from chimera.forms import AnyDocument, fields_of, is_model, model_schema
from chimera.service import Service
from chimera.views.lists.entries import list_digests

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))


def fingerprint(view: View[AnyDocument]) -> str:
    """The fingerprint of a view's code: 16 hexadecimal digits, the beginning of a SHA-256."""
    steps = [
        f"{event.wire_type()} {_described(key_of)} {_described(step)}" for event, (key_of, step) in view.steps.items()
    ]
    return _digest([repr(view.version), view.key, _schema(view.document), *sorted(steps), *list_digests(view)])


def fingerprint_of_all(service: Service) -> str:
    """The fingerprint of the code of all views of a service."""
    return _digest(f"{name} {fingerprint(view)}" for name, view in sorted(service.views.items()))


def _digest(parts: Iterable[str]) -> str:
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


@lru_cache(1024)
def _schema(document: type) -> str:
    try:
        schema = msgspec.json.schema(document, schema_hook=_schema_inside)
    except TypeError:  # a default that is no JSON
        fields = fields_of(document)
        return repr([(field.encode_name, str(field.type), _described(field.default)) for field in fields])
    return repr(_without_prose(schema))


def _schema_inside(type_: type) -> dict[str, object]:
    return model_schema(type_) if is_model(type_) else {"type": _name(type_)}


def _without_prose(schema: object) -> object:
    if isinstance(schema, dict):
        return {
            name: _without_prose(value)
            for name, value in schema.items()
            if not (name in ("title", "description") and isinstance(value, str))
        }
    return [_without_prose(each) for each in schema] if isinstance(schema, list) else schema


def _described(value: object, within: tuple[int, ...] = ()) -> str:
    """A text that is the same wherever the value is the same; of objects only their class."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in within:
        return "itself"
    deeper = (*within, id(value))
    if isinstance(value, list | tuple):
        return f"({','.join(_described(each, deeper) for each in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(_described(each, deeper) for each in value))}}}"
    if isinstance(value, dict):
        pairs = [f"{_described(key, deeper)}:{_described(each, deeper)}" for key, each in value.items()]
        return f"{{{','.join(sorted(pairs))}}}"
    if isinstance(value, CodeType):
        parts = (value.co_code, value.co_exceptiontable, value.co_names, value.co_argcount, value.co_consts)
        return _described(parts, deeper)
    if isinstance(value, FunctionType):
        return _described((value.__code__, value.__defaults__, value.__kwdefaults__, _closed_over(value)), deeper)
    if isinstance(value, MethodType):
        return _described((value.__func__, type(value.__self__)), deeper)
    if isinstance(value, partial):
        return _described((value.func, value.args, value.keywords), deeper)
    return _name(value if isinstance(value, type) else type(value))


def _closed_over(function: FunctionType) -> list[object]:
    found: list[object] = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            found.append(...)
    return found


def _name(type_: object) -> str:
    return f"{getattr(type_, '__module__', '')}.{getattr(type_, '__qualname__', type(type_).__qualname__)}"
