"""One question per engine that only a server ready for work answers well."""

import socket
import struct
import time
from collections.abc import Callable

from settings import HOST, NAME, PORTS

PATIENCE = 3.0


def _connection(port: str) -> socket.socket:
    return socket.create_connection((HOST, PORTS[port]), timeout=PATIENCE)


def _ask(port: str, question: bytes, expected: int) -> bytes:
    """Send a question and read until the expected number of bytes has come, or the server is done."""
    with _connection(port) as connection:
        connection.sendall(question)
        answer = b""
        while len(answer) < expected:
            part = connection.recv(4096)
            if not part:
                break
            answer += part
        return answer


def _sized(body: bytes, *, counts_itself: bool = False) -> bytes:
    return struct.pack(">i", len(body) + (4 if counts_itself else 0)) + body


def postgresql() -> bool:
    fields = b"".join(word.encode() + b"\0" for word in ("user", NAME, "database", NAME))
    startup = _sized(struct.pack(">i", 196608) + fields + b"\0", counts_itself=True)
    asks_for_password = b"R"
    return _ask("postgresql", startup, 1)[:1] == asks_for_password


def mysql() -> bool:
    protocol = 10
    greeting = _ask("mysql", b"", 5)
    return len(greeting) >= 5 and greeting[4] == protocol


def redis() -> bool:
    answer = b"+OK\r\n+PONG\r\n"
    return _ask("redis", f"AUTH {NAME} {NAME}\r\nPING\r\n".encode(), len(answer)) == answer


def memcached() -> bool:
    return _ask("memcached", b"version\r\n", 8).startswith(b"VERSION ")


def rabbitmq() -> bool:
    connection_start = struct.pack(">HH", 10, 10)
    return _ask("rabbitmq", b"AMQP\x00\x00\x09\x01", 11)[7:11] == connection_start and _rabbitmq_stream()


def _rabbitmq_stream() -> bool:
    peer_properties, answered, ok = 0x11, 0x8011, 1
    question = _sized(struct.pack(">HHIi", peer_properties, 1, 1, 0))
    answer = _ask("rabbitmq_stream", question, 14)
    return len(answer) >= 14 and struct.unpack_from(">HHIH", answer, 4) == (answered, 1, 1, ok)


def kafka() -> bool:
    """The brokers in the metadata: none are listed until this one has joined."""
    metadata, version, no_topics = 3, 1, 0
    question = _sized(struct.pack(">hhihi", metadata, version, 1, -1, no_topics))
    answer = _ask("kafka", question, 12)
    return len(answer) >= 12 and struct.unpack_from(">i", answer, 8)[0] > 0


def mongodb() -> bool:
    elements = b"\x10hello\0" + struct.pack("<i", 1) + b"\x02$db\0" + struct.pack("<i", 6) + b"admin\0"
    document = struct.pack("<i", len(elements) + 5) + elements + b"\0"
    no_flags, body_section = bytes(4), bytes(1)
    body = no_flags + body_section + document
    op_msg = 2013
    question = struct.pack("<iiii", 16 + len(body), 1, 0, op_msg) + body
    with _connection("mongodb") as connection:
        connection.sendall(question)
        return b"\x08isWritablePrimary\0\x01" in connection.recv(65536)


_QUESTIONS: dict[str, Callable[[], bool]] = {
    "postgresql": postgresql,
    "mysql": mysql,
    "mongodb": mongodb,
    "redis": redis,
    "memcached": memcached,
    "rabbitmq": rabbitmq,
    "kafka": kafka,
}


def answers(engine: str) -> bool:
    try:
        return _QUESTIONS[engine]()
    except OSError:
        return False


def wait(engine: str, patience: float, alive: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + patience
    while alive():
        if answers(engine):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return False
