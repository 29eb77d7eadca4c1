"""Chunks, in which a stream is stored and delivered: a header, then entries, each a message or a batch of messages.

Source: the top of `osiris_log.erl` in osiris, RabbitMQ's log. An entry's first bit says whether it is a batch; a batch
may be compressed: 0 not at all, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from rabbitstream.errors import StreamUnavailable

# magic and version, type, entries, records, time, epoch, first offset, CRC and length of the data, trailer, filter
_HEADER = struct.Struct(">BBHIqQQIIII")
_BATCH = struct.Struct(">BHII")
_IS_BATCH, _GZIP = 0x80, 1
_LARGEST_BATCH = 64 << 20
"""Bytes of a batch before it was compressed: more is not unpacked, whatever it says."""


class UnreadableEntry(bytes):
    """What stands for a message that another client has written so that it can't be read: the bytes of its entry."""

    cause: str

    @classmethod
    def because(cls, cause: str, data: bytes) -> UnreadableEntry:
        """An entry that can't be read for this reason."""
        entry = cls(data)
        entry.cause = cause
        return entry


class _Cut(Exception):  # noqa: N818 - what was found
    """An entry is not what it says; the text says why."""


class Chunk(NamedTuple):
    """`entries` and `records`: how many it has. `first` is the offset of its first record, `data` its entries."""

    entries: int
    records: int
    first: int
    crc: int
    data: memoryview

    @classmethod
    def of(cls, delivered: bytes) -> Chunk:
        """Reads the header only. Raises StreamUnavailable for what is shorter than it says."""
        if len(delivered) < _HEADER.size:
            raise StreamUnavailable(f"a chunk of {len(delivered)} bytes is cut off")
        _, _, entries, records, _, _, first, crc, length, _, _ = _HEADER.unpack_from(delivered)
        data = memoryview(delivered)[_HEADER.size : _HEADER.size + length]
        if len(data) < length:
            raise StreamUnavailable(f"the chunk at offset {first} is cut off")
        return cls(entries, records, first, crc, data)

    @property
    def end(self) -> int:
        """The offset after its last record."""
        return self.first + self.records

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Each message with its offset; an UnreadableEntry for each that another client has written wrongly.

        Raises StreamUnavailable when they did not come as they were written.
        """
        if zlib.crc32(self.data) != self.crc:
            raise StreamUnavailable(f"the chunk at offset {self.first} is damaged")
        return enumerate(islice(self._all(), self.records), self.first)

    def _all(self) -> Iterator[bytes]:
        try:
            yield from self._entries()
        except _Cut as cut:
            cause = str(cut)
        else:
            cause = "the chunk has fewer messages than it says"
        while True:
            yield UnreadableEntry.because(cause, b"")

    def _entries(self) -> Iterator[bytes]:
        """Only other clients put batches into entries."""
        data, at = self.data, 0
        for _ in range(self.entries):
            if at < len(data) and data[at] & _IS_BATCH:
                kind, records, size, length = _BATCH.unpack(self._piece(data, at, at + _BATCH.size))
                start = at + _BATCH.size
                at = start + length
                packed = self._piece(data, start, at)
                try:
                    messages = list(self._batch(kind >> 4 & 7, packed, records, size))
                except _Cut as cut:
                    messages = [UnreadableEntry.because(str(cut), bytes(packed))] * records
                yield from messages
            else:
                message = self._message(data, at)
                at += 4 + len(message)
                yield message

    def _batch(self, compression: int, data: memoryview, records: int, size: int) -> Iterator[bytes]:
        data, at = self._unpacked(compression, data, size), 0
        for _ in range(records):
            message = self._message(data, at)
            at += 4 + len(message)
            yield message

    def _message(self, data: memoryview, at: int) -> bytes:
        start = at + 4
        return bytes(self._piece(data, start, start + int.from_bytes(data[at:start], "big")))

    def _piece(self, data: memoryview, start: int, end: int) -> memoryview:
        if end > len(data):
            raise _Cut("an entry is cut off")
        return data[start:end]

    def _unpacked(self, compression: int, data: memoryview, size: int) -> memoryview:
        """The batch as it was before it was compressed, of at most so many bytes as it says."""
        if compression > _GZIP:
            raise _Cut("a batch is compressed by snappy, lz4 or zstd; only gzip can be read here")
        if not compression:
            return data
        try:
            return memoryview(zlib.decompressobj(wbits=31).decompress(data, min(size, _LARGEST_BATCH) or 1))
        except zlib.error as error:
            raise _Cut(f"a batch can't be decompressed: {error}") from error
