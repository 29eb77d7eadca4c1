"""Documents, checkpoints and lists in memory."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence

import msgspec

from chimera.ports import (
    WITHIN,
    Checkpoint,
    Document,
    Features,
    Listing,
    Move,
)
from chimera.testing.memory.log import FEATURES


class ViewsState(msgspec.Struct, frozen=True):
    """All that a view store has at a moment."""

    documents: Mapping[str, Mapping[str, Document]] = {}
    checkpoints: Mapping[str, Mapping[tuple[str, int], Checkpoint]] = {}
    revision: int = 0
    lists: Mapping[str, Sequence[tuple[bytes, bytes]]] = {}


class MemoryViews:
    """Documents by view and key, checkpoints by consumer, entries of lists by view, in order.

    `on_write`, `on_drop` are told of what was done.
    """

    def __init__(
        self,
        *,
        features: Features = FEATURES,
        on_write: Callable[[str, Sequence[Document], Sequence[Move]], None] = lambda consumer, documents, moves: None,
        on_drop: Callable[[str], None] = lambda consumer: None,
    ) -> None:
        self.features = features
        self._on_write = on_write
        self._on_drop = on_drop
        self._documents: dict[str, dict[str, Document]] = {}
        self._checkpoints: dict[str, dict[tuple[str, int], Checkpoint]] = {}
        self._lists: dict[str, list[tuple[bytes, bytes]]] = {}
        self._revision = 0
        self._ordered: dict[str, list[str]] = {}
        """The keys of each view in order; those of a view whose keys have changed are put in order when asked for."""

    async def create(self) -> None: ...

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        documents = self._documents.get(view, {})
        return {key: documents[key] for key in keys if key in documents}

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        await asyncio.sleep(0)
        checkpoints = self._checkpoints.setdefault(consumer, {})
        if any(checkpoints.get((move.source, move.partition), Checkpoint()).number != move.before for move in moves):
            return 0
        if any(self._revision_of(document) != document.revision for document in documents):
            return 0
        self._revision += 1
        for document in documents:
            self._put(document)
        for listing in listings:
            self._list(listing)
        checkpoints.update({(move.source, move.partition): move.after for move in moves})
        self._on_write(consumer, documents, moves)
        return self._revision

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        return dict(self._checkpoints.get(consumer, {}))

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        documents, keys = self._documents.get(view, {}), self._keys(view)
        first = bisect_right(keys, after)
        return [documents[key] for key in keys[first : first + limit]]

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        entries = self._lists.get(view, [])
        if not within:
            first = bisect_right(entries, (after[:WITHIN], after[WITHIN:])) + skip
            return [each + at for each, at in entries[first : first + limit]]
        first = (bisect_right if after else bisect_left)(entries, (within, after)) + skip
        return [at for each, at in entries[first : first + limit] if each == within]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        self._checkpoints.pop(consumer, None)
        for view in views:
            self._lists.pop(view, None)
            self._documents.pop(view, None)
            self._ordered.pop(view, None)
        self._on_drop(consumer)

    def documents_of(self, view: str) -> list[Document]:
        """All documents of a view, or of a generation of one, in the order of their keys."""
        documents = self._documents.get(view, {})
        return [documents[key] for key in self._keys(view)]

    def moment(self) -> ViewsState:
        """All that it has now, to be put back later."""
        documents = {view: dict(kept) for view, kept in self._documents.items()}
        checkpoints = {consumer: dict(kept) for consumer, kept in self._checkpoints.items()}
        lists = {view: list(entries) for view, entries in self._lists.items()}
        return ViewsState(documents, checkpoints, self._revision, lists)

    def restore(self, moment: ViewsState) -> None:
        """Have again what it had at a moment, as from a backup."""
        self._documents = {view: dict(kept) for view, kept in moment.documents.items()}
        self._checkpoints = {consumer: dict(kept) for consumer, kept in moment.checkpoints.items()}
        self._lists = {view: list(entries) for view, entries in moment.lists.items()}
        self._revision = moment.revision
        self._ordered = {}

    async def close(self) -> None: ...

    def _revision_of(self, document: Document) -> int:
        found = self._documents.get(document.view, {}).get(document.key)
        return found.revision if found else 0

    def _keys(self, view: str) -> list[str]:
        if view not in self._ordered:
            # Python orders strings by code points, which is the order of their UTF-8 bytes.
            self._ordered[view] = sorted(self._documents.get(view, {}))
        return self._ordered[view]

    def _put(self, document: Document) -> None:
        documents = self._documents.setdefault(document.view, {})
        if (document.data is None) == (document.key in documents):
            self._ordered.pop(document.view, None)
        if document.data is None:
            documents.pop(document.key, None)
        else:
            documents[document.key] = document._replace(revision=self._revision)

    def _list(self, listing: Listing) -> None:
        entries, entry = self._lists.setdefault(listing.view, []), (listing.within, listing.at)
        at = bisect_left(entries, entry)
        is_there = entries[at : at + 1] == [entry]
        if listing.is_gone and is_there:
            del entries[at]
        elif not listing.is_gone and not is_there:
            entries.insert(at, entry)
