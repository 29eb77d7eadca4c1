"""Messages as Kafka records: CloudEvents 1.0 in the binary mode of their Kafka protocol binding."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Message as KafkaMessage

from chimera.messages import Message
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
    return headers


def to_record(received: KafkaMessage) -> Record:
    """A record of whatever somebody wrote into the topic, so that nothing is passed over unseen."""
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
