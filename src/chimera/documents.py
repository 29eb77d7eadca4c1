"""Views' documents by key, and waiting for them to have what a request has seen already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from chimera.body import Body
from chimera.coalesce import Coalescer
from chimera.messages import Position
from chimera.ports import Checkpoint


class Documents:
    """Views' documents by key: all that are asked for in one loop turn are one multi-get per view."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._gets: dict[str, Coalescer[str, bytes | None]] = {}

    def __call__(self, view: str, key: str) -> asyncio.Future[bytes | None]:
        """The document's bytes as they are stored, or None."""
        gets = self._gets.get(view)
        if gets is None:
            gets = self._gets[view] = Coalescer(lambda keys: self._get(view, keys), concurrency=4)
        return gets.submit(key)

    async def _get(self, view: str, keys: list[str]) -> list[bytes | None]:
        wanted = list(dict.fromkeys(keys))
        found = await self._body.generations.read(view, lambda name: self._body.views.get(name, wanted))
        return [document.data if (document := found.get(key)) else None for key in keys]


class Waiting:
    """Read your own writes: waits until a consumer has applied the positions that a request brings back.

    `behind` holds those that were not reached in time, as far as they were.
    """

    def __init__(self, body: Body, after: Sequence[Position], budget: float) -> None:
        self._body = body
        self._after = after
        self._until = time.monotonic() + budget
        self.behind: list[Position] = []

    def after(self, source: str) -> list[Position]:
        """The positions of one source."""
        return [position for position in self._after if position.source == source]

    def missed(self, positions: Sequence[Position]) -> None:
        """Note where something is that did not reach a position."""
        self.behind += [position for position in positions if position not in self.behind]

    async def reach(self, consumer: str, sources: set[str]) -> None:
        """Wait for the consumer, as long as the request's budget lasts."""
        for position in self._after:
            if position.source in sources:
                reached = await self._reach(consumer, position)
                if reached < position.number:
                    self.behind.append(Position(position.source, position.partition, reached))

    async def _reach(self, consumer: str, position: Position) -> int:
        while True:
            checkpoints = await self._body.generations.read(consumer, self._body.views.checkpoints)
            reached = checkpoints.get((position.source, position.partition), Checkpoint()).number
            left = self._until - time.monotonic()
            if reached >= position.number or left <= 0:
                return reached
            await self._body.moved.wait(min(left, self._body.views.features.poll_s))
