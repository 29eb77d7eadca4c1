"""A Kafka cluster as librdkafka sees it: clients, the threads that wait for their news, admin calls, refusals.

librdkafka works in threads of its own. A thread of ours waits for its news, and hands them to the event loop once per
batch.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # not in its stubs

from chimera.errors import SettingsError, Unavailable

Handle = TypeVar("Handle")
logger = logging.getLogger("chimera")
REQUEST_S = 4.0
CONFIRM_S = 10.0
QUIET_S = 10.0
WAKE_S = 0.1
CONNECTION = {
    "client.id": "chimera",
    "reconnect.backoff.max.ms": 1_000,
    "socket.nagle.disable": True,
    "socket.timeout.ms": 10_000,
}
# How much is queued is bounded by us, and how large a message may be is the topic's to say.
PRODUCER = {
    "linger.ms": 0,
    "message.max.bytes": 1_000_000_000,
    "message.timeout.ms": int(CONFIRM_S * 1000),
    "queue.buffering.max.kbytes": 2_147_483_647,
    "queue.buffering.max.messages": 0,
}
CONSUMER = {
    "fetch.queue.backoff.ms": 10,
    "group.id": "chimera",
    "queued.max.messages.kbytes": 16 * 1024,
    "queued.min.messages": 10_000,
}
# By itself a broker deletes what is seven days old, commands that nobody has executed yet among it.
TOPIC = {"max.message.bytes": str(8 * 1024 * 1024), "retention.ms": "-1"}
ALWAYS_PRODUCER = {"acks": "all", "enable.idempotence": True}
ALWAYS_CONSUMER = {"auto.offset.reset": "earliest", "enable.auto.commit": False}
_SAYS_LITTLE = frozenset({"_ALL_BROKERS_DOWN", "_FATAL", "_MSG_TIMED_OUT", "_TIMED_OUT", "_TRANSPORT"})
_REFUSED = re.compile(
    r".*AUTH.*|.*MECHANISM|_INVALID_ARG|_SSL|INVALID_(CONFIG|PARTITIONS|REPLICATION_FACTOR)|POLICY.*|TOPIC_EXCEPTION"
)


class Cluster:
    """The cluster of a URL: brokers, login and settings. As text: the URL without password and options."""

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
        """librdkafka's settings for a client: `usual` ones yield to the URL's options, `always` ones override them."""
        return {**CONNECTION, **usual, **self._options, **always}


class KafkaRefused(Unavailable):
    """Trying again is of no use before somebody changes a setting."""


class DeliveryWatch:
    """The error that librdkafka told last of a client: why something failed is often only said there."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.last: KafkaError | None = None
        self.is_fatal = False

    def open(self, handle: Callable[..., Handle], settings: Mapping[str, object]) -> Handle:
        """A new client that tells its errors here. Raises KafkaRefused for settings that librdkafka does not take."""
        try:
            return handle({**settings, "error_cb": self.note}, logger=DEBUG)
        except (KafkaException, TypeError, ValueError) as error:
            raise KafkaRefused(f"{self._cluster}: {text_of(error.args[0])}") from error

    def note(self, error: KafkaError) -> None:
        """Remember an error, unless one that says more was told before; a fatal one ends the client's use."""
        self.is_fatal = self.is_fatal or error.fatal()
        if self.last is None or error.name() != "_ALL_BROKERS_DOWN":
            self.last = error

    def explain(self, error: KafkaError) -> Unavailable:
        """The error in our words, with the one told last as its cause where it says little by itself."""
        cause = self.last if self.last is not None and error.name() in _SAYS_LITTLE else error
        kind = KafkaRefused if _REFUSED.fullmatch(cause.name()) else Unavailable
        return kind(f"{self._cluster}: {text_of(cause)}")


def text_of(error: object) -> str:
    """An error on one line."""
    return " ".join((error.str() if isinstance(error, KafkaError) else str(error)).split())


class _Debug:
    """Takes librdkafka's own log, which tells of every reconnect."""

    def log(self, _level: int, text: str, *args: object) -> None:
        logger.debug(text, *args)


DEBUG = _Debug()


class WaitingThread:
    """A thread of ours; a daemon, so that a process that forgets to close its log ends nevertheless."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"chimera-kafka-{name}", daemon=True)

    def start(self) -> None:
        """Begin the work; whoever it tells knows this thread by now."""
        self._thread.start()

    async def ended(self) -> None:
        """Wait until the thread has ended."""
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


class Controller:
    """Topics and their ends. librdkafka answers these questions through futures, without a thread of ours."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._watch = DeliveryWatch(cluster)
        self._admin = self._watch.open(AdminClient, cluster.settings())

    async def partitions(self, topic: str) -> int:
        """The number of a topic's partitions; 0 for an unknown one."""
        described = await self._describe(topic)
        return len(described.partitions) if described else 0

    async def create(self, topic: str, partitions: int) -> None:
        """Returns when every partition has a leader that knows it. That the topic exists is no error."""
        brokers = len((await self._answer(self._admin.describe_cluster(request_timeout=REQUEST_S))).nodes)
        copies = self._cluster.replication or min(3, brokers)
        usual = {"min.insync.replicas": str(max(1, copies - 1)), **TOPIC, **self._cluster.topic}
        new = NewTopic(topic, partitions, copies, config=usual)
        [creating] = self._admin.create_topics([new], request_timeout=REQUEST_S).values()
        await self._answer(creating, ignore=KafkaError.TOPIC_ALREADY_EXISTS)
        until = time.monotonic() + CONFIRM_S
        while time.monotonic() < until:
            described = await self._describe(topic)
            if described and all(each.leader for each in described.partitions):
                with suppress(Unavailable):
                    await self.ends(topic, len(described.partitions))
                    return
            await asyncio.sleep(WAKE_S)
        raise Unavailable(f"{self._cluster}: the topic {topic} was created, but has no leaders yet")

    async def ends(self, topic: str, count: int) -> dict[int, int]:
        """The number of records that each of `count` partitions has ever had, which is its newest offset in Chimera."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library left it out
        partitions = {TopicPartition(topic, partition): latest for partition in range(count)}
        asked = self._admin.list_offsets(partitions, request_timeout=REQUEST_S)
        found = await asyncio.gather(*(self._answer(future) for future in asked.values()))
        return {each.partition: end.offset for each, end in zip(asked, found, strict=True)}

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        """Delete each partition's records up to an offset, which goes too."""
        partitions = [TopicPartition(topic, partition, offset) for partition, offset in through.items()]
        asked = self._admin.delete_records(partitions, request_timeout=REQUEST_S) if partitions else {}
        await asyncio.gather(*(self._answer(future) for future in asked.values()))

    async def close(self) -> None:
        """End the admin client, in a thread, because that takes a while."""
        closing = WaitingThread("closing", self._drop)
        closing.start()
        await closing.ended()

    def _drop(self) -> None:
        del self._admin

    async def _describe(self, topic: str) -> Any:
        [asked] = self._admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_S).values()
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


class PendingCall:
    """An append under way. Only the event loop writes `expected`, only the appender's thread `reported`."""

    def __init__(self, finished: list[PendingCall], expected: int, size: int) -> None:
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.expected = expected
        self.reported = 0
        self.size = size
        self.error: KafkaError | None = None
        self._finished = finished

    def report(self, error: KafkaError | None, _message: object) -> None:
        """One message was confirmed, or dropped with an error; after the last one the call is finished."""
        self.error = self.error or error
        self.reported += 1
        if self.reported == self.expected:
            self._finished.append(self)
