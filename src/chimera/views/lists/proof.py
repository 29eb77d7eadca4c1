"""Proving the lists of a generation: that they are what its documents say, entry by entry and count by count.

Nothing but a fault of an engine, or a hand in it, makes them differ, so what differs is told and mended. Entries and
documents are read while both move, so an entry that seems to be wrong is looked at again: between two looks at its
document that find the same revision, and with all that was begun finished before each, the entry must be as it says.
It is mended in a write that is refused where the document has moved on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from chimera.core.clock import Clock
from chimera.core.names import listing_view
from chimera.core.paging import pages
from chimera.ports import WITHIN, Document, Listing, ViewStore
from chimera.views.lists.entries import Place, ViewEntries
from chimera.views.lists.recount import prove_counts
from chimera.views.lists.state import ListsProof, list_states
from chimera.views.lists.sums import Balance, EntryReads, bucket_of

AT_ONCE = 100_000
"""Entries that are looked at again in one pass over all of them."""
SAMPLES = 5
ROUNDS = 3


class _Doubt(NamedTuple):
    """An entry that was not where its document says, or is where none does; `keys`: those that it may be of."""

    place: Place
    keys: tuple[str, ...]
    lacks: bool


async def prove_lists(
    views: ViewStore, name: str, entries: ViewEntries, clock: Clock, *, mend: bool = True, pause_s: float = 0.0
) -> ListsProof:
    """Compare all lists of a generation with its documents, and mend them. `pause_s`: seconds after each page of it.

    Lists that are not filled yet are left alone. Raises Unavailable, or Unfit for a document that has no place.
    """
    if not (await list_states(views, name, entries.digests)).are_complete:
        return ListsProof()
    reads = EntryReads(views, name, entries, clock, pause_s)
    first = last = await _prove(reads, mend=mend)
    for _ in range(ROUNDS):  # an index that has lost something may do so again
        if not last.mended:
            break
        last = await _prove(reads, mend=mend)
    return first if last is first else msgspec.structs.replace(first, mended=max(0, first.found - last.found))


async def _prove(reads: EntryReads, *, mend: bool) -> ListsProof:
    """Compare once, and mend."""
    proof = _Proof(reads, ListsProof(), mend=mend, is_alone=await _is_alone(reads))
    await proof.run()
    miscounted, mended = await prove_counts(reads, proof.left, mend=mend)
    return msgspec.structs.replace(proof.found, miscounted=miscounted, mended=proof.found.mended + mended)


async def _is_alone(reads: EntryReads) -> bool:
    """True where no other code has lists in this generation, so that whatever is there has to be of these."""
    return {each.key for each in await reads.views.scan(listing_view(reads.name))} <= set(reads.entries.digests)


class _Proof:
    """One comparison of entries. `is_alone`: whatever is there and of no document may be taken away.

    `left`: by filter, how many entries it lacks that were not mended.
    """

    def __init__(self, reads: EntryReads, found: ListsProof, *, mend: bool, is_alone: bool) -> None:
        self.found = found
        self.left: Counter[bytes] = Counter()
        self._reads = reads
        self._mend = mend
        self._is_alone = is_alone

    async def run(self) -> None:
        """Compare sums first, and look again at what is in buckets that are unlike."""
        balance = Balance()
        async for _, (within, at) in self._reads.wanted():
            balance.add(within + at)
            self.found.checked += 1
        async for entry in self._reads.found():
            balance.add(entry, -1)
        for buckets in balance.passes(AT_ONCE):
            doubts = await self._doubts(buckets)
            for page in pages(sorted(doubts)):
                await self._look_again({key: doubts[key] for key in page})

    async def _doubts(self, buckets: Collection[int]) -> dict[str, list[_Doubt]]:
        """What differs in these buckets, by the key that it seems to be of; of no key by an empty one."""
        left: dict[bytes, str] = {}
        async for key, (within, at) in self._reads.wanted():
            if bucket_of(within + at) in buckets:
                left[within + at] = key
        more = [
            entry
            async for entry in self._reads.found()
            if bucket_of(entry) in buckets and left.pop(entry, None) is None and self._is_alone
        ]
        doubts: defaultdict[str, list[_Doubt]] = defaultdict(list)
        for entry, key in left.items():
            doubts[key].append(_Doubt(_place(entry), (key,), lacks=True))
        lacking = set(doubts)
        for entry in more:
            keys = tuple(sorted(self._reads.entries.keys(entry[WITHIN:]))) or ("",)
            doubts[min(lacking.intersection(keys), default=keys[0])].append(_Doubt(_place(entry), keys, lacks=False))
        return dict(doubts)

    async def _look_again(self, doubts: Mapping[str, Sequence[_Doubt]]) -> None:
        """Count and mend what is wrong, where the documents stand still meanwhile."""
        reads = self._reads
        keys = sorted({key for each in doubts.values() for doubt in each for key in doubt.keys if key})
        before = await reads.views.get(reads.name, keys)
        await reads.settle()
        there = {doubt.place: await reads.has(doubt.place) for each in doubts.values() for doubt in each}
        await reads.settle()
        after = await reads.views.get(reads.name, keys)
        for key, each in doubts.items():
            own = sorted({key for doubt in each for key in doubt.keys if key})
            documents = [before.get(key, Document(reads.name, key, None)) for key in own]
            if any(document.revision != _revision(after, document.key) for document in documents):
                self.found.in_flight += 1
                continue
            wanted = {place for document in documents for place in reads.places(document)}
            if listings := _wrong(reads.name, wanted, each, there):
                self._count(key, listings)
                if self._mend and await reads.views.write(reads.name, documents, [], listings):
                    self.found.mended += 1
                else:
                    self.left.update(each.within for each in listings if not each.is_gone)
                    self.left.subtract(each.within for each in listings if each.is_gone)

    def _count(self, key: str, listings: Sequence[Listing]) -> None:
        gone = {each.is_gone for each in listings}
        if gone == {True, False}:
            self.found.changed += 1
        elif gone == {False}:
            self.found.missing += 1
        else:
            self.found.invented += 1
        if len(self.found.keys) < SAMPLES:
            self.found.keys.append(key)


def _wrong(name: str, wanted: set[Place], doubts: Sequence[_Doubt], there: Mapping[Place, bool]) -> list[Listing]:
    """What has to be changed of entries, so that they are those that their documents have."""
    listings: list[Listing] = []
    for each in doubts:
        if each.lacks and each.place in wanted and not there[each.place]:
            listings.append(Listing(name, *each.place))
        elif not each.lacks and each.place not in wanted and there[each.place]:
            listings.append(Listing(name, *each.place, is_gone=True))
    return listings


def _place(entry: bytes) -> Place:
    return entry[:WITHIN], entry[WITHIN:]


def _revision(found: Mapping[str, Document], key: str) -> int:
    return found[key].revision if key in found else 0
