"""Retention: what is old enough, and behind every known consumer, is dropped.

A write head's workers do it, each for the partitions that it holds, in transactions so small that nobody waits for
them. Old means that most of a page is: a message's time is what its sender says, and must not hold up the others.
A consumer in another service is known because it tells the owner where it is, again and again. One that is silent for
too long, or that needs what is gone already, holds nothing back any more, and is named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from chimera.body import Body, reaction_sources
from chimera.copies import COPYING, copy_name, copy_projection
from chimera.drift import at_times
from chimera.entities import Table, table_of
from chimera.errors import ChimeraError, Trimmed
from chimera.execution import Executor, again_on_conflict, read_checkpoints
from chimera.generations import generation_name, read_generations
from chimera.messages import Message
from chimera.parking import Parking
from chimera.ports import Checkpoint, ConsumerAt
from chimera.projections import Projection, ViewProjection
from chimera.projector import Projector
from chimera.records import Handled, Known, Parked
from chimera.relay import CONSUMER as RELAY
from chimera.setaside import first_failures
from chimera.settings import Retention
from chimera.sharing import knows_every_key

logger = logging.getLogger("chimera")

EVERY_S = 30.0
LOG_EVERY_S = 600.0
REPORT_S = 10.0
PAGE = 500
"""Rows of a transaction."""
PAUSE_S = 0.002
LOOK_AGAIN_S = 1.0
"""How long the consumers' checkpoints are believed."""
FORGET = 4
"""A consumer that was silent for so many times `consumer_days` is forgotten."""


class Consumer(NamedTuple):
    """A consumer of a partition of this journal; `seen` is None for one of this service, which is always known."""

    name: str
    partition: int
    number: int
    offset: int
    seen: datetime | None = None


class Floor(NamedTuple):
    """What every known consumer of a partition has: events up to `number`, records of the log up to `offset`.

    `holder` is the one that has no more than `number`.
    """

    number: int
    offset: int
    holder: str


async def keep_reporting(body: Body, source: str, held: frozenset[int]) -> None:
    """Tell another service where its consumers here are, until cancelled."""
    while True:
        try:
            partitions = await body.partitions_of(source, held)
            await body.owner(source).report(await consumers_at(body, source, partitions))
        except ChimeraError as error:
            logger.info("%s can't be told where its consumers are: %s", source, error)
        await asyncio.sleep(REPORT_S)


async def keep_trimming(body: Body, held: frozenset[int]) -> None:
    """Drop what is old enough, now and then, until cancelled."""
    trimming = Trimming(body, held)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(at_times(EVERY_S, trimming.trim_store))
        tasks.create_task(at_times(LOG_EVERY_S, trimming.trim_log))


async def consumers_at(body: Body, source: str, partitions: Collection[int]) -> list[ConsumerAt]:
    """Where the consumers of a source's events in this service are. A copy counts once it is filled."""
    service, found = body.service, list[ConsumerAt]()
    for name in await _generations(body, source):
        stored = await body.views.checkpoints(name)
        found += [
            ConsumerAt(f"{service.name} {name}", each, *stored.get((source, each), Checkpoint())) for each in partitions
        ]
    for reaction in service.reactions.values():
        if source in reaction_sources(reaction):
            executor, _ = body.reaction(reaction, source)
            found += [
                ConsumerAt(f"{service.name} {reaction.name}", each, *checkpoint)
                for each, checkpoint in (await executor.checkpoints(source, partitions)).items()
            ]
    for name in [copy_name(borrow, mode) for borrow in service.borrows.values() for mode in COPYING]:
        for (origin, each), checkpoint in (await body.views.checkpoints(name)).items():
            if origin == source and each in partitions and checkpoint.number:
                found.append(ConsumerAt(f"{service.name} {name}", each, *checkpoint))
    return found


async def _generations(body: Body, source: str) -> list[str]:
    """The views that are folded from a source: those that are read, and those that are built or kept beside them."""
    views = [name for name, view in body.service.views.items() if source in view.sources]
    found = []
    for name, state in (await read_generations(body.views, views)).items():
        building = state.building.generation if state.building else None
        numbers = {each.number for each in (state.serving, building, state.kept) if each is not None}
        found += [generation_name(name, number) for number in sorted(numbers)]
    return found


