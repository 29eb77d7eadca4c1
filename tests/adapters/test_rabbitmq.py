"""RabbitMQ keeps the contract of a log, and what it promises beyond it."""

import asyncio
import itertools
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import aio_pika
import aio_pika.abc
import msgspec
import pytest
import rstream
import uvloop
from cloudevents.core.bindings import amqp
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from pamqp.common import FieldTable

from chimera.adapters.rabbitmq import messages as rabbitmq_messages
from chimera.adapters.rabbitmq.log import BRIDGE_S, RabbitMQLog, _parse, _retention_of, _Topic, open_engine
from chimera.errors import SettingsError, Unavailable
from chimera.journal.relay import Relay
from chimera.messages import Message
from chimera.ports import Record
from chimera.testing.contracts import LogContract
from chimera.testing.contracts.suite import event
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually, running
from rabbitstream import protocol
from rabbitstream.errors import StreamUnavailable
from rabbitstream.link import Link, Refused
from tests import support
from tests.adapters.services import IN_TURN, url_of
from tests.support import PARTITIONS, Bank, Deposit

ROOT = Path(__file__).parents[2]
pytestmark = IN_TURN
DELETE = 14
"""The protocol's command that deletes a stream, of which the driver has no need."""


class Opened(Protocol):
    """Opens a log with a prefix of the test's own; its streams are deleted after the test."""

    def __call__(
        self, options: str = "", url: str = ..., prefix: str = ..., *, bridge_s: float = ...
    ) -> RabbitMQLog: ...


def stream_url(engine: str = "rabbitmq_stream") -> str:
    """The URL without options, whatever its scheme."""
    return "rabbitmq://" + url_of(engine).partition("://")[2].partition("?")[0]


@pytest.fixture
def url() -> str:
    return stream_url()


@pytest.fixture
def prefix() -> str:
    """What nobody else's topics begin with."""
    return f"t{uuid.uuid4().hex[:8]}."


@pytest.fixture
async def opened(url: str, prefix: str) -> AsyncIterator[Opened]:
    """Opens logs with the prefix; the streams of their topics are deleted after the test."""
    logs: list[RabbitMQLog] = []

    def fresh(options: str = "", url: str = url, prefix: str = prefix, *, bridge_s: float = BRIDGE_S) -> RabbitMQLog:
        logs.append(RabbitMQLog(f"{url}?prefix={prefix}{options}", bridge_s=bridge_s))
        return logs[-1]

    yield fresh
    for log in logs:
        await log.close()
    topics = {topic._name: topic._created for log in logs for topic in log._topics.values() if topic._created}
    await _delete(url, *(f"{name}-{partition}" for name, created in topics.items() for partition in range(created)))


@pytest.fixture
async def log(opened: Opened) -> RabbitMQLog:
    log = opened()
    await log.create("events", 2)
    return log


class TestRabbitMQLog(LogContract):
    @pytest.fixture
    def reopen(self, opened: Opened) -> Opened:
        return opened

    @pytest.fixture
    async def engine(self, opened: Opened) -> RabbitMQLog:
        return opened()


async def test_reading_starts_in_the_middle_of_a_chunk(log: RabbitMQLog) -> None:
    await log.append("events", [event(0, number) for number in range(1, 101)])
    records = await _take(log, 40, {0: 60})
    assert [record.message.number for record in records] == list(range(61, 101))
    assert [record.offset for record in records] == list(range(61, 101))


async def test_a_partition_with_a_backlog_does_not_starve_another(log: RabbitMQLog) -> None:
    await log.append("events", [event(0, number) for number in range(1, 1001)] + [event(1, 1)])
    seen: list[int] = []
    async with aclosing(log.read("events", {0: 0, 1: 0}, limit=10)) as batches:
        while 1 not in seen:
            seen += [record.message.partition for record in await anext(batches)]
            await asyncio.sleep(0.02)
    assert len(seen) < 900


