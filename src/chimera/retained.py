"""What operators see of retention, from the command line: what is kept, and who holds it back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from chimera.body import Body
from chimera.operations import bodies_of
from chimera.retention import Consumer, is_late, is_silent, keeps_events, known_consumers
from chimera.settings import Retention, Settings


async def show_retention(settings: Settings) -> None:
    """Print the journals' oldest and newest numbers, and every consumer that holds them back, or does no more."""
    journals = Table("service", "partition", "oldest", "newest", "kept", "days")
    consumers = Table("service", "consumer", "partition", "applied", "last heard of", "holds back")
    async with bodies_of(settings, list(settings.services)) as bodies:
        for body in bodies:
            name, retention = body.service.name, settings.retention_of(body.service.name)
            oldest, heads = await body.store.oldest(), await body.store.heads()
            for partition, first in oldest.items():
                kept = heads[partition] - first + 1
                journals.add_row(name, *map(str, (partition, first, heads[partition], kept)), _days(body, retention))
            for consumer in await known_consumers(body):
                consumers.add_row(name, *_shown(consumer, oldest, retention, datetime.now(UTC)))
    console = Console()
    console.print(journals)
    console.print(consumers)


def _days(body: Body, retention: Retention) -> str:
    if not keeps_events(body, retention):
        return f"{retention.journal_days:g}"
    return "for ever, entities are folded from it" if body.service.folds else "for ever"


def _shown(consumer: Consumer, oldest: Mapping[int, int], retention: Retention, now: datetime) -> tuple[str, ...]:
    heard = "here" if consumer.seen is None else consumer.seen.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    holds = "yes"
    if is_late(consumer, oldest):
        holds = "no: what it needs was trimmed"
    elif is_silent(consumer, retention, now):
        holds = "no: silent for too long"
    return consumer.name, str(consumer.partition), str(consumer.number), heard, holds
