"""RabbitMQ behind the port `Log`: one stream per partition, `<topic>-<partition>`, over the stream protocol.

The protocol is spoken here rather than through rstream: a dozen commands are all it takes, and rstream drops what
is sent on a lost connection without a word, keeps a silent one for ever, and encodes a message ten times as slowly.
A topic's streams are named as a super stream's, but declared one by one: that works on every broker since 3.9.

A stream counts from 0 and the port from 1, so "after offset n" is the stream's offset n.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import struct
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Generic, Literal, NamedTuple, NoReturn, Protocol, TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from chimera.errors import ChimeraError, SettingsError, Unavailable
from chimera.messages import Message, to_cloud_event
from chimera.ports import Features, Log, Record, Store, ViewStore

Answer = TypeVar("Answer")
Opened = TypeVar("Opened", bound="_Closable")

logger = logging.getLogger("chimera")

_PATIENCE_S = 10.0
_BRIDGE_S = 30.0
_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_HEARTBEAT_S = 10
_FRAME_BYTES = 16 * 1024 * 1024
_WINDOW_BYTES = 1024 * 1024
_CREDITS = 4
_MOST_PARTITIONS = 256
_TOPIC = re.compile(r"[a-z0-9.-]+")
_RETENTION = {"max_age": "max-age", "max_bytes": "max-length-bytes", "segment_bytes": "stream-max-segment-size-bytes"}
_OPTIONS = frozenset({"tls", "ca", "exchange", "amqp_port", *_RETENTION})

_DECLARE_PUBLISHER, _PUBLISH, _CONFIRM, _PUBLISH_ERROR, _SUBSCRIBE, _DELIVER, _CREDIT = 1, 2, 3, 4, 7, 8, 9
_UNSUBSCRIBE, _CREATE, _METADATA, _METADATA_UPDATE = 12, 13, 15, 16
_PROPERTIES, _HANDSHAKE, _AUTHENTICATE, _TUNE, _OPEN, _CLOSE, _HEARTBEAT = 17, 18, 19, 20, 21, 22, 23
_RESPONSE = 0x8000
_FIRST, _LAST = struct.pack(">H", 1), struct.pack(">H", 2)
_OK, _NO_STREAM, _STREAM_EXISTS = 1, 2, 5
_CODES = {
    _NO_STREAM: "there is no such stream",
    6: "the stream is not available now",
    8: "wrong user or password",
    9: "the login was not understood",
    11: "this user may only connect from the broker's own host",
    12: "no access to this virtual host",
    14: "the frame is too large",
    16: "access refused",
    17: "the stream exists with other arguments, or the broker is low on memory or disk",
}
_SETTINGS = frozenset({8, 9, 11, 12, 16, 17})

_CHUNK = struct.Struct(">BBHIqQQIIII")


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log | Store | ViewStore:
    """The log of `rabbitmq://user:password@host:5552/vhost?options`. Nothing is opened yet. Raises SettingsError.

    Options: `tls=1`, `ca=<path>`; `exchange=<name>` (and `amqp_port`); `max_age=7D`, `max_bytes` and `segment_bytes`,
    the retention of the streams that `create` makes: without them nothing is ever trimmed.
    """
    if kind != "log":
        raise SettingsError(f"RabbitMQ can be a log, but no {kind}: give [engines] {kind} another URL")
    return RabbitMQLog(url)


class RabbitMQLog:
    """A log of streams.

    When `append` returns, a majority of each stream's replicas has the messages, but none need have them on disk
    yet: a broker process may die, but what a power cut takes from all of them at once is lost.

    With `?exchange=NAME`, topics that end in `.events` are also published to that AMQP topic exchange, the routing
    key being the event's type. `append` then returns once both have confirmed; the exchange goes first, so that
    while it fails nothing is appended, and what is tried again may come to its queues twice.

    A reader bridges a restart of the broker of up to half a minute; after that it raises Unavailable.
    """

    features = Features(durable=True, shared=True)

    def __init__(self, url: str) -> None:
        self._address, options = _parse(url)
        self._arguments = {_RETENTION[name]: value for name, value in options.items() if name in _RETENTION}
        self._exchange = _exchange(self._address, options)
        self._topics: dict[str, _Topic] = {}
        self._readers: set[_Reader] = set()
        self._closed = False

    async def create(self, topic: str, partitions: int) -> None:
        """Raises SettingsError when the topic exists with another number of partitions."""
        await self._topic(topic).create(partitions)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises ValueError, and adds nothing, when a message's partition is not one of the topic's."""
        opened = self._topic(topic)
        if self._exchange is not None and topic.endswith(".events"):
            await opened.checked(messages)
            await self._exchange.publish(messages)
        if messages:
            await opened.append(messages)

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        self._check_open()
        reader = _Reader(self._address, topic, after)
        self._readers.add(reader)
        try:
            while batch := await reader.next(limit):
                yield batch
                await asyncio.sleep(0)
        finally:
            self._readers.discard(reader)
            reader.close()

    async def ends(self, topic: str) -> Mapping[int, int]:
        return await self._topic(topic).ends()

    async def close(self) -> None:
        self._closed = True
        for reader in self._readers:
            reader.close()
        for topic in self._topics.values():
            await topic.close()
        if self._exchange is not None:
            await self._exchange.close()

    def _topic(self, name: str) -> _Topic:
        self._check_open()
        if name not in self._topics:
            if not _TOPIC.fullmatch(name):
                raise SettingsError(f"{name!r} can't name a topic; use lower case letters, digits, dots and dashes")
            self._topics[name] = _Topic(self._address, name, self._arguments)
        return self._topics[name]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self._address}: this log was closed")


