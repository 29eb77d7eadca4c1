"""The driver for RabbitMQ streams: the codec of messages, chunks, frames, and a connection to what is no broker."""

import asyncio
import gzip
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from chimera.adapters.rabbitmq import messages as rabbitmq_messages
from chimera.messages import Message
from chimera.testing.contracts.suite import event
from rabbitstream import amqp, protocol
from rabbitstream.chunks import Chunk, UnreadableEntry
from rabbitstream.errors import StreamUnavailable
from rabbitstream.link import Address, Link

quick = hypothesis.settings(derandomize=True, deadline=None, database=None)

NAMES = {b"a": "a", b"b": "b"}
SENT = event(3, 1042, "straße", b'{"name": "x"}')
ENCODED = rabbitmq_messages.encode(SENT)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=255)
messages = st.builds(
    Message,
    id=texts.filter(bool),
    source=texts,
    type=texts.filter(bool),
    key=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=600),
    time=texts,
    data=st.binary(max_size=400),
    partition=st.integers(0, 2**31 - 1),
    number=st.integers(0, 10**18 - 1),
    traceparent=texts,
)


@quick
@hypothesis.given(messages)
@hypothesis.example(Message("x" * 255, "x" * 254, "x" * 255, "x" * 257, "", b"", 0))
def test_a_message_comes_back_as_it_was_written(message: Message) -> None:
    assert rabbitmq_messages.decode(rabbitmq_messages.encode(message), message.partition, "shop-0", 4) == message


@quick
@hypothesis.given(st.binary(max_size=300))
@hypothesis.example(b"\x00")
@hypothesis.example(b"\x00\x53\x74\xd1\xff\xff\xff\xff")
@hypothesis.example(b"\x00\x53\x75\x83\x7f\xff\xff\xff\xff\xff\xff\xff")
@hypothesis.example(b"\x00\x53\x75\x10")
def test_garbage_is_a_value_error_or_nothing_that_is_ours(garbage: bytes) -> None:
    with suppress(ValueError):
        found, body = amqp.decode(garbage, NAMES)
        assert found.keys() <= {"a", "b"}
        assert isinstance(body, bytes)


@quick
@hypothesis.given(st.integers(0, len(ENCODED) - 1), st.integers(0, 255))
def test_a_message_with_a_wrong_byte_is_still_a_message(at: int, byte: int) -> None:
    wrong = ENCODED[:at] + bytes((byte,)) + ENCODED[at + 1 :]
    decoded = rabbitmq_messages.decode(wrong, 3, "shop-3", 4)
    assert decoded.partition == 3
    assert decoded.type or decoded.data
    with pytest.raises(ValueError, match="cut off"):
        amqp.decode(ENCODED[:-1], NAMES)


@pytest.mark.parametrize("end", [1, 3, 8, 50, 90, len(ENCODED) - 1])
def test_a_message_that_is_cut_off_is_handed_on_without_a_type(end: int) -> None:
    found = rabbitmq_messages.decode(ENCODED[:end], 3, "shop-3", 4)
    assert msgspec.structs.replace(found, fault="") == Message("shop-3@4", "", "", "shop-3@4", "", ENCODED[:end], 3)
    assert "the record at shop-3@4" in found.fault


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"\x40", None),
        (b"\x41", True),
        (b"\x42", False),
        (b"\x56\x01", True),
        (b"\x43", 0),
        (b"\x44", 0),
        (b"\x50\xff", 255),
        (b"\x51\xff", -1),
        (b"\x52\xff", 255),
        (b"\x53\xff", 255),
        (b"\x54\xff", -1),
        (b"\x55\xff", -1),
        (b"\x60\xff\xff", 65535),
        (b"\x61\xff\xff", -1),
        (b"\x70" + b"\xff" * 4, 2**32 - 1),
        (b"\x71" + b"\xff" * 4, -1),
        (b"\x72" + struct.pack(">f", 1.5), 1.5),
        (b"\x80" + b"\xff" * 8, 2**64 - 1),
        (b"\x81" + b"\xff" * 8, -1),
        (b"\x82" + struct.pack(">d", 1.5), 1.5),
        (b"\x83" + struct.pack(">q", 1_714_564_800_000), amqp.moment(1_714_564_800_000)),
        (b"\x98" + b"u" * 16, b"u" * 16),
        (b"\xa0\x02ab", b"ab"),
        (b"\xb0\x00\x00\x00\x02ab", b"ab"),
        (b"\xa1\x02ab", "ab"),
        (b"\xb1\x00\x00\x00\x02ab", "ab"),
        (b"\xa3\x02ab", "ab"),
        (b"\xb3\x00\x00\x00\x02ab", "ab"),
        (b"\xc0\x03\x01\xa0\x00", b"\xa0\x00"),
        (b"\xd0\x00\x00\x00\x06\x00\x00\x00\x01\xa0\x00", b"\xa0\x00"),
    ],
)
def test_values_of_every_type_are_read(encoded: bytes, value: Any) -> None:
    message = amqp.encode(b"", [amqp.text("a"), encoded, amqp.text("b"), amqp.text("after")], b"body")
    expected = {"b": "after"} if value is None else {"a": value, "b": "after"}
    assert amqp.decode(message, NAMES) == (expected, b"body")


