"""How many documents each filter of a list has: small documents of the generation, written with its entries.

A filter's count is the sum of several, its shares: every writer has one of its own, so that none waits for another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chimera.core.names import counts_view
from chimera.ports import Document, Listing, ViewStore
from chimera.views.folding.recent import Recent

SHARES = 8
"""Shares of a count for each source of events: writers with other partitions take another one."""


class Counts:
    """The counts of a generation's lists, as one writer changes them."""

    def __init__(self, views: ViewStore, name: str) -> None:
        self._views = views
        self._name = counts_view(name)
        self.recent = Recent(self._name)

    async def beside(self, listings: Sequence[Listing], share: int) -> list[Document]:
        """What to write beside entries that come, and were not there, or are gone, and were."""
        more: Counter[bytes] = Counter()
        for listing in listings:
            more[listing.within] += -1 if listing.is_gone else 1
        by_key = {_key(within, share): number for within, number in more.items() if number}
        known = self.recent.among(by_key.keys())
        if unknown := [key for key in by_key if key not in known]:
            known |= await self._views.get(self._name, unknown)
        counts = [added(known.get(key, Document(self._name, key, None)), number) for key, number in by_key.items()]
        return [count for count in counts if count.data is not None or count.revision]


async def count_of(views: ViewStore, name: str, sources: int, within: bytes) -> int:
    """The number of documents that a filter has in a generation of a view with so many sources."""
    keys = [_key(within, share) for share in range(SHARES * max(1, sources))]
    return sum(int(each.data or b"0") for each in (await views.get(counts_view(name), keys)).values())


def filter_of(key: str) -> bytes:
    """The filter that a share of a count is of."""
    return bytes.fromhex(key.partition("/")[0])


def _key(within: bytes, share: int) -> str:
    return f"{within.hex()}/{share}"


def added(count: Document, number: int) -> Document:
    """A count with so many more; without data where it is 0, as most are at the end of what they count."""
    total = int(count.data or b"0") + number
    return count._replace(data=b"%d" % total if total else None)
