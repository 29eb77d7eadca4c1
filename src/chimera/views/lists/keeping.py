"""Keeping a view's lists: what a write of documents has to change in them, in the same write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chimera.ports import Document, Listing, Move, ViewStore
from chimera.views.lists.counts import SHARES, Counts
from chimera.views.lists.entries import Place, ViewEntries
from chimera.views.lists.state import ListStates, begun_lists
from chimera.views.projections import Projection


class Listed(NamedTuple):
    """What is written of lists beside documents: entries that come and go, counts, and what holds on to a state."""

    listings: Sequence[Listing] = ()
    counts: Sequence[Document] = ()
    pins: Sequence[Document] = ()


class ListKeeping:
    """The lists of one projection, as its documents are written."""

    def __init__(self, views: ViewStore, projection: Projection, entries: ViewEntries) -> None:
        self._views = views
        self._name = projection.name
        self._sources = sorted(projection.sources)
        self._entries = entries
        self._counts = Counts(views, projection.name)
        self._states: ListStates | None = None

    async def beside(
        self, before: Mapping[str, Document], documents: Sequence[Document], moves: Sequence[Move]
    ) -> Listed:
        """What to write beside documents that are in the place of those before. Raises Unfit for one without a place.

        The write refuses documents that are not as they were before, so that their entries were those before.
        """
        changed = [document for document in documents if document.view == self._name]
        states = await self._known()
        gone: list[Place] = []
        come: list[Place] = []
        for document in changed:
            stored, among = before.get(document.key), states.keeping(document.key)
            leaves, comes = self._entries.moves(document.key, stored.data if stored else None, document.data, among)
            gone += leaves
            come += comes
        listings = [Listing(self._name, *place, is_gone=True) for place in gone]
        listings += [Listing(self._name, *place) for place in come]
        counts = await self._counts.beside(listings, self._share(moves)) if listings else []
        return Listed(listings, counts, states.pins([document.key for document in changed]))

    def wrote(self, listed: Listed, revision: int) -> None:
        """It was written, and is at this revision now."""
        self._counts.recent.wrote(listed.counts, revision)
        if listed.pins:
            self._states = None

    def refused(self) -> None:
        """A write was refused: what is remembered may be out of date."""
        self._counts.recent.refused()
        self._states = None

    def forget(self) -> None:
        """Remember nothing of what was written until now."""
        self._counts.recent.forget()
        self._states = None

    async def _known(self) -> ListStates:
        if self._states is None:
            self._states = await begun_lists(self._views, self._name, self._entries.digests)
        return self._states

    def _share(self, moves: Sequence[Move]) -> int:
        """The share of counts that is this writer's own, as long as its partitions are."""
        if not moves:
            return 0
        lowest = min(move.partition for move in moves)
        return self._sources.index(moves[0].source) * SHARES + lowest % SHARES
