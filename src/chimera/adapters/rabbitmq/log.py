"""RabbitMQ behind the port `Log`: one stream per partition, `<topic>-<partition>`, over the stream protocol.

The protocol is spoken by `rabbitstream` rather than by rstream: see docs/decisions/008. `messages` says how messages
look, `exchange` what AMQP consumers get.
A topic's streams are named as a super stream's, but declared one by one: that works on every broker since 3.9.

A stream counts from 0 and the port from 1, so "after offset n" is the stream's offset n.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from chimera.adapters.rabbitmq.exchange import Exchange
from chimera.adapters.rabbitmq.messages import decode, encode
from chimera.adapters.rows import too_few_partitions
from chimera.errors import CutShort, SettingsError, Unavailable
from chimera.messages import Message
from chimera.ports import Features, Log, Record, Store, ViewStore
from rabbitstream.errors import LoginRefused, StreamUnavailable
from rabbitstream.link import PATIENCE_S, Address, Link
from rabbitstream.reopened import PAUSES_S, Reopened
from rabbitstream.subscription import Subscription

logger = logging.getLogger("chimera")

BRIDGE_S = 30.0
_MOST_PARTITIONS = 256
_ASKED_AT_ONCE = 32
_TOPIC = re.compile(r"[a-z0-9.-]+")
_RETENTION = {"max_age": "max-age", "max_bytes": "max-length-bytes", "segment_bytes": "stream-max-segment-size-bytes"}
_COMMANDS = ".commands"
_COMMANDS_AGE = "commands_max_age"
_AGE = re.compile(r"([1-9][0-9]*)[YMD]")
_OPTIONS = frozenset({"tls", "ca", "prefix", "exchange", "amqp_port", _COMMANDS_AGE, *_RETENTION})


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log | Store | ViewStore:
    """The log of `rabbitmq://user:password@host:5552/vhost?options`. Nothing is opened yet. Raises SettingsError.

    Options: `tls=1`, `ca=<path>`; `prefix=<text>`, put before every topic's name, so that several deployments may share
    a virtual host; `exchange=<name>` (and `amqp_port`), which takes no prefix; `max_age=7D`, `max_bytes` and
    `segment_bytes`, the retention of the streams that `create` makes: without them nothing is ever trimmed. The streams
    of commands take only `commands_max_age` for it, at least a day: a broker does not know what was executed.
    """
    if kind != "log":
        raise SettingsError(f"RabbitMQ can be a log, but no {kind}: give [engines] {kind} another URL")
    return RabbitMQLog(url)


class RabbitMQLog:
    """A log of streams.

    When `append` returns, a majority of each stream's replicas has the messages, but none need have them on disk
    yet: a broker process may die, but what a power cut takes from all of them at once is lost.

    With `?exchange=NAME`, topics that end in `.events` are also published to that AMQP topic exchange, the routing
    key being the event's type. An event is appended only after the exchange has confirmed it, so each queue that was
    bound by then has it, at least once: where the process dies, or something fails, in between, the relay goes back
    to its checkpoint and repeats both. A consumer knows a repetition by the event's source and id. Events of a
    partition come in the order of their numbers, but after a failure some come again, and one that failed comes after
    later ones. While the exchange fails, or a queue refuses messages (`overflow=reject-publish`), nothing is appended.

    A reader bridges a restart of the broker of up to half a minute (`bridge_s`); after that it raises Unavailable.
    `patience_s`: how long an answer of the broker is waited for.
    """

    features = Features(durable=True, shared=True, trims=False)

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S, bridge_s: float = BRIDGE_S) -> None:
        self._address, options = _parse(url)
        self._patience_s = patience_s
        self._bridge_s = bridge_s
        self._options = options
        _check_age(self._address, options)
        self._prefix = _prefix(options)
        self._exchange = _exchange_of(self._address, options)
        self._topics: dict[str, _Topic] = {}
        self._readers: set[_Reader] = set()
        self._closed = False

    async def create(self, topic: str, partitions: int) -> None:
        """Raises SettingsError when the topic exists with fewer partitions."""
        with _translated():
            await self._topic(topic).create(partitions)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises ValueError, and adds nothing, when a message's partition is not one of the topic's."""
        opened = self._topic(topic)
        with _translated():
            if self._exchange is not None and topic.endswith(".events"):
                await opened.checked(messages)
                await self._exchange.publish(messages)
            if messages:
                await opened.append(messages)

    async def read(
        self, topic: str, after: Mapping[int, int], limit: int = 500
    ) -> AsyncGenerator[Sequence[Record], None]:
        self._check_open()
        reader = _Reader(
            self._address, self._prefix + topic, after, patience_s=self._patience_s, bridge_s=self._bridge_s
        )
        self._readers.add(reader)
        try:
            while batch := await self._next(reader, limit):
                yield batch
                await asyncio.sleep(0)
        finally:
            self._readers.discard(reader)
            reader.close()

    async def ends(self, topic: str) -> Mapping[int, int]:
        with _translated():
            return await self._topic(topic).ends()

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        """Nothing: a stream is only trimmed by its own retention."""

    def removal(self, topics: Sequence[str]) -> str:
        """As `ports.Removable`."""
        streams = [f"rabbitmqctl delete_queue {self._prefix}{topic}-N" for topic in topics]
        return f"at {self._address}, for each partition N: {'; '.join(streams)}"

    async def close(self) -> None:
        self._closed = True
        for reader in self._readers:
            reader.close()
        for topic in self._topics.values():
            await topic.close()
        if self._exchange is not None:
            await self._exchange.close()

    async def _next(self, reader: _Reader, limit: int) -> Sequence[Record]:
        with _translated():
            return await reader.next(limit)

    def _topic(self, name: str) -> _Topic:
        self._check_open()
        if name not in self._topics:
            if not _TOPIC.fullmatch(name):
                raise SettingsError(f"{name!r} can't name a topic; use lower case letters, digits, dots and dashes")
            arguments = _retention_of(name, self._options)
            self._topics[name] = _Topic(self._address, self._prefix + name, arguments, patience_s=self._patience_s)
        return self._topics[name]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self._address}: this log was closed")


