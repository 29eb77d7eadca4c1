"""Who asks, and with which request: what handlers and queries are told when they name it as a parameter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

LONGEST_METADATA = 24 << 10
"""Characters of JSON that may travel with a message."""
LONGEST_CALLER = 16 << 10
"""Bytes of JSON that a caller may have."""
BAGGAGE_BYTES = 1 << 10
"""Bytes of the names and values of a request's baggage that travel; what does not fit in is left behind."""


class Caller(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asks, as `service.authenticate` found out.

    `subject` names her; `claims` is what else is known of her, as JSON has it. It travels with her command and with the
    events of it, so claims are what handlers need and all consumers may read: no passwords, no tokens. `on_behalf_of`:
    for whom she acts, where what she does is somebody else's wish.
    """

    subject: str
    roles: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = {}
    tenant: str = ""
    on_behalf_of: str = ""


NOBODY_KNOWN = "nobody"
"""By whom a command is that was sent by nobody known."""
SYSTEM = "system"
"""By whom an event is that nobody has asked for: Chimera itself, when it mends."""


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message carries, on every path, of who did what: written here alone, and copied by the library.

    Without a `caller`, `by` says whether that was nobody known, or the system. `correlation` is the same for all that
    began with one command, whose id it is where it is left out. `causation`: the id of the command, or the event, that
    a message came from; none for a command that somebody sent. `baggage`: what else its request brought along.
    """

    caller: Caller | None = None
    by: str = ""
    correlation: str = ""
    causation: str = ""
    baggage: Mapping[str, str] = {}


_NO_CALLER = msgspec.Raw()


class _Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata whose caller is copied as it stands."""

    caller: msgspec.Raw = _NO_CALLER
    by: str = ""
    correlation: str = ""
    causation: str = ""
    baggage: Mapping[str, str] = {}


class Origin(NamedTuple):
    """Who did it, and in which chain of commands and events, as a message says it."""

    caller: Caller | None
    by: str
    correlation: str
    causation: str
    baggage: Mapping[str, str]

    @property
    def actor(self) -> str:
        """Who did it: the caller's subject, else `nobody` or `system`."""
        return self.caller.subject if self.caller else self.by


_decode = msgspec.json.Decoder(Metadata).decode
_decode_carried = msgspec.json.Decoder(_Carried).decode
_encode = msgspec.json.Encoder(order="deterministic").encode
BY_NOBODY = _encode(Metadata(by=NOBODY_KNOWN)).decode()
BY_SYSTEM = _encode(Metadata(by=SYSTEM)).decode()


def metadata_of(caller: Caller | None, correlation: str = "", baggage: Mapping[str, str] = {}) -> str:
    """What travels with a command that somebody sends, as JSON. Raises ValueError for claims that don't fit."""
    if caller is None:
        if not correlation and not baggage:
            return BY_NOBODY
        return _encode(Metadata(by=NOBODY_KNOWN, correlation=correlation, baggage=baggage)).decode()
    try:
        written = _encode(caller)
        _decode(_encode(Metadata(caller)))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the caller can't be written as JSON: {error}") from error
    if len(written) > LONGEST_CALLER:
        raise ValueError(
            f"the caller {caller.subject[:100]!r} has {len(written):,} bytes; at most {LONGEST_CALLER:,} fit"
        )
    carried = _Carried(msgspec.Raw(written), correlation=correlation, baggage=baggage)
    return _encode(carried).decode()


def caused_by(message_id: str, metadata: str) -> str:
    """What travels with an event that comes of a message: who did that one, its chain, and the message as its cause."""
    if metadata == BY_NOBODY:
        return f'{metadata[:-1]},"causation":{_encode(message_id).decode()}}}'
    before = _carried_of(metadata)
    by = before.by or ("" if before.caller else NOBODY_KNOWN)
    caused = _Carried(before.caller, by, before.correlation or before.causation, message_id, before.baggage)
    return _encode(caused).decode()


def caused_together(message_id: str, metadata: Sequence[str]) -> str:
    """As `caused_by`, for what comes of a batch of messages, the first of which has this id.

    It is the caller's who has caused them all, else the system's; and it begins a chain of its own.
    """
    whose = {(bytes(each.caller), each.by) for each in map(_carried_of, metadata)}
    caller, by = whose.pop() if len(whose) == 1 else (b"", SYSTEM)
    by = by or ("" if caller else NOBODY_KNOWN)
    return _encode(_Carried(msgspec.Raw(caller) if caller else _NO_CALLER, by, causation=message_id)).decode()


def _carried_of(metadata: str) -> _Carried:
    try:
        return _decode_carried(metadata)
    except (msgspec.MsgspecError, UnicodeError):  # from before all messages had some, or a stranger's
        return _Carried()


def origin_of(message_id: str, metadata: str) -> Origin:
    """Who did it, as a message's metadata say; where they say nothing that can be read, nobody known."""
    said = _read(metadata)
    by = "" if said.caller else said.by or NOBODY_KNOWN
    correlation = said.correlation or said.causation or message_id
    return Origin(said.caller, by, correlation, said.causation, said.baggage)


def caller_of(metadata: str) -> Caller | None:
    """The caller whom a message's metadata name; None where they name nobody that this code can read."""
    return _read(metadata).caller if metadata else None


def _read(metadata: str) -> Metadata:
    try:
        return _decode(metadata)
    except (msgspec.MsgspecError, UnicodeError):
        return _NOTHING


_NOTHING = Metadata()


def baggage_of(header: str, names: Collection[str]) -> dict[str, str]:
    """The entries of these names in a `baggage` header (W3C), decoded, as far as they are text and fit in."""
    found: dict[str, str] = {}
    left = BAGGAGE_BYTES
    for entry in header.split(","):
        name, is_pair, value = entry.partition(";")[0].partition("=")
        name = name.strip()
        if not is_pair or name not in names or name in found:
            continue
        try:
            text = unquote_to_bytes(value.strip()).decode()
        except UnicodeDecodeError:
            continue
        size = len(name) + len(text.encode())
        if size <= left and "\0" not in text:
            found[name] = text
            left -= size
    return found


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
