"""What a journal of some size costs: `python -m benchmarks.growth.journal append|page URL`. Prints one figure.

`append`: events a second, in transactions of 100. `page`: milliseconds for 500 events from the middle.
"""

import asyncio
import sys
import time
from statistics import median

import uvloop

from chimera.core.clock import Clock
from chimera.messages import Message
from chimera.ports import Store
from chimera.run.engines import open_engine

PARTITIONS = 8
SERVICE = "bench-growth"
TRANSACTIONS = 96
PAGES = 50
CLOCK = Clock()


async def main(what: str, url: str) -> None:
    store = open_engine("store", url)
    try:
        await store.create([], PARTITIONS)
        print(await {"append": append, "page": page}[what](store))
    finally:
        await store.close()


async def append(store: Store) -> float:
    began = time.perf_counter()
    for turn in range(TRANSACTIONS):
        at = turn % PARTITIONS
        async with store.transaction() as session:
            first = (await session.hold([at]))[at].number + 1
            await session.append([_event(at, first + each) for each in range(100)])
    return TRANSACTIONS * 100 / (time.perf_counter() - began)


def _event(at: int, number: int) -> Message:
    position, key = f"{SERVICE}/{at}@{number}", f"k{number % 5000}"
    return Message(position, SERVICE, f"{SERVICE}.Happened", key, CLOCK.stamp(), b'{"amount_cents":100}', at, number)


async def page(store: Store) -> float:
    heads = await store.heads()
    spent = []
    for turn in range(PAGES):
        at = turn % PARTITIONS
        began = time.perf_counter()
        found = await store.journal(at, heads[at] // 2, 500)
        spent.append((time.perf_counter() - began) * 1000)
        assert len(found) == 500
    return median(spent)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
