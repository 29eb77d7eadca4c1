"""A log in Kafka: topics made, appended to with confirms, read by partition.

Offsets are Kafka's plus one, because Chimera's count from 1.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from chimera.adapters.kafka.cluster import (
    ALWAYS_CONSUMER,
    ALWAYS_PRODUCER,
    CONFIRM_S,
    CONSUMER,
    PRODUCER,
    QUIET_S,
    REQUEST_S,
    WAKE_S,
    Cluster,
    Controller,
    DeliveryWatch,
    KafkaRefused,
    PendingCall,
    WaitingThread,
)
from chimera.adapters.kafka.messages import to_headers, to_record
from chimera.adapters.rows import too_few_partitions
from chimera.core.aio.signals import Signal
from chimera.errors import CutShort, SettingsError, Unavailable, Unfit
from chimera.messages import Message
from chimera.ports import Features, Record

AHEAD = 2
QUEUED_BYTES = 64 * 1024 * 1024
RECORD_BYTES = 512
_OF_A_MESSAGE = frozenset({KafkaError.INVALID_MSG, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD})


class KafkaLog:
    """Topics of a cluster. A confirmed record is on every replica in sync; Kafka does not wait for their disks.

    What can't be confirmed within ten seconds or so is dropped, and only when nothing of it is queued any more
    does `append` raise Unavailable: what no broker had received by then is never sent. A cancelled append
    is confirmed or dropped within that time too. Beyond `queued_bytes`, what is to be appended waits for confirms.
    """

    features = Features(durable=True, shared=True, poll_s=0.1)

    def __init__(self, url: str, *, queued_bytes: int = QUEUED_BYTES) -> None:
        self._cluster = Cluster(url)
        self._queued_bytes = queued_bytes
        self._controller: Controller | None = None
        self._appender: KafkaAppender | None = None
        self._readers: set[KafkaReader] = set()
        self._counts: dict[str, int] = {}
        self._closed = False

    async def create(self, topic: str, partitions: int) -> None:
        """On three brokers, or as many as there are; never trimmed by itself, unless the URL sets `topic.retention.ms`.

        A topic that exists keeps its own settings.
        Raises SettingsError when it has fewer partitions, or when Kafka refuses the URL's settings.
        """
        topic = self._cluster.prefix + topic
        try:
            await self._producing()
            controller = self._controlling()
            found = await controller.partitions(topic)
            if not found:
                await controller.create(topic, partitions)
                found = await controller.partitions(topic)
        except KafkaRefused as refused:
            raise SettingsError(str(refused)) from refused
        if found < partitions:
            raise too_few_partitions(f"the topic {topic} of {self._cluster}", found, partitions)
        self._counts[topic] = found

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises Unfit for a message larger than the topic's `max.message.bytes`.

        Raises ValueError, and adds nothing, when a message's partition is not one of the topic's.
        """
        topic = self._cluster.prefix + topic
        with self._doubting(topic):
            count = await self._count(topic)
            for message in messages:
                if not 0 <= message.partition < count:
                    raise ValueError(f"the topic {topic} has {count} partitions, no number {message.partition}")
            if messages:
                await (await self._producing()).append(topic, messages)

    async def read(
        self, topic: str, after: Mapping[int, int], limit: int = 500
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Goes on by itself after an outage; Unavailable when one lasts for more than ten seconds or so."""
        topic = self._cluster.prefix + topic
        with self._doubting(topic):
            count = await self._count(topic)
            if self._closed:
                return
            known = {partition: offset for partition, offset in after.items() if partition < count}
            reader = KafkaReader(self._cluster, topic, known, limit)
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

    def removal(self, topics: Sequence[str]) -> str:
        """As `ports.Removable`."""
        names = [f"kafka-topics.sh --delete --topic {self._cluster.prefix}{topic}" for topic in topics]
        return f"at {self._cluster}: {'; '.join(names)}"

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

    def _controlling(self) -> Controller:
        if self._closed:
            raise Unavailable(f"{self._cluster} was closed")
        if self._controller is None:
            self._controller = Controller(self._cluster)
        return self._controller

    async def _producing(self) -> KafkaAppender:
        self._controlling()
        broken = self._appender if self._appender is not None and self._appender.is_broken else None
        if self._appender is None or broken is not None:
            self._appender = KafkaAppender(self._cluster, self._queued_bytes)
        appender = self._appender
        if broken is not None:
            await broken.close()
        return appender


class KafkaAppender:
    """The idempotent producer: what librdkafka sends again by itself comes neither twice nor out of order."""

    def __init__(self, cluster: Cluster, most: int) -> None:
        self._cluster = cluster
        self._most = most
        self._watch = DeliveryWatch(cluster)
        self._producer = self._watch.open(Producer, cluster.settings(PRODUCER, ALWAYS_PRODUCER))
        self._finished: list[PendingCall] = []
        self._queued = 0
        self._room = Signal()
        self._closing = False
        self._thread = WaitingThread("appender", self._report)
        self._thread.start()

    @property
    def is_broken(self) -> bool:
        """It can never be used again, because its numbers and the broker's do not fit any more."""
        return self._watch.is_fatal

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Returns once all are confirmed. Raises Unfit for one that is too large, else Unavailable."""
        size = sum(len(message.data) + RECORD_BYTES for message in messages)
        await self._admit(size)
        call = PendingCall(self._finished, len(messages), size)
        self._queued += size
        self._produce(topic, messages, call)
        await call.settled
        if call.error is None:
            self._watch.last = None
        elif call.error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise Unfit(f"a message is larger than max.message.bytes of the topic {topic}")
        elif call.error.code() in _OF_A_MESSAGE:
            raise CutShort(str(self._watch.explain(call.error)))
        else:
            raise self._watch.explain(call.error)

    async def close(self) -> None:
        """Drop what is queued, so that the calls under way fail, and wait for the thread."""
        if not self._closing:
            self._closing = True
            self._room.notify()
            self._producer.purge()
        await self._thread.ended()

    async def _admit(self, size: int) -> None:
        """Wait until there is room. A call that is larger than all the room is admitted alone."""
        until = time.monotonic() + CONFIRM_S
        while self._queued and self._queued + size > self._most and not self._closing:
            if not await self._room.wait(max(0.0, until - time.monotonic())):
                raise Unavailable(f"{self._cluster}: {self._queued} bytes wait for a confirm already")
        if self._closing:
            raise Unavailable(f"{self._cluster} was closed")

    def _produce(self, topic: str, messages: Iterable[Message], call: PendingCall) -> None:
        sent = 0
        try:
            for m in messages:
                self._producer.produce(topic, m.data, m.key, m.partition, call.report, headers=to_headers(m))
                sent += 1
        except (KafkaException, BufferError) as error:
            cause = error.args[0]
            call.error = cause if isinstance(cause, KafkaError) else KafkaError(KafkaError.UNKNOWN, str(cause))
            call.expected = sent
            if call.reported == sent:
                self._settle([call])

    def _settle(self, calls: Sequence[PendingCall]) -> None:
        for call in calls:
            self._queued -= call.size
            call.size = 0
            if not call.settled.done():
                call.settled.set_result(None)
        self._room.notify()

    def _report(self) -> None:
        """In the thread: `poll` calls `PendingCall.report` for whatever was confirmed or dropped."""
        while not self._closing or len(self._producer):
            self._producer.poll(WAKE_S)
            if self._finished:
                finished = self._finished[:]
                del self._finished[: len(finished)]
                self._thread.tell(self._settle, finished)
        del self._producer


class KafkaReader:
    """A consumer without a group, in a thread that is at most two batches ahead of who reads."""

    def __init__(self, cluster: Cluster, topic: str, after: Mapping[int, int], limit: int) -> None:
        self._watch = DeliveryWatch(cluster)
        self._settings = cluster.settings(CONSUMER, ALWAYS_CONSUMER)
        self._topic = topic
        self._starts = [TopicPartition(topic, partition, offset) for partition, offset in after.items()]
        self._limit = limit
        self._batches: asyncio.Queue[Sequence[Record] | Unavailable] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD)
        self._stopping = False
        self._thread = WaitingThread("reader", self._run)
        self._thread.start()

    async def next(self) -> Sequence[Record]:
        """The next batch; empty at the end. Raises Unavailable, once, for what has ended the reading."""
        batch = await self._batches.get()
        self._room.release()
        if isinstance(batch, Unavailable):
            raise batch
        return batch

    async def stop(self) -> None:
        """End the reading, and wait for the thread; `next` then comes to the end."""
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
        """The records that there are, as soon as there is one: `consume` alone waits until a batch is full."""
        quiet_since = time.monotonic()
        while not self._stopping:
            first = consumer.poll(WAKE_S)
            if first is not None:
                rest = consumer.consume(self._limit - 1, 0) if self._limit > 1 else []
                if records := self._records([first, *rest]):
                    return records
            elif self._watch.last is not None and time.monotonic() - quiet_since > QUIET_S:
                self._check(consumer)
        return []

    def _records(self, received: Iterable[KafkaMessage]) -> list[Record]:
        records = []
        for message in received:
            error = message.error()
            if error is None:
                records.append(to_record(message))
            else:
                self._watch.note(error)
        return records

    def _check(self, consumer: Consumer) -> None:
        """Something was wrong, and nothing has come since. Raises KafkaException if it still is."""
        found = consumer.list_topics(self._topic, REQUEST_S / 2).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        self._watch.last = None
