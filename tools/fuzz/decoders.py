"""What reads bytes and texts of strangers without any I/O. A target reads one input, and may refuse it in one way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec

from chimera.adapters.http import HttpOwner
from chimera.adapters.kafka.messages import to_record
from chimera.adapters.rabbitmq import messages as amqp_messages
from chimera.caller import Caller, Request, baggage_of, caller_of, caused_by, metadata_of, origin_of
from chimera.commands.accept import CommandDecoder
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.keys.seals import Seals
from chimera.errors import Invalid, Trimmed, Unavailable, Unreadable
from chimera.forms import readers_of
from chimera.journal.failures import decoded
from chimera.messages import Attributes, Message, Position, received
from chimera.parts import path_parameters
from chimera.service import Service
from chimera.views.lists.reads import _place, cursor_of
from chimera.web.lists import ListQuery
from chimera.web.permission.tokens import Peers, bearing
from chimera.web.read_head import _after
from chimera.web.wire.http import Call, Header, parse_query, prefers_html, read_query
from chimera.web.wire.uploads import upload_of
from fuzz.inputs import changed, changed_header, changed_text
from fuzz.service import WasPut

Target = Callable[[Random], Any]
"""Reads one input; a coroutine where it has to wait. Raises where something is wrong."""

PUT = b"""{"kind":"few","number":7,"price":"1.50","at":"2026-01-31T08:00:00Z","day":"2026-01-31",
"id":"018f3c2a-7d1e-7c00-8000-0123456789ab","parts":[{"name":"a","weight":1.5,"parts":[{"name":"b"}]}],"notes":{"a":"b","c":1}}"""
COUNT = b'{"by":3}'
METADATA = (
    metadata_of(Caller("ann", frozenset({"seller"}), {"level": 3}, "north", "bob"), "chain", {"campaign": "x"}),
    metadata_of(None),
    caused_by("fuzzed/1@7", metadata_of(Caller("ann"))),
)
POSITIONS = ("fuzzed/3@1042", "gig-page/0@1", "a/9@999999999999999999", "x/0@0,y/1@2")
KEYS = ("k" * 32, "l" * 32)


def call_of(
    headers: Sequence[Header] = (), query: bytes = b"", body: Sequence[bytes] = (b"",), method: str = "POST"
) -> Call:
    """A call with these headers and a body that comes in these chunks."""
    chunks = [*body]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    async def send(event: Any) -> None: ...

    scope = {"type": "http", "method": method, "path": "/x", "raw_path": b"/x", "query_string": query}
    return Call({**scope, "headers": [*headers]}, receive, send, {})


def decoders(service: Service, context: Context) -> Mapping[str, Target]:
    """The targets, by name."""
    return {
        "commands": _commands(service, context),
        "positions": _positions,
        "after": _after_header,
        "cursors": _cursors,
        "tokens": _tokens(service),
        "queries": _queries,
        "requests": _requests,
        "multipart": _multipart,
        "records": _records(service),
        "metadata": _metadata,
        "owners": _owners,
    }


def _commands(service: Service, context: Context) -> Target:
    ways = []
    for handler, good, path in (
        (service.handlers["Put"], PUT, {"thing": "t"}),
        (service.handlers["Count"], COUNT, {"number": "5", "day": "2026-01-31"}),
    ):
        fields = path_parameters((handler.route or "").partition(" ")[2])
        readers = readers_of(handler.command, service.name)
        ways.append((CommandDecoder(context, handler, fields), good, path, readers))

    def read(random: Random) -> None:
        decoder, good, path, readers = random.choice(ways)
        body = changed([good], random)
        given = {name: changed_text([text], random) if random.random() < 0.2 else text for name, text in path.items()}
        key = changed_text(["key-1"], random) if random.random() < 0.3 else None
        with suppress(Invalid):
            accepted = decoder.decode(body, given, key, changed_text(["00-" + "a" * 32], random), None, METADATA[1])
            again = decoded(readers[accepted.message.type], accepted.message)
            assert again == accepted.command or again != again, "a command is another one in the write head"

    return read


def _positions(random: Random) -> None:
    text = changed_text(POSITIONS, random)
    with suppress(ValueError):
        at = Position.parse(text)
        assert Position.parse(str(at)) == at


def _after_header(random: Random) -> None:
    values = [(b"chimera-after", changed_header(POSITIONS, random)) for _ in range(random.randrange(1, 3))]
    with suppress(Invalid):
        _after(call_of(values))


def _cursors(random: Random) -> None:
    within, place = b"list and values", random.randbytes(random.randrange(40))
    cursor = cursor_of(place, within)
    given = changed_text([cursor], random)
    with suppress(Invalid):
        assert _place(given, within) == place, "a cursor that was changed leads somewhere else"


def _tokens(service: Service) -> Target:
    clock = Clock()
    token = bearing(service, "owner", KEYS, clock)
    assert token is not None
    peers, good = Peers("owner", KEYS, clock), token()

    def read(random: Random) -> None:
        given = changed([good.encode()], random).decode("latin-1")
        peer = peers.read(given)
        assert (peer is not None) == (given == good) or given.rstrip("=") == good, "a token that was changed is known"

    return read


def _queries(random: Random) -> None:
    query = changed([b"limit=20&after=abc&offset=0", b"a=1&a=2&b=%C3%A9+x", b"wait=2&id=1"], random)
    with suppress(Invalid):
        parse_query(query)
    with suppress(Invalid):
        read_query(call_of(query=query), ListQuery)


def _requests(random: Random) -> None:
    headers = [
        (b"accept", changed_header(["text/html;q=0.9, application/json", "*/*;q=nan"], random)),
        (b"cookie", changed_header(['a=b; c="d"'], random)),
        (b"host", changed_header(["shop.example:80"], random)),
        (b"baggage", changed_header(["campaign=a%20b;p=1, other=c"], random)),
    ]
    call = call_of(headers, changed([b"a=1&b=2"], random))
    request = Request(call.scope)
    prefers_html(call.header(b"accept") or "")
    baggage_of(call.header(b"baggage") or "", ("campaign",))
    for each in (request.cookies, request.query, request.url, request.path, request.client):
        assert each is not None


FORM = (
    b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nvalue\r\n'
    b'--b\r\ncontent-disposition: form-data; name="f"; filename="x.png"\r\ncontent-type: image/png\r\n\r\n'
    b"\x89PNG\r\n--b--\r\n"
)


async def _multipart(random: Random) -> None:
    body = changed([FORM], random)
    kind = changed_header(["multipart/form-data; boundary=b"], random) if random.random() < 0.2 else None
    kind = kind or b"multipart/form-data; boundary=b"
    cuts = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(4)))
    chunks = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    length = [(b"content-length", b"%d" % len(body))] if random.random() < 0.5 else []
    upload = upload_of(call_of([(b"content-type", kind), *length], body=chunks), 1 << 20)
    with suppress(Invalid):
        async for part in upload.parts():
            if random.random() < 0.8:
                await part.read()


def _records(service: Service) -> Target:
    good = Message("fuzzed/1@5", "fuzzed", "fuzzed.WasPut", "t", "2026-01-31T08:00:00Z", PUT, 1, 5, "00-a", "c" * 32)
    good = msgspec.structs.replace(good, metadata=METADATA[0], data=b'{"thing":"t","kind":"few","number":1}')
    written, readers = amqp_messages.encode(good), readers_of(WasPut, service.name)
    seals = [Seals().of("fuzzed"), Seals(KEYS).of("fuzzed")]
    texts = [good.id, good.source, good.type, good.key, good.time, "5", good.traceparent, good.chain, good.metadata]

    def look(message: Message) -> None:
        for seal in seals:
            seal.follows(message, "0" * 32)
            seal.is_on(message)
        caller_of(message.metadata)
        if not message.fault and message.type in readers:
            with suppress(Unreadable):
                decoded(readers[message.type], message)

    def read(random: Random) -> None:
        given = [changed_text([text], random) if random.random() < 0.3 else text for text in texts]
        data = changed([good.data], random)
        look(received("topic/1@9", 1, Attributes(*given), data))
        look(amqp_messages.decode(changed([written], random), 1, "topic-1", 9))
        names = ("ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_number", "ce_traceparent", "ce_metadata")
        headers = [(name, changed([text.encode()], random)) for name, text in zip(names, texts, strict=False)]
        answers = {"partition": 1, "offset": 8, "topic": "topic", "value": data, "key": None, "headers": headers}
        look(to_record(SimpleNamespace(**{name: _always(value) for name, value in answers.items()})).message)  # type: ignore[arg-type]

    return read


def _always(value: object) -> Callable[[], object]:
    return lambda: value


def _metadata(random: Random) -> None:
    metadata, message_id = changed_text(METADATA, random), changed_text(["018f3c2a-7d1e-7c00"], random)
    caused = caused_by(message_id, metadata)
    json.loads(caused)
    if caller_of(metadata) is not None:
        assert caller_of(caused) == caller_of(metadata), "what comes of it is another's"
    assert origin_of("x", caused).actor
    assert origin_of(message_id, metadata).actor


class _Answering:
    """A service that answers something."""

    def __init__(self, status: int, body: bytes) -> None:
        self.answer = status, body

    async def request(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: bytes | None
    ) -> tuple[int, bytes]:
        return self.answer

    async def close(self) -> None: ...


ANSWERS = (
    b'{"documents":{"a":{"thing":"a"}},"positions":{"a":"fuzzed/1@5"}}',
    (
        b'{"events":[{"id":"fuzzed/1@5","source":"fuzzed","type":"fuzzed.WasPut","subject":"t","time":"x","partition":1,'
        b'"number":5,"data":{"thing":"t"},"chain":"c","metadata":"{}"}]}'
    ),
    b'{"heads":{"0":5,"1":7}}',
    b'{"partition":1,"chain":"abc"}',
    b'{"partition":1,"entries":{"a":{"number":1,"digest":"x"}}}',
    b'{"partition":1,"buckets":{"1":{"keys":1,"digest":"x"}}}',
    b'{"epochs":[{"partition":1,"number":2,"chain":"c","offset":3}]}',
)


async def _owners(random: Random) -> None:
    owner = HttpOwner(
        "fuzzed",
        "http://owner",
        transport=_Answering(random.choice((200, 200, 200, 410, 500)), changed(ANSWERS, random)),
    )
    asked = random.choice(
        (
            lambda: owner.fetch("things", ["a"]),
            lambda: owner.journal(1, 4, 10),
            owner.heads,
            lambda: owner.chain({1: 5}),
            lambda: owner.entries("things", 1, [1]),
            lambda: owner.digests("things", 1),
            owner.epochs,
        )
    )
    with suppress(Unavailable, Trimmed):
        await asked()