async def test_a_slow_reader_holds_few_of_many_records(opened: Opened) -> None:
    writer, log, data = opened(), opened(), b'"' + b"x" * 1000 + b'"'
    await writer.create("events", 2)
    for start in range(1, 50_001, 500):
        await writer.append("events", [event(number % 2, number, data=data) for number in range(start, start + 500)])
    numbers: dict[int, list[int]] = {0: [], 1: []}
    held = 0
    async with aclosing(log.read("events", {0: 0, 1: 0})) as batches:
        async for batch in batches:
            [reader] = log._readers
            held = max(held, *(tail._bytes for tail in reader._tails.values()))
            for record in batch:
                numbers[record.message.partition].append(record.message.number)
            await asyncio.sleep(0.002)
            if sum(map(len, numbers.values())) >= 50_000:
                break
    assert numbers == {0: list(range(2, 50_001, 2)), 1: list(range(1, 50_001, 2))}
    assert held < 6 * 1024 * 1024


async def test_two_readers_read_at_their_own_pace(log: RabbitMQLog) -> None:
    await log.append("events", [event(0, number) for number in range(1, 3001)])
    slow = log.read("events", {0: 0}, limit=1)
    async with aclosing(slow) as batches:
        assert [record.message.number for record in await anext(batches)] == [1]
        assert len(await _take(log, 3000, {0: 0})) == 3000
        assert [record.message.number for record in await anext(batches)] == [2]


@pytest.mark.parametrize("verbs", [("restart",), ("kill", "start")])
async def test_appends_and_reads_go_on_after_a_restart_of_the_broker(log: RabbitMQLog, verbs: Sequence[str]) -> None:
    confirmed: list[int] = []
    failed: list[Unavailable] = []
    reading = asyncio.create_task(_read_up_to(log, 10**6))
    appending = asyncio.create_task(_append_numbers(log, confirmed, failed))
    await asyncio.sleep(0.3)
    before = len(confirmed)
    for verb in verbs:
        await _run_services(verb)
    while len(confirmed) < before + 300:  # noqa: ASYNC110 - what it waits for is a count
        await asyncio.sleep(0.05)
    appending.cancel()
    await asyncio.wait([appending])
    await log.append("events", [event(0, 10**6)])
    numbers = await asyncio.wait_for(reading, 60)
    assert failed
    assert set(numbers) >= {*confirmed}
    assert sorted(set(numbers)) == list(dict.fromkeys(numbers))