def test_what_other_clients_may_write_is_read() -> None:
    key, other = b"\xb1\x00\x00\x00\x01a", b"\xa3\x01b"
    pairs = key + amqp.int64(1) + other + amqp.int32(2) + amqp.text("unknown") + amqp.text("x")
    long_descriptor = b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x74"
    sections = (
        b"\x00\x53\x70\x45",
        long_descriptor + b"\xc1" + bytes((len(pairs) + 1, 6)) + pairs,
        b"\x00\x53\x75\xa0\x02ab",
        b"\x00\x53\x75\xa0\x02cd",
    )
    assert amqp.decode(b"".join(sections), NAMES) == ({"a": 1, "b": 2}, b"abcd")
    assert amqp.decode(b"\x00\x53\x77\xa1\x04true", NAMES) == ({}, b"true")


def test_a_last_property_that_is_cut_off_is_no_property() -> None:
    with pytest.raises(ValueError, match="cut off"):
        amqp.decode(amqp.encode(b"", [amqp.text("a"), b"\xa1\x09short"], b""), NAMES)


def test_a_time_may_be_a_timestamp() -> None:
    for encoded in (b"\x83" + struct.pack(">q", 1_714_564_800_000), amqp.int64(1_714_564_800_000)):
        type_ = [amqp.text("cloudEvents:type"), amqp.text("shop.Sold")]
        data = amqp.encode(b"", [*type_, amqp.text("cloudEvents:time"), encoded], b"")
        assert rabbitmq_messages.decode(data, 0, "shop-0", 4).time == "2024-05-01T12:00:00+00:00"


def chunk(entries: Sequence[bytes], *, records: int, first: int = 7, count: int | None = None) -> bytes:
    data = b"".join(entries)
    count = len(entries) if count is None else count
    return struct.pack(">BBHIqQQIIII", 0x50, 0, count, records, 0, 1, first, zlib.crc32(data), len(data), 0, 0) + data


