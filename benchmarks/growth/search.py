"""The marketplace's search as it grows: `python -m benchmarks.growth.search fill|pages URL SIZE`. It ends with JSON.

What is asked for is in the titles of 100 gigs, of however many; their other words are in all titles.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from benchmarks.growth.lists import MEASURED, percentiles
from chimera import Reads, Transaction
from chimera.messages import Message
from chimera.ports import Store
from chimera.run.engines import open_engine
from chimera.transaction import Unit
from marketplace.gig_page.messages import GigPublished
from marketplace.search.index import find_gigs, index
from marketplace.search.service import search

AT_ONCE = 2_000
FOUND = 100


def gig(number: int, size: int) -> GigPublished:
    """A gig of a family of 100."""
    title = f"Made by {_family(number % max(1, size // FOUND))} with love"
    return GigPublished(f"g{number}", f"s{number % 1000}", title, "Design", 500)


def _family(number: int) -> str:
    return f"family{number:06}"


async def fill(store: Store, size: int) -> None:
    message = Message("batch", "search", "", "", "2026-01-02T03:04:05.000006Z", b"", 0)
    for start in range(0, size, AT_ONCE):
        gigs = [gig(number, size) for number in range(start, min(size, start + AT_ONCE))]
        async with store.transaction() as session:
            await index(gigs, Transaction(Unit(search, session), message))


async def pages(store: Store, size: int) -> None:
    """The first pages of families; each is read once before, so that it is in memory."""
    families = max(1, size // FOUND)
    spent: list[float] = []
    for turn in range(2 * MEASURED):
        family = _family(turn % MEASURED * 7919 % families)
        began = time.perf_counter()
        async with store.snapshot() as session:
            total, hits = await find_gigs(Reads(search, session), family, "", 1)
        took = (time.perf_counter() - began) * 1000
        assert (total, len(hits)) == (FOUND, 20)
        if turn >= MEASURED:
            spent.append(took)
    print(json.dumps(percentiles({f"search, of {size:,}": spent})))


async def main(what: str, url: str, size: int) -> None:
    store = open_engine("store", url)
    try:
        await store.create([], search.partitions, search.statements)
        await {"fill": fill, "pages": pages}[what](store, size)
    finally:
        await store.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as running:
        running.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
