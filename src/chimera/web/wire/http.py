"""Small pieces of HTTP: a request at hand, answers, problem documents (RFC 9457)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from chimera.caller import AskedBy
from chimera.core.json import invalid
from chimera.errors import FieldError, Invalid, Unavailable
from chimera.forms import encode
from chimera.replies import Problem, Reply
from chimera.web.wire.shares import Lane, Shares
from chimera.web.wire.turns import CallerTurns

logger = logging.getLogger("chimera")

JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
PROBLEM = b"application/problem+json"
BODY_LIMIT = 1 << 20
BODY_FREE = 16 << 10
"""Bytes of each body that take nothing of what bodies share, so that small ones always find room."""
LARGE_ANSWER = 64 << 10
DISCARD_LIMIT = 16 << 20
DISCARD_S = 5.0
BODILESS = frozenset({204, 205, 304})
SILENT_S = 0.5
FAILED = "something went wrong here; it is in the log"
"""What is told of a failure that only the log knows."""

Declared = TypeVar("Declared", bound=msgspec.Struct)

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""The five types of ASGI (https://asgi.readthedocs.io)."""

Header = tuple[bytes, bytes]
PROVEN = "chimera.proven"
"""The key of an ASGI scope under which the front says, as texts, what a trusted proxy tells of a certificate."""
SNIFFED: Header = (b"x-content-type-options", b"nosniff")
POLICY = b"content-security-policy"
PAGE_HEADERS: tuple[Header, ...] = (
    (
        POLICY,
        (
            b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
            b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        ),
    ),
    (b"referrer-policy", b"same-origin"),
)
"""What a page has of its own accord: its scripts come from here, and nobody frames it. A reply may say otherwise."""

_STATUSES = frozenset(HTTPStatus)


class Call(msgspec.Struct):
    """A request being answered: its ASGI triple, and the parameters of its path."""

    scope: Scope
    receive: Receive
    send: Send
    path: Mapping[str, str]
    bodies: Shares | None = None
    """What the bodies of all requests share, in bytes; None for no limit."""
    service: str = ""
    client: str = ""
    held: int = 0
    lane: Lane | None = None
    """The bytes of the body that were taken of `bodies`, for the service and the client's address, and where."""
    is_unread: bool = False
    """True when the body was given up before its end: nothing more can be asked on its connection."""
    firsts: dict[bytes, bytes] | None = None
    """The first value of each header, once one was asked for."""
    render: Render | None = None
    """How the service gives its errors."""
    asked: AskedBy | None = None
    """Who asks, once that was found out."""
    pending: Any = None
    """What is left to be asked of the rule, once the command is known."""
    root: str = ""
    """The path, percent-encoded, below which all is served, as links need it; empty where nothing is mounted."""
    leaving: tuple[Callable[[], None], ...] = ()
    """What is to be done once it is answered: the turns that it has taken are over."""

    @property
    def waits(self) -> bool:
        """True for a request whose answer may be held back."""
        return self.header(b"chimera-after") is not None or b"wait=" in self.scope["query_string"]

    def enter(self, turns: CallerTurns, who: str) -> None:
        """Take a turn for it, until it is answered. Raises TooMany."""
        waits = self.waits
        turns.enter(who, waits=waits)
        self.leaving = (*self.leaving, partial(turns.leave, who, waits=waits))

    def header(self, name: bytes) -> str | None:
        """A header by its lower-case name; of several, the first."""
        if self.firsts is None:
            self.firsts = dict([*self.scope["headers"]][::-1])
        value = self.firsts.get(name)
        return None if value is None else value.decode("latin-1")

    def headers_of(self, name: bytes) -> list[str]:
        """Every value of a header that may come more than once."""
        if self.header(name) is None:
            return []
        return [str(value.decode("latin-1")) for key, value in self.scope["headers"] if key == name]

    def wants_html(self) -> bool:
        """True when its Accept header likes HTML better than JSON; false without one."""
        accept = self.header(b"accept")
        return accept is not None and "html" in accept.lower() and prefers_html(accept)

    def query(self, *, repeated: Iterable[str] = ()) -> dict[str, Any]:
        """The query's parameters as text; those in `repeated` as lists. Raises Invalid for one given twice."""
        parameters: dict[str, Any] = {}
        for name, value in parse_query(self.scope["query_string"]):
            if name in repeated:
                parameters.setdefault(name, []).append(value)
            elif name in parameters:
                raise Invalid(f"{name[:64]} is given more than once", field=f"query.{name[:64]}")
            else:
                parameters[name] = value
        return parameters

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        """The whole body. Raises Invalid (413) for one over the limit, Unavailable where no room is left for it.

        Both once the client is ready to hear it.
        """
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            await self._discard()
            raise too_large(limit)
        data = bytearray()
        while True:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise Invalid("the client went away before the body was complete", status=400)
            data += event.get("body", b"")
            istoo_large = len(data) > limit
            if istoo_large or not self._hold(len(data) - BODY_FREE):
                del event, data
                self.let_go()
                await self._discard()
                raise too_large(limit) if istoo_large else Unavailable("too many bytes of bodies are under way")
            if not event.get("more_body"):
                return bytes(data)

    def _hold(self, size: int) -> bool:
        """Take so many bytes in all, as far as they are not held yet; False where they are too many."""
        more = size - self.held
        if more <= 0 or self.bodies is None:
            return True
        if (lane := self.bodies.take(self.service, self.client, more)) is None:
            return False
        self.held, self.lane = size, lane
        return True

    def let_go(self) -> None:
        """Give back what the body has taken."""
        if self.bodies is not None and self.lane is not None:
            self.bodies.give_back(self.lane, self.client, self.held)
            self.held, self.lane = 0, None

    async def _discard(self) -> None:
        """Read on for a moment before refusing: a client that is still sending might miss the answer."""
        self.is_unread = True
        if self.header(b"expect") is not None:
            return
        left, more = DISCARD_LIMIT, True
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while more and left > 0:
                    async with asyncio.timeout(SILENT_S):
                        event = await self.receive()
                    left -= len(event.get("body", b""))
                    more = event["type"] == "http.request" and event.get("more_body", False)

    async def answer(
        self, body: bytes, status: int = 200, content_type: bytes = JSON, headers: Sequence[Header] = ()
    ) -> None:
        """Send the whole answer. One with a status that has no body (204, 205, 304) has none, whatever it is given."""
        described = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), SNIFFED]
        if content_type == HTML:
            given = {name.lower() for name, _ in headers}
            described += [header for header in PAGE_HEADERS if header[0] not in given]
        if status in BODILESS:
            body, described = b"", []
        await self.send({"type": "http.response.start", "status": status, "headers": [*described, *headers]})
        if len(body) > LARGE_ANSWER:  # it is answered once the client has taken most of it
            await self.send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
        await self.send({"type": "http.response.body", "body": body})

    async def answer_json(self, value: object, status: int = 200, headers: Sequence[Header] = ()) -> None:
        """Send the whole answer: a value that msgspec can encode, as JSON."""
        await self.answer(encode(value), status, JSON, headers)


