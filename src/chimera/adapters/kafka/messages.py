"""Messages as Kafka records: CloudEvents 1.0 in the binary mode of their Kafka protocol binding."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Message as KafkaMessage

from chimera import messages
from chimera.messages import Attributes, Message
from chimera.ports import Record


def to_headers(message: Message) -> list[tuple[str, str | bytes | None]]:
    """The attributes of a message as a record's headers; its data are the record's value."""
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
    if message.chain:
        headers.append(("ce_chain", message.chain))
    if message.metadata:
        headers.append(("ce_metadata", message.metadata))
    return headers


def to_record(received: KafkaMessage) -> Record:
    """A record of whatever somebody wrote into the topic, so that nothing is passed over unseen."""
    partition, offset = received.partition() or 0, (received.offset() or 0) + 1
    place, data = f"{received.topic()}/{partition}@{offset}", received.value() or b""
    try:
        message = messages.received(place, partition, _attributes_of(received), data)
    except Exception as error:  # noqa: BLE001 - anybody may write anything: no record must end the reading of others
        message = messages.unreadable(place, partition, data, f"{type(error).__name__}: {error}")
    return Record(offset, message)


def _attributes_of(received: KafkaMessage) -> Attributes:
    """Raises UnicodeDecodeError for what is no text."""
    headers: dict[str, Any] = dict(received.headers() or ())
    key = received.key()
    return Attributes(
        _read(headers.get("ce_id")),
        _read(headers.get("ce_source")),
        _read(headers.get("ce_type")),
        _read(headers.get("ce_subject") if key is None else key),
        _read(headers.get("ce_time")),
        _read(headers.get("ce_number")),
        _read(headers.get("ce_traceparent")),
        _read(headers.get("ce_chain")),
        _read(headers.get("ce_metadata")),
    )


def _read(value: bytes | None) -> str:
    return value.decode() if value else ""
