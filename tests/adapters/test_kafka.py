"""Kafka keeps the contract of a log, and what it promises beyond it."""

import asyncio
import itertools
import os
import re
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # not in its stubs

from chimera.adapters.kafka import KafkaLog, open_engine
from chimera.adapters.kafka.log import QUEUED_BYTES
from chimera.errors import SettingsError, Unavailable, Unfit
from chimera.messages import Message
from chimera.ports import Record
from chimera.testing.contracts import LogContract
from chimera.testing.contracts.suite import event
from chimera.testing.waiting import running
from tests.adapters.services import IN_TURN, run_services, url_of

pytestmark = IN_TURN


@pytest.fixture(scope="session")
def admin() -> AdminClient:
    return AdminClient({"bootstrap.servers": brokers()})


@pytest.fixture
def prefix(admin: AdminClient) -> Iterator[str]:
    """What the names of a test's topics begin with; they are deleted at its end."""
    prefix = f"test-{uuid.uuid4().hex[:12]}."
    yield prefix
    if made := [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefix)]:
        for deleting in admin.delete_topics(made).values():
            deleting.result(10)


@pytest.fixture
def topic(prefix: str) -> str:
    """What Kafka calls the topic `events`."""
    return f"{prefix}events"


@pytest.fixture
def reopen(prefix: str) -> Callable[[], KafkaLog]:
    return lambda: opened(prefix)


@pytest.fixture
async def log(reopen: Callable[[], KafkaLog]) -> AsyncIterator[KafkaLog]:
    log = reopen()
    await log.create("events", 2)
    yield log
    await log.close()


class TestKafkaLog(LogContract):
    @pytest.fixture
    def reopen(self, prefix: str) -> Callable[[], KafkaLog]:
        return lambda: opened(prefix)

    @pytest.fixture
    async def engine(self, reopen: Callable[[], KafkaLog]) -> AsyncIterator[KafkaLog]:
        log = reopen()
        yield log
        await log.close()


async def test_a_foreign_reader_sees_cloud_events(log: KafkaLog, topic: str) -> None:
    sent = event(1, 7, "schlüssel", b'{"amount":3}')
    await log.append("events", [sent])
    received = await asyncio.to_thread(consume, topic, 1)
    headers = dict(received.headers())
    assert headers == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": b"contract/1@7",
        "ce_source": b"contract",
        "ce_type": b"contract.Happened",
        "ce_time": sent.time.encode(),
        "ce_subject": "schlüssel".encode(),
        "ce_partition": b"1",
        "ce_number": b"7",
        "ce_traceparent": sent.traceparent.encode(),
        "ce_chain": sent.chain.encode(),
        "ce_metadata": sent.metadata.encode(),
    }
    found = from_binary(KafkaMessage(headers, received.key(), received.value()), JSONFormat())
    assert (found.get_id(), found.get_source(), found.get_type()) == (sent.id, sent.source, sent.type)
    assert (found.get_subject(), found.get_extension("partitionkey")) == ("schlüssel", "schlüssel")
    assert found.get_extension("traceparent") == sent.traceparent
    assert (time_ := found.get_time()) is not None
    assert time_.isoformat() == "2024-05-01T12:00:00.000001+00:00"
    assert found.get_data() == {"amount": 3}


async def test_a_foreign_writer_takes_part(log: KafkaLog, topic: str) -> None:
    headers = {"ce_specversion": "1.0", "ce_id": "a", "ce_source": "elsewhere", "ce_type": "elsewhere.Done"}
    await asyncio.to_thread(produce, topic, 1, key="k", value=b"{}", headers=headers)
    [record] = await take(log, 1)
    assert record == Record(1, Message("a", "elsewhere", "elsewhere.Done", "k", "", b"{}", 1))


async def test_what_is_no_cloud_event_is_not_passed_over(log: KafkaLog, topic: str) -> None:
    headers = {"ce_number": "many", "ce_type": b"\xff", "other": None}
    await asyncio.to_thread(produce, topic, 0, key=None, value=None, headers=headers)
    [record] = await take(log, 1)
    place = f"{topic}/0@1"
    assert (record.offset, record.message.id, record.message.key, record.message.data) == (1, place, place, b"")
    assert f"the record at {place}, of 0 bytes, can't be read: " in record.message.fault


