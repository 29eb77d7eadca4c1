"""How a route that Chimera adds to a service is described, and how its query is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from chimera.web import openapi
from chimera.web.http import Call, invalid
from chimera.web.routing import Endpoint, Route

Query = TypeVar("Query", bound=msgspec.Struct)


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    pass


def added_route(
    service: str,
    path: str,
    endpoint: Endpoint,
    what: str,
    answer: Any,
    query: type[msgspec.Struct] = NoQuery,
    refusals: Mapping[int, str] = {},
) -> Route:
    """A GET below `/_chimera/<service>`."""
    described = openapi.added(service, path, what, answer, query, refusals=refusals)
    return Route("GET", f"/_chimera/{service}{path}", endpoint, described)


def read_query(call: Call, type_: type[Query], *, repeated: Sequence[str] = ()) -> Query:
    """The query of a request, as declared. Raises Invalid."""
    try:
        return msgspec.convert(call.query(repeated=repeated), type_, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "query") from error