@contextmanager
def _translated() -> Iterator[None]:
    """Raises the driver's errors as every log raises them."""
    try:
        yield
    except StreamUnavailable as error:
        raise Unavailable(str(error)) from error
    except LoginRefused as error:
        raise SettingsError(str(error)) from error


class _Topic:
    """A topic as it is appended to: one connection, on which the publisher of each partition has its number."""

    def __init__(self, address: Address, name: str, arguments: Mapping[str, str], *, patience_s: float) -> None:
        self._address = address
        self._patience_s = patience_s
        self._name = name
        self._arguments = arguments
        self._created = self._partitions = 0
        self._kept = Reopened(self._open)
        self._asking = asyncio.Lock()
        self._ends: Mapping[int, int] = {}
        self._ends_asked = 0.0

    async def create(self, partitions: int) -> None:
        if not 0 < partitions <= _MOST_PARTITIONS:
            raise SettingsError(f"{self._name}: {partitions} partitions; there can be 1 to {_MOST_PARTITIONS}")
        link = await Link.open(self._address, patience_s=self._patience_s)
        try:
            await self._ensure(link, partitions)
        finally:
            link.close()
        self._created = partitions
        self._kept.forget_failures()

    async def checked(self, messages: Sequence[Message]) -> Link:
        """The connection, once it is sure that the topic has the messages' partitions."""
        link = await self._kept.get()
        for message in messages:
            if not 0 <= message.partition < self._partitions:
                raise ValueError(f"{self._name} has {self._partitions} partitions, no number {message.partition}")
        return link

    async def append(self, messages: Sequence[Message]) -> None:
        """Raises CutShort where the connection ends: that may be because of a message, as one that is too large."""
        link = await self.checked(messages)
        entries: dict[int, list[bytes]] = {}
        for message in messages:
            entries.setdefault(message.partition, []).append(encode(message))
        try:
            await link.publish(entries)
        except StreamUnavailable as error:
            raise CutShort(str(error)) from error

    async def ends(self) -> Mapping[int, int]:
        """All who ask while the broker is being asked share the next answer."""
        asked = time.monotonic()
        async with self._asking:
            if self._ends_asked < asked:
                link = await self._kept.get()
                self._ends_asked = time.monotonic()
                found = await asyncio.gather(*(link.end(at, self._stream(at)) for at in range(self._partitions)))
                self._ends = dict(enumerate(found))
            return self._ends

    async def close(self) -> None:
        await self._kept.close()

    async def _open(self) -> Link:
        link = await Link.open(self._address, patience_s=self._patience_s)
        try:
            self._partitions = await self._found(link)
            await asyncio.gather(*(link.declare_publisher(at, self._stream(at)) for at in range(self._partitions)))
        except BaseException:
            link.close()
            raise
        return link

    async def _found(self, link: Link) -> int:
        """The number of partitions; heals a topic that was created before and is gone."""
        found = await self._count(link)
        if self._created and found < self._created:
            logger.warning("%s: streams of %s are gone; creating them anew", self._address, self._name)
            await self._make(link, self._created)
            return self._created
        if not found:
            raise Unavailable(f"{self._address}: there is no topic {self._name} yet")
        return found

    async def _ensure(self, link: Link, partitions: int) -> None:
        if not await self._count(link):
            await self._make(link, partitions)
        found = await self._count(link)
        if found < partitions:
            raise too_few_partitions(f"{self._name} at {self._address}", found, partitions)

    async def _count(self, link: Link) -> int:
        """The number of the topic's streams, up to the first that is missing."""
        for start in range(0, _MOST_PARTITIONS, _ASKED_AT_ONCE):
            streams = [self._stream(partition) for partition in range(start, start + _ASKED_AT_ONCE)]
            existing = await link.existing(streams)
            for at, stream in enumerate(streams, start):
                if stream not in existing:
                    return at
        return _MOST_PARTITIONS

    async def _make(self, link: Link, partitions: int) -> None:
        """Partition 0 is made last, so that a topic which has it is complete."""
        for partition in reversed(range(partitions)):
            await link.create(self._stream(partition), self._arguments)

    def _stream(self, partition: int) -> str:
        return f"{self._name}-{partition}"


