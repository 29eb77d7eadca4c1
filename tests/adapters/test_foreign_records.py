"""Whatever somebody writes into a log is a message, or says what is wrong with it; it never ends a read."""

import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import example, given, settings

from chimera.adapters.rabbitmq import messages as rabbitmq_messages
from chimera.adapters.sqlite import SQLiteLog
from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor
from chimera.core.context import Context
from chimera.journal.feed import Feed
from chimera.messages import KEPT_BYTES, LONGEST_ID, Attributes, Message, received
from chimera.ports import Checkpoint
from chimera.testing.contracts.suite import event
from rabbitstream import amqp
from tests.support import TIME, Deposit, balances, message_of, parked_of, read_all, redrive

fuzz = settings(derandomize=True, deadline=None, database=None, max_examples=300)

raw = st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
NAMES = ("id", "source", "type", "subject", "time", "number", "traceparent", "partition", "specversion")


def is_message_or_says_why(message: Message, partition: int) -> None:
    """What every consumer, store and view store can take."""
    assert message.partition == partition
    for text in (message.id, message.source, message.type, message.time, message.traceparent):
        assert len(text) <= LONGEST_ID
    for text in (message.id, message.source, message.type, message.key, message.time, message.traceparent):
        assert "\0" not in text
        text.encode()
    assert type(message.number) is int
    assert 0 <= message.number < 10**18
    assert isinstance(message.data, bytes)
    assert message.id
    assert bool(message.type) != bool(message.fault)
    if message.fault:
        assert message.key
        assert len(message.data) <= KEPT_BYTES
        assert "\n" not in message.fault
    msgspec.json.decode(msgspec.json.encode(message), type=Message)


texts = st.text(max_size=300).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))


@fuzz
@given(
    st.builds(Attributes, texts, texts, texts, texts, texts, texts | st.integers() | st.floats() | st.none(), texts),
    st.binary(max_size=100),
)
@example(Attributes(type="a", number="9" * 4300), b"")
@example(Attributes(type="a", number=float("inf")), b"")
@example(Attributes(type="a", number=-1), b"")
@example(Attributes(type="a", number=2**63), b"")
@example(Attributes(type="a", number=True), b"")
@example(Attributes(type="a", key="k" * 100_000), b"")
def test_attributes_of_any_kind_are_a_message_or_a_named_failure(attributes: Attributes, data: bytes) -> None:
    is_message_or_says_why(received("shop/0@4", 0, attributes, data), 0)


def test_what_is_set_aside_says_where_it_is_and_keeps_its_key_and_its_first_bytes() -> None:
    found = received("shop/0@4", 0, Attributes(type="a", key="k", number="many"), b"x" * 100_000)
    assert (found.id, found.key, len(found.data)) == ("shop/0@4", "k", KEPT_BYTES)
    assert found.fault == "the record at shop/0@4, of 100,000 bytes, can't be read: its number is none"
    assert received("shop/0@5", 0, Attributes(type="a", key="\0"), b"").key == "shop/0@5"


class KafkaRecord:
    """A record as confluent-kafka hands it over."""

    def __init__(self, headers: Any, key: bytes | None, value: bytes | None) -> None:
        self._headers, self._key, self._value = headers, key, value

    def topic(self) -> str:
        return "shop.events"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 41

    def headers(self) -> Any:
        if isinstance(self._headers, Exception):
            raise self._headers
        return self._headers

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value


headers = st.lists(st.tuples(st.sampled_from([f"ce_{name}" for name in NAMES]) | st.text(max_size=5), st.none() | raw))