def single(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def batch(messages: Sequence[bytes], compression: int = 0) -> bytes:
    plain = b"".join(map(single, messages))
    data = gzip.compress(plain) if compression == 1 else plain
    return struct.pack(">BHII", 0x80 | compression << 4, len(messages), len(plain), len(data)) + data


@quick
@hypothesis.given(
    st.lists(st.one_of(st.binary(max_size=20), st.tuples(st.lists(st.binary(max_size=20)), st.integers(0, 1)))),
    st.integers(0, 2**40),
)
def test_entries_and_batches_of_a_chunk_are_read_in_order(entries: list[Any], first: int) -> None:
    written = [single(entry) if isinstance(entry, bytes) else batch(*entry) for entry in entries]
    expected = [message for entry in entries for message in ([entry] if isinstance(entry, bytes) else entry[0])]
    read = Chunk.of(chunk(written, records=len(expected), first=first) + b"trailer")
    assert list(read.messages()) == list(enumerate(expected, first))
    assert read.end == first + len(expected)


@quick
@hypothesis.given(st.binary(max_size=60), st.integers(0, 300))
@hypothesis.example(batch([b"a", b"b"], 1)[:-3], 1)
@hypothesis.example(b"\x80\xff\xff" + b"\x00" * 8, 1)
@hypothesis.example(b"\x90\x00\x01" + b"\x00" * 3 + b"\x04" + b"\x00" * 3 + b"\x04none", 1)
def test_a_chunk_of_garbage_is_messages_or_says_that_they_are_none(garbage: bytes, count: int) -> None:
    read = Chunk.of(chunk([garbage], records=count, count=count))
    found = [message for _, message in read.messages()]
    assert len(found) == count
    assert len([each for each in found if not isinstance(each, UnreadableEntry)]) * 4 <= len(garbage)


@pytest.mark.parametrize(
    ("delivered", "says"),
    [
        (b"short", "a chunk of 5 bytes is cut off"),
        (chunk([single(b"abc")], records=1)[:-1], "the chunk at offset 7 is cut off"),
        (chunk([single(b"abc")], records=1)[:-1] + b"x", "the chunk at offset 7 is damaged"),
    ],
    ids=("short", "cut off", "damaged"),
)
def test_a_chunk_that_did_not_come_whole_is_asked_for_again(delivered: bytes, says: str) -> None:
    with pytest.raises(StreamUnavailable, match=says):
        list(Chunk.of(delivered).messages())


PACKED = gzip.compress(b"\1" * (1 << 20), mtime=0)
BOMB = struct.pack(">BHII", 0x90, 1, 20, len(PACKED)) + PACKED


@pytest.mark.parametrize(
    ("entries", "records", "says"),
    [
        ([single(b"abc")[:-1]], 1, "an entry is cut off"),
        ([batch([b"a"], 1)[:-1]], 1, "an entry is cut off"),
        ([b"\x90\x00\x01\x00\x00\x00\x04\x00\x00\x00\x04none", single(b"next")], 2, "can't be decompressed"),
        ([batch([b"a"], 2), single(b"next")], 2, "only gzip can be read here"),
        ([BOMB, single(b"next")], 2, "an entry is cut off"),
    ],
    ids=("cut off", "batch cut off", "no gzip", "snappy", "bomb"),
)
def test_an_entry_that_can_not_be_read_says_why_and_those_after_it_are_read(
    entries: list[bytes], records: int, says: str
) -> None:
    (offset, unreadable), *rest = Chunk.of(chunk(entries, records=records)).messages()
    assert isinstance(unreadable, UnreadableEntry)
    assert says in unreadable.cause
    assert offset == 7
    assert rest == ([(8, b"next")] if records == 2 else [])
    message = rabbitmq_messages.decode(unreadable, 3, "shop-3", offset)
    assert (message.id, message.type, says in message.fault) == ("shop-3@7", "", True)


@quick
@hypothesis.given(st.lists(st.binary(max_size=100)), st.integers(0, 200))
def test_messages_are_cut_into_frames_in_their_order(sent: list[bytes], most: int) -> None:
    parts = list(protocol.parts(sent, most))
    assert [message for part in parts for message in part] == sent
    assert all(len(part) == 1 or 64 + sum(len(each) + 12 for each in part) <= most for part in parts if part)
    assert not sent or all(parts)


@pytest.mark.parametrize("says", [b"\x00\x00\x00\x01x", b"\x00\x00\x00\x06\x80\x11\x00\x01\x00\x00"])
async def test_a_peer_that_speaks_another_protocol_is_unavailable_at_once(says: bytes) -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(says)
        with suppress(OSError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(5):
        with pytest.raises(StreamUnavailable, match="what came is not RabbitMQ's stream protocol"):
            await Link.open(Address("127.0.0.1", server.sockets[0].getsockname()[1], "me", "secret", "/", None))
        await ended.wait()
