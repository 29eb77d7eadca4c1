"""Kafka behind the port `Log`, through librdkafka: a producer, an admin client, and a consumer for each reader.

librdkafka works in threads of its own. A thread of ours waits for its news, and hands them to the event loop
once per batch. Offsets are Kafka's plus one, because Chimera's count from 1. Messages are CloudEvents 1.0 in
the binary mode of their Kafka protocol binding.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # not in its stubs

from chimera.errors import SettingsError, Unavailable
from chimera.messages import Message
from chimera.ports import Features, Log, Record
from chimera.signals import Signal

Handle = TypeVar("Handle")

logger = logging.getLogger("chimera")

_REQUEST_S = 4.0
_CONFIRM_S = 10.0
_QUIET_S = 10.0
_WAKE_S = 0.1
_AHEAD = 2
_QUEUED_BYTES = 64 * 1024 * 1024
_RECORD_BYTES = 512

_CONNECTION = {
    "client.id": "chimera",
    "reconnect.backoff.max.ms": 1_000,
    "socket.nagle.disable": True,
    "socket.timeout.ms": 10_000,
}
# How much is queued is bounded by us, and how large a message may be is the topic's to say.
_PRODUCER = {
    "linger.ms": 0,
    "message.max.bytes": 1_000_000_000,
    "message.timeout.ms": int(_CONFIRM_S * 1000),
    "queue.buffering.max.kbytes": 2_147_483_647,
    "queue.buffering.max.messages": 0,
}
_CONSUMER = {
    "fetch.queue.backoff.ms": 10,
    "group.id": "chimera",
    "queued.max.messages.kbytes": 16 * 1024,
    "queued.min.messages": 10_000,
}
# By itself a broker deletes what is seven days old, commands that nobody has executed yet among it.
_TOPIC = {"max.message.bytes": str(8 * 1024 * 1024), "retention.ms": "-1"}
_ALWAYS_PRODUCER = {"acks": "all", "enable.idempotence": True}
_ALWAYS_CONSUMER = {"auto.offset.reset": "earliest", "enable.auto.commit": False}

_SAYS_LITTLE = frozenset({"_ALL_BROKERS_DOWN", "_FATAL", "_MSG_TIMED_OUT", "_TIMED_OUT", "_TRANSPORT"})
_REFUSED = re.compile(
    r".*AUTH.*|.*MECHANISM|_INVALID_ARG|_SSL|INVALID_(CONFIG|PARTITIONS|REPLICATION_FACTOR)|POLICY.*|TOPIC_EXCEPTION"
)


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log:
    """The log of `kafka://[user:password@]host:port[,host:port][?options]`; `kafka+ssl://` for TLS.

    Options: `prefix=<text>`, put before every topic's name, so that several deployments may share a cluster;
    `replication.factor`, and Kafka's topic settings with `topic.` before them, for the topics that `create` makes;
    the rest are librdkafka's settings. Nothing is opened before the first use. Raises SettingsError.
    """
    if kind != "log":
        raise SettingsError(f"Kafka can only be a log; {kind} needs the URL of another engine")
    return KafkaLog(url)


class KafkaLog:
    """Topics of a cluster. A confirmed record is on every replica in sync; Kafka does not wait for their disks.

    What can't be confirmed within ten seconds or so is dropped, and only when nothing of it is queued any more
    does `append` raise Unavailable: what no broker had received by then is never sent. A cancelled append
    is confirmed or dropped within that time too.
    """

    features = Features(durable=True, shared=True, poll_s=0.1)

    def __init__(self, url: str) -> None:
        self._cluster = _Cluster(url)
        self._controller: _Controller | None = None
        self._appender: _Appender | None = None
        self._readers: set[_Reader] = set()
        self._counts: dict[str, int] = {}
        self._closed = False

    async def create(self, topic: str, partitions: int) -> None:
        """On three brokers, or as many as there are; kept for ever, unless the URL sets `topic.retention.ms`.

        A topic that exists keeps its own settings.
        Raises SettingsError when it has another number of partitions, or when Kafka refuses the URL's settings.
        """
        topic = self._cluster.prefix + topic
        try:
            await self._producing()
            controller = self._controlling()
            kept = await controller.partitions(topic)
            if not kept:
                await controller.create(topic, partitions)
                kept = await controller.partitions(topic)
        except _Refused as refused:
            raise SettingsError(str(refused)) from refused
        if kept != partitions:
            raise SettingsError(
                f"the topic {topic} of {self._cluster} has {kept} partitions, not {partitions}; "
                "set `partitions` back, or delete the topic"
            )
        self._counts[topic] = kept

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises ValueError for a message larger than the topic's `max.message.bytes`.

        Raises it too, and adds nothing, when a message's partition is not one of the topic's.
        """
        topic = self._cluster.prefix + topic
        with self._doubting(topic):
            count = await self._count(topic)
            for message in messages:
                if not 0 <= message.partition < count:
                    raise ValueError(f"the topic {topic} has {count} partitions, no number {message.partition}")
            if messages:
                await (await self._producing()).append(topic, messages)

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        """Goes on by itself after an outage; Unavailable when one lasts for more than ten seconds or so."""
        topic = self._cluster.prefix + topic
        with self._doubting(topic):
            count = await self._count(topic)
            if self._closed:
                return
            known = {partition: offset for partition, offset in after.items() if partition < count}
            reader = _Reader(self._cluster, topic, known, limit)
            self._readers.add(reader)
            try:
                while batch := await reader.next():
                    yield batch
            finally:
                self._readers.discard(reader)
                await reader.stop()

    async def ends(self, topic: str) -> Mapping[int, int]:
        """A partition whose records were all trimmed has the offset of the last one. One question per broker."""
        topic = self._cluster.prefix + topic
        with self._doubting(topic):
            return await self._controlling().ends(topic, await self._count(topic))

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        """The user needs the permission to delete from the topic."""
        topic = self._cluster.prefix + topic
        with self._doubting(topic):
            await self._controlling().trim(topic, through)

    async def close(self) -> None:
        """Readers end, and appends that are under way fail."""
        self._closed = True
        await asyncio.gather(*(reader.stop() for reader in self._readers))
        appender, self._appender = self._appender, None
        controller, self._controller = self._controller, None
        if appender is not None:
            await appender.close()
        if controller is not None:
            await controller.close()

    async def _count(self, topic: str) -> int:
        if topic not in self._counts:
            count = await self._controlling().partitions(topic)
            if not count:
                raise Unavailable(f"{self._cluster}: there is no topic {topic} yet")
            self._counts[topic] = count
        return self._counts[topic]

    @contextmanager
    def _doubting(self, topic: str) -> Iterator[None]:
        """A topic that is unavailable may have been deleted: ask again how many partitions it has."""
        try:
            yield
        except Unavailable:
            self._counts.pop(topic, None)
            raise

    def _controlling(self) -> _Controller:
        if self._closed:
            raise Unavailable(f"{self._cluster} was closed")
        if self._controller is None:
            self._controller = _Controller(self._cluster)
        return self._controller

    async def _producing(self) -> _Appender:
        self._controlling()
        broken = self._appender if self._appender is not None and self._appender.is_broken else None
        if self._appender is None or broken is not None:
            self._appender = _Appender(self._cluster)
        appender = self._appender
        if broken is not None:
            await broken.close()
        return appender


