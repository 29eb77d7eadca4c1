"""What stands still, told across processes: a write head writes it down, whoever asks for the status reads it.

It is written among the leases, as what it is: true for a while, by whoever says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from chimera.core.aio.standing import Stuck
from chimera.core.context import Context
from chimera.core.names import STANDING, standing_row
from chimera.core.tables import Lease
from chimera.entities import table_of

TRUE_FOR = 3
"""A word about what stands still is true for so many intervals in which it is given again."""


async def keep_telling(context: Context) -> None:
    """Write down what stands still in this process, until cancelled. While nothing does, nothing is asked or written.

    What was never tried and only told is written down by whoever tells it.

    Raises Unavailable.
    """
    told: set[str] = set()
    while True:
        await context.clock.sleep(context.timing.lease_s)
        own = f"{context.service.name} "
        standing = {
            each.work: each
            for each in context.troubles.standing(context.clock, context.timing.stands_s)
            if each.work.startswith(own) and each.tries
        }
        if standing or told:
            await _tell(context, standing, told - standing.keys())
            told = set(standing)


async def _tell(context: Context, standing: dict[str, Stuck], over: set[str]) -> None:
    table, until = table_of(Lease), context.clock.time() + TRUE_FOR * context.timing.lease_s
    rows = [
        table.to_row(Lease(standing_row(work), msgspec.json.encode(each).decode(), until))
        for work, each in standing.items()
    ]
    async with context.store.transaction() as session:
        await session.delete(table, [(standing_row(work),) for work in over])
        await session.save(table, rows)


async def standing_works(context: Context) -> list[Stuck]:
    """The works of a service that stand still, in whichever process, and what was told of works. Raises Unavailable."""
    now, table = context.clock.time(), table_of(Lease)
    async with context.store.snapshot(once=True) as session:
        leases: list[Lease] = list(map(table.from_row, await session.find(table, {})))
    return [
        msgspec.json.decode(lease.holder, type=Stuck)
        for lease in sorted(leases, key=lambda lease: lease.name)
        if lease.name.startswith(STANDING) and lease.until > now
    ]


class Unmoved:
    """Who has something to do and does not move, as whoever only reads sees it: no work has to be there to tell."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._seen: dict[tuple[str, str, int], tuple[int, float, datetime]] = {}
        self.found: list[Stuck] = []

    def see(self, rows: Sequence[Mapping[str, Any]]) -> list[Stuck]:
        """Look at rows as `answers.ConsumerShown` has them; those that have not moved for `stands_s` are `found`.

        So are those that stand on a history that their source does not have, at once.
        """
        clock, seen, lost = self._context.clock, self._seen, dict[tuple[str, str], list[tuple[datetime, str]]]()
        now, lags = clock.monotonic(), dict[tuple[str, str], list[tuple[datetime, int]]]()
        for row in rows:
            place = (row["consumer"], row["source"], row["partition"])
            number, began, since = seen.pop(place, (row["checkpoint"], now, clock.now()))
            if row["diverged"]:
                seen[place] = number, began, since
                lost.setdefault(place[:2], []).append((since, row["diverged"]))
                continue
            if not row["lag"]:
                continue
            if number != row["checkpoint"]:
                number, began, since = row["checkpoint"], now, clock.now()
            seen[place] = number, began, since
            if now - began >= self._context.timing.stands_s:
                lags.setdefault(place[:2], []).append((since, row["lag"]))
        name = self._context.service.name
        self.found = [
            Stuck(
                f"{name} {consumer} {source}",
                min(since for since, _ in lagging),
                0,
                f"it is {sum(lag for _, lag in lagging)} events behind {source} and does not move",
            )
            for (consumer, source), lagging in sorted(lags.items())
        ] + [
            Stuck(
                f"{name} {consumer} {source}",
                min(since for since, _ in places),
                0,
                "diverged: it " + "; ".join(why for _, why in places),
            )
            for (consumer, source), places in sorted(lost.items())
        ]
        return self.found
