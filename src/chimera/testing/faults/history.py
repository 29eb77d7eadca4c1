"""A journal as it is after years: old events, which every consumer has passed, and nobody folds."""

from __future__ import annotations

from collections.abc import Mapping

from chimera.body import Body, reaction_sources
from chimera.copies import copy_name
from chimera.entities import table_of
from chimera.messages import Message
from chimera.ports import Checkpoint, Move
from chimera.records import Progress
from chimera.relay import CONSUMER as RELAY
from chimera.sharing import knows_every_key

TIME = "2020-01-01T00:00:00.000000Z"
DATA = b'{"order_id":"0123456789abcdef","seller_id":"0123456789abcdef","amount_cents":1200}'
PAGE = 5_000


async def write_history(bodies: Mapping[str, Body], owner: str, rows: int) -> None:
    """Put so many events, as many in each partition, into an empty journal; `bodies` have never run before."""
    body = bodies[owner]
    for partition in range(body.service.partitions):
        left = rows // body.service.partitions
        while left:
            await _append(body, partition, min(PAGE, left))
            left -= min(PAGE, left)
    heads = await body.store.heads()
    await _pass_in_store(body, heads)
    for each in bodies.values():
        for consumer in _document_consumers(each, owner):
            await each.views.write(
                consumer, [], [Move(owner, partition, 0, Checkpoint(head)) for partition, head in heads.items()]
            )


async def _append(body: Body, partition: int, count: int) -> None:
    source = body.service.name
    async with body.store.transaction() as session:
        first = (await session.reserve({partition: count}))[partition]
        await session.append(
            [
                Message(f"{source}/{partition}@{n}", source, f"{source}.Old", f"k{n % 997}", TIME, DATA, partition, n)
                for n in range(first, first + count)
            ]
        )


async def _pass_in_store(body: Body, heads: Mapping[int, int]) -> None:
    """Move what has its checkpoints in the owner's store."""
    service, table = body.service, table_of(Progress)
    consumers = [RELAY, *map(knows_every_key, service.shares)]
    reactions = [each for each in service.reactions.values() if service.name in reaction_sources(each)]
    consumers += [body.reaction(each, service.name)[0].consumer for each in reactions]
    async with body.store.transaction() as session:
        for consumer in consumers:
            rows = [Progress(consumer, service.name, partition, head, 0) for partition, head in heads.items()]
            await session.save(table, [table.to_row(row) for row in rows])


def _document_consumers(body: Body, source: str) -> list[str]:
    views = [view.name for view in body.service.views.values() if source in view.sources]
    copied = [borrow for borrow in body.service.borrows.values() if borrow.owner == source and borrow.mode == "async"]
    return [*views, *(copy_name(borrow, borrow.mode) for borrow in copied)]
