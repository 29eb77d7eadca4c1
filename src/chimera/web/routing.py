"""Routes, matched on the raw path so that a key may hold any character, percent-encoded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from chimera.errors import Invalid
from chimera.web.http import Call

Endpoint = Callable[[Call], Awaitable[None]]


class Route(NamedTuple):
    """A method and a path template such as `/orders/{order_id}`; `?by=day` at its end matches just that query.

    `operation` describes it for OpenAPI.
    """

    method: str
    template: str
    endpoint: Endpoint
    operation: dict[str, Any]


class NoRoute(Exception):  # noqa: N818 - an answer
    """Nothing answers this path (404), or not with this method (405, with those that are `allowed`)."""

    def __init__(self, status: HTTPStatus, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(status.phrase)
        self.status = status
        self.allowed = allowed


class _Pattern(NamedTuple):
    fixed: tuple[tuple[int, str], ...]
    names: tuple[tuple[int, str], ...]
    endpoints: dict[tuple[str, bytes], Endpoint]


class Router:
    """Finds the endpoint of a request. Routes declared first win; fixed segments win over parameters."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._patterns: dict[int, list[_Pattern]] = {}
        for route in routes:
            self._add(route)
        for patterns in self._patterns.values():
            patterns.sort(key=lambda pattern: len(pattern.names))

    def _add(self, route: Route) -> None:
        path, _, query = route.template.partition("?")
        segments = path.split("/")[1:]
        names = tuple((index, part[1:-1]) for index, part in enumerate(segments) if part.startswith("{"))
        fixed = tuple((index, part) for index, part in enumerate(segments) if not part.startswith("{"))
        patterns = self._patterns.setdefault(len(segments), [])
        for pattern in patterns:
            if pattern.fixed == fixed:
                pattern.endpoints.setdefault((route.method, query.encode()), route.endpoint)
                return
        patterns.append(_Pattern(fixed, names, {(route.method, query.encode()): route.endpoint}))

    def find(self, method: str, raw_path: bytes, query: bytes) -> tuple[Endpoint, dict[str, str]]:
        """The endpoint and the path's parameters. Raises NoRoute, or Invalid for a path that is not UTF-8."""
        method = "GET" if method == "HEAD" else method
        segments = [_decode(part) for part in raw_path.split(b"/")[1:]]
        for pattern in self._patterns.get(len(segments), ()):
            if any(segments[index] != part for index, part in pattern.fixed):
                continue
            endpoint = pattern.endpoints.get((method, query)) or pattern.endpoints.get((method, b""))
            if endpoint is None:
                allowed = tuple(sorted({known for known, _ in pattern.endpoints}))
                raise NoRoute(HTTPStatus.METHOD_NOT_ALLOWED, allowed)
            return endpoint, {name: segments[index] for index, name in pattern.names}
        raise NoRoute(HTTPStatus.NOT_FOUND)


def _decode(segment: bytes) -> str:
    try:
        return (unquote_to_bytes(segment) if b"%" in segment else segment).decode()
    except UnicodeDecodeError as error:
        raise Invalid("the path is not UTF-8 once percent-decoded", field="path", status=400) from error
