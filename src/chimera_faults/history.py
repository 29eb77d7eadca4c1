"""A journal as it is after years: old events, which every consumer has passed, and nobody folds."""

from __future__ import annotations

from collections.abc import Mapping

from chimera.core.context import Context
from chimera.core.names import looked_through
from chimera.core.tables import Progress
from chimera.entities import table_of
from chimera.journal.consumers import consumers_of
from chimera.messages import Message
from chimera.parts import Borrow
from chimera.ports import Checkpoint, Move

TIME = "2020-01-01T00:00:00.000000Z"
DATA = b'{"order_id":"0123456789abcdef","seller_id":"0123456789abcdef","amount_cents":1200}'
PAGE = 5_000


async def write_history(contexts: Mapping[str, Context], owner: str, rows: int) -> None:
    """Put so many events, as many in each partition, into an empty journal; `contexts` have never run before."""
    context = contexts[owner]
    for partition in range(context.service.partitions):
        left = rows // context.service.partitions
        while left:
            await _append(context, partition, min(PAGE, left))
            left -= min(PAGE, left)
    heads = await context.store.heads()
    await _pass_in_store(context, heads)
    for each in contexts.values():
        for consumer in _document_consumers(each, owner):
            await each.views.write(
                consumer, [], [Move(owner, partition, 0, Checkpoint(head)) for partition, head in heads.items()]
            )


async def _append(context: Context, partition: int, count: int) -> None:
    source = context.service.name
    async with context.store.transaction() as session:
        first = (await session.hold([partition]))[partition].number + 1
        await session.append(
            [
                Message(f"{source}/{partition}@{n}", source, f"{source}.Old", f"k{n % 997}", TIME, DATA, partition, n)
                for n in range(first, first + count)
            ]
        )


async def _pass_in_store(context: Context, heads: Mapping[int, int]) -> None:
    """Move what has its checkpoints in the owner's store."""
    service, table = context.service, table_of(Progress)
    stored = [each for each in consumers_of(service) if each.source == service.name and not each.keeps_documents]
    consumers = [*(each.name for each in stored), *map(looked_through, service.shares)]
    async with context.store.transaction() as session:
        for consumer in consumers:
            rows = [Progress(consumer, service.name, partition, head, 0) for partition, head in heads.items()]
            await session.save(table, [table.to_row(row) for row in rows])


def _document_consumers(context: Context, source: str) -> list[str]:
    """The views and the copies in force that take a source's events."""
    taking = [each for each in consumers_of(context.service) if each.source == source and each.keeps_documents]
    return [each.name for each in taking if not isinstance(each.declared, Borrow) or each.declared.mode == each.mode]