@pytest.mark.parametrize("code", [6, 2])
async def test_a_reader_pauses_while_a_stream_is_not_available(
    log: RabbitMQLog, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    reading = asyncio.create_task(_take(log, 1, {0: 0}))
    await asyncio.sleep(0.1)
    tries: list[tuple[object, ...]] = []
    subscribe = Link.subscribe

    async def refuse(*args: object) -> None:
        tries.append(args)
        raise Refused(code, "not now")

    monkeypatch.setattr(Link, "subscribe", refuse)
    [reader] = log._readers
    assert reader._link is not None
    reader._link._transport.abort()
    await asyncio.sleep(0.5)
    assert len(tries) <= 5
    await eventually(lambda: len(tries) >= 2)
    monkeypatch.setattr(Link, "subscribe", subscribe)
    await log.append("events", [event(0, 1)])
    assert [record.message for record in await reading] == [event(0, 1)]


async def test_a_reader_gives_up_when_the_broker_stays_away(opened: Opened) -> None:
    log = opened(bridge_s=0.2)
    await log.create("events", 2)
    reading = asyncio.create_task(_take(log, 1, {0: 0}))
    await eventually(lambda: any(each._link is not None for each in log._readers))
    [reader] = log._readers
    assert reader._link is not None
    reader._address = reader._address._replace(port=1)
    reader._link._transport.abort()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/"):
        await reading


async def test_a_connection_that_is_lost_fails_what_waits_for_it_and_is_opened_again(log: RabbitMQLog) -> None:
    await log.append("events", [event(0, 1)])
    link = await log._topics["events"]._kept.get()
    appending = asyncio.create_task(log.append("events", [event(0, 2)]))
    await asyncio.sleep(0)
    link._transport.abort()
    with pytest.raises(Unavailable, match="connection was lost"):
        await appending
    await log.append("events", [event(0, 3)])


@pytest.mark.parametrize("deleted", [(0, 1), (0,), (1,)])
async def test_streams_that_were_deleted_are_made_again(
    log: RabbitMQLog, url: str, prefix: str, deleted: Sequence[int]
) -> None:
    await log.append("events", [event(0, 1)])
    await _delete(url, *(f"{prefix}events-{partition}" for partition in deleted))
    await _until_it_works(lambda: log.append("events", [event(0, 2)]))
    kept = [] if 0 in deleted else [1]
    assert [record.message.number for record in await _take(log, len(kept) + 1, {0: 0})] == [*kept, 2]
    assert set(await log.ends("events")) == {0, 1}


async def test_a_stream_that_is_shorter_than_what_was_read_is_logged_as_an_error(
    log: RabbitMQLog, caplog: pytest.LogCaptureFixture
) -> None:
    await log.append("events", [event(0, 1)])
    reading = asyncio.ensure_future(_take(log, 1, {0: 9}))
    await asyncio.sleep(0.1)
    for number in range(2, 12):
        await log.append("events", [event(0, number)])
    assert (await reading)[0].offset == 10
    assert "events-0 was read up to 9 before, but is at 2 now" in caplog.text


async def test_a_stream_that_was_trimmed_is_read_from_the_oldest_kept(opened: Opened) -> None:
    log = opened("&max_bytes=200000&segment_bytes=100000")
    await log.create("events", 1)
    for number in range(1, 101):
        await log.append("events", [event(0, number, data=b'"' + b"x" * 20_000 + b'"')])
    await asyncio.sleep(0.5)
    records = await _take(log, 1, {0: 0})
    assert records[0].offset == records[0].message.number > 50
    assert (await _take(log, 1, {0: 3}))[0] == records[0]
    assert await log.ends("events") == {0: 100}


async def test_commands_are_kept_whatever_the_retention_of_events_is(opened: Opened) -> None:
    """A broker does not know what was executed."""
    log = opened("&max_bytes=200000&segment_bytes=100000")
    await log.create("shop.commands", 1)
    for number in range(1, 101):
        await log.append("shop.commands", [event(0, number, data=b'"' + b"x" * 20_000 + b'"')])
    await asyncio.sleep(0.5)
    records: list[Record] = []
    async with aclosing(log.read("shop.commands", {0: 0})) as batches:
        async for batch in batches:
            records += batch
            if len(records) == 100:
                break
    assert [record.offset for record in records] == list(range(1, 101))


def test_the_retention_of_commands_has_an_option_of_its_own_and_a_least_value() -> None:
    options = {"max_age": "1h", "max_bytes": "5", "segment_bytes": "9", "commands_max_age": "7D"}
    assert _retention_of("shop.commands", options) == {"max-age": "7D", "stream-max-segment-size-bytes": "9"}
    assert _retention_of("shop.commands", {"max_age": "1h", "max_bytes": "5"}) == {}
    assert _retention_of("shop.events", options)["max-age"] == "1h"
    for wrong in ("0D", "12h", "3600s", "7", ""):
        with pytest.raises(SettingsError, match="at least a day"):
            RabbitMQLog(f"rabbitmq://localhost/?commands_max_age={wrong}")


async def test_fewer_partitions_than_are_needed_are_refused(log: RabbitMQLog) -> None:
    with pytest.raises(SettingsError, match=r"events at rabbitmq://.* has 2 partitions, and 3 are needed"):
        await log.create("events", 3)
    with pytest.raises(ValueError, match="has 2 partitions, no number 2"):
        await log.append("events", [event(2, 1)])
    with pytest.raises(SettingsError, match="can't name a topic"):
        await log.create("Events/1", 2)
    with pytest.raises(SettingsError, match="1 to 256"):
        await log.create("more", 257)


async def test_a_topic_that_was_left_half_made_is_completed(opened: Opened, url: str, prefix: str) -> None:
    log = opened()
    link = await Link.open(_parse(url)[0])
    for partition in (3, 2):
        await link.create(f"{prefix}events-{partition}", {})
    link.close()
    with pytest.raises(Unavailable, match="no topic"):
        await log.ends("events")
    await log.create("events", 4)
    assert await log.ends("events") == {0: 0, 1: 0, 2: 0, 3: 0}


async def test_engines_create_a_topic_at_the_same_time(opened: Opened) -> None:
    logs = [opened() for _ in range(5)]
    await asyncio.gather(*(log.create("events", 4) for log in logs))
    await asyncio.gather(*(log.append("events", [event(at % 4, 1)]) for at, log in enumerate(logs)))
    assert sum((await logs[0].ends("events")).values()) == 5


async def test_a_foreign_client_reads_plain_cloud_events(log: RabbitMQLog, url: str, prefix: str) -> None:
    sent = event(0, 7, "straße", b'{"name": "x"}')
    await log.append("events", [sent])
    got: asyncio.Queue[Any] = asyncio.Queue()
    consumer = rstream.Consumer(**_login(url))
    await consumer.subscribe(
        f"{prefix}events-0",
        lambda message, _: got.put_nowait(message),
        decoder=rstream.amqp_decoder,
        offset_specification=rstream.ConsumerOffsetSpecification(rstream.OffsetType.FIRST, None),
    )
    message = await asyncio.wait_for(got.get(), 60)
    await consumer.close()
    properties = {_text(name): _text(value) for name, value in message.application_properties.items()}
    binary = amqp.AMQPMessage(
        properties={"content-type": _text(message.properties.content_type)},
        application_properties=properties,
        application_data=message.body,
    )
    _is_same(amqp.from_binary(binary, JSONFormat()), sent, {"name": "x"})


@pytest.mark.parametrize("mark", [":", "_"])
@pytest.mark.parametrize("compression", [None, rstream.CompressionType.No, rstream.CompressionType.Gzip])
async def test_a_foreign_client_writes_plain_cloud_events(
    log: RabbitMQLog, url: str, prefix: str, mark: str, compression: rstream.CompressionType | None
) -> None:
    values = {"specversion": "1.0", "id": "c0ffee", "source": "shop", "type": "shop.Buy", "subject": "key"}
    properties: dict[str, Any] = {f"cloudEvents{mark}{name}": value for name, value in values.items()}
    properties |= {"other": 1.5, "flag": True, "none": None}
    messages = [rstream.AMQPMessage(body=b'{"at": %d}' % at, application_properties=properties) for at in range(5)]
    async with rstream.Producer(**_login(url)) as producer:
        if compression is None:
            await producer.send_batch(f"{prefix}events-1", messages)
        else:
            await producer.send_sub_entry(f"{prefix}events-1", messages, compression_type=compression)
    await log.append("events", [event(1, 1)])
    records = await _take(log, 6, {1: 0})
    assert [record.offset for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.message for record in records[:5]] == [
        Message("c0ffee", "shop", "shop.Buy", "key", "", b'{"at": %d}' % at, 1) for at in range(5)
    ]
    assert await log.ends("events") == {0: 0, 1: 6}


async def test_a_command_that_a_foreign_client_writes_with_the_cloud_events_sdk_is_read_as_a_message(
    opened: Opened, url: str, prefix: str
) -> None:
    log = opened()
    await log.create("shop.commands", 1)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    attributes = {"id": "c0ffee", "source": "/till", "type": "shop.Buy", "subject": "straße", "traceparent": trace}
    time = datetime(2024, 5, 1, 12, tzinfo=UTC)
    binary = amqp.to_binary(CloudEvent({**attributes, "time": time, "specversion": "1.0"}, {"gig": 7}), JSONFormat())
    async with rstream.Producer(**_login(url)) as producer:
        message = rstream.AMQPMessage(
            body=binary.application_data, application_properties=binary.application_properties
        )
        await producer.send_wait(f"{prefix}shop.commands-0", message)
    [record] = await _take(log, 1, {0: 0}, "shop.commands")
    assert json.loads(record.message.data) == {"gig": 7}
    assert datetime.fromisoformat(record.message.time) == time
    assert record == Record(
        1, Message("c0ffee", "/till", "shop.Buy", "straße", record.message.time, record.message.data, 0, 0, trace)
    )


async def test_what_is_no_message_is_handed_on_without_a_type(log: RabbitMQLog) -> None:
    await log.append("events", [event(0, 1)])
    link = await log._topics["events"]._kept.get()
    garbage = [b"", b"\x00", b"hello", b"\x00\x53\x74\xd1\xff\xff\xff\xff", rabbitmq_messages.encode(event(0, 2))[:90]]
    await link.publish({0: garbage})
    await log.append("events", [event(0, 3)])
    records = await _take(log, 7, {0: 0})
    assert [record.message.type for record in records[1:6]] == [""] * 5
    assert [record.message.data for record in records[1:6]] == garbage
    assert records[6].message == event(0, 3)


class Foreign(NamedTuple):
    """A topic exchange with the option that publishes to it, and a foreign consumer's channel and queue."""

    exchange: str
    option: str
    channel: aio_pika.abc.AbstractChannel
    queue: aio_pika.abc.AbstractQueue

    async def get(self) -> aio_pika.abc.AbstractIncomingMessage:
        async with asyncio.timeout(60):
            while not (got := await self.queue.get(no_ack=True, fail=False)):  # noqa: ASYNC110 - basic.get does not wait
                await asyncio.sleep(0.01)
        return got


@pytest.fixture
async def foreign() -> AsyncIterator[Foreign]:
    """The queue is bound to one type of event."""
    exchange = f"test-{uuid.uuid4().hex[:8]}"
    async with await aio_pika.connect(url_of("rabbitmq")) as connection:
        channel = await connection.channel()
        declared = await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "contract.Happened")
        yield Foreign(exchange, f"&exchange={exchange}&amqp_port={urlsplit(url_of('rabbitmq')).port}", channel, queue)
        await declared.delete()


