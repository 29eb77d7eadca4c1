"""A seller's limit of clients, and their places, hold over two read heads and three write heads on every engine."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections import Counter

import msgspec

from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.entities import table_of
from chimera.ports import Store
from marketplace.top_clients.messages import ClientAdded
from marketplace.top_clients.model import MOST_CLIENTS, Client
from tests.marketplace.crowd import SELLERS, adding, opened

HEADS = ("read", "read", "write", "write", "write")
ADDED = ClientAdded.wire_type()
ALREADY = {"hot": MOST_CLIENTS - 7, "cold": 0}


async def test_a_seller_never_has_more_clients_than_may_be_nor_two_in_one_place(store: Store, store_url: str) -> None:
    """Whoever is told that it is done is there, in a place of its own; nobody else is."""
    first = direct_executor(await opened(store))
    before = [adding(seller, f"old-{at}") for seller, count in ALREADY.items() for at in range(count)]
    await first.run([Task(message) for message in before])
    heads = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.marketplace.crowd", head, f"{head}{at}", store_url), stdin=PIPE, stdout=PIPE
        )
        for at, head in enumerate(HEADS)
    ]
    for head in heads:
        assert head.stdout
        assert await head.stdout.readline() == b"ready\n"
    ends: Counter[str] = Counter()
    for said, _ in await asyncio.gather(*(head.communicate(b"go\n") for head in heads)):
        ends.update(msgspec.json.decode(said, type=dict[str, int]))
    async with store.snapshot() as session:
        rows = await session.find(table_of(Client), {})
    clients: list[Client] = [table_of(Client).from_row(row) for row in rows]
    for seller in SELLERS:
        places = sorted(client.place for client in clients if client.seller_id == seller)
        assert places == list(range(1, len(places) + 1))
        assert len(places) <= MOST_CLIENTS
    assert ends["done"] == len(clients) - len(before) > 0  # the others are refused, or set aside to be tried again
    assert ends["failed"] == 0
    added = [
        event.id for at in await store.heads() for event in await store.journal(at, 0, 1000) if event.type == ADDED
    ]
    assert len(added) == len(clients)