async def known_consumers(body: Body) -> list[Consumer]:
    """Every consumer of this service's journal: its own, and those of others that have told where they are."""
    name, table = body.service.name, table_of(Known)
    own = await consumers_at(body, name, range(body.service.partitions))
    async with body.store.snapshot() as session:
        others: list[Known] = list(map(table.from_row, await session.find(table, {})))
    return [
        *(Consumer(each.consumer, each.partition, each.number, each.offset) for each in own),
        *(Consumer(each.consumer, each.partition, each.number, each.offset, each.seen) for each in others),
    ]


def is_silent(consumer: Consumer, retention: Retention, now: datetime) -> bool:
    """Whether it was not heard of for too long."""
    return consumer.seen is not None and consumer.seen < now - timedelta(days=retention.consumer_days)


def is_late(consumer: Consumer, oldest: Mapping[int, int]) -> bool:
    """Whether what it needs next is gone."""
    return consumer.number < oldest.get(consumer.partition, 1) - 1


async def floors(body: Body, now: datetime) -> dict[int, Floor]:
    """How far each partition may be dropped: to where the last of those is who hold it back."""
    name, oldest = body.service.name, await body.store.oldest()
    relayed = await read_checkpoints(body.store, RELAY, name, oldest)
    looked_through = {
        f"share {share}": await read_checkpoints(body.store, knows_every_key(share), name, oldest)
        for share in body.service.shares
    }
    holding = [
        consumer
        for consumer in await known_consumers(body)
        if not is_silent(consumer, body.retention, now) and not is_late(consumer, oldest)
    ]
    ends = await body.log.ends(body.events_topic)
    found = {}
    for each in oldest:
        at = [consumer for consumer in holding if consumer.partition == each]
        unread = [(0, share) for share, marks in looked_through.items() if not marks[each].number]
        reached = [(relayed[each].number, RELAY), *((consumer.number, consumer.name) for consumer in at)]
        number, holder = min([*unread, *reached])
        found[each] = Floor(number, min([ends.get(each, 0), *(consumer.offset for consumer in at)]), holder)
    return found


def keeps_events(body: Body) -> bool:
    """Whether the journal is kept for ever: it is set so, or entities are folded from it."""
    return not body.retention.journal_days or bool(body.service.folds)