class _Cluster:
    """What a URL means. As text: the URL without password and options."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        login, _, brokers = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        self._shown = f"{parts.scheme}://{login and f'{user}@'}{brokers}"
        if parts.scheme not in {"kafka", "kafka+ssl"} or not brokers or parts.path.strip("/"):
            raise SettingsError(f"{self._shown!r} is not an address of Kafka; one looks like kafka://host:9092")
        options = dict(parse_qsl(parts.query))
        self.prefix = options.pop("prefix", "")
        replication = options.pop("replication.factor", "0")
        if not replication.isdecimal():
            raise SettingsError(f"{self._shown}: replication.factor={replication} is not a number")
        self.replication = int(replication)
        self.topic = {name[6:]: options.pop(name) for name in list(options) if name.startswith("topic.")}
        self._options = {"bootstrap.servers": brokers}
        if login:
            self._options |= {"sasl.username": unquote(user), "sasl.password": unquote(password)}
            self._options |= {"sasl.mechanism": "PLAIN", "security.protocol": "SASL_SSL"}
        elif parts.scheme == "kafka+ssl":
            self._options |= {"security.protocol": "SSL"}
        self._options |= options

    def __str__(self) -> str:
        return self._shown

    def settings(self, usual: Mapping[str, object] = {}, always: Mapping[str, object] = {}) -> dict[str, Any]:
        return {**_CONNECTION, **usual, **self._options, **always}


class _Refused(Unavailable):
    """Trying again is of no use before somebody changes a setting."""


class _Watch:
    """What librdkafka said last about a connection: why something failed is often only said there."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self.last: KafkaError | None = None
        self.is_fatal = False

    def open(self, handle: Callable[..., Handle], settings: Mapping[str, Any]) -> Handle:
        try:
            return handle({**settings, "error_cb": self.note}, logger=_DEBUG)
        except (KafkaException, TypeError, ValueError) as error:
            raise _Refused(f"{self._cluster}: {_text(error.args[0])}") from error

    def note(self, error: KafkaError) -> None:
        self.is_fatal = self.is_fatal or error.fatal()
        if self.last is None or error.name() != "_ALL_BROKERS_DOWN":
            self.last = error

    def explain(self, error: KafkaError) -> Unavailable:
        cause = self.last if self.last is not None and error.name() in _SAYS_LITTLE else error
        kind = _Refused if _REFUSED.fullmatch(cause.name()) else Unavailable
        return kind(f"{self._cluster}: {_text(cause)}")


