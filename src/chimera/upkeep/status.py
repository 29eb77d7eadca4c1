"""The status of a service, for `/status` and the command line: checkpoints, lag, parked work, borrows, retention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from chimera.borrow.modes import read_mode
from chimera.core.context import Context
from chimera.core.tables import ParkedPlace
from chimera.entities import table_of
from chimera.errors import Trimmed
from chimera.journal.consumers import Consumer, consumers_of, document_consumers
from chimera.journal.history import known_divergences
from chimera.parts import Borrow
from chimera.ports import Checkpoint
from chimera.upkeep.drift.copy_audit import last_audit
from chimera.upkeep.positions import JournalConsumer, checkpoints_of, floors, keeps_events, known_consumers, names_of
from chimera.upkeep.standing import standing_works
from chimera.upkeep.tables.reports import last_table_report, why_tables_held
from chimera.upkeep.tables.state import read_states
from chimera.upkeep.tables.store import GenerationsStore
from chimera.views.generations import read_generations, serving_name
from chimera.views.parked import waiting_count
from chimera.views.rebuild import last_report, why_held


async def service_status(context: Context) -> dict[str, Any]:
    """The status as `web.wire.answers.Status` has it: checkpoint, head and lag of every consumer, and the rest."""
    borrows = []
    for borrow in context.service.borrows.values():
        setting = await read_mode(context, borrow)
        shown = {"name": borrow.name, "owner": borrow.owner, "mode": setting.mode, "wanted": setting.wanted}
        borrows.append({**shown, "audit": await last_audit(context, borrow)})
    return {
        "service": context.service.name,
        "partitions": context.service.partitions,
        "consumers": await consumer_rows(context, consumers_of(context.service)),
        "parked": await parked_counts(context),
        "borrows": borrows,
        "rebuilds": await rebuilds(context),
        "standing": [each._asdict() for each in await standing_works(context)],
        "retention": await retention_status(context),
    }


async def consumer_rows(context: Context, consumers: Iterable[Consumer]) -> list[dict[str, Any]]:
    """The rows of consumers as `web.wire.answers.ConsumerShown` has them; of copies only those that are wanted."""
    rows: list[dict[str, Any]] = []
    for consumer in consumers:
        if isinstance(consumer.declared, Borrow):
            setting = await read_mode(context, consumer.declared)
            if consumer.mode not in (setting.mode, setting.wanted):
                continue
        rows += await _rows_of(context, consumer)
    return rows


async def rebuilds(context: Context) -> list[dict[str, Any]]:
    """The views that are being built anew, and why one does not take over, as `web.wire.answers.RebuildShown`."""
    shown = []
    for view, state in (await read_generations(context.views, list(context.service.views))).items():
        if (building := state.building) is None:
            continue
        why = ""
        if building.phase == "held":
            why = why_held(context.service.name, view, await last_report(context, view))
        shown.append(
            {
                "view": view,
                "serving": state.serving.number,
                "building": building.generation.number,
                "phase": building.phase,
                "why": why,
            }
        )
    return [*shown, *await _table_rebuilds(context)]


async def _table_rebuilds(context: Context) -> list[dict[str, Any]]:
    """As `rebuilds`, of the tables that reactions write."""
    shown = []
    if isinstance(context.store, GenerationsStore):
        for name, state in (await read_states(context.store.plain)).items():
            if (building := state.generations.building) is None or name not in context.service.reactions:
                continue
            report = await last_table_report(context.store.plain, name) if building.phase == "held" else None
            shown.append(
                {
                    "view": name,
                    "serving": state.generations.serving.number,
                    "building": building.generation.number,
                    "phase": building.phase,
                    "why": why_tables_held(context.service.name, name, report) if building.phase == "held" else "",
                }
            )
    return shown


async def retention_status(context: Context) -> dict[str, Any]:
    """Retention as `web.wire.answers.RetentionShown` describes it: days, the journal's partitions, its consumers."""
    now, oldest, heads = context.clock.now(), await context.store.oldest(), await context.store.heads()
    held = await floors(context, now)
    days = context.retention
    return {
        "journal_days": 0.0 if keeps_events(context) else days.journal_days,
        "inbox_days": days.inbox_days,
        "log_days": days.log_days,
        "parked_days": days.parked_days,
        "journal": [
            {
                "partition": partition,
                "oldest": first,
                "newest": heads[partition],
                "kept": heads[partition] - first + 1,
                "since": await _time_of(context, partition, first),
                "held_back_by": held[partition].holder if held[partition].number < heads[partition] else None,
            }
            for partition, first in sorted(oldest.items())
        ],
        "consumers": [
            {
                "consumer": consumer.name,
                "partition": consumer.partition,
                "applied": consumer.number,
                "heard_of": consumer.seen,
                "holds_back": not (why_not := _why_not(context, consumer, oldest, now)),
                "why_not": why_not,
            }
            for consumer in await known_consumers(context)
        ],
    }


