"""Who asks, and with which request: what handlers and queries are told when they name it as a parameter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

LONGEST_METADATA = 16 << 10
"""Characters of JSON that may travel with a message."""


class Caller(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asks, as `service.authenticate` found out.

    `subject` names her; `claims` is what else is known of her, as JSON has it. It travels with her command and with the
    events of it, so claims are what handlers need and all consumers may read: no passwords, no tokens.
    """

    subject: str
    roles: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = {}
    tenant: str = ""


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message carries of the request that it came from."""

    caller: Caller | None = None


_decode = msgspec.json.Decoder(Metadata).decode


def metadata_of(caller: Caller | None) -> str:
    """What travels with a message, as JSON; empty for nobody. Raises ValueError for claims that don't fit."""
    if caller is None:
        return ""
    try:
        written = msgspec.json.encode(Metadata(caller), order="deterministic")
        _decode(written)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the caller can't be written as JSON: {error}") from error
    if len(written) > LONGEST_METADATA:
        raise ValueError(
            f"the caller {caller.subject[:100]!r} has {len(written):,} bytes; at most {LONGEST_METADATA:,} fit"
        )
    return written.decode()


def caller_of(metadata: str) -> Caller | None:
    """The caller whom a message's metadata name; None where they name nobody that this code can read."""
    if not metadata:
        return None
    try:
        return _decode(metadata.encode()).caller
    except (msgspec.MsgspecError, UnicodeError):
        return None


class Request:
    """The HTTP request that is being answered, to read.

    `scope` is its ASGI scope. Names of headers are in lower case; of a header or a query's parameter that comes several
    times, `headers` and `query` have the first.
    """

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.scope = scope

    @property
    def method(self) -> str:
        """Such as `GET`."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """The whole path, decoded, with the prefix below which the application is mounted."""
        return unquote_to_bytes(self.raw_path).decode("utf-8", "replace")

    @property
    def raw_path(self) -> bytes:
        """The whole path as it came."""
        return bytes(self.scope.get("raw_path") or str(self.scope["path"]).encode())

    @property
    def query_string(self) -> str:
        """The query as it came, without its question mark."""
        return bytes(self.scope["query_string"]).decode("latin-1")

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True)[::-1])

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in lower case."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in [*self.scope["headers"]][::-1]}

    @cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies, by name, as they were sent."""
        pairs = [part.strip().partition("=") for part in self.headers.get("cookie", "").split(";")]
        return {name: value.strip('"') for name, is_pair, value in pairs if is_pair and name}

    @property
    def client(self) -> str:
        """The address of whoever asks, or of the proxy before her; empty where it is not known."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    @property
    def url(self) -> str:
        """The whole address, as the client has it."""
        query = f"?{self.query_string}" if self.scope["query_string"] else ""
        return f"{self.scope.get('scheme', 'http')}://{self.headers.get('host', '')}{self.raw_path.decode()}{query}"


class _Chunks:
    """Bytes that come a chunk at a time, once."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def read(self) -> bytes:
        """All of it that was not read yet."""
        return b"".join([chunk async for chunk in self._chunks])


class FormPart(_Chunks):
    """A part of a form: a file with its `filename`, or a field without one. Read it before the next part comes."""

    def __init__(self, name: str, filename: str, content_type: str, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks)
        self.name = name
        self.filename = filename
        self.content_type = content_type


class Upload(_Chunks):
    """The body of a request as it comes: a chunk at a time, all at once, or the parts of a form, once.

    `size` in bytes, None where it is not known before. Reading raises Invalid: 413 beyond the limit of the route, 400
    where the client goes away, or where a form can't be read.
    """

    def __init__(
        self, content_type: str, size: int | None, chunks: AsyncIterator[bytes], parts: AsyncIterator[FormPart]
    ) -> None:
        super().__init__(chunks)
        self.content_type = content_type
        self.size = size
        self._parts = parts

    def parts(self) -> AsyncIterator[FormPart]:
        """The parts of a form (`multipart/form-data`), in order. Raises Invalid (415) for another body."""
        return self._parts


class AskedBy(NamedTuple):
    """Who asks, where that is known, and with which request, where there is one."""

    caller: Caller | None = None
    request: Request | None = None


NOBODY = AskedBy()