def _text(error: object) -> str:
    return " ".join((error.str() if isinstance(error, KafkaError) else str(error)).split())


class _Debug:
    """Takes librdkafka's own log, which tells of every reconnect."""

    def log(self, _level: int, text: str, *args: object) -> None:
        logger.debug(text, *args)


_DEBUG = _Debug()


class _Thread:
    """A thread of ours; a daemon, so that a process that forgets to close its log ends nevertheless."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._work = work
        threading.Thread(target=self._run, name=f"chimera-kafka-{name}", daemon=True).start()

    async def ended(self) -> None:
        await asyncio.shield(self._ended)

    def tell(self, callback: Callable[..., object], *args: object) -> None:
        """Call back in the event loop, if there still is one."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.tell(self._ended.set_result, None)


class _Controller:
    """Topics and their ends. librdkafka answers these questions through futures, without a thread of ours."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._watch = _Watch(cluster)
        self._admin = self._watch.open(AdminClient, cluster.settings())

    async def partitions(self, topic: str) -> int:
        """How many there are; 0 for an unknown topic."""
        described = await self._describe(topic)
        return len(described.partitions) if described else 0

    async def create(self, topic: str, partitions: int) -> None:
        """Returns when every partition has a leader that knows it. That the topic exists is no error."""
        brokers = len((await self._answer(self._admin.describe_cluster(request_timeout=_REQUEST_S))).nodes)
        copies = self._cluster.replication or min(3, brokers)
        usual = {"min.insync.replicas": str(max(1, copies - 1)), **_TOPIC, **self._cluster.topic}
        new = NewTopic(topic, partitions, copies, config=usual)
        [creating] = self._admin.create_topics([new], request_timeout=_REQUEST_S).values()
        await self._answer(creating, ignore=KafkaError.TOPIC_ALREADY_EXISTS)
        until = time.monotonic() + _CONFIRM_S
        while time.monotonic() < until:
            described = await self._describe(topic)
            if described and all(each.leader for each in described.partitions):
                with suppress(Unavailable):
                    await self.ends(topic, len(described.partitions))
                    return
            await asyncio.sleep(_WAKE_S)
        raise Unavailable(f"{self._cluster}: the topic {topic} was created, but has no leaders yet")

    async def ends(self, topic: str, count: int) -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library left it out
        places = {TopicPartition(topic, partition): latest for partition in range(count)}
        asked = self._admin.list_offsets(places, request_timeout=_REQUEST_S)
        found = await asyncio.gather(*(self._answer(future) for future in asked.values()))
        return {place.partition: end.offset for place, end in zip(asked, found, strict=True)}

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        places = [TopicPartition(topic, partition, offset) for partition, offset in through.items()]
        asked = self._admin.delete_records(places, request_timeout=_REQUEST_S) if places else {}
        await asyncio.gather(*(self._answer(future) for future in asked.values()))

    async def close(self) -> None:
        await _Thread("closing", self._drop).ended()

    def _drop(self) -> None:
        del self._admin

    async def _describe(self, topic: str) -> Any:
        [asked] = self._admin.describe_topics(TopicCollection([topic]), request_timeout=_REQUEST_S).values()
        return await self._answer(asked, ignore=KafkaError.UNKNOWN_TOPIC_OR_PART)

    async def _answer(self, asked: Future[Any], ignore: int | None = None) -> Any:
        try:
            return await asyncio.wrap_future(asked)
        except KafkaException as error:
            self._admin.poll(0)
            cause: KafkaError = error.args[0]
            if cause.code() == ignore:
                return None
            raise self._watch.explain(cause) from error


class _Call:
    """An append under way. Only the event loop writes `expected`, only the appender's thread `reported`."""

    def __init__(self, finished: list[_Call], expected: int, size: int) -> None:
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.expected = expected
        self.reported = 0
        self.size = size
        self.error: KafkaError | None = None
        self._finished = finished

    def report(self, error: KafkaError | None, _message: object) -> None:
        self.error = self.error or error
        self.reported += 1
        if self.reported == self.expected:
            self._finished.append(self)


