"""Retention from the command line: the journals' extent, and the consumers that hold it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from chimera.cli.surveys import table_of
from chimera.core.context import Context
from chimera.run.engines import opened
from chimera.run.settings import Settings
from chimera.upkeep.status import retention_status


async def show_retention(settings: Settings) -> None:
    """Print the journals' oldest and newest numbers, and every consumer that holds them back, or does no more."""
    journals = table_of("service", "partition", "oldest", "newest", "kept", "since", "days", "held back by")
    consumers = table_of("service", "consumer", "partition", "applied", "last heard of", "holds back")
    async with opened(settings, list(settings.services), used=True) as contexts:
        for context in contexts:
            name, found = context.service.name, await retention_status(context)
            for journal in found["journal"]:
                numbers = (str(journal[each]) for each in ("partition", "oldest", "newest", "kept"))
                journals.add_row(name, *numbers, journal["since"], _days(context, found), journal["held_back_by"])
            for consumer in found["consumers"]:
                consumers.add_row(name, *_shown(consumer))
    console = Console()
    console.print(journals)
    console.print(consumers)


def _days(context: Context, found: Mapping[str, Any]) -> str:
    if found["journal_days"]:
        return f"{found['journal_days']:g}"
    return "for ever, entities are folded from it" if context.service.folds else "for ever"


def _shown(consumer: Mapping[str, Any]) -> tuple[str, ...]:
    heard = consumer["heard_of"]
    return (
        consumer["consumer"],
        str(consumer["partition"]),
        str(consumer["applied"]),
        "here" if heard is None else heard.strftime("%Y-%m-%d %H:%M:%S"),
        "yes" if consumer["holds_back"] else f"no: {consumer['why_not']}",
    )