async def _time_of(context: Context, partition: int, number: int) -> str | None:
    """The time that an event's sender gave it; None where there is no such event."""
    with suppress(Trimmed):
        for event in await context.store.journal(partition, number - 1, 1):
            return event.time
    return None


def _why_not(context: Context, consumer: JournalConsumer, oldest: Mapping[int, int], now: datetime) -> str:
    if consumer.is_late(oldest):
        return "what it needs was trimmed"
    return "silent for too long" if consumer.is_silent(context.retention, now) else ""


async def parked_counts(context: Context) -> dict[str, int]:
    """The number of parked messages by consumer; consumers without any are left out."""
    table = table_of(ParkedPlace)
    async with context.store.snapshot() as session:
        counts = Counter(table.from_row(row).consumer for row in await session.find(table, {}))
    for name in document_consumers(context.service):
        if count := await waiting_count(context.views, await serving_name(context, name)):
            counts[name] += count
    return dict(counts)


async def _rows_of(context: Context, consumer: Consumer) -> list[dict[str, Any]]:
    """A row for each partition; of a view also for the generation that is being built, under its own name.

    A view's or copy's checkpoints are read before the heads, so that its lag is never shown smaller than it is.
    """
    rows: list[dict[str, Any]] = []
    for name in await names_of(context, consumer):
        if consumer.keeps_documents:
            at = await checkpoints_of(context, consumer, name, ())
            heads = await _heads_of(context, consumer)
        else:
            heads = await _heads_of(context, consumer)
            at = await checkpoints_of(context, consumer, name, heads)
        if consumer.kind == "commands":
            diverged = await _put_back(context, consumer.source, at, heads)
        else:
            diverged = {} if consumer.kind == "relay" else await known_divergences(context, consumer.source, at)
        rows += _rows(name if rows else consumer.name, consumer.source, at, heads, diverged)
    return rows


async def _put_back(
    context: Context, topic: str, at: Mapping[int, Checkpoint], ends: Mapping[int, int]
) -> dict[int, str]:
    """Why checkpoints do not stand on the log, by partition: it ends before them. They are younger than its ends."""
    if all(each.number <= ends.get(partition, 0) for partition, each in at.items()):
        return {}
    ends = await context.log.ends(topic)
    return {
        partition: f"stands at {topic}/{partition}@{each.number}, but {topic} ends at {ends.get(partition, 0)}"
        for partition, each in at.items()
        if each.number > ends.get(partition, 0)
    }


async def _heads_of(context: Context, consumer: Consumer) -> Mapping[int, int]:
    """The newest numbers of what a consumer reads, by partition; none while its owner can't be asked."""
    if consumer.kind == "commands":
        return await context.log.ends(consumer.source)
    if consumer.kind == "relay":
        return await context.store.heads()
    return await context.owners.known_heads(consumer.source)


def _rows(
    consumer: str,
    source: str,
    at: Mapping[int, Checkpoint],
    heads: Mapping[int, int],
    diverged: Mapping[int, str],
) -> list[dict[str, Any]]:
    rows = []
    for partition in sorted({*at, *heads}):
        number, head = at.get(partition, Checkpoint()).number, heads.get(partition)
        rows.append(
            {
                "consumer": consumer,
                "source": source,
                "partition": partition,
                "checkpoint": number,
                "head": head,
                "lag": None if head is None or partition in diverged else max(0, head - number),
                "diverged": diverged.get(partition, ""),
            }
        )
    return rows