def mounted(scope: Scope) -> tuple[bytes, str]:
    """A request's path below where the application is mounted, and where that is; both percent-encoded.

    Servers and frameworks do not agree on whether a path holds its `root_path`, and Litestar cuts paths and says no
    `root_path`; whichever they do, this finds it.
    """
    path = scope["path"]
    raw_path: bytes = scope.get("raw_path") or quote(path).encode()
    root: str = scope.get("root_path") or ""
    if not root and len(raw_path) != len(path) and (whole := unquote(raw_path)) != path:
        root = whole.rstrip("/").removesuffix(path.rstrip("/"))
        root = "" if root == whole.rstrip("/") and path != "/" else root
    if not (root := root.rstrip("/")):
        return raw_path, ""
    given = root.encode()
    if not (raw_path.startswith(given) and raw_path[len(given) : len(given) + 1] in (b"/", b"")):
        given = b"/".join(raw_path.split(b"/")[: root.count("/") + 1])
        if unquote(given) != root:
            return raw_path, quote(root)
    return raw_path[len(given) :] or b"/", quote(root)


def below(scope: Scope, path: str) -> Scope | None:
    """The scope of an application that is mounted at `path` in the one of this scope; None for another path."""
    root = scope.get("root_path", "")
    within = scope["path"].removeprefix(root) if scope["path"].startswith(f"{root}/") else scope["path"]
    if within != path and not within.startswith(f"{path}/"):
        return None
    return {**scope, "root_path": root + path}


def too_large(limit: int) -> Invalid:
    """The refusal of a body of more than `limit` bytes."""
    return Invalid(f"the body is larger than {limit} bytes", field="$", status=413)


Render = Callable[[Problem], Reply[Any]]
"""Makes the answer of a problem, in the shape that a service gives its errors."""


async def answer_problem(
    call: Call,
    status: int,
    detail: str,
    *,
    field: str = "",
    reason: str = "",
    errors: Iterable[FieldError] = (),
    headers: Sequence[Header] = (),
) -> None:
    """Answer with a problem document, or in the shape of the service whose route it is."""
    title = HTTPStatus(status).phrase if status in _STATUSES else "Problem"
    problem = Problem(title, status, detail, field=field, reason=reason, errors=[*errors])
    if call.render is not None:
        try:
            reply = call.render(problem)
            body = b"" if reply.body is None else encode(reply.body)
            await call.answer(body, reply.status, JSON, [*headers, *encoded(reply.written())])
        except Exception:
            logger.exception("%s %s: its error can't be rendered", call.scope["method"], call.scope["path"])
        else:
            return
    await call.answer(msgspec.json.encode(problem), status, PROBLEM, headers)


def encoded(headers: Iterable[tuple[str, str]]) -> list[Header]:
    """Headers as ASGI has them."""
    return [(name.encode(), value.encode()) for name, value in headers]


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """The names and values of a query string. Raises Invalid for one that is no text."""
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict", max_num_fields=2000)
    except ValueError as error:
        raise Invalid(f"the query can't be read: {error}", field="query", status=400) from error
    for name, value in pairs:
        if "\0" in name or "\0" in value:
            raise Invalid("the query must not hold the character U+0000", field="query", status=400)
    return pairs


def prefers_html(accept: str) -> bool:
    """True when an Accept header likes HTML better than JSON; of two that it likes the same, the first one named."""
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights[name] = min((_weight(parameter) for parameter in parameters), default=1.0)
    html = weights.get("text/html", 0.0)
    json = weights.get("application/json", weights.get("*/*", 0.0))
    if html != json or not html:
        return html > json
    names = list(weights)
    return "application/json" not in names or names.index("text/html") < names.index("application/json")


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    try:
        return float(value) if name == "q" else 1.0
    except ValueError:
        return 1.0


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """A request without a query."""


def read_query(call: Call, type_: type[Declared], *, repeated: Sequence[str] = ()) -> Declared:
    """The query of a request, as declared. Raises Invalid."""
    try:
        return msgspec.convert(call.query(repeated=repeated), type_, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "query") from error