async def test_a_foreign_consumer_gets_the_events_that_its_queue_is_bound_to(opened: Opened, foreign: Foreign) -> None:
    log = opened(foreign.option)
    await log.create("contract.events", 2)
    await log.create("contract.commands", 2)
    sent = event(1, 1, "straße", b'{"name": "x"}')
    other = msgspec.structs.replace(event(1, 2), type="contract.Else")
    await log.append("contract.events", [sent, other])
    await log.append("contract.commands", [event(1, 3)])
    got = await foreign.get()
    assert await foreign.queue.get(fail=False) is None
    assert got.routing_key == sent.type
    assert got.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    binary = amqp.AMQPMessage(
        properties={"content-type": got.content_type},
        application_properties=dict(got.headers),
        application_data=got.body,
    )
    _is_same(amqp.from_binary(binary, JSONFormat()), sent, {"name": "x"})
    assert [record.message for record in await _take(log, 2, {1: 0}, "contract.events")] == [sent, other]


@pytest.mark.parametrize("dies", ["before", "after"])
async def test_a_relay_that_dies_between_the_exchange_and_the_stream_loses_no_event_for_either(
    opened: Opened, foreign: Foreign, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    topic = "accounts.events"
    context = await support.opened(Bank().service, memory_engines())
    await support.direct(context, Deposit("a", 1))
    events = [each.id for each in await support.journal_of(context.store)]
    log = opened(foreign.option)
    await log.create(topic, PARTITIONS)
    await foreign.queue.bind(foreign.exchange, "accounts.#")
    reached, append = asyncio.Event(), _Topic.append

    async def die(topic: _Topic, messages: Sequence[Message]) -> None:
        if dies == "after":
            await append(topic, messages)
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(_Topic, "append", die)
        async with running(Relay(replace(context, log=log)).run(range(PARTITIONS))):
            await asyncio.wait_for(reached.wait(), 60)
    got = [str((await foreign.get()).message_id) for _ in events]
    again = opened(foreign.option)
    async with running(Relay(replace(context, log=again)).run(range(PARTITIONS))):
        repeated = [str((await foreign.get()).message_id) for _ in events]
        await eventually(lambda: _is_relayed(again, topic, set(events)))
    assert sorted(got) == sorted(repeated) == sorted(events)
    await context.owners.close()


async def _is_relayed(log: RabbitMQLog, topic: str, ids: set[str]) -> bool:
    records = await support.read_all(log, topic, dict.fromkeys(range(PARTITIONS), 0))
    return {record.message.id for record in records} == ids


async def test_an_exchange_that_was_deleted_is_made_again(opened: Opened, foreign: Foreign) -> None:
    log = opened(foreign.option)
    await log.create("contract.events", 1)
    await log.append("contract.events", [event(0, 1)])
    await foreign.channel.exchange_delete(foreign.exchange)
    with pytest.raises(Unavailable, match=f"exchange {foreign.exchange} at"):
        await log.append("contract.events", [event(0, 2)])
    assert await log.ends("contract.events") == {0: 1}
    await _until_it_works(lambda: log.append("contract.events", [event(0, 2)]))
    assert await log.ends("contract.events") == {0: 2}


async def test_a_queue_that_refuses_an_event_holds_up_the_append(opened: Opened, foreign: Foreign) -> None:
    log = opened(foreign.option)
    await log.create("contract.events", 1)
    full: FieldTable = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = await foreign.channel.declare_queue(exclusive=True, arguments=full)
    await queue.bind(foreign.exchange, "contract.*")
    await log.append("contract.events", [event(0, 1)])
    with pytest.raises(Unavailable, match=f"exchange {foreign.exchange} at"):
        await log.append("contract.events", [event(0, 2)])
    assert await log.ends("contract.events") == {0: 1}
    await queue.purge()
    await _until_it_works(lambda: log.append("contract.events", [event(0, 2)]))
    assert await log.ends("contract.events") == {0: 2}


async def test_deployments_with_prefixes_of_their_own_share_a_broker(opened: Opened, url: str, prefix: str) -> None:
    logs = [opened(prefix=f"{prefix}{name}.") for name in ("one", "two")]
    for number, log in enumerate(logs, 1):
        await log.create("events", number)
        await log.append("events", [event(0, number)])
    for number, log in enumerate(logs, 1):
        assert [record.message.number for record in await _take(log, 1, {0: 0})] == [number]
        assert await log.ends("events") == dict.fromkeys(range(number), 0) | {0: 1}
    link = await Link.open(_parse(url)[0])
    streams = {f"{prefix}one.events-0", f"{prefix}two.events-0", f"{prefix}two.events-1"}
    assert await link.existing([*streams, "events-0", f"{prefix}events-0"]) == streams
    link.close()


async def test_nothing_is_appended_while_the_exchange_fails(opened: Opened) -> None:
    log = opened("&exchange=test&amqp_port=1")
    await log.create("contract.events", 1)
    with pytest.raises(Unavailable, match="exchange test at"):
        await log.append("contract.events", [event(0, 1)])
    with pytest.raises(ValueError, match="no number 1"):
        await log.append("contract.events", [event(1, 1)])
    assert await log.ends("contract.events") == {0: 0}


async def test_connections_can_be_encrypted(opened: Opened, foreign: Foreign) -> None:
    tls, ca = stream_url("rabbitmq_stream_tls"), url_of("ca")
    log = opened(f"&tls=1&ca={ca}", tls)
    await log.create("events", 1)
    await log.append("events", [event(0, 1)])
    assert [record.message for record in await _take(log, 1, {0: 0})] == [event(0, 1)]
    both = opened(f"&tls=1&ca={ca}&exchange={foreign.exchange}&amqp_port={urlsplit(url_of('rabbitmq_tls')).port}", tls)
    await both.create("contract.events", 1)
    await both.append("contract.events", [event(0, 1)])
    assert (await foreign.get()).message_id == event(0, 1).id
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await opened("&tls=1", tls).create("events", 1)
    with pytest.raises(SettingsError, match=r"\?ca=/nowhere"):
        opened("&tls=1&ca=/nowhere", tls)


async def test_a_login_that_is_refused_says_so_without_the_password(url: str) -> None:
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port}"
    for wrong, says in (
        (f"rabbitmq://{parts.username}:secret@{place}/", "wrong user or password"),
        (f"rabbitmq://{parts.username}:{parts.password}@{place}/nowhere", "no access to this virtual host"),
    ):
        log = open_engine("log", wrong)
        assert isinstance(log, RabbitMQLog)
        for use in (log.create("events", 1), log.append("events", [event(0, 1)]), log.ends("events")):
            with pytest.raises(SettingsError, match=says) as caught:
                await use
            assert f"{parts.username}@{place}" in str(caught.value)
            assert "secret" not in str(caught.value)
        await log.close()