class _Address(NamedTuple):
    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return f"rabbitmq://{self.user}@{self.host}:{self.port}/{quote(self.vhost, '')}"

    def __repr__(self) -> str:
        return str(self)


def _parse(url: str) -> tuple[_Address, dict[str, str]]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"the URL of RabbitMQ is wrong: {error}") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme != "rabbitmq" or not parts.hostname:
        raise SettingsError("a URL of RabbitMQ looks like rabbitmq://user:password@host:5552/vhost")
    if unknown := options.keys() - _OPTIONS:
        raise SettingsError(
            f"rabbitmq://{parts.hostname} has no option {', '.join(sorted(unknown))}; "
            f"it has: {', '.join(sorted(_OPTIONS))}"
        )
    tls = _tls(options) if options.get("tls", "0") not in ("", "0", "false") else None
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    vhost = unquote(parts.path[1:]) or "/"
    return _Address(parts.hostname, port or (5551 if tls else 5552), user, password, vhost, tls), options


def _exchange(address: _Address, options: Mapping[str, str]) -> _Exchange | None:
    if not (name := options.get("exchange")):
        return None
    port = options.get("amqp_port") or ("5671" if address.tls else "5672")
    if not port.isdecimal():
        raise SettingsError(f"{address}: amqp_port={port} is no number")
    return _Exchange(address, name, int(port))


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=options.get("ca"))
    except OSError as error:
        raise SettingsError(f"?ca={options.get('ca')}: {error}") from error


