"""What orchestrators and Prometheus ask a process for, whichever heads of a service run in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from chimera.body import Body
from chimera.errors import ChimeraError
from chimera.status import service_status
from chimera.web import answers, openapi
from chimera.web.added import NoQuery, added_route, read_query
from chimera.web.http import Call, answer_problem
from chimera.web.routing import Route

CHECK_S = 5.0
METRICS = "Metrics of this process, for Prometheus"
EXPOSITION = b"text/plain; version=0.0.4; charset=utf-8"


class Probes:
    """Health, status and metrics of one service in this process."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def routes(self) -> Sequence[Route]:
        get = partial(added_route, self._body.service.name)
        return [
            get("/status", self.status, "Checkpoints, heads, lag, parked counts, modes", answers.Status),
            get("/health/live", self.live, "Whether the process answers", answers.Live),
            get("/health/ready", self.ready, "Whether the engines answer", answers.Ready),
            get("/metrics", self.metrics, METRICS, openapi.TEXT),
        ]

    def process_routes(self) -> list[Route]:
        """What is served once per process, whichever services run in it."""
        return [
            Route("GET", "/metrics", self.metrics, openapi.added("process", "/metrics", METRICS, openapi.TEXT, NoQuery))
        ]

    async def status(self, call: Call) -> None:
        read_query(call, NoQuery)
        await call.answer_json(await service_status(self._body))

    async def live(self, call: Call) -> None:
        read_query(call, NoQuery)
        await call.answer_json(answers.Live())

    async def ready(self, call: Call) -> None:
        read_query(call, NoQuery)
        try:
            async with asyncio.timeout(CHECK_S):
                await self._body.store.heads()
                await self._body.log.ends(self._body.commands_topic)
                await self._body.views.checkpoints("")
        except (ChimeraError, TimeoutError) as error:
            cause = str(error) or "it takes too long"
            await answer_problem(call, 503, f"an engine does not answer: {cause}", headers=[(b"retry-after", b"1")])
            return
        await call.answer_json(answers.Ready())

    async def metrics(self, call: Call) -> None:
        read_query(call, NoQuery)
        await call.answer(self._body.metrics.exposition(), 200, EXPOSITION)
