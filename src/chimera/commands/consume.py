"""Consuming a service's commands from the log: batches in order, lanes side by side, gaps told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import cast

from chimera.commands.apart.redriving import keep_redriving
from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor, parking_of
from chimera.core.aio.tasks import finish, reading_ahead
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.errors import Unavailable
from chimera.journal.checkpoints import Moved
from chimera.journal.crash_loop import Watch, watching
from chimera.ports import Checkpoint, Move, Record

logger = logging.getLogger("chimera")

LANES = 2
"""Transactions of commands at once, each of partitions of its own: while one waits for its database, another works."""
BUSY = 8
"""A batch of more commands than this, and not a full one, waits a moment for more."""


class CommandConsumer:
    """Executes the commands of some partitions as they come, and tries again what is parked and due."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._topic = context.commands_topic
        self._executor = commands_executor(context)

    async def run(self, partitions: frozenset[int]) -> None:
        """Work until cancelled. Raises Unavailable when an engine can't be reached."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_redriving(parking_of(self._context, COMMANDS), self._executor, partitions))
            for lane in range(LANES):
                if part := sorted(partitions)[lane::LANES]:
                    tasks.create_task(self._consume(frozenset(part)))

    async def _consume(self, partitions: frozenset[int]) -> None:
        context, topic, page = self._context, self._topic, self._context.limits.commands_page
        while True:
            with suppress(Moved):
                at = await self._start(partitions)
                start = {partition: Checkpoint(number, number) for partition, number in at.items()}
                records = cast("AsyncGenerator[Sequence[Record], None]", context.log.read(topic, dict(at), page))
                async with (
                    watching(context, COMMANDS, topic, start, partial(context.log.ends, topic)) as watch,
                    aclosing(records),
                    aclosing(reading_ahead(records, page)) as batches,
                ):
                    async for batch in batches:
                        await finish(self._execute(batch, at, watch), context.timing.finish_s)
                        if BUSY < len(batch) < page:
                            await context.clock.sleep(context.timing.collect_s)
                raise Unavailable(f"the log ended while {topic} was read")

    async def _start(self, partitions: frozenset[int]) -> dict[int, int]:
        """Offsets to read on after. A log that ends before its checkpoint was made anew; it is read from its beginning.

        What it may repeat, the inbox knows; to go on from the checkpoint would skip commands that were accepted.
        """
        topic = self._topic
        at = await self._executor.checkpoints(topic, partitions)
        ends = await self._context.log.ends(topic)
        anew = [Move(topic, p, at[p].number, Checkpoint()) for p in at if ends.get(p, 0) < at[p].number]
        if anew:
            logger.error("%s ends before what was read of it; it is read from its beginning", topic)
            await self._executor.run([], anew)
        return {p: checkpoint.number for p, checkpoint in at.items()} | {move.partition: 0 for move in anew}

    async def _execute(self, batch: Sequence[Record], at: dict[int, int], watch: Watch) -> None:
        topic, tasks, after = self._topic, list[Task](), dict(at)
        for offset, message in batch:
            if offset > after[message.partition]:
                if offset > after[message.partition] + 1:
                    _tell_gap(topic, message.partition, after[message.partition], offset)
                after[message.partition] = offset
                tasks.append(Task(message, offset, offset))
        moves = [Move(topic, p, at[p], Checkpoint(offset, offset)) for p, offset in after.items() if offset != at[p]]
        if tasks:
            await self._executor.run_watched(tasks, moves, watch)
            at.update(after)


def _tell_gap(topic: str, partition: int, before: int, offset: int) -> None:
    """A log does not skip offsets by itself; but one with retention of its own may have dropped what nobody read."""
    logger.error(
        "%s/%d goes on at offset %d after %d: if the broker's retention dropped what was between, commands are lost; "
        "keep them for longer, see docs/retention.md",
        topic,
        partition,
        offset,
        before,
    )
