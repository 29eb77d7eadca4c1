"""A stream that is being read: the chunks that came, and how many more the broker may send."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from rabbitstream import protocol
from rabbitstream.chunks import Chunk
from rabbitstream.link import Link

logger = logging.getLogger("rabbitstream")

_WINDOW_BYTES = 1024 * 1024
_CREDITS = 4


class Subscription:
    """It outlives its connections: `open` goes on after the last message that was taken.

    The broker sends a chunk for each credit that it has. It gets back those of the chunks that came while less than
    `_WINDOW_BYTES` wait to be taken.
    """

    def __init__(self, number: int, stream: str, start: int) -> None:
        """Reads from the offset `start`, or from the oldest that is kept."""
        self.stream = stream
        self._number = number
        self._next = start
        self._chunks: deque[bytes] = deque()
        self._messages: list[tuple[int, bytes]] = []
        self._at = self._bytes = self._owed = 0
        self._is_first = True

    async def open(self, link: Link, arrived: Callable[[], None]) -> None:
        """Subscribe; `arrived` is called for each chunk."""
        self._reset()
        self._link, self._arrived = link, arrived
        link.sinks[self._number] = self._receive
        start = protocol.from_offset(self._next) if self._next else protocol.FIRST
        await link.subscribe(self._number, self.stream, start, _CREDITS)

    def take(self, room: int) -> list[tuple[int, bytes]]:
        """At most `room` of the messages that are here, each with its offset."""
        taken: list[tuple[int, bytes]] = []
        while (left := room - len(taken)) > 0 and (self._at < len(self._messages) or self._open_chunk()):
            taken += self._messages[self._at : self._at + left]
            self._at = min(self._at + left, len(self._messages))
        if taken:
            self._next = taken[-1][0] + 1
        return taken

    def _reset(self) -> None:
        self._chunks.clear()
        self._messages = []
        self._at = self._bytes = self._owed = 0
        self._is_first = True

    def _receive(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        self._owed += 1
        self._grant()
        self._arrived()

    def _grant(self) -> None:
        if self._owed * 2 >= _CREDITS and self._bytes < _WINDOW_BYTES and self._link.is_open:
            self._link.credit(self._number, self._owed)
            self._owed = 0

    def _open_chunk(self) -> bool:
        """Go on to the next chunk; its messages before the offset asked for are dropped."""
        if not self._chunks:
            return False
        delivered = self._chunks.popleft()
        self._bytes -= len(delivered)
        self._grant()
        chunk = Chunk.of(delivered)
        if self._is_first and chunk.end <= self._next:
            logger.error(
                "%s was read up to %d before, but is at %d now: it was deleted, or the broker lost its tail. "
                "What takes these offsets again is not read",
                self.stream,
                self._next,
                chunk.end,
            )
        self._is_first = False
        self._messages, self._at = [message for message in chunk.messages() if message[0] >= self._next], 0
        return True
