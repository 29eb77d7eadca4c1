"""What operators see of retention, from the command line: what is kept, and who holds it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from chimera.body import Body
from chimera.operations import bodies_of
from chimera.settings import Settings
from chimera.status import retention_status


async def show_retention(settings: Settings) -> None:
    """Print the journals' oldest and newest numbers, and every consumer that holds them back, or does no more."""
    journals = Table("service", "partition", "oldest", "newest", "kept", "since", "days", "held back by")
    consumers = Table("service", "consumer", "partition", "applied", "last heard of", "holds back")
    async with bodies_of(settings, list(settings.services)) as bodies:
        for body in bodies:
            name, found = body.service.name, await retention_status(body)
            for kept in found["journal"]:
                numbers = (str(kept[each]) for each in ("partition", "oldest", "newest", "kept"))
                journals.add_row(name, *numbers, kept["since"], _days(body, found), kept["held_back_by"])
            for consumer in found["consumers"]:
                consumers.add_row(name, *_shown(consumer))
    console = Console()
    console.print(journals)
    console.print(consumers)


def _days(body: Body, found: Mapping[str, Any]) -> str:
    if found["journal_days"]:
        return f"{found['journal_days']:g}"
    return "for ever, entities are folded from it" if body.service.folds else "for ever"


def _shown(consumer: Mapping[str, Any]) -> tuple[str, ...]:
    heard = consumer["heard_of"]
    return (
        consumer["consumer"],
        str(consumer["partition"]),
        str(consumer["applied"]),
        "here" if heard is None else heard.strftime("%Y-%m-%d %H:%M:%S"),
        "yes" if consumer["holds_back"] else f"no: {consumer['why_not']}",
    )
