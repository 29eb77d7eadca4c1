"""Engines and an owner like those they wrap, which count what the measured borrower does with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing

import msgspec

from chimera.adapters.http import HttpOwner
from chimera.core.names import share_type
from chimera.messages import Message
from chimera.ports import Document, Fetched, Listing, Log, Move, Record, ViewStore
from chimera.share.digests import SharedChange
from chimera.testing.broken import WrappedLog, WrappedViews
from chimera_compare.figures import Counted
from chimera_compare.services import OWNER, SHARE


class CountingLog(WrappedLog):
    """Counts the documents that come in share events."""

    def __init__(self, log: Log, counted: Counted) -> None:
        super().__init__(log)
        self._counted = counted
        self._type = share_type(OWNER, SHARE)

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        async with aclosing(super().read(topic, after, limit)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                self._counted.event_bytes += sum(map(self._size, (record.message for record in batch)))
                yield batch

    def _size(self, message: Message) -> int:
        if message.type != self._type:
            return 0
        change = msgspec.json.decode(message.data, type=SharedChange)
        return len(change.key) + len(bytes(change.document))


class CountingViews(WrappedViews):
    """Counts the bytes of the copies that are written."""

    def __init__(self, views: ViewStore, counted: Counted) -> None:
        super().__init__(views)
        self._counted = counted

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        written = await super().write(consumer, documents, moves, listings)
        if written and consumer.startswith(f"borrow.{SHARE}."):
            copied = [each for each in documents if each.view == consumer]
            self._counted.copied_bytes += sum(len(each.key) + len(each.data or b"") for each in copied)
        return written


class CountingOwner(HttpOwner):
    """Counts the keys that it is asked for, and the documents that it answers with."""

    def __init__(self, base: str, counted: Counted) -> None:
        super().__init__(OWNER, base)
        self._counted = counted

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        self._counted.asked_keys += len(keys)
        found = await super().fetch(share, keys)
        self._counted.answer_bytes += sum(len(key) + len(document) for key, document in found.documents.items())
        return found
