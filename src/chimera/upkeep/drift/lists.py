"""Lists that differ from their view's documents, found now and then, told and mended."""

from __future__ import annotations

import logging
from functools import partial

from chimera.core.aio.again import rarely
from chimera.core.context import Context
from chimera.core.names import generation_name
from chimera.folds import View
from chimera.forms import AnyDocument
from chimera.upkeep.drift.audits import AuditReport
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import read_generations
from chimera.views.lists.entries import ViewEntries
from chimera.views.lists.proof import prove_lists

logger = logging.getLogger("chimera")

LISTS = "lists"
"""The mode of a report about lists."""


async def keep_lists(context: Context, held: frozenset[int]) -> None:
    """Prove all lists now and then, until cancelled, more and more rarely while there is nothing to mend."""
    await rarely(held, context.timing.audit_s, partial(_prove_all, context), context.clock)


async def audit_lists(
    context: Context, view: View[AnyDocument], *, repair: bool = True, pause_s: float = 0.0
) -> AuditReport | None:
    """Compare a view's lists with its documents, and mend them; None where other code than this serves the view.

    A wrong count is `changed`. Raises Unavailable when the views can't be read.
    """
    serving = (await read_generations(context.views, [view.name]))[view.name].serving
    if serving.code not in ("", fingerprint(view)):
        return None
    name, service = generation_name(view.name, serving.number), context.service.name
    found = await prove_lists(context.views, name, ViewEntries(view), context.clock, mend=repair, pause_s=pause_s)
    if found.found:
        logger.warning(
            "%s: the lists of %s were not as its documents: %s; %d mended; keys: %s",
            service,
            view.name,
            found.told,
            found.mended,
            ", ".join(map(repr, found.keys)) or "none",
        )
    return AuditReport(
        service,
        view.name,
        LISTS,
        found.checked,
        found.changed + found.miscounted,
        found.missing,
        found.invented,
        found.mended,
        found.in_flight,
        found.keys,
    )


async def _prove_all(context: Context) -> bool:
    """True where something was found."""
    found = False
    for view in context.service.views.values():
        if view.lists:
            report = await audit_lists(context, view, pause_s=context.timing.trim_pause_s)
            found |= report is not None and report.found > 0
    return found
