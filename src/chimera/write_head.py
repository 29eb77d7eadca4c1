"""The write head: executes commands, relays the journal, projects events, keeps copies of what is borrowed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from chimera.announce import keep_announcing
from chimera.body import COMMANDS, Body, reaction_sources
from chimera.copies import CopyKeeper
from chimera.drift import keep_auditing
from chimera.endings import Watch
from chimera.errors import ChimeraError, Trimmed, Unavailable
from chimera.execution import Executor, Moved, Task
from chimera.fingerprints import fingerprint_of_all
from chimera.leases import Leases
from chimera.parking import Parking
from chimera.ports import Checkpoint, Move, Record
from chimera.rebuilding import ViewKeeper
from chimera.relay import Relay
from chimera.retention import keep_reporting, keep_trimming
from chimera.service import Reaction, Service
from chimera.tasks import finish, reading_ahead, stop

logger = logging.getLogger("chimera")

Work = Callable[[frozenset[int]], Awaitable[None]]

BATCH = 500
LANES = 2
"""Transactions of commands at once, each of partitions of its own: while one waits for its database, another works."""
BUSY = 8
COLLECT_S = 0.005
REDRIVE_S = 0.5
AUDIT_S = 600.0
PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class WriteHead:
    """The consumer side of a service. `holder` names this worker among those that share the partitions.

    `audit_s` is how often shares and copies are compared with what they should be; 0 is never.
    """

    def __init__(self, body: Body, holder: str, *, audit_s: float = AUDIT_S) -> None:
        self._body = body
        self._audit_s = audit_s
        code = fingerprint_of_all(body.service)
        self._leases = Leases(body.service, body.store, holder, metrics=body.metrics, code=code)

    async def run(self) -> None:
        """Work until cancelled, through whatever fails; finishes what it took, and gives back its leases at the end."""
        service = self._body.service
        relay = Relay(
            service,
            self._body.store,
            self._body.log,
            self._body.events_topic,
            committed=self._body.committed,
            metrics=self._body.metrics,
        )
        works: dict[str, Work] = {"commands": self._commands, "relay": relay.run}
        views = {
            f"view {view.name}": ViewKeeper(self._body, view, _persist, lambda: self._leases.all_alike).run
            for view in service.views.values()
        }
        if service.shares:
            works["shares"] = partial(keep_announcing, self._body, self._audit_s)
        for borrow in service.borrows.values():
            works[f"copy {borrow.name}"] = _copying(self._body, borrow)
            if self._audit_s:
                works[f"audit {borrow.name}"] = partial(keep_auditing, self._body, borrow, self._audit_s)
        for reaction in service.reactions.values():
            for source in reaction_sources(reaction):
                works[f"reaction {reaction.name} {source}"] = _reacting(self._body, reaction, source)
        for source in _other_sources(service):
            works[f"report to {source}"] = partial(keep_reporting, self._body, source)
        works["retention"] = partial(keep_trimming, self._body)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_persist("leases", self._leases.keep))
                for name, work in works.items():
                    tasks.create_task(self._while_held(f"{service.name} {name}", work, lambda: self._leases.held))
                for name, work in views.items():
                    tasks.create_task(self._while_held(f"{service.name} {name}", work, lambda: self._leases.held_alike))
        finally:
            with suppress(ChimeraError):
                await self._leases.give_back()

    async def _while_held(self, name: str, work: Work, holding: Callable[[], frozenset[int]]) -> None:
        """Do the work on the partitions that are held; start it anew when they change."""
        while True:
            held = holding()
            working = asyncio.ensure_future(_persist(name, partial(work, held))) if held else None
            try:
                while holding() == held:
                    await self._leases.changed.wait(60.0)
            finally:
                if working is not None:
                    await stop(working)

    async def _commands(self, partitions: frozenset[int]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_redrive(self._body.parking, self._body.commands))
            for lane in range(LANES):
                if part := sorted(partitions)[lane::LANES]:
                    tasks.create_task(self._consume(frozenset(part)))

    async def _consume(self, partitions: frozenset[int]) -> None:
        body, topic = self._body, self._body.commands_topic
        while True:
            with suppress(Moved):
                at = await self._start(topic, partitions)
                start = {partition: Checkpoint(number, number) for partition, number in at.items()}
                records: Any = body.log.read(topic, dict(at), BATCH)
                async with (
                    body.watching(COMMANDS, topic, start, partial(body.log.ends, topic)) as watch,
                    aclosing(records),
                    aclosing(reading_ahead(records, BATCH)) as batches,
                ):
                    async for batch in batches:
                        await finish(self._execute(topic, batch, at, watch))
                        if BUSY < len(batch) < BATCH:
                            await asyncio.sleep(COLLECT_S)
                raise Unavailable(f"the log ended while {topic} was read")

    async def _start(self, topic: str, partitions: frozenset[int]) -> dict[int, int]:
        """Where to read on. A log that ends before its checkpoint was made anew, and is read from its beginning.

        What it may repeat, the inbox knows; to go on from the checkpoint would skip commands that were accepted.
        """
        at = await self._body.commands.checkpoints(topic, partitions)
        ends = await self._body.log.ends(topic)
        anew = [Move(topic, p, at[p].number, Checkpoint()) for p in at if ends.get(p, 0) < at[p].number]
        if anew:
            logger.error("%s ends before what was read of it; it is read from its beginning", topic)
            await self._body.commands.run([], anew)
        return {p: checkpoint.number for p, checkpoint in at.items()} | {move.partition: 0 for move in anew}

    async def _execute(self, topic: str, batch: Sequence[Record], at: dict[int, int], watch: Watch) -> None:
        tasks: list[Task] = []
        after = dict(at)
        for offset, message in batch:
            if offset > after[message.partition]:
                if offset > after[message.partition] + 1:
                    _tell_gap(topic, message.partition, after[message.partition], offset)
                after[message.partition] = offset
                tasks.append(Task(message, offset, offset))
        moves = [Move(topic, p, at[p], Checkpoint(offset, offset)) for p, offset in after.items() if offset != at[p]]
        if tasks:
            await self._body.commands.run_watched(tasks, moves, watch)
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


def _other_sources(service: Service) -> list[str]:
    """The other services whose events are consumed here."""
    sources = {borrow.owner for borrow in service.borrows.values()}
    sources.update(*(view.sources for view in service.views.values()))
    sources.update(*(reaction_sources(reaction) for reaction in service.reactions.values()))
    return sorted(sources - {service.name})


def _copying(body: Body, borrow: Any) -> Work:
    return lambda held: CopyKeeper(body, borrow, held).run()


def _reacting(body: Body, reaction: Reaction, source: str) -> Work:
    wanted = {event.wire_type() for event in reaction.events}

    async def work(held: frozenset[int]) -> None:
        executor, parking = body.reaction(reaction, source)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_redrive(parking, executor))
            tasks.create_task(react(executor, await body.partitions_of(source, held)))

    async def react(executor: Executor, partitions: list[int]) -> None:
        at = await executor.checkpoints(source, partitions)
        feed = body.feed(source, at)
        try:
            async with body.watching(executor.consumer, source, at, partial(body.known_heads, source)) as watch:
                while True:
                    batch = await feed.next()
                    tasks = [Task(message, message.number) for message in batch.messages if message.type in wanted]
                    try:
                        await finish(executor.run_watched(tasks, batch.moves, watch))
                    except Moved:
                        feed.reset(await executor.checkpoints(source, partitions))
        finally:
            await feed.close()

    return work


async def _redrive(parking: Parking, executor: Executor) -> None:
    while True:
        for key in await parking.due(executor, datetime.now(UTC)):
            await parking.redrive(executor, key)
        await asyncio.sleep(REDRIVE_S)


async def _persist(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work again, after a pause that grows, whenever it fails."""
    failures = 0
    while True:
        started = asyncio.get_running_loop().time()
        error = await _end_of(work())
        if error is None:
            continue
        if asyncio.get_running_loop().time() - started > PAUSES_S[-1]:
            failures = 0
        pause = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
        failures += 1
        expected, gone = _are_all(error, Unavailable), _are_all(error, Trimmed)
        logger.log(
            logging.ERROR if gone else logging.INFO if failures < 4 and expected else logging.WARNING,
            "%s: %s; again in %.2f s",
            name,
            error,
            pause,
            exc_info=None if expected or gone else error,
        )
        await asyncio.sleep(pause)


async def _end_of(work: Awaitable[None]) -> BaseException | None:
    """Do the work and return what ended it. Cancelled, it stops the work and raises, whatever the work does."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait([working])
    finally:
        await stop(working)
    return asyncio.CancelledError("cancelled from within") if working.cancelled() else working.exception()


def _are_all(error: BaseException, kind: type[ChimeraError]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_are_all(inner, kind) for inner in error.exceptions)
    return isinstance(error, kind)
