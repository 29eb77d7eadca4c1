"""The checkpoints of a service's consumers, in whichever store; and what a journal's owner knows of all consumers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from chimera.core import names
from chimera.core.context import Context
from chimera.core.tables import ReportedConsumer
from chimera.core.timing import Retention
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.journal.checkpoints import read_checkpoints
from chimera.journal.consumers import Consumer, consumers_of
from chimera.journal.leases import partitions_of
from chimera.parts import Reaction
from chimera.ports import Checkpoint, ConsumerAt
from chimera.upkeep.tables.naming import built_name
from chimera.upkeep.tables.state import read_generations_of
from chimera.upkeep.tables.store import GenerationsStore
from chimera.views.generations import read_generations

logger = logging.getLogger("chimera")


async def names_of(context: Context, consumer: Consumer, *, also_kept: bool = False) -> list[str]:
    """The names under which a consumer stores its checkpoints: its own, or those of generations.

    The one that serves comes first, then one that is being built; `also_kept`: and the old one, where it was kept.
    """
    if isinstance(consumer.declared, Reaction) and isinstance(context.store, GenerationsStore):
        building = (await read_generations_of(context.store.plain, consumer.declared.name)).building
        if building is not None:
            built = built_name(consumer.declared.name, building.generation.number)
            return [consumer.name, names.reaction_consumer(built, consumer.source)]
    if consumer.kind != "view":
        return [consumer.name]
    state = (await read_generations(context.views, [consumer.name]))[consumer.name]
    generations = [
        state.serving,
        state.building.generation if state.building else None,
        state.kept if also_kept else None,
    ]
    numbers = dict.fromkeys(each.number for each in generations if each is not None)
    return [names.generation_name(consumer.name, number) for number in numbers]


async def checkpoints_of(
    context: Context, consumer: Consumer, name: str, partitions: Collection[int]
) -> dict[int, Checkpoint]:
    """A consumer's checkpoints under one of its names, by partition of its source; of documents only what has moved."""
    if not consumer.keeps_documents:
        return await read_checkpoints(context.store, name, consumer.source, partitions)
    stored = await context.views.checkpoints(name)
    return {partition: at for (source, partition), at in stored.items() if source == consumer.source}


async def consumers_at(context: Context, source: str, partitions: Collection[int]) -> list[ConsumerAt]:
    """The checkpoints of this service's consumers of a source's events. A copy counts once it is filled."""
    found: list[ConsumerAt] = []
    for consumer in consumers_of(context.service):
        if consumer.source != source or consumer.kind in ("commands", "relay"):
            continue
        for name in await names_of(context, consumer, also_kept=True):
            at = await checkpoints_of(context, consumer, name, partitions)
            known = names.reported_consumer(context.service.name, consumer.reported if name == consumer.name else name)
            for each in partitions:
                checkpoint = at.get(each, Checkpoint())
                if checkpoint.number or consumer.kind != "copy":
                    found.append(ConsumerAt(known, each, checkpoint.number, checkpoint.offset))
    return found


async def keep_reporting(context: Context, source: str, held: frozenset[int]) -> None:
    """Tell another service where its consumers here are, until cancelled."""
    while True:
        try:
            partitions = await partitions_of(context, source, held)
            await context.owners[source].report(await consumers_at(context, source, partitions))
        except ChimeraError as error:
            logger.info("%s can't be told where its consumers are: %s", source, error)
        await context.clock.sleep(context.timing.report_s)


class JournalConsumer(NamedTuple):
    """A consumer of a partition of this journal; `seen` is None for one of this service, which is always known."""

    name: str
    partition: int
    number: int
    offset: int
    seen: datetime | None = None

    def is_silent(self, retention: Retention, now: datetime) -> bool:
        """True when it was not heard of for more than `consumer_days`."""
        return self.seen is not None and self.seen < now - timedelta(days=retention.consumer_days)

    def is_late(self, oldest: Mapping[int, int]) -> bool:
        """True when what it needs next is gone; `oldest`: partition to the oldest number in the journal."""
        return self.number < oldest.get(self.partition, 1) - 1


class Floor(NamedTuple):
    """The least that every known consumer of a partition has: events up to `number`, the log's records up to `offset`.

    `holder` is the one that has no more than `number`.
    """

    number: int
    offset: int
    holder: str


async def known_consumers(context: Context) -> list[JournalConsumer]:
    """Every consumer of this service's journal: its own, and those of others that have told where they are."""
    name, table = context.service.name, table_of(ReportedConsumer)
    own = await consumers_at(context, name, range(context.service.partitions))
    async with context.store.snapshot() as session:
        others: list[ReportedConsumer] = list(map(table.from_row, await session.find(table, {})))
    return [
        *(JournalConsumer(each.consumer, each.partition, each.number, each.offset) for each in own),
        *(JournalConsumer(each.consumer, each.partition, each.number, each.offset, each.seen) for each in others),
    ]


async def floors(context: Context, now: datetime) -> dict[int, Floor]:
    """The floor of each partition, up to which it may be trimmed: that of the last consumer that holds it back."""
    name, oldest = context.service.name, await context.store.oldest()
    relayed = await read_checkpoints(context.store, names.RELAY, name, oldest)
    looked_through = {
        f"share {share}": await read_checkpoints(context.store, names.looked_through(share), name, oldest)
        for share in context.service.shares
    }
    holding = [
        consumer
        for consumer in await known_consumers(context)
        if not consumer.is_silent(context.retention, now) and not consumer.is_late(oldest)
    ]
    ends = await context.log.ends(context.events_topic)
    found = {}
    for each in oldest:
        at = [consumer for consumer in holding if consumer.partition == each]
        unread = [(0, share) for share, marks in looked_through.items() if not marks[each].number]
        reached = [(relayed[each].number, names.RELAY), *((consumer.number, consumer.name) for consumer in at)]
        number, holder = min([*unread, *reached])
        found[each] = Floor(number, min([ends.get(each, 0), *(consumer.offset for consumer in at)]), holder)
    return found


def keeps_events(context: Context) -> bool:
    """True when the journal is never trimmed: it is set so, or entities are folded from it."""
    return not context.retention.journal_days or bool(context.service.folds)