class Trimming:
    """Drops what is old of the partitions `held`; what has no partition goes with number 0."""

    def __init__(
        self,
        body: Body,
        held: Collection[int],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._body = body
        self._retention = body.retention
        self._held = sorted(held)
        self._clock = clock
        self._named: set[tuple[str, str]] = set()

    async def trim_store(self) -> None:
        """Drop from the inbox, the journal, and what is parked. Raises Unavailable or Conflict."""
        if 0 in self._held:
            await self._expire("inbox", table_of(Handled), "at", self._retention.inbox_days)
            await self._expire("consumers", table_of(Known), "seen", FORGET * self._retention.consumer_days)
            if self._retention.parked_days:
                await self._drop_parked()
        if not keeps_events(self._body):
            await self._name_consumers()
            for each in self._held:
                with suppress(Trimmed):  # by a worker that held the partition until a moment ago
                    await self._trim_journal(each)

    async def trim_log(self) -> None:
        """Drop executed commands, and events that every known consumer has, from a log that does as it is told."""
        body = self._body
        if not self._retention.log_days or not body.log.features.trims:
            return
        executed = await body.commands.checkpoints(body.commands_topic, self._held)
        await self._trim_topic(body.commands_topic, {each: at.number for each, at in executed.items()})
        found = await floors(body, self._clock())
        await self._trim_topic(body.events_topic, {each: found[each].offset for each in self._held})

    async def _expire(self, what: str, table: Table, column: str, days: float) -> None:
        if not days:
            return
        before = self._before(days)

        async def expire() -> int:
            async with self._body.store.transaction() as session:
                return await session.expire(table, column, before, PAGE)

        while count := await again_on_conflict(expire):
            self._trimmed(what, count)
            if count < PAGE:
                return
            await asyncio.sleep(PAUSE_S)

    async def _trim_journal(self, partition: int) -> None:
        store, before = self._body.store, self._before(self._retention.journal_days)
        number, floor, believed_until = (await store.oldest())[partition] - 1, 0, 0.0
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= believed_until:
                floor = (await floors(self._body, self._clock()))[partition].number
                believed_until = loop.time() + LOOK_AGAIN_S
            if number >= floor:
                return
            began = loop.time()
            page = await store.journal(partition, number, min(PAGE, floor - number))
            if not (old := old_part(page, before)):
                return
            number += old
            await again_on_conflict(partial(self._trim, partition, number))
            self._trimmed("journal", old)
            if old < len(page):
                return
            await asyncio.sleep(max(PAUSE_S, loop.time() - began))  # at least half of the time is the others'

    async def _trim(self, partition: int, number: int) -> None:
        async with self._body.store.transaction() as session:
            await session.trim(partition, number)

    async def _trim_topic(self, topic: str, through: Mapping[int, int]) -> None:
        """The newest record stays: then there always is one to read."""
        ends, before = await self._body.log.ends(topic), self._before(self._retention.log_days)
        for partition, offset in through.items():
            last = min(offset, ends.get(partition, 0) - 1)
            if last > 0:
                await self._trim_records(topic, partition, last, before)

    async def _trim_records(self, topic: str, partition: int, last: int, before: datetime) -> None:
        reading: Any = self._body.log.read(topic, {partition: 0}, PAGE)
        async with aclosing(reading) as batches:
            async for batch in batches:
                passed = [record for record in batch if record.offset <= last]
                if not (old := old_part([record.message for record in passed], before)):
                    return
                await self._body.log.trim(topic, {partition: passed[old - 1].offset})
                self._trimmed("log", old)
                if old < len(batch) or passed[old - 1].offset == last:
                    return
                await asyncio.sleep(PAUSE_S)

    async def _name_consumers(self) -> None:
        """Say once of each consumer that it does not hold the journal back."""
        oldest, now = await self._body.store.oldest(), self._clock()
        name, named = self._body.service.name, set()
        for consumer in await known_consumers(self._body):
            if is_late(consumer, oldest):
                named.add((consumer.name, "needs events that were trimmed, and has to start anew"))
            elif is_silent(consumer, self._retention, now):
                named.add((consumer.name, "was not heard of for too long, and holds the journal back no more"))
        for consumer_name, what in sorted(named - self._named):
            logger.warning("%s: the consumer %s %s; see: chimera retention", name, consumer_name, what)
        self._named = named

    async def _drop_parked(self) -> None:
        before = self._before(self._retention.parked_days)
        for executor, parking in _parkings(self._body):
            for row in await _parked_since(executor, before):
                key = row.long_key or row.key
                if await parking.drop(executor, key, row.id, why=f"after {self._retention.parked_days:g} days"):
                    self._dropped(parking.consumer, row.type, row.id)
                    await parking.redrive(executor, key)
        for projection in await _projections(self._body):
            projector = Projector(
                self._body.service.name,
                projection,
                self._body.views,
                metrics=self._body.metrics,
                moved=self._body.moved,
            )
            firsts = [first async for first, _ in first_failures(self._body.views, projection.name)]
            for first in firsts:
                if first.last_at < before and await projector.redrive(first.message.key, drop=[first.message.id]):
                    self._dropped(projection.name, first.message.type, first.message.id)

    def _dropped(self, consumer: str, type_: str, id_: str) -> None:
        self._trimmed("parked", 1)
        logger.warning(
            "%s: %s %s was parked by %s for %g days and is dropped",
            self._body.service.name,
            type_,
            id_,
            consumer,
            self._retention.parked_days,
        )

    def _trimmed(self, what: str, count: int) -> None:
        self._body.metrics.trimmed(self._body.service.name, what, count)

    def _before(self, days: float) -> datetime:
        return self._clock() - timedelta(days=days)


def old_part(page: Sequence[Message], before: datetime) -> int:
    """How many of these messages, up to the last one from before a time, may go; none unless most are from before."""
    text = before.isoformat(timespec="microseconds").replace("+00:00", "Z")
    old = [count for count, message in enumerate(page, 1) if message.time < text]
    return old[-1] if len(old) * 2 > len(page) else 0


async def _parked_since(executor: Executor, before: datetime) -> list[Parked]:
    """The messages that wait for a person since before a time."""
    table = table_of(Parked)
    async with executor.store.snapshot() as session:
        rows = await session.find(table, {"consumer": [executor.consumer], "state": ["parked"]})
    return [row for row in map(table.from_row, rows) if row.last_at < before]


def _parkings(body: Body) -> list[tuple[Executor, Parking]]:
    reactions = body.service.reactions.values()
    found = [body.reaction(reaction, source) for reaction in reactions for source in reaction_sources(reaction)]
    return [(body.commands, body.parking), *found]


async def _projections(body: Body) -> list[Projection]:
    copies = [copy_projection(borrow, mode) for borrow in body.service.borrows.values() for mode in COPYING]
    views = body.service.views
    states = await read_generations(body.views, list(views))
    names = {view: generation_name(view, state.serving.number) for view, state in states.items()}
    return [*(ViewProjection(views[view], name) for view, name in names.items()), *copies]
