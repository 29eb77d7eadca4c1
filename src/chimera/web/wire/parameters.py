"""The parameters of a query, read from its path and its query string."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from chimera.core.json import invalid
from chimera.errors import Invalid
from chimera.signature import Signature, is_list, name_of
from chimera.web.wire.http import Call


class Parameters:
    """The parameters of a query's function that are read from text."""

    def __init__(self, signature: Signature) -> None:
        self.declared: list[tuple[str, Any, object]] = [
            (each.name, each.type, msgspec.NODEFAULT if each.default is inspect.Parameter.empty else each.default)
            for each in signature.plain
        ]
        fields = [
            (name, hint) if default is msgspec.NODEFAULT else (name, hint, default)
            for name, hint, default in self.declared
        ]
        self._lists = frozenset(name for name, hint, _ in self.declared if is_list(hint))
        self._struct = msgspec.defstruct(
            f"{name_of(signature.function)}_parameters", fields, kw_only=True, forbid_unknown_fields=True
        )

    def read(self, call: Call) -> dict[str, object]:
        """The function's arguments. Raises Invalid with the parameter at fault."""
        given = call.path
        if call.scope["query_string"]:
            query = call.query(repeated=self._lists)
            if both := query.keys() & given.keys():
                raise Invalid(
                    f"{', '.join(both)} is in the path; leave it out of the query", field=f"query.{min(both)}"
                )
            given = {**query, **given}
        try:
            return msgspec.structs.asdict(msgspec.convert(given, self._struct, strict=False))
        except msgspec.ValidationError as error:
            at_fault = invalid(error, "query")
            if (name := at_fault.field.removeprefix("query.")) in call.path:
                at_fault.field = f"path.{name}"
            raise at_fault from error

    def values(self, call: Call) -> Callable[[str], object]:
        """The function's arguments, by name. Raises Invalid with the parameter at fault."""
        return self.read(call).__getitem__
