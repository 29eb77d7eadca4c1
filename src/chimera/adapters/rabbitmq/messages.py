"""Chimera's messages as RabbitMQ carries them: CloudEvents 1.0 in binary mode, after their AMQP protocol binding.

Attributes are application properties in a stream (AMQP 1.0), headers behind an exchange (AMQP 0.9.1). They are written
as `cloudEvents:id`, and read as `cloudEvents_id` too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from chimera.messages import Attributes, Message, received, to_cloud_event, unreadable
from rabbitstream import amqp
from rabbitstream.chunks import UnreadableEntry

CONTENT_TYPE = "application/json"

_TEXTS = ("id", "source", "type", "subject", "traceparent", "chain", "metadata")
_ATTRIBUTES = ("specversion", "time", "partition", "number", *_TEXTS)
_KEYS = {name: amqp.text(f"cloudEvents:{name}") for name in _ATTRIBUTES}
_NAMES = {f"cloudEvents{mark}{name}".encode(): name for name in _ATTRIBUTES for mark in ":_"}
_PROPERTIES = amqp.properties(CONTENT_TYPE)
_VERSION = amqp.text("1.0")


def encode(message: Message) -> bytes:
    """A message in AMQP 1.0."""
    pairs = [
        _KEYS["specversion"],
        _VERSION,
        _KEYS["id"],
        amqp.text(message.id),
        _KEYS["source"],
        amqp.text(message.source),
        _KEYS["type"],
        amqp.text(message.type),
        _KEYS["subject"],
        amqp.text(message.key),
        _KEYS["time"],
        amqp.text(message.time),
        _KEYS["partition"],
        amqp.int32(message.partition),
        _KEYS["number"],
        amqp.int64(message.number),
    ]
    if message.traceparent:
        pairs += (_KEYS["traceparent"], amqp.text(message.traceparent))
    if message.chain:
        pairs += (_KEYS["chain"], amqp.text(message.chain))
    if message.metadata:
        pairs += (_KEYS["metadata"], amqp.text(message.metadata))
    return amqp.encode(_PROPERTIES, pairs, message.data)


def decode(data: bytes, partition: int, stream: str, offset: int) -> Message:
    """A record as a message; one that can't be read has a fault, for whoever handles messages to refuse."""
    place = f"{stream}@{offset}"
    if isinstance(data, UnreadableEntry):
        return unreadable(place, partition, data, data.cause)
    try:
        attributes, body = amqp.decode(data, _NAMES)
        time = _time(attributes.get("time", ""))
        id_, source, type_, key, traceparent, chain, metadata = (str(attributes.get(name, "")) for name in _TEXTS)
        number = attributes.get("number", 0)
    except Exception as error:  # noqa: BLE001 - anybody may write anything: no record must end the reading of others
        return unreadable(place, partition, data, f"it is no CloudEvent in AMQP 1.0: {error}")
    found = Attributes(id_, source, type_, key, time, number, traceparent, chain, metadata)
    return received(place, partition, found, body)


def headers(message: Message) -> dict[str, Any]:
    """The attributes of a message in AMQP 0.9.1."""
    event = to_cloud_event(message)
    del event["data"], event["datacontenttype"]
    return {f"cloudEvents:{name}": value for name, value in event.items()}


def _time(value: object) -> str:
    """Foreign clients may send AMQP's timestamp, or with the CloudEvents SDK its milliseconds."""
    if isinstance(value, int):
        value = amqp.moment(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