async def test_a_trimmed_topic_is_read_from_the_oldest_kept(log: KafkaLog, topic: str, admin: AdminClient) -> None:
    await log.append("events", [event(0, number) for number in range(1, 21)] + [event(1, 1)])
    trimmed = {TopicPartition(topic, 0, 15): None, TopicPartition(topic, 1, 1): None}
    for trimming in admin.delete_records(list(trimmed)).values():
        trimming.result(10)
    for after in ({0: 0, 1: 0}, {0: 7, 1: 0}, {0: 15, 1: 1}):
        assert [record.offset for record in await take(log, 5, after)] == [16, 17, 18, 19, 20]
    assert await log.ends("events") == {0: 20, 1: 1}


async def test_two_prefixes_do_not_see_one_another(log: KafkaLog, prefix: str) -> None:
    other = opened(f"{prefix}other.")
    with pytest.raises(Unavailable, match="no topic"):
        await other.ends("events")
    await other.create("events", 3)
    await asyncio.gather(log.append("events", [event(0, 1)]), other.append("events", [event(0, 2)]))
    assert [record.message for record in await take(log, 1)] == [event(0, 1)]
    assert [record.message for record in await take(other, 1)] == [event(0, 2)]
    assert await other.ends("events") == {0: 1, 1: 0, 2: 0}
    await other.close()


@pytest.mark.parametrize(("options", "kept"), [("", "-1"), ("&topic.retention.ms=60000", "60000")])
async def test_a_topic_is_kept_for_ever_unless_the_url_says_otherwise(
    prefix: str, topic: str, admin: AdminClient, options: str, kept: str
) -> None:
    log = opened(prefix, options)
    await log.create("events", 1)
    [asked] = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    assert asked.result(10)["retention.ms"].value == kept
    await log.close()


async def test_a_prefix_that_kafka_does_not_allow_is_refused(prefix: str) -> None:
    log = opened(f"{prefix}a/b.")
    with pytest.raises(SettingsError, match="kafka://"):
        await log.create("events", 1)
    await log.close()


async def test_fewer_partitions_than_are_needed_are_refused(log: KafkaLog) -> None:
    with pytest.raises(SettingsError, match=r"events of kafka://\S+ has 2 partitions, and 3 are needed"):
        await log.create("events", 3)


async def test_concurrent_creators_agree(reopen: Callable[[], KafkaLog]) -> None:
    logs = [reopen() for _ in range(4)]
    await asyncio.gather(*(log.create("other", 3) for log in logs))
    assert await logs[0].ends("other") == {0: 0, 1: 0, 2: 0}
    for log in logs:
        await log.close()


async def test_what_can_never_be_appended_is_told(log: KafkaLog) -> None:
    with pytest.raises(ValueError, match="has 2 partitions, no number 2"):
        await log.append("events", [event(0, 1), event(2, 1)])
    assert await log.ends("events") == {0: 0, 1: 0}
    with pytest.raises(Unfit, match=r"larger than max\.message\.bytes"):
        await log.append("events", [event(0, 1, data=b'"' + b"x" * 9_000_000 + b'"')])
    await log.append("events", [event(0, 1)])


async def test_unknown_topics_are_unavailable_and_not_made(log: KafkaLog) -> None:
    for call in (log.ends("none"), log.append("none", [event(0, 1)]), anext(log.read("none", {0: 0}))):
        with pytest.raises(Unavailable, match="there is no topic"):
            await call
    with pytest.raises(Unavailable, match="there is no topic"):
        await log.ends("none")


async def test_a_topic_that_was_deleted_and_made_anew_works_again(
    log: KafkaLog, topic: str, admin: AdminClient, reopen: Callable[[], KafkaLog]
) -> None:
    await log.append("events", [event(0, number) for number in range(1, 6)])
    admin.delete_topics([topic])[topic].result(10)
    await until(lambda: topic not in admin.list_topics(timeout=10).topics)
    other = reopen()
    await other.create("events", 2)
    await persistently(lambda: log.append("events", [event(0, 6)]))
    await persistently(lambda: log.append("events", [event(0, 7)]))
    numbers = [record.message.number for record in await take(other, 2)]
    assert numbers[0] == 6
    assert numbers[-1] == 7
    await other.close()


