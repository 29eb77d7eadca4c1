"""Where every consumer of a service stands: what `status` answers, and what the command line prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from chimera.body import COMMANDS, Body, reaction_sources
from chimera.copies import COPYING, copy_name
from chimera.drift import last_audit
from chimera.entities import table_of
from chimera.errors import Trimmed
from chimera.execution import read_checkpoints
from chimera.generations import generation_name, read_generations
from chimera.modes import read_mode
from chimera.ports import Checkpoint
from chimera.records import ParkedPlace
from chimera.relay import CONSUMER as RELAY
from chimera.retention import Consumer, floors, is_late, is_silent, keeps_events, known_consumers
from chimera.setaside import waiting_count


async def service_status(body: Body) -> dict[str, Any]:
    """By consumer, source and partition: checkpoint, head, lag; what is parked; borrows, audits; what is kept."""
    consumers: list[dict[str, Any]] = []
    ends = await body.log.ends(body.commands_topic)
    consumers += _rows(COMMANDS, body.commands_topic, await body.commands.checkpoints(body.commands_topic, ends), ends)
    heads = await body.store.heads()
    name = body.service.name
    consumers += _rows(RELAY, name, await read_checkpoints(body.store, RELAY, name, heads), heads)
    for view in body.service.views.values():
        for source in sorted(view.sources):
            consumers += await _in_views(body, view.name, source)
            consumers += await _being_built(body, view.name, source)
    for reaction in body.service.reactions.values():
        for source in reaction_sources(reaction):
            executor, _ = body.reaction(reaction, source)
            known = await body.known_heads(source)
            consumers += _rows(executor.consumer, source, await executor.checkpoints(source, known), known)
    borrows = []
    for borrow in body.service.borrows.values():
        setting = await read_mode(body, borrow)
        shown = {"name": borrow.name, "owner": borrow.owner, "mode": setting.mode, "wanted": setting.wanted}
        borrows.append({**shown, "audit": await last_audit(body, borrow)})
        for mode in sorted({setting.mode, setting.wanted} - {"sync"}):
            consumers += await _in_views(body, copy_name(borrow, mode), borrow.owner)
    return {
        "service": name,
        "partitions": body.service.partitions,
        "consumers": consumers,
        "parked": await parked_counts(body),
        "borrows": borrows,
        "retention": await retention_status(body),
    }


async def retention_status(body: Body) -> dict[str, Any]:
    """For how many days things are kept, what is kept of the journal and who holds that back, and who consumes it."""
    now, oldest, heads = datetime.now(UTC), await body.store.oldest(), await body.store.heads()
    held = await floors(body, now)
    kept = body.retention
    return {
        "journal_days": 0.0 if keeps_events(body) else kept.journal_days,
        "inbox_days": kept.inbox_days,
        "log_days": kept.log_days,
        "parked_days": kept.parked_days,
        "journal": [
            {
                "partition": partition,
                "oldest": first,
                "newest": heads[partition],
                "kept": heads[partition] - first + 1,
                "since": await _time_of(body, partition, first),
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
                "holds_back": not (why_not := _why_not(body, consumer, oldest, now)),
                "why_not": why_not,
            }
            for consumer in await known_consumers(body)
        ],
    }


async def _time_of(body: Body, partition: int, number: int) -> str | None:
    """The time that an event's sender gave it; None where there is no such event."""
    with suppress(Trimmed):
        for event in await body.store.journal(partition, number - 1, 1):
            return event.time
    return None


def _why_not(body: Body, consumer: Consumer, oldest: Mapping[int, int], now: datetime) -> str:
    if is_late(consumer, oldest):
        return "what it needs was trimmed"
    return "silent for too long" if is_silent(consumer, body.retention, now) else ""


def document_consumers(body: Body) -> list[str]:
    """The consumers that keep documents: the views, and the copies of what is borrowed."""
    copies = [copy_name(borrow, mode) for borrow in body.service.borrows.values() for mode in COPYING]
    return [*body.service.views, *copies]


async def parked_counts(body: Body) -> dict[str, int]:
    """How many messages are set aside, by consumer; those without any are left out."""
    table = table_of(ParkedPlace)
    async with body.store.snapshot() as session:
        counts = Counter(table.from_row(row).consumer for row in await session.find(table, {}))
    for name in document_consumers(body):
        if count := await waiting_count(body.views, await body.generations.name(name)):
            counts[name] += count
    return dict(counts)


async def _in_views(body: Body, consumer: str, source: str) -> list[dict[str, Any]]:
    return await _kept_rows(body, consumer, await body.generations.name(consumer), source)


async def _being_built(body: Body, view: str, source: str) -> list[dict[str, Any]]:
    """Of the generation that is being built, under its own name."""
    building = (await read_generations(body.views, [view]))[view].building
    if building is None:
        return []
    name = generation_name(view, building.generation.number)
    return await _kept_rows(body, name, name, source)


async def _kept_rows(body: Body, consumer: str, kept_as: str, source: str) -> list[dict[str, Any]]:
    stored = await body.views.checkpoints(kept_as)
    at = {partition: checkpoint for (origin, partition), checkpoint in stored.items() if origin == source}
    return _rows(consumer, source, at, await body.known_heads(source))


def _rows(consumer: str, source: str, at: Mapping[int, Checkpoint], heads: Mapping[int, int]) -> list[dict[str, Any]]:
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
                "lag": None if head is None else max(0, head - number),
            }
        )
    return rows
