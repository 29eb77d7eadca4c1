"""Filling a list of a generation that had documents before it had the list."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from chimera.core.context import Context
from chimera.ports import Document, Listing, ViewStore
from chimera.views.lists.counts import Counts
from chimera.views.lists.entries import ViewEntries
from chimera.views.lists.state import Filled, list_states

logger = logging.getLogger("chimera")

PAGES = (250, 60, 15, 4, 1)
"""Documents that are filled in one write; fewer where others write in between."""


async def fill_lists(context: Context, name: str, entries: ViewEntries, sizes: Sequence[int] = PAGES) -> None:
    """Put every document of a generation into every list that it is to be in. It goes on where it was.

    `sizes`: documents of a write at first, and after writes that others have come between. Raises Unavailable, or Unfit
    for a document that has no place.
    """
    tries = 0
    while unfilled := (await list_states(context.views, name, entries.digests)).unfilled():
        state, through = unfilled
        if state.data is None:
            logger.info("a list of %s is filled from the documents that there are", name)
            filled = await context.views.write(name, [_at(state, "")], []) > 0
        else:
            size = sizes[min(tries, len(sizes) - 1)]
            filled = await _fill_page(context.views, name, entries, state, through, size)
        tries = 0 if filled else tries + 1
        await context.clock.sleep(context.timing.keep_s if tries else 0)


async def _fill_page(
    views: ViewStore, name: str, entries: ViewEntries, state: Document, through: str, size: int
) -> bool:
    """Fill the next documents; False where somebody has written one beyond those that are filled."""
    page = await views.scan(name, through, size)
    listings = [
        Listing(name, *place)
        for document in page
        for place in sorted(entries.places(document.key, document.data, [state.key]))
    ]
    counts = await Counts(views, name).beside(listings, 0)
    reached = _at(state, page[-1].key if len(page) == size else None)
    return await views.write(name, [reached, *counts], [], listings) > 0


def _at(state: Document, through: str | None) -> Document:
    return state._replace(data=msgspec.json.encode(Filled(through)))