@pytest.mark.parametrize("secret", ["", "user:pass%40word@"])
async def test_an_unreachable_broker_is_unavailable_within_seconds(secret: str) -> None:
    log = KafkaLog(f"kafka://{secret}127.0.0.1:9?security.protocol={'SASL_PLAINTEXT' if secret else 'PLAINTEXT'}")
    calls = (log.create("t", 1), log.ends("t"), log.append("t", [event(0, 1)]), anext(log.read("t", {0: 0})))
    async with asyncio.timeout(60):
        raised = await asyncio.gather(*calls, return_exceptions=True)
    for error in raised:
        assert isinstance(error, Unavailable)
        assert re.match(r"kafka://\S*127\.0\.0\.1:9: .*refused", str(error))
        assert "pass" not in str(error)
        assert "\n" not in str(error)
    await log.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://", "not an address of Kafka"),
        ("kafka:///topic", "not an address of Kafka"),
        ("kafka://u:secret@h:1/topic", "'kafka://u@h:1' is not an address of Kafka"),
        ("kafka://h:1?replication.factor=all", "replication.factor=all"),
        ("kafka://u:secret@h:1?acks=maybe", "acks"),
        ("kafka://u:secret@h:1?no.such.option=1", 'No such configuration property: "no.such.option"'),
    ],
)
async def test_wrong_settings_are_named_without_the_password(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as raised:
        await open_engine("log", url).create("t", 1)
    assert "secret" not in str(raised.value)


async def test_kafka_is_only_a_log() -> None:
    with pytest.raises(SettingsError, match="only be a log"):
        open_engine("store", "kafka://h:1")


async def test_tls_is_an_option_of_the_url(prefix: str) -> None:
    url = url_of("kafka_tls")
    log = KafkaLog(f"{url}?ssl.ca.location={url_of('ca')}&prefix={prefix}")
    await log.create("events", 1)
    await log.append("events", [event(0, 1)])
    assert [record.message for record in await take(log, 1, {0: 0})] == [event(0, 1)]
    await log.close()
    distrusting = KafkaLog(url)
    with pytest.raises((SettingsError, Unavailable), match="certificate"):
        await distrusting.create("events", 1)
    await distrusting.close()


async def test_closing_leaves_no_thread(reopen: Callable[[], KafkaLog]) -> None:
    before = native_threads()
    log = reopen()
    await log.create("events", 2)
    await log.append("events", [event(0, 1)])
    open_reader, cancelled = log.read("events", {0: 0, 1: 0}), asyncio.create_task(take(log, 2))
    await anext(open_reader)
    await asyncio.sleep(0.2)
    reading = native_threads()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await until(lambda: native_threads() < reading)
    assert len([thread for thread in threading.enumerate() if thread.name == "chimera-kafka-reader"]) == 1
    await log.close()
    await log.close()
    await until(lambda: native_threads() <= before)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("chimera-kafka")]
    with pytest.raises(Unavailable, match="was closed"):
        await log.ends("events")


async def test_a_reader_stops_at_once(log: KafkaLog) -> None:
    for _ in range(5):
        reading = asyncio.create_task(take(log, 1))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        reading.cancel()
        await asyncio.wait([reading])
        assert time.monotonic() - started < 10


async def test_a_slow_reader_of_fifty_thousand_messages_takes_bounded_memory(log: KafkaLog) -> None:
    data = b'"' + b"x" * 2_000 + b'"'
    for start in range(0, 50_000, 1_000):
        await log.append("events", [event(number % 2, number, data=data) for number in range(start, start + 1_000)])
    before, most, count = resident_mib(), 0.0, 0
    async with asyncio.timeout(60), aclosing(log.read("events", {0: 0, 1: 0})) as batches:
        async for batch in batches:
            if count < 10_000:
                await asyncio.sleep(0.05)
            most, count = max(most, resident_mib() - before), count + len(batch)
            if count == 50_000:
                break
    assert most < 64


