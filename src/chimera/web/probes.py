"""Probes: the routes that orchestrators and Prometheus ask a process, be it a read head, a write head or both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from chimera.core.context import Context
from chimera.errors import ChimeraError
from chimera.journal.consumers import consumers_of
from chimera.upkeep.liveness import Liveness
from chimera.upkeep.standing import Unmoved
from chimera.upkeep.status import consumer_rows, service_status
from chimera.web.permission.groups import OPERATORS, Groups
from chimera.web.wire import answers, openapi
from chimera.web.wire.http import Call, NoQuery, answer_problem, read_query
from chimera.web.wire.openapi import added_route
from chimera.web.wire.routing import Route

METRICS = "Metrics of this process, for Prometheus"
LOOKS = 4
"""Readiness looks at views and copies so often in the time after which they stand still."""
EXPOSITION = b"text/plain; version=0.0.4; charset=utf-8"


class Probes:
    """Health, status and metrics of one service in this process. `serves`: it answers reads as well."""

    def __init__(self, context: Context, *, serves: bool = True, groups: Groups | None = None) -> None:
        self._context = context
        self._groups = groups or Groups(context)
        self._serves = serves
        self._unmoved = Unmoved(context)
        self._liveness = Liveness(context)
        self._looked_at = float("-inf")

    def routes(self) -> Sequence[Route]:
        """The service's own probes, below `/_chimera/<service>`."""
        get = partial(added_route, self._context.service.name)
        status = get("/status", self.status, "Checkpoints, heads, lag, parked counts, modes", answers.Status)
        return [
            self._groups.closed(status, OPERATORS),
            get("/health/live", self.live, "Whether the process answers, and its works don't hang", answers.Live),
            get("/health/ready", self.ready, "Whether the engines answer", answers.Ready),
            get("/metrics", self.metrics, METRICS, openapi.TEXT),
        ]

    def process_routes(self) -> list[Route]:
        """The route that is served once per process, whichever services run in it: `/metrics`."""
        describe = partial(openapi.added, "process", "/metrics", METRICS, openapi.TEXT, NoQuery)
        return [Route("GET", "/metrics", self.metrics, describe)]

    async def status(self, call: Call) -> None:
        """Answer with `answers.Status`."""
        read_query(call, NoQuery)
        status = await service_status(self._context)
        status["standing"] += [each._asdict() for each in self._unmoved.see(status["consumers"])]
        await call.answer_json(status)

    async def live(self, call: Call) -> None:
        """Answer with 200, or with 503 where the write head here hangs, so that only a restart helps.

        Nobody waits for an engine: what is told was found out by the call before.
        """
        read_query(call, NoQuery)
        self._liveness.look()
        if self._liveness.stuck:
            await answer_problem(call, 503, self._liveness.stuck)
            return
        await call.answer_json(answers.Live())

    async def ready(self, call: Call) -> None:
        """Answer with 200 once store, log and views have answered within `Timing.check_s`, else with 503.

        A work that stands still is named; where nothing is served besides the works, that is a 503. So are views and
        copies that lag and do not move, whoever is to move them: what is read of them is old, and better than nothing.
        """
        read_query(call, NoQuery)
        try:
            async with asyncio.timeout(self._context.timing.check_s):
                await self._context.store.heads()
                await self._context.log.ends(self._context.commands_topic)
                await self._context.views.checkpoints("")
                await self._look()
        except (ChimeraError, TimeoutError) as error:
            cause = str(error) or "it takes too long"
            await answer_problem(call, 503, f"an engine does not answer: {cause}", headers=[(b"retry-after", b"1")])
            return
        standing = self._context.troubles.standing(self._context.clock, self._context.timing.stands_s)
        own = [each for each in standing if each.work.startswith(f"{self._context.service.name} ")]
        if own and not self._serves:
            await answer_problem(call, 503, f"{own[0].work} stands still: {own[0].cause}")
            return
        shown = [answers.StandingShown(*each) for each in (*own, *(self._unmoved.found if self._serves else ()))]
        await call.answer_json(answers.Ready(standing=shown) if shown else answers.Ready())

    async def _look(self) -> None:
        """Look, now and then, which views and copies move."""
        now = self._context.clock.monotonic()
        if self._serves and now >= self._looked_at + self._context.timing.stands_s / LOOKS:
            self._looked_at = now
            kept = [each for each in consumers_of(self._context.service) if each.keeps_documents]
            self._unmoved.see(await consumer_rows(self._context, kept))

    async def metrics(self, call: Call) -> None:
        """Answer with the process's metrics as Prometheus reads them."""
        read_query(call, NoQuery)
        await call.answer(self._context.metrics.exposition(), 200, EXPOSITION)
