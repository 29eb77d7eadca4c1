"""RabbitMQ's stream protocol in bytes: commands and codes, frames, strings, maps, and the answer to a metadata query.

Source: `deps/rabbitmq_stream/docs/PROTOCOL.adoc` in rabbitmq-server. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum


class CommandKey(IntEnum):
    """The commands, by the number that a frame has of them."""

    DECLARE_PUBLISHER = 1
    PUBLISH = 2
    CONFIRM = 3
    PUBLISH_ERROR = 4
    SUBSCRIBE = 7
    DELIVER = 8
    CREDIT = 9
    UNSUBSCRIBE = 12
    CREATE = 13
    METADATA = 15
    METADATA_UPDATE = 16
    PROPERTIES = 17
    HANDSHAKE = 18
    AUTHENTICATE = 19
    TUNE = 20
    OPEN = 21
    CLOSE = 22
    HEARTBEAT = 23


class Code(IntEnum):
    """The codes that a broker answers with."""

    OK = 1
    NO_STREAM = 2
    STREAM_EXISTS = 5
    NOT_AVAILABLE = 6
    WRONG_LOGIN = 8
    LOGIN_NOT_UNDERSTOOD = 9
    ONLY_FROM_ITS_HOST = 11
    NO_VIRTUAL_HOST = 12
    FRAME_TOO_LARGE = 14
    ACCESS_REFUSED = 16
    PRECONDITION_FAILED = 17


RESPONSE = 0x8000
"""The bit that an answer's command has beside that of its request."""

SETTINGS = frozenset(
    {
        Code.WRONG_LOGIN,
        Code.LOGIN_NOT_UNDERSTOOD,
        Code.ONLY_FROM_ITS_HOST,
        Code.NO_VIRTUAL_HOST,
        Code.ACCESS_REFUSED,
        Code.PRECONDITION_FAILED,
    }
)
"""The codes that trying again does not change."""

FIRST, LAST = struct.pack(">H", 1), struct.pack(">H", 2)
"""The starts of a subscription: the stream's first chunk, its last chunk."""

_MEANINGS: Mapping[int, str] = {
    Code.NO_STREAM: "there is no such stream",
    Code.STREAM_EXISTS: "the stream exists",
    Code.NOT_AVAILABLE: "the stream is not available now",
    Code.WRONG_LOGIN: "wrong user or password",
    Code.LOGIN_NOT_UNDERSTOOD: "the login was not understood",
    Code.ONLY_FROM_ITS_HOST: "this user may only connect from the broker's own host",
    Code.NO_VIRTUAL_HOST: "no access to this virtual host",
    Code.FRAME_TOO_LARGE: "the frame is too large",
    Code.ACCESS_REFUSED: "access refused",
    Code.PRECONDITION_FAILED: "the stream exists with other arguments, or the broker is low on memory or disk",
}
_FRAME = struct.Struct(">IHH")
_VERSION = 1
_FRAME_ROOM, _MESSAGE_ROOM = 64, 12


def meaning(code: int) -> str:
    """A code in words."""
    return _MEANINGS.get(code, f"refused with code {code}")


def frame(command: int, body: bytes | bytearray) -> bytes:
    """A command as it is sent: size, key, version, body."""
    return b"".join((_FRAME.pack(len(body) + 4, command, _VERSION), body))


def string(text: str) -> bytes:
    """A string: its size in two bytes, then UTF-8."""
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def strings(texts: Sequence[str]) -> bytes:
    """A list of strings: their count in four bytes, then each."""
    return struct.pack(">I", len(texts)) + b"".join(map(string, texts))


def pairs(values: Mapping[str, str]) -> bytes:
    """A map of strings: the count of its pairs in four bytes, then key and value of each."""
    return struct.pack(">I", len(values)) + b"".join(string(text) for pair in values.items() for text in pair)


def secret(user: str, password: str) -> bytes:
    """The response of SASL's PLAIN: user and password."""
    data = f"\0{user}\0{password}".encode()
    return struct.pack(">I", len(data)) + data


def from_offset(offset: int) -> bytes:
    """A subscription's start: the chunk that holds this offset."""
    return struct.pack(">HQ", 4, offset)


def parts(messages: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """The messages in their order, in parts that each fit a frame of so many bytes; one that is larger goes alone."""
    start, size = 0, _FRAME_ROOM
    for at, message in enumerate(messages):
        if size + len(message) + _MESSAGE_ROOM > most and at > start:
            yield messages[start:at]
            start, size = at, _FRAME_ROOM
        size += len(message) + _MESSAGE_ROOM
    yield messages[start:]


def stream_codes(answer: bytes) -> dict[str, int]:
    """The code of each stream in the answer to a metadata query. Brokers and replicas are passed over."""
    at, codes = 4, {}
    for _ in range(int.from_bytes(answer[:4], "big")):
        at += 8 + int.from_bytes(answer[at + 2 : at + 4], "big")
    [count] = struct.unpack_from(">I", answer, at)
    at += 4
    for _ in range(count):
        end = at + 2 + int.from_bytes(answer[at : at + 2], "big")
        code, _, replicas = struct.unpack_from(">HHI", answer, end)
        codes[answer[at + 2 : end].decode()] = code
        at = end + 8 + 2 * replicas
    return codes
