"""A process of several that add clients to the same sellers at once: `python -m tests.marketplace.crowd HEAD NAME URL`.

HEAD is `read`, which handles them as direct commands, or `write`, as commands from the log. Prints how each ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import msgspec

from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor, direct_executor
from chimera.core.context import Context
from chimera.core.names import command_type
from chimera.messages import Message, partition_of
from chimera.ports import Owner, Store
from chimera.run.engines import context_of, open_engine
from chimera.testing.memory import MemoryLog, MemoryViews
from chimera.web.identity.ways import Untold
from marketplace.top_clients.messages import AddClient
from marketplace.top_clients.service import top_clients

SELLERS = ("hot", "cold")
EACH = 8


async def opened(store: Store) -> Context:
    """The service on this store, alone."""
    context = context_of(top_clients, MemoryLog(), store, MemoryViews(), _no_owner, callers=Untold())
    await context.prepare()
    return context


def _no_owner(name: str) -> Owner:
    raise AssertionError(f"nothing is borrowed, and {name} was asked")


def adding(seller_id: str, client_id: str) -> Message:
    """The command that adds a client to a seller."""
    return Message(
        id=f"{seller_id}/{client_id}",
        source=top_clients.name,
        type=command_type(top_clients.name, AddClient.__name__),
        key=seller_id,
        time="2026-01-02T03:04:05.000006Z",
        data=msgspec.json.encode(AddClient(seller_id, client_id, client_id)),
        partition=partition_of(seller_id, top_clients.partitions),
    )


async def main(head: str, name: str, url: str) -> None:
    store: Store = open_engine("store", url)
    context = await opened(store)
    executor = direct_executor(context) if head == "read" else commands_executor(context)
    ends: Counter[str] = Counter()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def work(number: int) -> None:
        tasks = [Task(adding(seller_id, f"{name}-{number}")) for seller_id in SELLERS]
        for outcome in await executor.run(tasks):
            ends[outcome.state if not isinstance(outcome, Exception) else "unavailable"] += 1

    for number in range(0, EACH, 2):
        await asyncio.gather(work(number), work(number + 1))
    await store.close()
    print(msgspec.json.encode(ends).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
