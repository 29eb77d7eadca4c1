"""Recounting: that the counts of a generation's lists are how many entries each filter has.

A count's error stays the same whatever comes and goes, because every write adds to it what it adds to the list. So it
is measured twice while the shares of the count stand still, and then taken off one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping

from chimera.core.names import counts_view
from chimera.ports import Document
from chimera.views.lists.counts import added, filter_of
from chimera.views.lists.sums import Balance, EntryReads, bucket_of

AT_ONCE = 100_000
PAGE = 5_000
TRIES = 5


async def prove_counts(reads: EntryReads, lacking: Mapping[bytes, int], *, mend: bool) -> tuple[int, int]:
    """How many filters have a wrong count, and of how many it was mended. `lacking`: entries that a filter has not."""
    balance = Balance()
    async for _, (within, _) in reads.wanted():
        balance.add(within)
    async for document in _counts(reads):
        balance.add(filter_of(document.key), -int(document.data or b"0"))
    wrong = mended = 0
    for buckets in balance.passes(AT_ONCE):
        for within in await _unlike(reads, buckets):
            if error := await _error(reads, within, lacking.get(within, 0)):
                wrong += 1
                mended += mend and await _take_off(reads, within, error)
    return wrong, mended


async def _counts(reads: EntryReads) -> AsyncIterator[Document]:
    view, after = counts_view(reads.name), ""
    while page := await reads.views.scan(view, after):
        for document in page:
            yield document
        after = page[-1].key


async def _unlike(reads: EntryReads, buckets: set[int]) -> list[bytes]:
    """The filters in these buckets whose count seems to be another one."""
    left: Counter[bytes] = Counter()
    async for _, (within, _) in reads.wanted():
        if bucket_of(within) in buckets:
            left[within] += 1
    async for document in _counts(reads):
        within = filter_of(document.key)
        if bucket_of(within) in buckets:
            left[within] -= int(document.data or b"0")
    return sorted(within for within, number in left.items() if number)


async def _error(reads: EntryReads, within: bytes, lacking: int) -> int:
    """By how much a filter's count is too high, found twice; 0 where it is right or never stands still."""
    last: int | None = None
    for _ in range(TRIES):
        before = await _shares(reads, within)
        await reads.settle()
        entries, after = 0, b""
        while page := await reads.views.listed(reads.name, within, after, PAGE):
            entries, after = entries + len(page), page[-1]
        await reads.settle()
        if [each[1:] for each in before] != [each[1:] for each in await _shares(reads, within)]:
            last = None
            continue
        error = sum(int(each.data or b"0") for each in before) - entries - lacking
        if error == last or not error:
            return error
        last = error
    return 0


async def _take_off(reads: EntryReads, within: bytes, error: int) -> bool:
    """Take an error off the first share of a count; False where others are always quicker."""
    view, key = counts_view(reads.name), f"{within.hex()}/0"
    for _ in range(TRIES):
        count = (await reads.views.get(view, [key])).get(key, Document(view, key, None))
        if await reads.views.write(reads.name, [added(count, -error)], []):
            return True
    return False


async def _shares(reads: EntryReads, within: bytes) -> list[Document]:
    """The shares of a filter's count, in order."""
    start, end, found = f"{within.hex()}/", f"{within.hex()}0", list[Document]()
    while page := await reads.views.scan(counts_view(reads.name), found[-1].key if found else start):
        found += [each for each in page if each.key < end]
        if page[-1].key >= end:
            break
    return found