@fuzz
@given(st.none() | headers, st.none() | raw, st.none() | raw)
@example([("ce_type", b"a"), ("ce_number", b"9" * 4300)], b"k", b"{}")
@example([("ce_type", b"\xff\xfe")], b"k", b"{}")
@example([("ce_type", b"a")], b"\xff\xfe", b"{}")
@example(None, None, None)
@example(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a header's name"), b"k", b"{}")
def test_any_bytes_in_any_field_on_kafka_are_a_message_or_a_named_failure(
    headers: Any, key: bytes | None, value: bytes | None
) -> None:
    kafka_messages = pytest.importorskip("chimera.adapters.kafka.messages")
    record = kafka_messages.to_record(KafkaRecord(headers, key, value))
    assert record.offset == 42
    is_message_or_says_why(record.message, 3)


values = st.one_of(
    st.binary(max_size=300).map(lambda data: b"\xb0" + struct.pack(">I", len(data)) + data),
    st.binary(max_size=300).map(lambda data: b"\xb1" + struct.pack(">I", len(data)) + data),
    st.floats().map(lambda value: b"\x82" + struct.pack(">d", value)),
    st.floats(width=32).map(lambda value: b"\x72" + struct.pack(">f", value)),
    st.integers(-(2**63), 2**63 - 1).map(amqp.int64),
    st.integers(0, 2**64 - 1).map(lambda value: b"\x80" + struct.pack(">Q", value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: b"\x83" + struct.pack(">q", value)),
    st.sampled_from([b"\x40", b"\x41", b"\x42", b"\x43", b"\x45", b"\x56\x02", b""]),
    st.binary(max_size=20),
)


@fuzz
@given(st.lists(st.tuples(st.sampled_from(NAMES), values)), st.binary(max_size=50))
@example([("type", amqp.text("a")), ("number", b"\x82" + struct.pack(">d", float("inf")))], b"")
@example([("type", amqp.text("a")), ("number", b"\x82" + struct.pack(">d", float("nan")))], b"")
@example([("type", amqp.text("a")), ("time", b"\x83" + struct.pack(">q", 2**62))], b"")
@example([("type", amqp.text("a" * 100_000))], b"")
def test_any_value_in_any_field_on_rabbitmq_is_a_message_or_a_named_failure(
    pairs: Sequence[tuple[str, bytes]], body: bytes
) -> None:
    encoded = amqp.encode(
        b"", [part for name, value in pairs for part in (amqp.text(f"cloudEvents:{name}"), value)], body
    )
    is_message_or_says_why(rabbitmq_messages.decode(encoded, 3, "shop-3", 41), 3)


@fuzz
@given(st.binary(max_size=400))
def test_any_bytes_on_rabbitmq_are_a_message_or_a_named_failure(data: bytes) -> None:
    is_message_or_says_why(rabbitmq_messages.decode(data, 3, "shop-3", 41), 3)


COLUMNS = "partition, offset, id, source, type, key, time, data, number, traceparent"


async def test_rows_that_no_chimera_wrote_do_not_end_a_read_of_sqlite(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path)
    await log.create("shop.events", 1)
    await log.append("shop.events", [event(0, 1)])
    good = (0, "a", "shop", "shop.Sold", "k", TIME, b"{}", 1, "")
    odd: list[tuple[str, Any]] = [(name, None) for name in ("id", "source", "type", "key", "time", "data", "number")]
    odd += [(name, b"\xff\xfe") for name in ("id", "source", "type", "key", "time", "traceparent")]
    with sqlite3.connect(tmp_path / "shop.events.db") as connection:
        for offset, (name, value) in enumerate(odd, 2):
            row = dict(zip(COLUMNS.split(", "), (good[0], offset, *good[1:]), strict=True)) | {name: value}
            marks = ", ".join("CAST(? AS TEXT)" if each == name and value else "?" for each in row)
            connection.execute(f"INSERT INTO records ({COLUMNS}) VALUES ({marks})", list(row.values()))
    connection.close()
    await log.append("shop.events", [event(0, 2)])
    found = [record.message for record in await read_all(log, "shop.events", {0: 0})]
    assert [message.number for message in (found[0], found[-1])] == [1, 2]
    assert len(found) == len(odd) + 2
    for message, (name, _) in zip(found[1:-1], odd, strict=True):
        is_message_or_says_why(message, 0)
        assert f"{name}: missing, or no text" in message.fault
    await log.close()


async def test_a_command_that_can_not_be_read_is_parked_with_its_place_and_bytes(context: Context) -> None:
    """And those beside it are done; one whose key is known holds up what follows of its key."""
    fault = received("accounts.commands/0@1", 0, Attributes(type="a", key="b", number="many"), b"\xff\xfe")
    tasks = [message_of(Deposit("a", 1)), fault, message_of(Deposit("a", 2))]
    await commands_executor(context).run([Task(message, number) for number, message in enumerate(tasks, 1)])
    assert await balances(context) == {"a": 3}
    [parked] = await parked_of(context)
    assert (parked.key, parked.data, parked.tries) == ("b", b"\xff\xfe", 1)
    assert "the record at accounts.commands/0@1, of 2 bytes, can't be read: its number is none" in parked.cause
    await redrive(context, "b")
    [again] = await parked_of(context)
    assert (again.cause, again.tries) == (parked.cause, 2), "a retry forgets what was wrong"


@pytest.mark.parametrize(
    "junk",
    [
        Message("x", "accounts", "accounts.Deposited", "a", TIME, b"null", 0, 0),
        Message("x", "other", "other.Thing", "a", TIME, b"{}", 0, 1),
        received("x/0@1", 0, Attributes(), b"junk"),
        Message("accounts/0@99", "accounts", "accounts.Deposited", "a", TIME, b"{}", 0, 99),
    ],
    ids=["no number", "another source", "no event", "a number that never was"],
)
async def test_what_is_no_event_of_the_source_is_passed_over_and_told(
    context: Context, junk: Message, caplog: pytest.LogCaptureFixture
) -> None:
    await context.log.append("accounts.events", [junk])
    feed = Feed(context, "accounts", {0: Checkpoint()})
    batch = await feed.next()
    while "passed over" not in caplog.text:
        assert not batch.messages
        batch = await feed.next()
    assert (
        b'chimera_records_passed_over_total{service="accounts",source="accounts"} 1.0' in context.metrics.exposition()
    )
    await feed.close()
