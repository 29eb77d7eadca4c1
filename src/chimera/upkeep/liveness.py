"""Liveness: whether the write head in this process hangs, so that only a restart can mend it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from chimera.commands.apart.rules import rules_of
from chimera.core import names
from chimera.core.aio.tasks import take_exception
from chimera.core.context import Context
from chimera.errors import ChimeraError
from chimera.folds import View
from chimera.journal.consumers import Consumer, consumers_of
from chimera.upkeep.status import consumer_rows
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import read_generations

logger = logging.getLogger("chimera")

LOOKS = 20
"""Looks within the time after which a work hangs."""
LIMITS = 3
"""A work that runs handlers hangs after so many times what one may take, where that is longer."""

Place = tuple[str, str, int]
"""A consumer's name, what it reads, and the partition there."""
Rows = Sequence[Mapping[str, Any]]
"""Rows as `answers.ConsumerShown` has them."""


class _Standing(NamedTuple):
    """Where a consumer stands, with something to do, and for how many seconds that was seen."""

    number: int
    seconds: float


class Liveness:
    """Looks whether works of this process hang: there is something to do, and nothing moves, nor fails.

    Whatever a restart would not mend, or may not, counts as life: an engine that does not answer, works that fail and
    are tried again, a lost history, handlers within their limit, partitions that are not held, a process that was
    paused. Of copies and of views whose generation other code keeps nothing is known. `stuck` says what hangs, in one
    line; empty while nothing does.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._every_s = context.timing.stuck_s / LOOKS
        self._consumers = [each for each in consumers_of(context.service) if each.kind != "copy"]
        self._limits = {each.name: self._limit_of(each) for each in self._consumers}
        self._standing: dict[Place, _Standing] = {}
        self._held: frozenset[int] = frozenset()
        self._looking: asyncio.Future[None] | None = None
        self._looked_at = float("-inf")
        self.stuck = ""

    def look(self) -> None:
        """Look once more beside whoever asks, if it is time to; nobody waits for it."""
        if not self._context.held.partitions:
            self._forget()
            return
        now, is_looking = self._context.clock.monotonic(), self._looking is not None and not self._looking.done()
        if not is_looking and now >= self._looked_at + self._every_s:
            passed_s, self._looked_at = min(now - self._looked_at, 2 * self._every_s), now
            self._looking = asyncio.ensure_future(self._look(passed_s))
            self._looking.add_done_callback(take_exception)

    def see(self, rows: Rows, passed_s: float) -> None:
        """What is now, so many seconds after it was last seen."""
        context, before = self._context, self._standing
        if context.held.partitions != self._held or context.troubles.failed_within(
            context.clock, context.timing.stuck_s
        ):
            before, self._held = {}, context.held.partitions
        self._standing = {}
        for row in rows:
            if row["lag"] and not row["diverged"] and row["partition"] % context.service.partitions in self._held:
                place, number = (row["consumer"], row["source"], row["partition"]), row["checkpoint"]
                stood = before.get(place, _Standing(number, 0.0))
                seconds = stood.seconds + passed_s if place in before and stood.number == number else 0.0
                self._standing[place] = _Standing(number, seconds)
        self._tell(self._told(self._standing))

    def _forget(self) -> None:
        self._standing, self._held = {}, frozenset()
        self._tell("")

    def _tell(self, stuck: str) -> None:
        if stuck and not self.stuck:
            logger.error("%s; liveness answers 503, so that it is restarted", stuck)
        self.stuck = stuck

    def _told(self, found: Mapping[Place, _Standing]) -> str:
        hanging = [each for each in found.items() if each[1].seconds >= self._limits.get(each[0][0], float("inf"))]
        if not hanging:
            return ""
        (consumer, source, partition), standing = hanging[0]
        others = sorted({place[0] for place, _ in hanging} - {consumer})
        return (
            f"{self._context.service.name} {consumer} hangs: it has stood at {standing.number} in partition "
            f"{partition} of {source} for {standing.seconds:.0f} s, with more to do, and has not failed"
            + (f"; so have {', '.join(others)}" if others else "")
        )

    async def _look(self, passed_s: float) -> None:
        try:
            async with asyncio.timeout(self._context.timing.check_s):
                rows = await consumer_rows(self._context, await self._own())
        except (ChimeraError, TimeoutError):
            self._forget()
            return
        self.see(rows, passed_s)

    async def _own(self) -> list[Consumer]:
        """The consumers that this code moves: of views those of its generation, while no other one is built."""
        found = await read_generations(self._context.views, list(self._context.service.views))
        kept = {
            name
            for name, state in found.items()
            if state.building is None and state.serving.code == fingerprint(self._context.service.views[name])
        }
        return [each for each in self._consumers if not isinstance(each.declared, View) or each.name in kept]

    def _limit_of(self, consumer: Consumer) -> float:
        rules, service = rules_of(self._context, consumer.name), self._context.service
        types = [names.command_type(service.name, each) for each in service.handlers]
        types = types if types and consumer.kind == "commands" else [""]
        return max(self._context.timing.stuck_s, LIMITS * max(rules(type_).limit_s for type_ in types))