class _Refused(Unavailable):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Confirms:
    """The confirms that one append waits for."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, cause: str) -> None:
        if not self.done.done():
            self.done.set_exception(Unavailable(cause))
            self.done.exception()

    def confirm(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


class _Link(asyncio.Protocol):
    """A connection to the broker: frames out and in. When it is lost, all who wait on it are told."""

    def __init__(self, address: _Address) -> None:
        self.sinks: dict[int, Callable[[bytes], None]] = {}
        self.lost: Callable[[], None] = lambda: None
        self.is_open = True
        self._address = address
        self._cause = "the connection was lost"
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._heard = self._loop.time()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._unconfirmed: dict[int, _Confirms] = {}
        self._requested = self._published = 0
        self._frame_bytes = _FRAME_BYTES
        self._tuned: asyncio.Future[bytes] = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def open(cls, address: _Address) -> _Link:
        """Connect and log in. Raises Unavailable, or SettingsError for a login that is refused."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                _, link = await loop.create_connection(
                    lambda: cls(address), address.host, address.port, ssl=address.tls
                )
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"{address}: {str(error) or 'no answer'}") from error
        try:
            await link.log_in()
        except BaseException as error:
            link.close()
            if isinstance(error, _Refused) and error.code in _SETTINGS:
                raise SettingsError(str(error)) from error
            raise
        return link

    async def log_in(self) -> None:
        secret = f"\0{self._address.user}\0{self._address.password}".encode()
        await self.ask(_PROPERTIES, _pairs({"product": "Chimera", "connection_name": "chimera"}))
        await self.ask(_HANDSHAKE)
        await self.ask(_AUTHENTICATE, _string("PLAIN") + struct.pack(">I", len(secret)) + secret)
        await self._in_time(self._tuned)
        await self.ask(_OPEN, _string(self._address.vhost))

    async def ask(self, command: int, body: bytes = b"", about: str = "") -> None:
        """A request that is answered by a code only. Raises _Refused."""
        [code] = struct.unpack_from(">H", await self._request(command, body))
        if code != _OK:
            place = f"{self._address}: {about}: " if about else f"{self._address}: "
            raise _Refused(code, place + _CODES.get(code, f"refused with code {code}"))

    async def partitions(self, topic: str) -> int:
        """How many streams the topic has, counted up to the first that is missing."""
        for start in range(0, _MOST_PARTITIONS, 32):
            names = [f"{topic}-{partition}" for partition in range(start, start + 32)]
            body = struct.pack(">I", len(names)) + b"".join(map(_string, names))
            codes = _stream_codes(await self._request(_METADATA, body))
            for at, name in enumerate(names):
                if codes.get(name, _NO_STREAM) == _NO_STREAM:
                    return start + at
        return _MOST_PARTITIONS

    async def end(self, subscription: int, stream: str) -> int:
        """The offset after the stream's last record, which is the port's offset of that record."""
        while not (end := await self._peek(subscription, stream, _LAST)):
            if not await self._peek(subscription, stream, _FIRST):
                return 0
            # There are records, but the last chunk is not on enough replicas yet.
            await asyncio.sleep(0.01)
        return end

    async def _peek(self, subscription: int, stream: str, offset: bytes) -> int:
        """Where the first or last chunk ends; 0 without one.

        The broker sends what a new subscription has credit for before it looks at the next request.
        """
        ends: list[int] = []
        self.sinks[subscription] = lambda chunk: ends.append(_Header.of(chunk).end)
        try:
            await asyncio.gather(
                self.subscribe(subscription, stream, offset, credits_=1),
                self.ask(_UNSUBSCRIBE, bytes((subscription,))),
            )
        finally:
            del self.sinks[subscription]
        return ends[-1] if ends else 0

    async def subscribe(self, subscription: int, stream: str, offset: bytes, credits_: int) -> None:
        body = bytes((subscription,)) + _string(stream) + offset + struct.pack(">H", credits_)
        await self.ask(_SUBSCRIBE, body + _pairs({}), stream)

    def credit(self, subscription: int, count: int) -> None:
        self._send(_CREDIT, struct.pack(">BH", subscription, count))

    async def publish(self, entries: Mapping[int, Sequence[bytes]]) -> None:
        """Messages by publisher; returns once all are confirmed. What is called first is written first."""
        confirms = _Confirms(sum(map(len, entries.values())))
        for publisher, messages in entries.items():
            for part in _parts(messages, self._frame_bytes):
                body = bytearray(struct.pack(">BI", publisher, len(part)))
                for number, message in enumerate(part, self._published):
                    self._unconfirmed[number] = confirms
                    body += struct.pack(">QI", number, len(message))
                    body += message
                self._published += len(part)
                self._send(_PUBLISH, body)
        if not self._writable.is_set():
            await self._in_time(self._writable.wait())
        await self._in_time(confirms.done)

    def close(self) -> None:
        if self.is_open:
            self._requested += 1
            self._send(_CLOSE, struct.pack(">IH", self._requested, _OK) + _string("OK"))
            self._transport.close()
            self._end("the connection was closed")

    async def _request(self, command: int, body: bytes) -> bytes:
        self._requested += 1
        number = self._requested
        answer = self._answers[number] = self._loop.create_future()
        try:
            self._send(command, struct.pack(">I", number) + body)
            return await self._in_time(answer)
        finally:
            self._answers.pop(number, None)

    async def _in_time(self, answer: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await answer
        except TimeoutError:
            self._end(f"no answer for {_PATIENCE_S:.0f} s")
            self._fail()

    def _send(self, command: int, body: bytes | bytearray = b"") -> None:
        if not self.is_open:
            self._fail()
        self._transport.write(b"".join((struct.pack(">IHH", len(body) + 4, command, 1), body)))

    def _fail(self) -> NoReturn:
        raise Unavailable(f"{self._address}: {self._cause}")

    def _end(self, cause: str) -> None:
        if not self.is_open:
            return
        self.is_open, self._cause = False, cause
        if not self._transport.is_closing():
            self._transport.abort()
        for answer in (*self._answers.values(), self._tuned):
            if not answer.done():
                answer.set_exception(Unavailable(f"{self._address}: {cause}"))
                answer.exception()
        for confirms in self._unconfirmed.values():
            confirms.fail(f"{self._address}: {cause}")
        self._unconfirmed.clear()
        self._writable.set()
        self.lost()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop.call_later(_HEARTBEAT_S / 2, self._beat)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc or "the connection was lost"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _beat(self) -> None:
        if not self.is_open:
            return
        if self._loop.time() - self._heard > 2.5 * _HEARTBEAT_S:
            self._end("the broker fell silent")
        else:
            self._send(_HEARTBEAT)
            self._loop.call_later(_HEARTBEAT_S / 2, self._beat)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        buffer, at = self._buffer, 0
        buffer += data
        while len(buffer) - at >= 4:
            end = at + 4 + int.from_bytes(buffer[at : at + 4], "big")
            if len(buffer) < end:
                break
            self._take(bytes(memoryview(buffer)[at + 4 : end]))
            at = end
        del buffer[:at]

    def _take(self, frame: bytes) -> None:
        [command] = struct.unpack_from(">H", frame)
        if command == _DELIVER:
            if sink := self.sinks.get(frame[4]):
                sink(frame[5:])
        elif command == _CONFIRM:
            self._confirm(frame)
        elif command & _RESPONSE:
            self._answer(command, frame)
        elif command == _TUNE:
            self._tune(frame)
        elif command == _PUBLISH_ERROR:
            [code] = struct.unpack_from(">H", frame, 17)
            self._end(f"a message was refused: {_CODES.get(code, f'code {code}')}")
        elif command == _METADATA_UPDATE:
            self._end("a stream was moved or deleted")
        elif command == _CLOSE:
            self._end(f"the broker closed the connection: {frame[12:].decode(errors='replace')}")

    def _confirm(self, frame: bytes) -> None:
        [count] = struct.unpack_from(">I", frame, 5)
        for number in struct.unpack_from(f">{count}Q", frame, 9):
            if confirms := self._unconfirmed.pop(number, None):
                confirms.confirm()

    def _answer(self, command: int, frame: bytes) -> None:
        if command == _RESPONSE | _CREDIT:
            return
        [number] = struct.unpack_from(">I", frame, 4)
        answer = self._answers.get(number)
        if answer and not answer.done():
            answer.set_result(frame[8:])

    def _tune(self, frame: bytes) -> None:
        # Brokers before 4 take larger frames than they ask for, so only batches are cut to it, not single messages.
        [most] = struct.unpack_from(">I", frame, 4)
        self._frame_bytes = min(most or _FRAME_BYTES, _FRAME_BYTES)
        self._send(_TUNE, struct.pack(">II", _FRAME_BYTES, _HEARTBEAT_S))
        if not self._tuned.done():
            self._tuned.set_result(frame)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _pairs(values: Mapping[str, str]) -> bytes:
    return struct.pack(">I", len(values)) + b"".join(_string(text) for pair in values.items() for text in pair)


def _parts(messages: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """The messages in their order, in parts that each fit a frame."""
    start, size = 0, 64
    for at, message in enumerate(messages):
        if size + len(message) + 12 > most and at > start:
            yield messages[start:at]
            start, size = at, 64
        size += len(message) + 12
    yield messages[start:]


def _stream_codes(answer: bytes) -> dict[str, int]:
    at, codes = 4, {}
    for _ in range(int.from_bytes(answer[:4], "big")):
        at += 8 + int.from_bytes(answer[at + 2 : at + 4], "big")
    [count] = struct.unpack_from(">I", answer, at)
    at += 4
    for _ in range(count):
        end = at + 2 + int.from_bytes(answer[at : at + 2], "big")
        code, _, replicas = struct.unpack_from(">HHI", answer, end)
        codes[answer[at + 2 : end].decode()] = code
        at = end + 8 + 2 * replicas
    return codes


class _Closable(Protocol):
    @property
    def is_open(self) -> bool: ...

    def close(self) -> None: ...


class _Kept(Generic[Opened]):
    """A connection for all who ask: opened when it is first needed, and in the background again once it is lost.

    After a failure, those who ask are refused at once during a pause that grows.
    """

    def __init__(self, opener: Callable[[], Awaitable[Opened]]) -> None:
        self._opener = opener
        self._opening: asyncio.Task[Opened] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._closed = False

    async def get(self) -> Opened:
        opening = self._opening
        if not self._closed and (opening is None or self._is_stale(opening)):
            self._opening = opening = asyncio.create_task(self._open())
            opening.add_done_callback(_take_exception)
        try:
            if opening is not None:
                return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if not opening or not opening.cancelled():
                raise
        raise Unavailable("this log was closed")

    def forget_failures(self) -> None:
        self._failures, self._retry_at = 0, 0.0

    async def close(self) -> None:
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            if not self._opening.cancelled() and self._opening.exception() is None:
                self._opening.result().close()

    def _is_stale(self, opening: asyncio.Task[Opened]) -> bool:
        if not opening.done():
            return False
        if opening.cancelled() or opening.exception() is not None:
            return time.monotonic() >= self._retry_at
        return not opening.result().is_open

    async def _open(self) -> Opened:
        try:
            opened = await self._opener()
        except ChimeraError:
            self._retry_at = time.monotonic() + _PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)]
            self._failures += 1
            raise
        self.forget_failures()
        return opened


