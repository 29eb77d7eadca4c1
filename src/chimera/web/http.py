"""Small pieces of HTTP: a request at hand, answers, problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from chimera.errors import Invalid

JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
PROBLEM = b"application/problem+json"
BODY_LIMIT = 1 << 20

Header = tuple[bytes, bytes]


class Call(NamedTuple):
    """A request being answered: its ASGI triple, and the parameters of its path."""

    scope: Scope
    receive: Receive
    send: Send
    path: Mapping[str, str]

    @property
    def headers(self) -> Headers:
        return Headers(scope=self.scope)

    def header(self, name: bytes) -> str | None:
        """A header by its lower-case name, without parsing the others."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value.decode("latin-1"))
        return None

    def wants_html(self) -> bool:
        accept = self.header(b"accept")
        return accept is not None and "text/html" in accept

    def query(self, *, repeated: Iterable[str] = ()) -> dict[str, Any]:
        """The query's parameters as text; those in `repeated` as lists. Raises Invalid for one given twice."""
        try:
            pairs = parse_qsl(
                self.scope["query_string"].decode("latin-1"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=2000,
            )
        except ValueError as error:
            raise Invalid(f"the query can't be read: {error}", field="query", status=400) from error
        parameters: dict[str, Any] = {}
        for name, value in pairs:
            if name in repeated:
                parameters.setdefault(name, []).append(value)
            elif name in parameters:
                raise Invalid(f"{name} is given more than once", field=f"query.{name}")
            else:
                parameters[name] = value
        return parameters

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        """The whole body. Raises Invalid (413) as soon as it is over the limit."""
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise Invalid("the client went away before the body was complete", status=400)
            chunk = event.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
            if not event.get("more_body"):
                return b"".join(chunks)

    async def answer(
        self, body: bytes, status: int = 200, content_type: bytes = JSON, headers: Iterable[Header] = ()
    ) -> None:
        """Send the whole answer."""
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers],
            }
        )
        await self.send({"type": "http.response.body", "body": body})

    async def answer_json(self, value: Any, status: int = 200, headers: Iterable[Header] = ()) -> None:
        await self.answer(msgspec.json.encode(value), status, JSON, headers)


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document. `field` is the field at fault, `reason` a word for programs."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    field: str = ""
    reason: str = ""


async def answer_problem(
    call: Call, status: int, detail: str, *, field: str = "", reason: str = "", headers: Iterable[Header] = ()
) -> None:
    """Answer with a problem document."""
    problem = Problem(HTTPStatus(status).phrase, status, detail, field=field, reason=reason)
    await call.answer(msgspec.json.encode(problem), status, PROBLEM, headers)


def too_large(limit: int) -> Invalid:
    return Invalid(f"the body is larger than {limit} bytes", field="$", status=413)


def invalid(error: msgspec.DecodeError | msgspec.ValidationError, prefix: str = "$") -> Invalid:
    """What msgspec found wrong, as a problem with the field at fault."""
    text, _, place = str(error).partition(" - at `")
    if not isinstance(error, msgspec.ValidationError):
        return Invalid(f"not valid JSON: {text}", field=prefix, status=400)
    field = prefix + place.rstrip("`").removeprefix("$")
    named = text.rpartition("field `")[2].rstrip("`") if "field `" in text else ""
    return Invalid(text, field=f"{field}.{named}" if named else field)
