"""A connection to a broker's streams: login, heartbeats, requests, publishing with confirms, subscribing with credit.

When it is lost, or the broker falls silent, all who wait on it get StreamUnavailable. Source: see `protocol`.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeVar, cast
from urllib.parse import quote

from rabbitstream import protocol
from rabbitstream.chunks import Chunk
from rabbitstream.errors import LoginRefused, StreamUnavailable
from rabbitstream.protocol import Code, CommandKey

Answer = TypeVar("Answer")

PATIENCE_S = 10.0
_HEARTBEAT_S = 10
_FRAME_BYTES = 16 * 1024 * 1024


class Address(NamedTuple):
    """A broker's address and login. As text it has no password, so that it may stand in logs and errors."""

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


class Refused(StreamUnavailable):
    """The broker answered with this code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Link(asyncio.Protocol):
    """A connection. `sinks` take the chunks of their subscription; `lost` is called once, when it has ended.

    `patience_s`: seconds that an answer of the broker is waited for.
    """

    def __init__(self, address: Address, *, patience_s: float = PATIENCE_S) -> None:
        self.sinks: dict[int, Callable[[bytes], None]] = {}
        self.lost: Callable[[], None] = lambda: None
        self.is_open = True
        self._address = address
        self._patience_s = patience_s
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
    async def open(cls, address: Address, *, patience_s: float = PATIENCE_S) -> Link:
        """Connect and log in. Raises StreamUnavailable, or LoginRefused for a login that is refused."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience_s):
                _, link = await loop.create_connection(
                    lambda: cls(address, patience_s=patience_s), address.host, address.port, ssl=address.tls
                )
        except (OSError, TimeoutError) as error:
            raise StreamUnavailable(f"{address}: {str(error) or 'no answer'}") from error
        try:
            await link.log_in()
        except BaseException as error:
            link.close()
            if isinstance(error, Refused) and error.code in protocol.SETTINGS:
                raise LoginRefused(str(error)) from error
            raise
        return link

    async def ask(self, command: int, body: bytes = b"", about: str = "") -> None:
        """A request that is answered by a code only. Raises Refused."""
        [code] = struct.unpack_from(">H", await self._request(command, body))
        if code != Code.OK:
            place = f"{self._address}: {about}: " if about else f"{self._address}: "
            raise Refused(code, place + protocol.meaning(code))

    async def create(self, stream: str, arguments: Mapping[str, str]) -> None:
        """Make sure that the stream exists."""
        try:
            await self.ask(CommandKey.CREATE, protocol.string(stream) + protocol.pairs(arguments), stream)
        except Refused as refused:
            if refused.code != Code.STREAM_EXISTS:
                raise

    async def existing(self, streams: Sequence[str]) -> set[str]:
        """The streams among these that exist, though one or the other may not be available now."""
        codes = protocol.stream_codes(await self._request(CommandKey.METADATA, protocol.strings(streams)))
        return {stream for stream in streams if codes.get(stream, Code.NO_STREAM) != Code.NO_STREAM}

    async def end(self, subscription: int, stream: str) -> int:
        """The offset after the stream's last message, which is how many it has ever had."""
        while not (end := await self._peek(subscription, stream, protocol.LAST)):
            if not await self._peek(subscription, stream, protocol.FIRST):
                return 0
            # There are messages, but the last chunk is not on enough replicas yet.
            await asyncio.sleep(0.01)
        return end

    async def subscribe(self, subscription: int, stream: str, start: bytes, credits_: int) -> None:
        """Let the broker send so many chunks of the stream to the subscription's sink."""
        body = bytes((subscription,)) + protocol.string(stream) + start + struct.pack(">H", credits_)
        await self.ask(CommandKey.SUBSCRIBE, body + protocol.pairs({}), stream)

    def credit(self, subscription: int, count: int) -> None:
        """Let the broker send so many more chunks."""
        self._send(CommandKey.CREDIT, struct.pack(">BH", subscription, count))

    async def declare_publisher(self, publisher: int, stream: str) -> None:
        """Let this number publish to the stream on this connection. Raises Refused."""
        body = bytes((publisher,)) + protocol.string("") + protocol.string(stream)
        await self.ask(CommandKey.DECLARE_PUBLISHER, body, stream)

    async def publish(self, entries: Mapping[int, Sequence[bytes]]) -> None:
        """Messages by publisher; returns once all are confirmed. What is called first is written first."""
        confirms = _Confirms(sum(map(len, entries.values())))
        for publisher, messages in entries.items():
            for part in protocol.parts(messages, self._frame_bytes):
                self._send(CommandKey.PUBLISH, self._numbered(publisher, part, confirms))
        if not self._writable.is_set():
            await self._in_time(self._writable.wait())
        await self._in_time(confirms.done)

    def close(self) -> None:
        """Say goodbye and close, without waiting; whoever waits on it gets StreamUnavailable."""
        if self.is_open:
            self._requested += 1
            self._send(CommandKey.CLOSE, struct.pack(">IH", self._requested, Code.OK) + protocol.string("OK"))
            self._transport.close()
            self._end("the connection was closed")

    async def log_in(self) -> None:
        """Take the steps up to an open virtual host. Raises Refused with the broker's code, or StreamUnavailable."""
        await self.ask(CommandKey.PROPERTIES, protocol.pairs({"product": "Chimera", "connection_name": "chimera"}))
        await self.ask(CommandKey.HANDSHAKE)
        secret = protocol.secret(self._address.user, self._address.password)
        await self.ask(CommandKey.AUTHENTICATE, protocol.string("PLAIN") + secret)
        await self._in_time(self._tuned)
        await self.ask(CommandKey.OPEN, protocol.string(self._address.vhost))

    async def _peek(self, subscription: int, stream: str, start: bytes) -> int:
        """The offset after the first or last chunk; 0 without one.

        The broker sends what a new subscription has credit for before it reads the next request.
        """
        chunks: list[bytes] = []
        self.sinks[subscription] = chunks.append
        try:
            await asyncio.gather(
                self.subscribe(subscription, stream, start, credits_=1),
                self.ask(CommandKey.UNSUBSCRIBE, bytes((subscription,))),
            )
        finally:
            del self.sinks[subscription]
        return Chunk.of(chunks[-1]).end if chunks else 0

    def _numbered(self, publisher: int, messages: Sequence[bytes], confirms: _Confirms) -> bytearray:
        body = bytearray(struct.pack(">BI", publisher, len(messages)))
        for number, message in enumerate(messages, self._published):
            self._unconfirmed[number] = confirms
            body += struct.pack(">QI", number, len(message))
            body += message
        self._published += len(messages)
        return body

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
            async with asyncio.timeout(self._patience_s):
                return await answer
        except TimeoutError:
            self._end(f"no answer for {self._patience_s:.0f} s")
            self._fail()

    def _send(self, command: int, body: bytes | bytearray = b"") -> None:
        if not self.is_open:
            self._fail()
        self._transport.write(protocol.frame(command, body))

    def _fail(self) -> NoReturn:
        raise StreamUnavailable(f"{self._address}: {self._cause}")

    def _end(self, cause: str) -> None:
        if not self.is_open:
            return
        self.is_open, self._cause = False, cause
        if not self._transport.is_closing():
            self._transport.abort()
        for answer in (*self._answers.values(), self._tuned):
            if not answer.done():
                answer.set_exception(StreamUnavailable(f"{self._address}: {cause}"))
                answer.exception()
        for confirms in self._unconfirmed.values():
            confirms.fail(f"{self._address}: {cause}")
        self._unconfirmed.clear()
        self._writable.set()
        self.lost()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's word for a new connection: heartbeats begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop.call_later(_HEARTBEAT_S / 2, self._beat)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's word for its end: whoever waits on it gets StreamUnavailable."""
        self._end(str(exc or "the connection was lost"))

    def pause_writing(self) -> None:
        """asyncio's word that too much waits to be sent: `publish` waits."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio's word that there is room again."""
        self._writable.set()

    def _beat(self) -> None:
        if not self.is_open:
            return
        if self._loop.time() - self._heard > 2.5 * _HEARTBEAT_S:
            self._end("the broker fell silent")
        else:
            self._send(CommandKey.HEARTBEAT)
            self._loop.call_later(_HEARTBEAT_S / 2, self._beat)

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole by now."""
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
        try:
            [command] = struct.unpack_from(">H", frame)
            self._take_command(command, frame)
        except (struct.error, IndexError):
            self._end("what came is not RabbitMQ's stream protocol")

    def _take_command(self, command: int, frame: bytes) -> None:
        match command:
            case CommandKey.DELIVER:
                if sink := self.sinks.get(frame[4]):
                    sink(frame[5:])
            case CommandKey.CONFIRM:
                self._confirm(frame)
            case CommandKey.TUNE:
                self._tune(frame)
            case CommandKey.PUBLISH_ERROR:
                [code] = struct.unpack_from(">H", frame, 17)
                self._end(f"a message was refused: {protocol.meaning(code)}")
            case CommandKey.METADATA_UPDATE:
                self._end("a stream was moved or deleted")
            case CommandKey.CLOSE:
                self._end(f"the broker closed the connection: {frame[12:].decode(errors='replace')}")
            case _ if command & protocol.RESPONSE and command != protocol.RESPONSE | CommandKey.CREDIT:
                self._answer(frame)

    def _confirm(self, frame: bytes) -> None:
        [count] = struct.unpack_from(">I", frame, 5)
        for number in struct.unpack_from(f">{count}Q", frame, 9):
            if confirms := self._unconfirmed.pop(number, None):
                confirms.confirm()

    def _answer(self, frame: bytes) -> None:
        [number] = struct.unpack_from(">I", frame, 4)
        answer = self._answers.get(number)
        if answer and not answer.done():
            answer.set_result(frame[8:])

    def _tune(self, frame: bytes) -> None:
        # Brokers before 4 take larger frames than they ask for, so only batches are cut to it, not single messages.
        [most] = struct.unpack_from(">I", frame, 4)
        self._frame_bytes = min(most or _FRAME_BYTES, _FRAME_BYTES)
        self._send(CommandKey.TUNE, struct.pack(">II", _FRAME_BYTES, _HEARTBEAT_S))
        if not self._tuned.done():
            self._tuned.set_result(frame)


class _Confirms:
    """The confirms that one publishing waits for."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, cause: str) -> None:
        if not self.done.done():
            self.done.set_exception(StreamUnavailable(cause))
            self.done.exception()

    def confirm(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)
