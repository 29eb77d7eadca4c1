"""Consuming a service's commands from the log: batches in order, lanes side by side, gaps told.

A log that was put back to an earlier moment, or made anew, gives its offsets to other commands. So a checkpoint
remembers, beside its offset, the digest of the command there, and reading begins with that command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import cast

import msgspec

from chimera.commands.apart.redriving import Share, keep_redriving
from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor, parking_of
from chimera.commands.inbox import read_outcomes
from chimera.core.aio.standing import Stuck
from chimera.core.aio.tasks import finish, reading_ahead, stop
from chimera.core.clock import stamp_of
from chimera.core.context import Context
from chimera.core.keys.seals import Seal
from chimera.core.names import COMMANDS, standing_row
from chimera.core.tables import Lease
from chimera.errors import ChimeraError, Unavailable
from chimera.journal.checkpoints import Moved, again_on_conflict, move_checkpoints
from chimera.journal.crash_loop import Watch, watching
from chimera.messages import Message, chain_of, unreadable
from chimera.ports import Checkpoint, Move, Record

logger = logging.getLogger("chimera")

LANES = 2
"""Transactions of commands at once, each of partitions of its own: while one waits for its database, another works."""
BUSY = 8
"""A batch of more commands than this, and not a full one, waits a moment for more."""
TOLD_DAYS = 7.0
"""How long the status tells of a log that was put back, where the inbox is kept for ever."""
NAMED = 20
"""Commands that a line of the log names."""
WHAT_THEN = (
    "it is read from its beginning, and what the inbox knows is not done again. What was answered 201 and is not in it "
    "any more is lost, unless it was read: it is unknown to whoever asks for it by its id, and is done once for "
    "whoever sends it again with its Idempotency-Key"
)


class PutBack(Exception):  # noqa: N818 - what happened
    """The log is not the one that was read. `found`: by partition, what shows it."""

    def __init__(self, found: Mapping[int, str]) -> None:
        super().__init__("; ".join(found.values()))
        self.found = found


NOT_SEALED = "no service of this fleet has taken it in: it is not sealed with one of the fleet's keys, and is refused"


class Reading:
    """What a batch of records adds to what was read of a log: `tasks`, and the checkpoints after them.

    `again`: those of the tasks that may be a repetition; `gaps`: by partition, which offsets the log leaves out.
    """

    def __init__(self, at: Mapping[int, Checkpoint], topic: str, seal: Seal) -> None:
        self._topic, self._seal = topic, seal
        self.tasks: list[Task] = []
        self.again: list[Task] = []
        self.gaps: dict[int, str] = {}
        self._at = dict(at)
        self._last: dict[int, Message] = {}

    def take(self, record: Record) -> None:
        """Take what comes next. Raises PutBack where another command stands at an offset that was read last."""
        offset, message = record
        partition, before = message.partition, self._at[message.partition]
        if offset > before.number:
            if offset > before.number + 1 and (before.number or not before.offset):
                self.gaps[partition] = _gap(before.number, offset)
            own = message if self._seal.is_on(message) else self._refused(message, offset)
            task = Task(own, offset, max(offset, before.offset), "")
            self._at[partition], self._last[partition] = Checkpoint(offset, task.offset), message
            self.tasks.append(task)
            if offset <= before.offset:
                self.again.append(task)
        elif offset == before.number:
            last = self._last.get(partition)
            known = mark_of(last) if last else before.chain
            if known and mark_of(message) != known:
                raise PutBack({partition: f"at offset {offset} it has another command than was read there"})

    def _refused(self, message: Message, offset: int) -> Message:
        """What stands for a command that nobody of the fleet has taken in: it keeps no key of others waiting."""
        place = f"{self._topic}/{message.partition}@{offset}"
        return unreadable(place, message.partition, message.data, NOT_SEALED)

    def after(self) -> dict[int, Checkpoint]:
        """The checkpoints after all that was taken."""
        return self._at | {p: self._at[p]._replace(chain=mark_of(message)) for p, message in self._last.items()}


class CommandConsumer:
    """Executes the commands of some partitions as they come, and tries again what is parked and due (see there)."""

    def __init__(self, context: Context, alike: Share | None = None) -> None:
        self._context = context
        self._alike = alike
        self._topic = context.commands_topic
        self._executor = commands_executor(context)

    async def run(self, partitions: frozenset[int]) -> None:
        """Work until cancelled. Raises Unavailable when an engine can't be reached."""
        async with asyncio.TaskGroup() as tasks:
            parking = parking_of(self._context, COMMANDS)
            tasks.create_task(keep_redriving(parking, self._executor, partitions, self._alike))
            for lane in range(LANES):
                if part := sorted(partitions)[lane::LANES]:
                    tasks.create_task(self._consume(frozenset(part)))

    async def _consume(self, partitions: frozenset[int]) -> None:
        while True:
            with suppress(Moved):
                try:
                    at = await self._executor.checkpoints(self._topic, partitions)
                    self._compare(at, await self._context.log.ends(self._topic))
                    await self._read_watched(at)
                except PutBack as put_back:
                    await self._begin_again(put_back.found)

    async def _read_watched(self, at: dict[int, Checkpoint]) -> None:
        """Read on from the checkpoints, and look meanwhile whether the log has become shorter."""
        reading, looking = asyncio.ensure_future(self._read(at)), asyncio.ensure_future(self._keep_looking(at))
        try:
            await asyncio.wait((reading, looking), return_when=asyncio.FIRST_COMPLETED)
            (looking if looking.done() else reading).result()
        finally:
            await stop(looking, reading)

    async def _read(self, at: dict[int, Checkpoint]) -> None:
        context, topic, page = self._context, self._topic, self._context.limits.commands_page
        start = {partition: Checkpoint(each.number, each.number) for partition, each in at.items()}
        after = {partition: max(0, each.number - 1) for partition, each in at.items()}
        records = cast("AsyncGenerator[Sequence[Record], None]", context.log.read(topic, after, page))
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

    async def _keep_looking(self, at: Mapping[int, Checkpoint]) -> None:
        """Compare the log's ends with what was read of it, in pauses that grow while nothing comes. Raises PutBack.

        A reader may bridge a restart of its broker, and would wait until the log has grown past what it has read.
        """
        timing = self._context.timing
        pause_s = timing.heads_quiet_s
        while True:
            before = dict(at)
            await self._context.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, timing.quiet_s) if before == at else timing.heads_quiet_s
            before = dict(at)
            with suppress(ChimeraError):
                self._compare(before, await self._context.log.ends(self._topic))

    def _compare(self, at: Mapping[int, Checkpoint], ends: Mapping[int, int]) -> None:
        """Raises PutBack for a log that ends before what was read of it."""
        shorter = {
            partition: f"it ends at offset {ends.get(partition, 0)}, and was read up to {each.number}"
            for partition, each in at.items()
            if ends.get(partition, 0) < each.number
        }
        if shorter:
            raise PutBack(shorter)

    async def _begin_again(self, found: Mapping[int, str]) -> None:
        """Have partitions read from their beginning, and tell why: to go on would skip commands that were accepted.

        What that repeats the inbox knows. The checkpoint's offset remembers up to where it may be a repetition.
        """
        topic = self._topic
        at = await self._executor.checkpoints(topic, found)
        moves = [Move(topic, p, at[p].number, Checkpoint(0, max(at[p].number, at[p].offset))) for p in found]
        await self._tell(
            {p: f"the log was put back or made anew: {why}: {WHAT_THEN}" for p, why in found.items()}, moves
        )

    async def _execute(self, batch: Sequence[Record], at: dict[int, Checkpoint], watch: Watch) -> None:
        topic = self._topic
        read = Reading(at, topic, self._context.seals.of(self._context.service.name))
        for record in batch:
            read.take(record)
        for partition, text in read.gaps.items():
            await self._tell({partition: text})
        forgotten = self._forgotten_before() if read.again else ""
        old = [task for task in read.again if _is_older(task.message, forgotten)]
        if old:
            await self._pass_over(old)
        after, passed = read.after(), set(map(id, old))
        tasks = [task for task in read.tasks if id(task) not in passed] if old else read.tasks
        moves = [Move(topic, p, at[p].number, each) for p, each in after.items() if each.number != at[p].number]
        if moves:
            await self._executor.run_watched(tasks, moves, watch)
            at.update(after)

    async def _tell(self, found: Mapping[int, str], moves: Sequence[Move] = ()) -> None:
        """Say by partition what is wrong with the log: in the process's log and readiness, and in the service's status.

        The status tells it for as long as a command can be sent again; it is written together with the moves.
        """
        context, work = self._context, f"{self._context.service.name} commands"
        until = context.clock.time() + timedelta(days=context.retention.inbox_days or TOLD_DAYS).total_seconds()
        told = {p: Stuck(work, context.clock.now(), 0, f"{self._topic}/{p}: {text}") for p, text in found.items()}

        async def write() -> None:
            async with context.store.transaction() as session:
                unit = context.unit(session)
                await move_checkpoints(unit, COMMANDS, moves)
                for partition, each in told.items():
                    name = standing_row(f"{work} {partition}")
                    unit.put(Lease(name, msgspec.json.encode(each).decode(), until))
                await unit.flush()

        await again_on_conflict(write, context.clock)
        for each in told.values():
            logger.error("%s", each.cause)
            context.troubles.tell(each, context.clock)

    def _forgotten_before(self) -> str:
        """Up to when the inbox has forgotten what was done; empty where it forgets nothing."""
        days = self._context.retention.inbox_days
        return stamp_of(self._context.clock.now() - timedelta(days=days)) if days else ""

    async def _pass_over(self, old: Sequence[Task]) -> None:
        """Tell of commands that are read again and are older than the inbox remembers: they were done long ago."""
        async with self._context.store.snapshot(once=True) as session:
            known = await read_outcomes(session, [task.message.id for task in old])
        unknown = [task for task in old if task.message.id not in known]
        for partition in sorted({task.message.partition for task in unknown}):
            named = [task for task in unknown if task.message.partition == partition]
            logger.error(
                "%s/%d: %d commands at offsets %d to %d, which are read again, are older than the inbox remembers, and "
                "are taken for done: %s%s",
                self._topic,
                partition,
                len(named),
                named[0].number,
                named[-1].number,
                ", ".join(task.message.id for task in named[:NAMED]),
                " …" if len(named) > NAMED else "",
            )


def mark_of(message: Message) -> str:
    """The digest that tells a command in the log from any other, and from itself when it is sent again."""
    return chain_of(message.id, message.type, message.key, message.time, message.data)


def _is_older(message: Message, stamp: str) -> bool:
    return len(message.time) == len(stamp) and message.time < stamp


def _gap(before: int, offset: int) -> str:
    """A log does not skip offsets by itself; but one with retention of its own may have dropped what nobody read."""
    return (
        f"it goes on at offset {offset} after {before}: if the broker's retention dropped what was between, "
        f"{offset - before - 1} commands are lost, and are unknown to whoever asks for them by their ids; keep them "
        "for longer, see docs/retention.md"
    )
