"""Trying again what is parked and due: key beside key, each in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from chimera.commands.execute import Executor
from chimera.commands.parking import Parking
from chimera.core.aio.tasks import stop
from chimera.errors import Conflict, Unavailable

logger = logging.getLogger("chimera")


Share = Callable[[], Collection[int]]
"""The partitions that are a worker's now, among those that run the same build."""


async def keep_redriving(
    parking: Parking, executor: Executor, partitions: Collection[int] | None = None, alike: Share | None = None
) -> None:
    """Try again what is due in these partitions, until cancelled; many keys at once, so that none waits for another.

    What is set apart by a batch of this process is tried at once. What other builds could not read is tried in the
    partitions that are `alike`, or in all.
    """
    context, most = executor.context, executor.context.limits.apart
    pace = context.pace(context.timing.redrive_s, context.store)
    trying: dict[str, asyncio.Task[object]] = {}
    try:
        while True:
            heard = executor.set_apart.times
            for key in await parking.due(executor, context.clock.now(), partitions, alike and alike()):
                if key not in trying and len(trying) < most:
                    trying[key] = asyncio.ensure_future(parking.redrive(executor, key))
            if executor.set_apart.times == heard:
                await pace.pause(quiet=not (trying or parking.is_retrying), unless=executor.set_apart)
            for key in [key for key, task in trying.items() if task.done()]:
                _tell(parking, key, trying.pop(key))
    finally:
        await stop(*trying.values())


def _tell(parking: Parking, key: str, task: asyncio.Task[object]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        expected = isinstance(error, Unavailable | Conflict)
        logger.log(
            logging.INFO if expected else logging.ERROR,
            "%s: what is parked of key %r could not be tried: %s",
            parking.consumer,
            key,
            error,
            exc_info=None if expected else error,
        )