async def test_a_broker_that_is_not_there_is_unavailable_at_once() -> None:
    for host, port in (("127.0.0.1", 1), ("nowhere.invalid", 5552)):
        log = RabbitMQLog(f"rabbitmq://me:secret@{host}:{port}/")
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unavailable, match=f"rabbitmq://me@{host}:{port}/") as caught:
                await log.append("events", [event(0, 1)])
            assert "secret" not in str(caught.value)
        with pytest.raises(Unavailable, match=host):
            await anext(log.read("events", {0: 0}))
        assert time.monotonic() - started < 5
        await log.close()


async def test_a_broker_that_does_not_answer_is_unavailable() -> None:
    silent = await asyncio.start_server(_say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    log = RabbitMQLog(f"rabbitmq://127.0.0.1:{port}/", patience_s=0.1)
    with pytest.raises(Unavailable, match="no answer"):
        await log.append("events", [event(0, 1)])
    await log.close()
    silent.close()
    await silent.wait_closed()


def test_it_runs_on_uvloop(url: str) -> None:
    async def use() -> list[Record]:
        log, topic = RabbitMQLog(url), f"t{uuid.uuid4().hex[:8]}.events"
        await log.create(topic, 1)
        await log.append(topic, [event(0, 1)])
        records = await _take(log, 1, {0: 0}, topic)
        await log.close()
        await _delete(url, f"{topic}-0")
        return records

    assert uvloop.run(use()) == [Record(1, event(0, 1))]


async def test_those_who_ask_for_ends_together_share_an_answer(
    log: RabbitMQLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    end = Link.end

    async def noted(link: Link, subscription: int, stream: str) -> int:
        asked.append(stream)
        return await end(link, subscription, stream)

    monkeypatch.setattr(Link, "end", noted)
    await log.append("events", [event(0, 1)])
    assert await asyncio.gather(*(log.ends("events") for _ in range(20))) == [{0: 1, 1: 0}] * 20
    await log.append("events", [event(0, 2)])
    assert await log.ends("events") == {0: 2, 1: 0}
    assert len(asked) == 3 * 2


async def test_a_log_that_was_closed_is_unavailable(log: RabbitMQLog) -> None:
    await log.close()
    for use in (log.append("events", [event(0, 1)]), log.ends("events"), anext(log.read("events", {0: 0}))):
        with pytest.raises(Unavailable, match="was closed"):
            await use


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rabbitmq:///", "looks like"),
        ("amqp://host/", "looks like"),
        ("rabbitmq://host:port/", "the URL of RabbitMQ"),
        ("rabbitmq://me:secret@host/?color=red", "no option color"),
        ("rabbitmq://me:secret@host/?exchange=x&amqp_port=y", "amqp_port=y is no number"),
        ("rabbitmq://me:secret@host/?prefix=Team/1", r"\?prefix=Team/1: a prefix has lower case"),
    ],
)
def test_a_wrong_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        open_engine("log", url)
    assert "secret" not in str(caught.value)