async def test_more_than_the_queue_holds_waits_for_confirms(prefix: str) -> None:
    log = opened(prefix, queued_bytes=20_000)
    await log.create("events", 2)
    await asyncio.gather(*(log.append("events", [event(0, 1)] * 30) for _ in range(20)))
    assert (await log.ends("events"))[0] == 600
    await log.close()


async def test_a_cancelled_append_does_no_harm(log: KafkaLog) -> None:
    appending = [asyncio.create_task(log.append("events", [event(0, number)] * 100)) for number in range(10)]
    await asyncio.sleep(0)
    for task in appending[::2]:
        task.cancel()
    await asyncio.wait(appending)
    await log.append("events", [event(1, 1)])
    assert (await log.ends("events"))[0] >= 500


@pytest.mark.timeout(400)
@pytest.mark.parametrize("verb", ["stop", "kill"])
async def test_nothing_confirmed_is_lost_while_the_broker_restarts(log: KafkaLog, verb: str) -> None:
    confirmed: list[int] = []
    numbers: list[int] = []
    stopping = asyncio.Event()
    async with running(append_all(log, confirmed, stopping), read_all(log, numbers)) as (appending, _):
        await until(lambda: len(confirmed) > 20)
        await run_services(verb, "kafka")
        before = len(confirmed)
        await asyncio.sleep(1)
        assert len(confirmed) <= before + 1
        await run_services("start", "kafka")
        await until(lambda: len(confirmed) > before + 50)
        stopping.set()
        await appending
        await until(lambda: {*confirmed} <= {*numbers})
    for partition in range(2):
        once = list(dict.fromkeys(number for number in numbers if number % 2 == partition))
        assert once == [number for number in confirmed if number % 2 == partition]


async def append_all(log: KafkaLog, confirmed: list[int], stopping: asyncio.Event) -> None:
    """One after another, and in turn to two partitions."""
    for number in itertools.count(1):
        await persistently(partial(log.append, "events", [event(number % 2, number)]), 120)
        confirmed.append(number)
        if stopping.is_set():
            return


async def read_all(log: KafkaLog, numbers: list[int]) -> None:
    """As a feed does: on after what it has, with a new reader when one fails."""
    at = {0: 0, 1: 0}
    while True:
        with suppress(Unavailable):
            async with aclosing(log.read("events", at)) as batches:
                async for batch in batches:
                    numbers.extend(record.message.number for record in batch)
                    at.update({record.message.partition: record.offset for record in batch})


async def test_a_producer_that_can_not_be_used_again_is_replaced(log: KafkaLog) -> None:
    await log.append("events", [event(0, 1)])
    broken = log._appender
    assert broken is not None
    broken._watch.note(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "out of order", fatal=True))
    await asyncio.gather(*(log.append("events", [event(0, number)]) for number in range(2, 5)))
    assert log._appender is not broken
    assert (await log.ends("events"))[0] == 4


async def take(log: KafkaLog, count: int, after: Mapping[int, int] | None = None) -> list[Record]:
    records: list[Record] = []
    async with asyncio.timeout(60), aclosing(log.read("events", after or {0: 0, 1: 0})) as batches:
        while len(records) < count:
            records += await anext(batches)
    return records


async def persistently(call: Callable[[], Awaitable[None]], patience_s: float = 60.0) -> None:
    """As the library's workers do: again, until it is no longer unavailable."""
    until = time.monotonic() + patience_s
    while True:
        try:
            await call()
            return
        except Unavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


async def until(holds: Callable[[], bool], patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def opened(prefix: str, options: str = "", *, queued_bytes: int = QUEUED_BYTES) -> KafkaLog:
    return KafkaLog(f"{url_of('kafka')}?prefix={prefix}{options}", queued_bytes=queued_bytes)


def brokers() -> str:
    return url_of("kafka").removeprefix("kafka://").partition("?")[0]


def consume(topic: str, count: int) -> Any:
    consumer = Consumer({"bootstrap.servers": brokers(), "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    [received] = consumer.consume(count, 20)
    consumer.close()
    return received


def produce(topic: str, partition: int, **fields: Any) -> None:
    producer = Producer({"bootstrap.servers": brokers()})
    producer.produce(topic, partition=partition, **fields)
    assert producer.flush(10) == 0


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024