def _take_exception(task: asyncio.Task[Any]) -> None:
    """Whoever asked may be gone, so nobody else would look at it."""
    if not task.cancelled():
        task.exception()


class _Topic:
    """A topic as it is appended to: one connection, on which the publisher of each partition has its number."""

    def __init__(self, address: _Address, name: str, arguments: Mapping[str, str]) -> None:
        self._address = address
        self._name = name
        self._arguments = arguments
        self._created = self._partitions = 0
        self._kept = _Kept(self._open)
        self._asking = asyncio.Lock()
        self._ends: Mapping[int, int] = {}
        self._ends_asked = 0.0

    async def create(self, partitions: int) -> None:
        if not 0 < partitions <= _MOST_PARTITIONS:
            raise SettingsError(f"{self._name}: {partitions} partitions; there can be 1 to {_MOST_PARTITIONS}")
        link = await _Link.open(self._address)
        try:
            await self._ensure(link, partitions)
        finally:
            link.close()
        self._created = partitions
        self._kept.forget_failures()

    async def checked(self, messages: Sequence[Message]) -> _Link:
        """The connection, once it is sure that the topic has the messages' partitions."""
        link = await self._kept.get()
        for message in messages:
            if not 0 <= message.partition < self._partitions:
                raise ValueError(f"{self._name} has {self._partitions} partitions, no number {message.partition}")
        return link

    async def append(self, messages: Sequence[Message]) -> None:
        link = await self.checked(messages)
        entries: dict[int, list[bytes]] = {}
        for message in messages:
            entries.setdefault(message.partition, []).append(_encode(message))
        await link.publish(entries)

    async def ends(self) -> Mapping[int, int]:
        """All who ask while the broker is being asked share the next answer."""
        asked = time.monotonic()
        async with self._asking:
            if self._ends_asked < asked:
                link = await self._kept.get()
                self._ends_asked = time.monotonic()
                found = await asyncio.gather(*(link.end(at, f"{self._name}-{at}") for at in range(self._partitions)))
                self._ends = dict(enumerate(found))
            return self._ends

    async def close(self) -> None:
        await self._kept.close()

    async def _open(self) -> _Link:
        link = await _Link.open(self._address)
        try:
            self._partitions = await self._found(link)
            await asyncio.gather(*(self._publisher(link, partition) for partition in range(self._partitions)))
        except BaseException:
            link.close()
            raise
        return link

    async def _found(self, link: _Link) -> int:
        """The number of partitions; heals a topic that was created before and is gone."""
        found = await link.partitions(self._name)
        if self._created and found < self._created:
            logger.warning("%s: streams of %s are gone; creating them anew", self._address, self._name)
            await self._make(link, self._created)
            return self._created
        if not found:
            raise Unavailable(f"{self._address}: there is no topic {self._name} yet")
        return found

    async def _ensure(self, link: _Link, partitions: int) -> None:
        if not await link.partitions(self._name):
            await self._make(link, partitions)
        found = await link.partitions(self._name)
        if found != partitions:
            raise SettingsError(
                f"{self._name} at {self._address} has {found} partitions, not {partitions}: "
                f"set partitions to {found}, or take another virtual host"
            )

    async def _make(self, link: _Link, partitions: int) -> None:
        """Partition 0 is made last, so that a topic which has it is complete."""
        for partition in reversed(range(partitions)):
            await self._create_stream(link, f"{self._name}-{partition}")

    async def _create_stream(self, link: _Link, stream: str) -> None:
        try:
            await link.ask(_CREATE, _string(stream) + _pairs(self._arguments), stream)
        except _Refused as refused:
            if refused.code != _STREAM_EXISTS:
                raise

    async def _publisher(self, link: _Link, partition: int) -> None:
        stream = f"{self._name}-{partition}"
        await link.ask(_DECLARE_PUBLISHER, bytes((partition,)) + _string("") + _string(stream), stream)


