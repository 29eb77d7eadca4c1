"""View stores whose lists are broken, as by an index that lost a page; beside `chimera.testing.broken`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from chimera.ports import WITHIN, Document, Listing, Move, ViewStore
from chimera.testing.broken import WrappedViews


class LosingLists(WrappedViews):
    """Breaks "changes lists": every nth entry that comes is never there."""

    def __init__(self, views: ViewStore, every: int = 3) -> None:
        super().__init__(views)
        self._every = every
        self._count = itertools.count(1)

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        kept = [each for each in listings if each.is_gone or next(self._count) % self._every]
        return await self._views.write(consumer, documents, moves, kept)


class PartialLists(WrappedViews):
    """Breaks "without a filter: of all that the view has": only the first filter's are read."""

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        found = await self._views.listed(view, within, after, limit, skip)
        return found if within else [each for each in found if each[:WITHIN] == (after or found[0])[:WITHIN]]
