"""Retention: what is old enough, and behind every known consumer, is dropped.

A write head's workers do it, each for the partitions that it holds, in transactions so small that nobody waits for
them. Old means that most of a page is: a message's time is what its sender says, and must not hold up the others.
A consumer in another service is known because it tells the owner where it is, again and again. One that is silent for
too long, or that needs what is gone already, holds nothing back any more, and is named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from chimera.commands.execute import Executor
from chimera.commands.handlers import executors_of, parking_of
from chimera.core import names
from chimera.core.aio.again import at_times
from chimera.core.clock import stamp_of
from chimera.core.context import Context
from chimera.core.tables import Handled, Parked, ReportedConsumer
from chimera.entities import Table, table_of
from chimera.errors import Trimmed
from chimera.journal.checkpoints import again_on_conflict, read_checkpoints
from chimera.journal.consumers import document_consumers
from chimera.messages import Message
from chimera.unique import reserved_type
from chimera.upkeep.drift.reserved import say_again
from chimera.upkeep.parked import projection_of
from chimera.upkeep.positions import floors, keeps_events, known_consumers
from chimera.views.parked import first_parked
from chimera.views.projector import Projector

logger = logging.getLogger("chimera")

RARELY = 20
"""Looks at a store in which nothing is old come apart up to so many times `Timing.trim_s`."""
FORGET = 4
"""A consumer that was silent for so many times `consumer_days` is forgotten."""


async def keep_trimming(context: Context, held: frozenset[int]) -> None:
    """Drop what is old enough, now and then, until cancelled; more rarely while nothing is."""
    trimming, timing = Trimming(context, held), context.timing
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(at_times(timing.trim_s, trimming.trim_store, context.clock, longest_s=RARELY * timing.trim_s))
        tasks.create_task(at_times(timing.trim_log_s, trimming.trim_log, context.clock))


class Trimming:
    """Drops what is old of the partitions `held`; what has no partition goes with number 0."""

    def __init__(self, context: Context, held: Collection[int]) -> None:
        self._context = context
        self._retention = context.retention
        self._clock = context.clock
        self._timing = context.timing
        self._page = context.limits.trim_page
        self._held = sorted(held)
        self._named: set[tuple[str, str]] = set()
        self._dropped_in_all = 0

    async def trim_store(self) -> bool:
        """Drop from the inbox, the journal, and what is parked; says whether there was anything.

        Raises Unavailable or Conflict.
        """
        before = self._dropped_in_all
        if 0 in self._held:
            await self._expire("inbox", table_of(Handled), "at", self._retention.inbox_days)
            await self._expire("consumers", table_of(ReportedConsumer), "seen", FORGET * self._retention.consumer_days)
            if self._retention.parked_days:
                await self._drop_parked()
        if not keeps_events(self._context):
            await self._name_consumers()
            for each in self._held:
                with suppress(Trimmed):  # by a worker that held the partition until a moment ago
                    await self._trim_journal(each)
        return self._dropped_in_all > before

    async def trim_log(self) -> None:
        """Drop executed commands, and events that every known consumer has, from a log that does as it is told."""
        context = self._context
        if not self._retention.log_days or not context.log.features.trims:
            return
        executed = await read_checkpoints(context.store, names.COMMANDS, context.commands_topic, self._held)
        await self._trim_topic(context.commands_topic, {each: at.number for each, at in executed.items()})
        found = await floors(context, self._clock.now())
        await self._trim_topic(context.events_topic, {each: found[each].offset for each in self._held})

    async def _expire(self, what: str, table: Table, column: str, days: float) -> None:
        if not days:
            return
        before = self._before(days)

        async def expire() -> int:
            async with self._context.store.transaction() as session:
                return await session.expire(table, column, before, self._page)

        while count := await again_on_conflict(expire, self._clock):
            self._trimmed(what, count)
            if count < self._page:
                return
            await self._clock.sleep(self._timing.trim_pause_s)

    async def _trim_journal(self, partition: int) -> None:
        store, before = self._context.store, self._before(self._retention.journal_days)
        number, floor, believed_until = (await store.oldest())[partition] - 1, 0, float("-inf")
        clock = self._clock
        while True:
            if clock.monotonic() >= believed_until:
                floor = (await floors(self._context, self._clock.now()))[partition].number
                believed_until = clock.monotonic() + self._timing.floors_s
            if number >= floor:
                return
            began = clock.monotonic()
            page = await store.journal(partition, number, min(self._page, floor - number))
            if not (old := old_part(page, before)):
                return
            number += old
            reserved = {each.key for each in page[:old] if each.type == reserved_type(self._context.service.name)}
            await again_on_conflict(partial(self._trim, partition, number, reserved), self._clock)
            self._trimmed("journal", old)
            if old < len(page):
                return
            await self._clock.sleep(
                max(self._timing.trim_pause_s, clock.monotonic() - began)
            )  # at least half of the time is the others'

    async def _trim(self, partition: int, number: int, reserved: Collection[str]) -> None:
        async with self._context.store.transaction() as session:
            if reserved:
                await say_again(self._context, session, reserved, number)
            await session.trim(partition, number)

    async def _trim_topic(self, topic: str, through: Mapping[int, int]) -> None:
        """The newest record stays: then there always is one to read."""
        ends, before = await self._context.log.ends(topic), self._before(self._retention.log_days)
        for partition, offset in through.items():
            last = min(offset, ends.get(partition, 0) - 1)
            if last > 0:
                await self._trim_records(topic, partition, last, before)

    async def _trim_records(self, topic: str, partition: int, last: int, before: datetime) -> None:
        reading: Any = self._context.log.read(topic, {partition: 0}, self._page)
        async with aclosing(reading) as batches:
            async for batch in batches:
                passed = [record for record in batch if record.offset <= last]
                if not (old := old_part([record.message for record in passed], before)):
                    return
                await self._context.log.trim(topic, {partition: passed[old - 1].offset})
                self._trimmed("log", old)
                if old < len(batch) or passed[old - 1].offset == last:
                    return
                await self._clock.sleep(self._timing.trim_pause_s)

    async def _name_consumers(self) -> None:
        """Say once of each consumer that it does not hold the journal back."""
        oldest, now = await self._context.store.oldest(), self._clock.now()
        name, named = self._context.service.name, set()
        for consumer in await known_consumers(self._context):
            if consumer.is_late(oldest):
                named.add((consumer.name, "needs events that were trimmed, and has to start anew"))
            elif consumer.is_silent(self._retention, now):
                named.add((consumer.name, "was not heard of for too long, and holds the journal back no more"))
        for consumer_name, what in sorted(named - self._named):
            logger.warning("%s: the consumer %s %s; see: chimera retention", name, consumer_name, what)
        self._named = named

    async def _drop_parked(self) -> None:
        before = self._before(self._retention.parked_days)
        for executor in executors_of(self._context).values():
            parking = parking_of(self._context, executor.consumer)
            for row in await _parked_since(executor, before):
                key = row.long_key or row.key
                if await parking.drop(executor, key, row.id, why=f"after {self._retention.parked_days:g} days"):
                    self._dropped(parking.consumer, row.type, row.id)
                    await parking.redrive(executor, key)
        for consumer in document_consumers(self._context.service).values():
            projection = await projection_of(self._context, consumer)
            projector = Projector(self._context, projection)
            firsts = [first async for first, _ in first_parked(self._context.views, projection.name)]
            for first in firsts:
                if first.last_at < before and await projector.redrive(first.message.key, drop=[first.message.id]):
                    self._dropped(projection.name, first.message.type, first.message.id)

    def _dropped(self, consumer: str, type_: str, id_: str) -> None:
        self._trimmed("parked", 1)
        logger.warning(
            "%s: %s %s was parked by %s for %g days and is dropped",
            self._context.service.name,
            type_,
            id_,
            consumer,
            self._retention.parked_days,
        )

    def _trimmed(self, what: str, count: int) -> None:
        self._dropped_in_all += count
        self._context.metrics.trimmed(self._context.service.name, what, count)

    def _before(self, days: float) -> datetime:
        return self._clock.now() - timedelta(days=days)


def old_part(page: Sequence[Message], before: datetime) -> int:
    """The number of messages, up to the last one from before a time, that may go; 0 unless most are from before."""
    text = stamp_of(before)
    old = [count for count, message in enumerate(page, 1) if message.time < text]
    return old[-1] if len(old) * 2 > len(page) else 0


async def _parked_since(executor: Executor, before: datetime) -> list[Parked]:
    """The messages that wait for a person since before a time."""
    table = table_of(Parked)
    async with executor.context.store.snapshot() as session:
        rows = await session.find(table, {"consumer": [executor.consumer], "state": ["parked"]})
    return [row for row in map(table.from_row, rows) if row.last_at < before]