class _Reader:
    """Some partitions of a topic, read over a connection of their own, so that a slow reader delays no other."""

    def __init__(self, address: _Address, topic: str, after: Mapping[int, int]) -> None:
        self._address = address
        self._topic = topic
        self._tails = {partition: _Tail(f"{topic}-{partition}", partition, at) for partition, at in after.items()}
        self._turns = deque(after)
        self._link: _Link | None = None
        self._arrived = asyncio.Event()
        self._closed = False

    async def next(self, limit: int) -> Sequence[Record]:
        """The next batch; empty once the log was closed."""
        while not self._closed:
            self._arrived.clear()
            if self._link is None:
                self._link = await self._subscribed()
            elif not self._link.is_open:
                self._link = await self._subscribed_again()
            elif batch := self._take(limit):
                self._turns.rotate(-1)
                return batch
            else:
                await self._arrived.wait()
        return ()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()
        if self._link is not None:
            self._link.close()

    def _take(self, limit: int) -> list[Record]:
        """Every partition gets its part of the batch before any gets more."""
        batch: list[Record] = []
        for room in (limit // max(1, len(self._tails)) or 1, limit):
            for partition in self._turns:
                batch += self._tails[partition].take(min(room, limit - len(batch)))
        return batch

    async def _subscribed(self) -> _Link:
        link = await _Link.open(self._address)
        link.lost = self._arrived.set
        try:
            await asyncio.gather(*(tail.subscribe(link, self._arrived.set) for tail in self._tails.values()))
        except BaseException:
            link.close()
            raise
        return link

    async def _subscribed_again(self) -> _Link | None:
        """A new connection, after the last records that were handed out; None when the log is closed meanwhile."""
        logger.info("%s: reading %s was interrupted", self._address, self._topic)
        until, pauses = time.monotonic() + _BRIDGE_S, iter(_PAUSES_S)
        while not self._closed:
            try:
                return await self._subscribed()
            except Unavailable:
                if time.monotonic() > until:
                    raise
            # The attempt that failed has set it.
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(next(pauses, _PAUSES_S[-1])):
                    await self._arrived.wait()
        return None


class _Tail:
    """A partition on its way to a reader: the chunks that came, and how many more the broker may send."""

    def __init__(self, stream: str, partition: int, after: int) -> None:
        self._stream = stream
        self._partition = partition
        self._after = after
        self._reset()

    async def subscribe(self, link: _Link, arrived: Callable[[], None]) -> None:
        self._reset()
        self._link, self._arrived = link, arrived
        link.sinks[self._partition] = self._receive
        offset = struct.pack(">HQ", 4, self._after) if self._after else _FIRST
        await link.subscribe(self._partition, self._stream, offset, _CREDITS)

    def take(self, room: int) -> list[Record]:
        """At most `room` of the records that are here."""
        records: list[Record] = []
        while (left := room - len(records)) > 0 and (self._at < len(self._entries) or self._open_chunk()):
            entries = self._entries[self._at : self._at + left]
            self._at += len(entries)
            records += [Record(at + 1, _decode(data, self._partition, self._stream, at)) for at, data in entries]
        if records:
            self._after = records[-1].offset
        return records

    def _reset(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._entries: list[tuple[int, bytes]] = []
        self._at = self._bytes = self._owed = 0
        self._is_first = True

    def _receive(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._owed += 1
        self._grant()
        self._arrived()

    def _grant(self) -> None:
        if self._owed * 2 >= _CREDITS and self._bytes < _WINDOW_BYTES and self._link.is_open:
            self._link.credit(self._partition, self._owed)
            self._owed = 0

    def _open_chunk(self) -> bool:
        """Go on to the next chunk; its records before the offset asked for are dropped."""
        if not self._chunks:
            return False
        chunk = self._chunks.popleft()
        self._bytes -= len(chunk)
        self._grant()
        header = _Header.of(chunk)
        if self._is_first and header.end <= self._after:
            logger.error(
                "%s was read up to %d before, but is at %d now: it was deleted, or the broker lost its tail. "
                "What takes these offsets again is not read",
                self._stream,
                self._after,
                header.end,
            )
        self._is_first = False
        self._entries, self._at = [entry for entry in header.entries(chunk) if entry[0] >= self._after], 0
        return True


class _Header(NamedTuple):
    """What leads a chunk: how many entries and records, the offset of its first record, its data's CRC and length."""

    entry_count: int
    records: int
    first: int
    crc: int
    length: int

    @classmethod
    def of(cls, chunk: bytes) -> _Header:
        _, _, count, records, _, _, first, crc, length, _, _ = _CHUNK.unpack_from(chunk)
        return cls(count, records, first, crc, length)

    @property
    def end(self) -> int:
        return self.first + self.records

    def entries(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        data = memoryview(chunk)[_CHUNK.size : _CHUNK.size + self.length]
        if zlib.crc32(data) != self.crc:
            raise Unavailable(f"the chunk at offset {self.first} is damaged")
        return enumerate(_split(data, self.entry_count), self.first)


def _split(data: memoryview, count: int) -> Iterator[bytes]:
    """The messages among the entries; other clients may put batches of them into one entry."""
    at = 0
    for _ in range(count):
        if data[at] & 0x80:
            kind, records, _, length = struct.unpack_from(">BHII", data, at)
            at += 11
            yield from _split(_unpacked(kind >> 4 & 7, data[at : at + length]), records)
        else:
            length = int.from_bytes(data[at : at + 4], "big")
            at += 4
            yield bytes(data[at : at + length])
        at += length


def _unpacked(compression: int, data: memoryview) -> memoryview:
    if compression > 1:
        raise Unavailable("somebody wrote a batch compressed by snappy, lz4 or zstd; only gzip can be read here")
    return memoryview(zlib.decompress(data, wbits=31)) if compression else data


_PREFIX = "cloudEvents:"
_KEYS = {
    name: b"\xa1" + bytes((len(_PREFIX + name),)) + (_PREFIX + name).encode()
    for name in ("specversion", "id", "source", "type", "subject", "time", "traceparent", "partition", "number")
}
_NAMES = {name.replace(b":", colon): key for key, name in _KEYS.items() for colon in (b":", b"_")}
_CONTENT_TYPE = "application/json"
_HEAD = (
    b"\x00\x53\x73\xc0"
    + bytes((len(_CONTENT_TYPE) + 9, 7))
    + b"\x40" * 6
    + b"\xa3"
    + bytes((len(_CONTENT_TYPE),))
    + _CONTENT_TYPE.encode()
    + b"\x00\x53\x74\xd1"
)
_VERSION = _KEYS["specversion"] + b"\xa1\x031.0"
_NUMBERS = struct.Struct(f">{len(_KEYS['partition'])}sci{len(_KEYS['number'])}scq")
_BODY = b"\x00\x53\x75\xb0"


def _encode(message: Message) -> bytes:
    """A message in AMQP 1.0, as the CloudEvents binding wants it: attributes are application properties."""
    attributes = [
        _VERSION,
        _KEYS["id"],
        _text(message.id),
        _KEYS["source"],
        _text(message.source),
        _KEYS["type"],
        _text(message.type),
        _KEYS["subject"],
        _text(message.key),
        _KEYS["time"],
        _text(message.time),
        _NUMBERS.pack(_KEYS["partition"], b"\x71", message.partition, _KEYS["number"], b"\x81", message.number),
    ]
    if message.traceparent:
        attributes += (_KEYS["traceparent"], _text(message.traceparent))
    packed = b"".join(attributes)
    count = 18 if message.traceparent else 16
    return b"".join(
        (
            _HEAD,
            struct.pack(">II", len(packed) + 4, count),
            packed,
            _BODY,
            struct.pack(">I", len(message.data)),
            message.data,
        )
    )


def _text(text: str) -> bytes:
    data = text.encode()
    size = len(data)
    return (b"\xa1" + bytes((size,)) if size < 256 else b"\xb1" + struct.pack(">I", size)) + data


def _decode(data: bytes, partition: int, stream: str, offset: int) -> Message:
    """What can't be decoded becomes a message of no type, for whoever handles messages to refuse."""
    try:
        attributes, body = _sections(data)
        values = [str(attributes.get(name, "")) for name in ("id", "source", "type", "subject", "time", "traceparent")]
        number = int(attributes.get("number", 0))
    except (ValueError, TypeError, IndexError) as error:
        logger.warning("%s: the record at offset %d is no CloudEvent in AMQP 1.0: %s", stream, offset, error)
        values, number, body = [""] * 6, 0, data
    identity, source, kind, key, moment, traceparent = values
    return Message(identity or f"{stream}@{offset}", source, kind, key, moment, body, partition, number, traceparent)


def _sections(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The CloudEvents attributes and the body, whatever other sections there are."""
    attributes: dict[str, Any] = {}
    body = b""
    at = 0
    if data.startswith(_HEAD):
        # As `_encode` writes it, which is what is read most of the time.
        start = len(_HEAD) + 4
        end = start + int.from_bytes(data[start - 4 : start], "big")
        if data.startswith(_BODY, end) and len(data) == end + 8 + int.from_bytes(data[end + 4 : end + 8], "big"):
            return _attributes(data[start + 4 : end]), data[end + 8 :]
    while at < len(data):
        if data[at]:
            raise ValueError("a section should begin here")
        section, at = _value(data, at + 1)
        content, at = _value(data, at)
        if section == 0x74:
            attributes = _attributes(content)
        elif section in (0x75, 0x77):
            body += content if isinstance(content, bytes) else str(content).encode()
    return attributes, body


def _attributes(pairs: bytes) -> dict[str, Any]:
    """The values of a map whose keys are CloudEvents attributes. Most of the time of reading goes by in here."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(pairs):
        value = at + 2 + pairs[at + 1]
        name = _NAMES.get(pairs[at:value], "")
        start = value + 2
        if pairs[value] == 0xA1:
            at = start + pairs[value + 1]
            found[name] = str(pairs[start:at], "utf-8")
        else:
            found[name], at = _value(pairs, value)
    return found


_SIZES = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}
_SIGNED = frozenset({0x51, 0x54, 0x55, 0x61, 0x71, 0x81})
_CONSTANTS = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: ()}


def _value(data: bytes, at: int) -> tuple[Any, int]:
    """An AMQP 1.0 value, and where the next one begins. What is in lists, maps and arrays is left encoded."""
    code = data[at]
    kind = code >> 4
    if kind in _SIZES:
        end = at + 1 + _SIZES[kind]
        return _fixed(code, data[at + 1 : end]), end
    width = 4 if kind & 1 else 1
    start = at + 1 + width
    end = start + int.from_bytes(data[at + 1 : start], "big")
    if end > len(data):
        raise ValueError("it is cut off")
    if code in (0xA1, 0xA3, 0xB1, 0xB3):
        return str(data[start:end], "utf-8"), end
    return data[start:end] if kind < 0xC else data[start + width : end], end


def _fixed(code: int, raw: bytes) -> Any:
    if code in _CONSTANTS:
        return _CONSTANTS[code]
    if code == 0x56:
        return raw != b"\x00"
    if code == 0x83:
        return datetime.fromtimestamp(int.from_bytes(raw, "big", signed=True) / 1000, UTC).isoformat()
    return int.from_bytes(raw, "big", signed=code in _SIGNED)


class _Exchange:
    """An AMQP topic exchange, for foreign consumers; the library that speaks to it is loaded only if it is used."""

    def __init__(self, address: _Address, name: str, port: int) -> None:
        self._address = address
        self._name = name
        self._port = port
        self._kept = _Kept(self._open)
        self._closing: set[asyncio.Future[None]] = set()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns once all are confirmed, whether or not a queue wants them."""
        channel = await self._kept.get()
        async with self._failing(channel.close):
            await asyncio.gather(
                *(
                    channel.exchange.publish(_amqp_message(message), message.type, mandatory=False)
                    for message in messages
                )
            )

    async def close(self) -> None:
        await self._kept.close()
        await asyncio.gather(*self._closing)

    async def _open(self) -> _Channel:
        try:
            from aio_pika import ExchangeType, connect
        except ImportError as error:
            raise SettingsError("?exchange= needs aio-pika: pip install 'chimera-kit[rabbitmq]'") from error
        address = self._address
        async with self._failing():
            connection = await connect(
                host=address.host,
                port=self._port,
                login=address.user,
                password=address.password,
                virtualhost=address.vhost,
                ssl=address.tls is not None,
                ssl_context=address.tls,
            )
            channel = await connection.channel()
            exchange = await channel.declare_exchange(self._name, ExchangeType.TOPIC, durable=True)
        return _Channel(connection, exchange, self._closing)

    @asynccontextmanager
    async def _failing(self, close: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """What aio-pika raises, as Unavailable."""
        from aio_pika.exceptions import AMQPError

        try:
            async with asyncio.timeout(_PATIENCE_S):
                yield
        except (AMQPError, OSError, RuntimeError, TimeoutError) as error:
            close()
            text = f"exchange {self._name} at {self._address.host}:{self._port}: {error!r}"
            raise Unavailable(text) from error


class _Channel:
    def __init__(self, connection: Any, exchange: Any, closing: set[asyncio.Future[None]]) -> None:
        self.exchange = exchange
        self._connection = connection
        self._closing = closing

    @property
    def is_open(self) -> bool:
        return not self._connection.is_closed

    def close(self) -> None:
        if self.is_open:
            closing = asyncio.ensure_future(self._connection.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _amqp_message(message: Message) -> Any:
    from aio_pika import DeliveryMode
    from aio_pika import Message as AmqpMessage

    event = to_cloud_event(message)
    del event["data"], event["datacontenttype"]
    return AmqpMessage(
        message.data,
        headers={_PREFIX + name: value for name, value in event.items()},
        content_type=_CONTENT_TYPE,
        message_id=message.id,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
