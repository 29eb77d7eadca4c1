"""Running a reaction on a source's events: in order, in the transaction of its checkpoint."""

from __future__ import annotations

import asyncio
from functools import partial

from chimera.commands.apart.announced import Announced
from chimera.commands.apart.kept import KeptEvents
from chimera.commands.apart.redriving import Share, keep_redriving
from chimera.commands.execute import Executor, Task
from chimera.commands.handlers import parking_of, reaction_executor
from chimera.core.aio.tasks import finish
from chimera.core.context import Context
from chimera.core.names import reaction_consumer
from chimera.journal.checkpoints import Moved
from chimera.journal.crash_loop import watching
from chimera.journal.feed import Feed
from chimera.journal.leases import partitions_of
from chimera.parts import Reaction
from chimera.versions import is_newer


async def keep_reacting(
    context: Context, reaction: Reaction, source: str, alike: Share | None, held: frozenset[int]
) -> None:
    """Run a reaction on what comes from the partitions that are held, until cancelled. `alike`: see `keep_redriving`.

    Raises Unavailable when an engine can't be reached, Trimmed when what comes next is nowhere any more.
    """
    kept = KeptEvents(context, reaction_consumer(reaction.name, source))
    executor = reaction_executor(context, reaction, source, kept)
    partitions = await partitions_of(context, source, held)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_redriving(parking_of(context, executor.consumer), executor, partitions, alike))
        tasks.create_task(_react(context, executor, reaction, source, partitions, kept))


async def _react(
    context: Context, executor: Executor, reaction: Reaction, source: str, partitions: list[int], kept: KeptEvents
) -> None:
    wanted, announced = reaction.types, Announced(context)
    at = await executor.checkpoints(source, partitions)
    feed = Feed(context, source, at, executor.consumer)
    heads = partial(context.owners.known_heads, source)
    try:
        async with watching(context, executor.consumer, source, at, heads) as watch:
            while True:
                batch = await feed.next()
                types = {message.type for message in batch.messages}
                if not types <= wanted:  # what another build handles is left to it, and not passed over
                    here = wanted | {type_ for type_ in types if is_newer(type_, wanted)}
                    types &= here | await announced.reacts_elsewhere(reaction.name)
                tasks = [Task(message, message.number) for message in batch.messages if message.type in types]
                try:
                    await finish(executor.run_watched(tasks, batch.moves, watch), context.timing.finish_s)
                    is_elsewhere = feed.is_diverged  # until it is recovered: then its checkpoint is moved
                except Moved:
                    is_elsewhere = True
                if is_elsewhere:
                    kept.look_again()
                    feed.reset(await executor.checkpoints(source, partitions))
    finally:
        await feed.close()
