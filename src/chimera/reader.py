"""What a query is given: the source of truth, views, and what is borrowed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from chimera.body import Body
from chimera.borrowed import Borrowed
from chimera.borrowing import BorrowedReads
from chimera.coalesce import Coalescer
from chimera.messages import Position
from chimera.ports import Checkpoint, Session
from chimera.service import Borrow, View
from chimera.transaction import Reads

Doc = TypeVar("Doc", bound=msgspec.Struct)


class Documents:
    """Views' documents by key: all that are asked for in one loop turn are one multi-get per view."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._gets: dict[str, Coalescer[str, bytes | None]] = {}

    async def __call__(self, view: str, key: str) -> bytes | None:
        """The document's bytes as they are stored, or None."""
        gets = self._gets.get(view)
        if gets is None:
            gets = self._gets[view] = Coalescer(lambda keys: self._get(view, keys), concurrency=4)
        return await gets.submit(key)

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


class Reader(Reads):
    """The reads of one request: the source of truth (`load`, `find`, `execute`), views, and what is borrowed."""

    def __init__(
        self,
        body: Body,
        session: Session,
        documents: Documents,
        borrows: Mapping[str, BorrowedReads[Any]],
        waiting: Waiting,
    ) -> None:
        super().__init__(body.service, session)
        self._documents = documents
        self._borrows = borrows
        self._waiting = waiting

    async def view(self, view: View[Doc], key: str) -> Doc | None:
        """The view's document of a key; without one None, or the empty document where the view is declared so."""
        await self._waiting.reach(view.name, view.sources)
        data = await self._documents(view.name, key)
        if data is None:
            return view.new(key) if view.absent == "empty" else None
        return msgspec.json.decode(data, type=view.document)

    async def borrowed(self, borrow: Borrow[Doc], key: str) -> Borrowed[Doc]:
        """The borrowed value of a key and its state. Never raises for the owner's sake."""
        reads = self._borrows[borrow.name]
        after = self._waiting.after(borrow.owner)
        found = await reads.get(key, after)
        if after and found.age != 0.0:
            self._waiting.missed(await reads.missing(after))
        return found

    async def borrowed_many(self, borrow: Borrow[Doc], keys: Sequence[str]) -> dict[str, Borrowed[Doc]]:
        """The borrowed values of many keys, in one call to the owner at most."""
        wanted = list(dict.fromkeys(keys))
        found = await asyncio.gather(*(self.borrowed(borrow, key) for key in wanted))
        return dict(zip(wanted, found, strict=True))