class _Reader:
    """Some partitions of a topic, read over a connection of their own, so that a slow reader delays no other."""

    def __init__(
        self, address: Address, topic: str, after: Mapping[int, int], *, patience_s: float, bridge_s: float
    ) -> None:
        self._address = address
        self._patience_s = patience_s
        self._bridge_s = bridge_s
        self._topic = topic
        self._tails = {at: Subscription(at, f"{topic}-{at}", offset) for at, offset in after.items()}
        self._turns = deque(after)
        self._link: Link | None = None
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
                tail = self._tails[partition]
                batch += [
                    Record(offset + 1, decode(data, partition, tail.stream, offset))
                    for offset, data in tail.take(min(room, limit - len(batch)))
                ]
        return batch

    async def _subscribed(self) -> Link:
        link = await Link.open(self._address, patience_s=self._patience_s)
        link.lost = self._arrived.set
        try:
            await asyncio.gather(*(tail.open(link, self._arrived.set) for tail in self._tails.values()))
        except BaseException:
            link.close()
            raise
        return link

    async def _subscribed_again(self) -> Link | None:
        """A new connection, after the last records that were handed out; None when the log is closed meanwhile."""
        logger.info("%s: reading %s was interrupted", self._address, self._topic)
        until, pauses = time.monotonic() + self._bridge_s, iter(PAUSES_S)
        while not self._closed:
            try:
                return await self._subscribed()
            except StreamUnavailable:
                if time.monotonic() > until:
                    raise
            # The attempt that failed has set it.
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(next(pauses, PAUSES_S[-1])):
                    await self._arrived.wait()
        return None


def _parse(url: str) -> tuple[Address, dict[str, str]]:
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
    return Address(parts.hostname, port or (5551 if tls else 5552), user, password, vhost, tls), options


def _retention_of(topic: str, options: Mapping[str, str]) -> dict[str, str]:
    """The arguments of a topic's streams. What is trimmed of events is in the journal; commands are nowhere else."""
    if not topic.endswith(_COMMANDS):
        return {argument: options[name] for name, argument in _RETENTION.items() if name in options}
    chosen = {"max_age": options.get(_COMMANDS_AGE), "segment_bytes": options.get("segment_bytes")}
    return {_RETENTION[name]: value for name, value in chosen.items() if value}


def _check_age(address: Address, options: Mapping[str, str]) -> None:
    age = options.get(_COMMANDS_AGE)
    if age is not None and not _AGE.fullmatch(age):
        raise SettingsError(f"{address}: {_COMMANDS_AGE}={age} must be days, months or years, as in 7D: at least a day")


def _prefix(options: Mapping[str, str]) -> str:
    prefix = options.get("prefix", "")
    if prefix and not _TOPIC.fullmatch(prefix):
        raise SettingsError(f"?prefix={prefix}: a prefix has lower case letters, digits, dots and dashes only")
    return prefix


def _exchange_of(address: Address, options: Mapping[str, str]) -> Exchange | None:
    if not (name := options.get("exchange")):
        return None
    port = options.get("amqp_port") or ("5671" if address.tls else "5672")
    if not port.isdecimal():
        raise SettingsError(f"{address}: amqp_port={port} is no number")
    return Exchange(address, name, int(port))


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=options.get("ca"))
    except OSError as error:
        raise SettingsError(f"?ca={options.get('ca')}: {error}") from error