def test_rabbitmq_is_a_log_only() -> None:
    with pytest.raises(SettingsError, match="can be a log, but no store"):
        open_engine("store", "rabbitmq://host/")


def test_a_url_may_leave_out_and_escape_parts() -> None:
    assert _parse("rabbitmq://host")[0][:5] == ("host", 5552, "guest", "guest", "/")
    assert _parse("rabbitmq://a%40b:c%3A@host:1/%2Fx?tls=1")[0][:5] == ("host", 1, "a@b", "c:", "/x")
    assert _parse("rabbitmq://host?tls=1")[0].port == 5551


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def _take(log: RabbitMQLog, count: int, after: Mapping[int, int], topic: str = "events") -> list[Record]:
    records: list[Record] = []
    async with asyncio.timeout(60), aclosing(log.read(topic, after)) as batches:
        while len(records) < count:
            records += await anext(batches)
    return records


async def _append_numbers(log: RabbitMQLog, confirmed: list[int], failed: list[Unavailable]) -> None:
    for number in itertools.count(1):
        while number not in confirmed[-1:]:
            try:
                await log.append("events", [event(0, number)])
                confirmed.append(number)
            except Unavailable as error:
                failed.append(error)
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.002)


async def _read_up_to(log: RabbitMQLog, last: int) -> list[int]:
    numbers: list[int] = []
    async with aclosing(log.read("events", {0: 0})) as batches:
        while last not in numbers[-1:]:
            numbers += [record.message.number for record in await anext(batches)]
    return numbers


async def _until_it_works(use: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(Unavailable):
                await use()
                return
            await asyncio.sleep(0.05)


async def _run_services(verb: str) -> None:
    command = [sys.executable, str(ROOT / "services" / "run.py"), verb, "rabbitmq"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


async def _delete(url: str, *streams: str) -> None:
    link = await Link.open(_parse(url)[0])
    for stream in streams:
        with suppress(StreamUnavailable):
            await link.ask(DELETE, protocol.string(stream))
    link.close()


def _login(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {"host": parts.hostname, "port": parts.port, "username": parts.username, "password": parts.password}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _is_same(got: Any, sent: Message, data: Any) -> None:
    assert (got.get_id(), got.get_source(), got.get_type()) == (sent.id, sent.source, sent.type)
    assert (got.get_subject(), got.get_datacontenttype()) == (sent.key, "application/json")
    assert got.get_time().isoformat().replace("+00:00", "Z") == sent.time
    for name in ("traceparent", "partition", "number"):
        assert got.get_extension(name) == getattr(sent, name)
    assert got.get_data() == data
