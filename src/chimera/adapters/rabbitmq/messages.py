"""Chimera's messages as RabbitMQ carries them: CloudEvents 1.0 in binary mode, after their AMQP protocol binding.

Attributes are application properties in a stream (AMQP 1.0), headers behind an exchange (AMQP 0.9.1). They are written
as `cloudEvents:id`, and read as `cloudEvents_id` too.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from chimera.messages import Message, to_cloud_event
from rabbitstream import amqp

logger = logging.getLogger("chimera")

CONTENT_TYPE = "application/json"

_ATTRIBUTES = ("specversion", "id", "source", "type", "subject", "time", "traceparent", "partition", "number")
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
    return amqp.encode(_PROPERTIES, pairs, message.data)


def decode(data: bytes, partition: int, stream: str, offset: int) -> Message:
    """A record as a message; one that can't be decoded has no type, for whoever handles messages to refuse."""
    try:
        attributes, body = amqp.decode(data, _NAMES)
        number = int(attributes.get("number", 0))
        time = _time(attributes.get("time", ""))
    except (ValueError, TypeError) as error:
        logger.warning("%s: the record at offset %d is no CloudEvent in AMQP 1.0: %s", stream, offset, error)
        return Message(f"{stream}@{offset}", "", "", "", "", data, partition)
    return Message(
        str(attributes.get("id", "")) or f"{stream}@{offset}",
        str(attributes.get("source", "")),
        str(attributes.get("type", "")),
        str(attributes.get("subject", "")),
        time,
        body,
        partition,
        number,
        str(attributes.get("traceparent", "")),
    )


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
