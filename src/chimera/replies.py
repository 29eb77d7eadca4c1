"""Answers: what a handler or a query returns beside a plain value, and what is said of what went wrong."""

from __future__ import annotations

import re
import typing
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from chimera.errors import FieldError, Unfit

Result = TypeVar("Result")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_COOKIE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_HEADER = re.compile(r"[\x20-\x7e\t]*")
_OWN = frozenset({"content-length", "transfer-encoding", "connection", "chimera-position", "chimera-command"})


class Cookie(typing.NamedTuple):
    """A cookie to set; `max_age_s` seconds, 0 takes it away, None keeps it as long as the browser is open."""

    name: str
    value: str = ""
    max_age_s: int | None = None
    path: str = "/"
    domain: str = ""
    secure: bool = True
    http_only: bool = True
    same_site: Literal["lax", "strict", "none"] = "lax"

    def written(self) -> str:
        """The value of its header. Raises Unfit for a name or value that a cookie can't have."""
        if not _TOKEN.fullmatch(self.name) or not _COOKIE.fullmatch(self.value):
            raise Unfit(f"{self.name[:64]!r} is no cookie: a value has no space, quote, comma, semicolon or backslash")
        parts = [f"{self.name}={self.value}", f"Path={self.path}", f"SameSite={self.same_site.capitalize()}"]
        parts += [f"Domain={self.domain}"] if self.domain else []
        parts += [f"Max-Age={self.max_age_s}"] if self.max_age_s is not None else []
        return "; ".join([*parts, *(["Secure"] if self.secure else []), *(["HttpOnly"] if self.http_only else [])])


class Reply(typing.NamedTuple, Generic[Result]):
    """An answer with its HTTP status, for a direct command's handler or a query to return.

    201 is for created, 200 for replaced; 204 and 304 have no body. Its `headers` are beside those that Chimera sends.
    """

    body: Result
    status: int = 200
    headers: Mapping[str, str] = {}
    cookies: Sequence[Cookie] = ()

    def written(self) -> list[tuple[str, str]]:
        """The headers as they are sent, those of the cookies last. Raises Unfit for what is no header."""
        return written_headers([*self.headers.items(), *(("set-cookie", cookie.written()) for cookie in self.cookies)])


class Stream(typing.NamedTuple):
    """An answer that a query makes as it goes, a chunk at a time, from a resource of its own or a file.

    The reads of its Reader have ended by then. `content_type` says what it is. It ends when the client goes away, and
    its source is closed.
    """

    chunks: AsyncIterator[bytes]
    content_type: str = "application/octet-stream"
    status: int = 200
    headers: Mapping[str, str] = {}


class ServerEvent(typing.NamedTuple):
    """One of server-sent events: text as it is, anything else as JSON. `id` comes back as `Last-Event-ID`."""

    data: object
    event: str = ""
    id: str = ""
    retry_ms: int | None = None


class ServerEvents(typing.NamedTuple):
    """An answer of server-sent events (`text/event-stream`): what comes from a source, each a ServerEvent or its data.

    A comment is sent where nothing came for `alive_s` seconds, so that no proxy takes the connection for dead. It ends
    as a Stream does.
    """

    source: AsyncIterator[Any]
    alive_s: float = 15.0
    headers: Mapping[str, str] = {}


class Problem(msgspec.Struct, omit_defaults=True):
    """What is answered instead of what was asked for: a problem document (RFC 9457).

    `field` is the field at fault, `reason` a word for programs; of several fields, `errors` says what is wrong.
    """

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    field: str = ""
    reason: str = ""
    errors: list[FieldError] = []


def redirect(url: str, status: int = 303) -> Reply[None]:
    """The answer that sends a client elsewhere: 303 to read there, 307 and 308 to ask again in the same way."""
    return Reply(None, status, {"location": url})


def written_headers(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers with names in lower case. Raises Unfit for a name or a value that no header can have."""
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _HEADER.fullmatch(value):
            raise Unfit(f"{name[:64]!r}: {value[:64]!r} is no header: it is one line of visible ASCII")
        if name.lower() in _OWN:
            raise Unfit(f"the header {name} is Chimera's own; leave it out")
    return [(name.lower(), value) for name, value in headers]
