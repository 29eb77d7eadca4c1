"""What a generation's lists have and have to have, and sums of it, by which both are compared in whatever order.

Two sets of entries are alike, as good as surely, where the sums of their hashes are: by bucket, so that what differs is
found without holding all of it in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from hashlib import blake2b

from chimera.core.aio.turns import Turns
from chimera.core.clock import Clock
from chimera.ports import LONGEST_PLACE, Document, ViewStore
from chimera.views.lists.entries import Place, ViewEntries

BUCKETS = 4096
_BITS = 128
_WHOLE = 1 << _BITS


def number_of(data: bytes) -> int:
    """The hash of an entry, or of a filter."""
    return int.from_bytes(blake2b(data, digest_size=_BITS // 8).digest())


def bucket_of(data: bytes) -> int:
    """The bucket of an entry or a filter."""
    return number_of(data) % BUCKETS


class Balance:
    """By bucket, what is wanted less what is found; and how much of both there is."""

    def __init__(self) -> None:
        self._left = [0] * BUCKETS
        self._size = [0] * BUCKETS

    def add(self, data: bytes, times: int = 1) -> None:
        """It is wanted so many times; found, where that is negative."""
        number = number_of(data)
        self._left[number % BUCKETS] = (self._left[number % BUCKETS] + times * number) % _WHOLE
        self._size[number % BUCKETS] += 1

    def unlike(self) -> list[int]:
        """The buckets in which what is found is not what is wanted."""
        return [bucket for bucket, left in enumerate(self._left) if left]

    def passes(self, most: int) -> Iterator[set[int]]:
        """The buckets that are unlike, in groups with `most` entries or a single bucket each."""
        group: set[int] = set()
        size = 0
        for bucket in self.unlike():
            if group and size + self._size[bucket] > most:
                yield group
                group, size = set(), 0
            group.add(bucket)
            size += self._size[bucket]
        if group:
            yield group


class EntryReads:
    """The entries of a generation: those that its documents have, and those that its lists have.

    `pause_s`: seconds after each page of them.
    """

    def __init__(self, views: ViewStore, name: str, entries: ViewEntries, clock: Clock, pause_s: float = 0.0) -> None:
        self.views = views
        self.name = name
        self.entries = entries
        self._clock = clock
        self._pause_s = pause_s

    async def wanted(self) -> AsyncIterator[tuple[str, Place]]:
        """The places of all documents, with their keys."""
        after, turns = "", Turns()
        while page := await self.views.scan(self.name, after):
            for document in page:
                await turns.after(len(document.data or b""))
                for place in self.places(document):
                    yield document.key, place
            after = page[-1].key
            await self._pause()

    async def found(self) -> AsyncIterator[bytes]:
        """The entries that are there, each as its filter and its place in one."""
        after, turns = b"", Turns()
        while page := await self.views.listed(self.name, b"", after):
            for each in page:
                await turns.after()
                yield each
            after = page[-1]
            await self._pause()

    def places(self, document: Document) -> set[Place]:
        """The places of a document. Raises Unfit."""
        return self.entries.places(document.key, document.data, self.entries.digests)

    async def has(self, place: Place) -> bool:
        """True when an entry is there."""
        within, at = place
        return list(await self.views.listed(self.name, within, _before(at), 1)) == [at]

    async def settle(self) -> None:
        """Have what was begun finished, where documents may be seen before their entries."""
        if not self.views.features.together:
            await self.views.write(self.name, [], [])

    async def _pause(self) -> None:
        if self._pause_s:
            await self._clock.sleep(self._pause_s)


def _before(at: bytes) -> bytes:
    """Bytes just before a place, with none of a list between them."""
    last = at[-1]
    return at[:-1] + (bytes([last - 1]) + b"\xff" * min(64, LONGEST_PLACE - len(at)) if last else b"")
