"""How the tables of two generations differed, as it was found before one took over, or was held."""

from __future__ import annotations

import msgspec

from chimera.ports import Store
from chimera.upkeep.tables.state import report_in
from chimera.views.comparison import Comparison


async def last_table_report(store: Store, reaction: str) -> Comparison | None:
    """The report of the last comparison of a reaction's tables; None where there was none."""
    async with store.snapshot(once=True) as session:
        told = await report_in(session, reaction)
    return msgspec.json.decode(told, type=Comparison) if told else None


def why_tables_held(service: str, reaction: str, found: Comparison | None) -> str:
    """The line that says why tables that were built anew do not serve, and what to type."""
    return (
        f"the tables of {reaction} of {service} are built anew and do not serve: "
        f"{found.lacks if found else 'they lack something'}; mend its code, or let them serve as they are: "
        f"chimera rebuild {service} {reaction} --force, or drop them: chimera rebuild {service} {reaction} --cancel"
    )