class _Appender:
    """The idempotent producer: what librdkafka sends again by itself comes neither twice nor out of order."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._watch = _Watch(cluster)
        self._producer = self._watch.open(Producer, cluster.settings(_PRODUCER, _ALWAYS_PRODUCER))
        self._finished: list[_Call] = []
        self._queued = 0
        self._room = Signal()
        self._closing = False
        self._thread = _Thread("appender", self._report)

    @property
    def is_broken(self) -> bool:
        """It can never be used again, because its numbers and the broker's do not fit any more."""
        return self._watch.is_fatal

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        size = sum(len(message.data) + _RECORD_BYTES for message in messages)
        await self._admit(size)
        call = _Call(self._finished, len(messages), size)
        self._queued += size
        self._produce(topic, messages, call)
        await call.settled
        if call.error is None:
            self._watch.last = None
        elif call.error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise ValueError(f"a message is larger than max.message.bytes of the topic {topic}")
        else:
            raise self._watch.explain(call.error)

    async def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._room.notify()
            self._producer.purge()
        await self._thread.ended()

    async def _admit(self, size: int) -> None:
        """Wait until there is room. A call that is larger than all the room is admitted alone."""
        until = time.monotonic() + _CONFIRM_S
        while self._queued and self._queued + size > _QUEUED_BYTES and not self._closing:
            if not await self._room.wait(max(0.0, until - time.monotonic())):
                raise Unavailable(f"{self._cluster}: {self._queued} bytes wait for a confirm already")
        if self._closing:
            raise Unavailable(f"{self._cluster} was closed")

    def _produce(self, topic: str, messages: Iterable[Message], call: _Call) -> None:
        sent = 0
        try:
            for m in messages:
                self._producer.produce(topic, m.data, m.key, m.partition, call.report, headers=_to_headers(m))
                sent += 1
        except (KafkaException, BufferError) as error:
            cause = error.args[0]
            call.error = cause if isinstance(cause, KafkaError) else KafkaError(KafkaError.UNKNOWN, str(cause))
            call.expected = sent
            if call.reported == sent:
                self._settle([call])

    def _settle(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            self._queued -= call.size
            call.size = 0
            if not call.settled.done():
                call.settled.set_result(None)
        self._room.notify()

    def _report(self) -> None:
        """In the thread: `poll` calls `_Call.report` for whatever was confirmed or dropped."""
        while not self._closing or len(self._producer):
            self._producer.poll(_WAKE_S)
            if self._finished:
                finished = self._finished[:]
                del self._finished[: len(finished)]
                self._thread.tell(self._settle, finished)
        del self._producer


class _Reader:
    """A consumer without a group, in a thread that is at most two batches ahead of who reads."""

    def __init__(self, cluster: _Cluster, topic: str, after: Mapping[int, int], limit: int) -> None:
        self._watch = _Watch(cluster)
        self._settings = cluster.settings(_CONSUMER, _ALWAYS_CONSUMER)
        self._topic = topic
        self._starts = [TopicPartition(topic, partition, offset) for partition, offset in after.items()]
        self._limit = limit
        self._batches: asyncio.Queue[Sequence[Record] | Unavailable] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._stopping = False
        self._thread = _Thread("reader", self._run)

    async def next(self) -> Sequence[Record]:
        """Empty at the end."""
        batch = await self._batches.get()
        self._room.release()
        if isinstance(batch, Unavailable):
            raise batch
        return batch

    async def stop(self) -> None:
        self._stopping = True
        self._room.release()
        await self._thread.ended()

    def _run(self) -> None:
        end: Sequence[Record] | Unavailable = Unavailable(f"the reader of {self._topic} has failed; see the log")
        try:
            self._consume(self._watch.open(Consumer, self._settings))
            end = ()
        except KafkaException as error:
            end = self._watch.explain(error.args[0])
        except Unavailable as error:
            end = error
        finally:
            self._thread.tell(self._batches.put_nowait, end)

    def _consume(self, consumer: Consumer) -> None:
        try:
            consumer.assign(self._starts)
            while self._room.acquire() and (batch := self._fetch(consumer)):
                self._thread.tell(self._batches.put_nowait, batch)
        finally:
            consumer.close()

    def _fetch(self, consumer: Consumer) -> list[Record]:
        """What there is, as soon as there is something: `consume` alone waits until a batch is full."""
        quiet_since = time.monotonic()
        while not self._stopping:
            first = consumer.poll(_WAKE_S)
            if first is not None:
                rest = consumer.consume(self._limit - 1, 0) if self._limit > 1 else []
                if records := self._records([first, *rest]):
                    return records
            elif self._watch.last is not None and time.monotonic() - quiet_since > _QUIET_S:
                self._check(consumer)
        return []

    def _records(self, received: Iterable[KafkaMessage]) -> list[Record]:
        records = []
        for message in received:
            error = message.error()
            if error is None:
                records.append(_to_record(message))
            else:
                self._watch.note(error)
        return records

    def _check(self, consumer: Consumer) -> None:
        """Something was wrong, and nothing has come since. Raises KafkaException if it still is."""
        found = consumer.list_topics(self._topic, _REQUEST_S / 2).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        self._watch.last = None


def _to_headers(message: Message) -> list[tuple[str, str | bytes | None]]:
    headers: list[tuple[str, str | bytes | None]] = [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_id", message.id),
        ("ce_source", message.source),
        ("ce_type", message.type),
        ("ce_time", message.time),
        ("ce_partition", str(message.partition)),
        ("ce_number", str(message.number)),
    ]
    if message.key:
        headers.append(("ce_subject", message.key))
    if message.traceparent:
        headers.append(("ce_traceparent", message.traceparent))
    return headers


def _to_record(received: KafkaMessage) -> Record:
    """Whatever somebody wrote into the topic becomes a record, so that nothing is passed over unseen."""
    partition, offset = received.partition() or 0, (received.offset() or 0) + 1
    headers: dict[str, Any] = dict(received.headers() or ())
    key, number = received.key(), _read(headers.get("ce_number"))
    return Record(
        offset,
        Message(
            _read(headers.get("ce_id")) or f"{received.topic()}/{partition}@{offset}",
            _read(headers.get("ce_source")),
            _read(headers.get("ce_type")),
            _read(headers.get("ce_subject") if key is None else key),
            _read(headers.get("ce_time")),
            received.value() or b"",
            partition,
            int(number) if number.isdecimal() else 0,
            _read(headers.get("ce_traceparent")),
        ),
    )


def _read(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value else ""
