"""Views' documents by key, and waiting for them to have what a request has seen already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from chimera.core.aio.coalesce import Coalescer
from chimera.core.context import Context
from chimera.journal.checkpoints import Place, reach
from chimera.messages import Position
from chimera.ports import Checkpoint
from chimera.views.generations import GenerationReads


class Documents:
    """Views' documents by key: all that are asked for in one loop turn are one multi-get per view."""

    def __init__(self, context: Context, generations: GenerationReads) -> None:
        self._views = context.views
        self._generations = generations
        self._gets: dict[str, Coalescer[str, bytes | None]] = {}

    def __call__(self, view: str, key: str) -> asyncio.Future[bytes | None]:
        """The document's bytes as they are stored, or None."""
        gets = self._gets.get(view)
        if gets is None:
            gets = self._gets[view] = Coalescer(lambda keys: self._get(view, keys), concurrency=4)
        return gets.submit(key)

    async def _get(self, view: str, keys: list[str]) -> list[bytes | None]:
        wanted = list(dict.fromkeys(keys))
        found = await self._generations.read(view, lambda name: self._views.get(name, wanted))
        return [document.data if (document := found.get(key)) else None for key in keys]


class Waiting:
    """Read your own writes: waits until a consumer has applied the positions that a request brings back.

    `behind` holds those that were not reached in time, as far as they were.
    """

    def __init__(
        self, context: Context, generations: GenerationReads, after: Sequence[Position], budget: float
    ) -> None:
        self._context = context
        self._generations = generations
        self._after = after
        self._until = context.clock.monotonic() + budget
        self.behind: list[Position] = []

    def after(self, source: str) -> list[Position]:
        """The positions of one source."""
        return [position for position in self._after if position.source == source]

    def missed(self, positions: Sequence[Position]) -> None:
        """Note the positions that were reached instead, where one was not reached."""
        self.behind += [position for position in positions if position not in self.behind]

    async def reach(self, consumer: str, sources: set[str]) -> None:
        """Wait for the consumer, as long as the request's budget lasts."""
        floor: dict[Place, int] = {}
        for source, partition, number in ((each.source, each.partition, each.number) for each in self._after):
            if source in sources:
                floor[source, partition] = max(number, floor.get((source, partition), 0))
        if not floor:
            return
        left = self._until - self._context.clock.monotonic()
        behind = await reach(self._context, consumer, floor, left, partial(self._look, consumer))
        self.behind += [Position(source, partition, number) for (source, partition), number in behind.items()]

    async def _look(self, consumer: str) -> Mapping[Place, Checkpoint]:
        return await self._generations.read(consumer, self._context.views.checkpoints)
