"""Inputs: good ones, changed by chance. The same seed gives the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

WORDS = (
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\\ud800",
    b"\\u0000",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"9" * 40,
    b"-1",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"18446744073709551616",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"[" * 300,
    b'{"a":' * 300,
    b'"',
    b"\\",
    b"%",
    b"%00",
    b"%ff",
    b"%2e%2e%2f",
    b"../",
    b"//",
    b"?",
    b"#",
    b"&",
    b"=",
    b";",
    b",",
    b".",
    b"@",
    b"/",
    b":",
    b"~",
    b"' OR 1=1 --",
    b"${jndi:x}",
    b"<script>",
    "é".encode(),
    "😀".encode(),
    "\u202e".encode(),
    b"x" * 300,
    b"x" * 5000,
)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _without(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.randrange(1, 9) :]


def _turned(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def _with(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(WORDS) + data[at:]


def _over(data: bytes, random: Random) -> bytes:
    at, word = random.randrange(len(data) + 1), random.choice(WORDS)
    return data[:at] + word + data[at + len(word) :]


def _twice(data: bytes, random: Random) -> bytes:
    begin = random.randrange(len(data) + 1)
    end = begin + random.randrange(64)
    return data[:end] + data[begin:]


def _swapped(data: bytes, random: Random) -> bytes:
    first, second = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[second:] + data[first:second] + data[:first]


def _noise(data: bytes, random: Random) -> bytes:
    return random.randbytes(random.randrange(1, 40))


CHANGES: Sequence[Callable[[bytes, Random], bytes]] = (
    _cut,
    _without,
    _turned,
    _turned,
    _with,
    _with,
    _over,
    _twice,
    _swapped,
    _noise,
)


NO_HEADER = bytes(set(range(0x20)) - {0x09} | {0x7F})
"""What no server lets through in a header; `served` sees to what it does let through."""


def changed(good: Sequence[bytes], random: Random) -> bytes:
    """One of these inputs, as it is now and then, else with some changes."""
    data = random.choice(good)
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        data = random.choice(CHANGES)(data, random)
    return data


def changed_text(good: Sequence[str], random: Random) -> str:
    """As `changed`, as text: what is no UTF-8 is left out."""
    return changed([each.encode() for each in good], random).decode("utf-8", "ignore")


def changed_header(good: Sequence[str], random: Random) -> bytes:
    """As `changed`, for a header as a server hands it on."""
    data = changed([each.encode() for each in good], random)
    return data.translate(None, NO_HEADER).strip()
