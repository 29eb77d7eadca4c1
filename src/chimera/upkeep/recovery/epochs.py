"""Epochs: where a service's history began anew, so that nobody takes what was lost from the log.

An owner looks at the end of its log before anything of its own reads there. Whoever stands on what was lost stays where
it is, and is mended by `chimera recover`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from chimera.core.context import Context
from chimera.core.tables import StoredEpoch
from chimera.journal.checkpoints import again_on_conflict
from chimera.journal.history import Epochs
from chimera.upkeep.recovery.forks import Fork, find_fork

logger = logging.getLogger("chimera")


async def keep_epochs(context: Context) -> None:
    """Look whether the log has what the journal lost, now and whenever that is doubted, until cancelled.

    Raises Unavailable when store or log can't be reached.
    """
    name = context.service.name
    while True:
        began = Epochs(await context.owners[name].epochs())
        found = await asyncio.gather(*(find_fork(context, each, began) for each in range(context.service.partitions)))
        forks = [fork for fork in found if fork is not None and fork.is_new]
        await begin_epochs(context, forks)
        for fork in forks:
            logger.error(
                "%s/%d was put back: its log has %d events after %d that its journal does not have any more, and "
                "nobody takes them from there; who has seen them is told by: chimera recover %s",
                name,
                fork.partition,
                len(fork.lost),
                fork.common,
                name,
            )
        context.sent.restore()
        await context.sent.wait_for_doubt()


async def begin_epochs(owner: Context, forks: Collection[Fork]) -> None:
    """Write down where the owner's history began anew: whoever reads the log from now on passes over what is lost."""
    now = owner.clock.now()

    async def write() -> None:
        async with owner.store.transaction() as session:
            unit = owner.unit(session)
            for each in forks:
                unit.put(StoredEpoch(each.partition, each.end, each.common, each.chain, now))
            await unit.flush()

    if forks:
        await again_on_conflict(write, owner.clock)
