"""The reads of a query: the source of truth, views, and what is borrowed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from chimera.borrowed import Borrowed
from chimera.folds import View
from chimera.messages import Position
from chimera.ports import Session
from chimera.service import Borrow, Mode, Service
from chimera.transaction import Reads

Doc = TypeVar("Doc", bound=msgspec.Struct)


class DocumentReads(Protocol):
    """Views' documents by key, as they are stored."""

    def __call__(self, view: str, key: str) -> Awaitable[bytes | None]: ...


Missed = Callable[[Sequence[Position]], object]
"""Hears of positions that were reached instead of those that were asked for."""


class BorrowReads(Protocol):
    """One borrow, as a request reads it: see `chimera.borrow.reads.BorrowedReads`."""

    @property
    def mode(self) -> Mode:
        """The mode in force, as this process knows it."""

    async def get(self, key: str, after: Sequence[Position], missed: Missed) -> Borrowed[Any]:
        """The borrowed value of a key; one that is `fresh` has what the owner did up to its positions `after`.

        `missed` is told of the positions that a value has instead which has not all of it.
        """

    async def get_many(
        self, keys: Sequence[str], after: Sequence[Position], missed: Missed
    ) -> dict[str, Borrowed[Any]]:
        """As `get`, of each of these keys."""


class ReadYourWrites(Protocol):
    """The positions that a request brings back: see `chimera.views.documents.Waiting`."""

    def after(self, source: str) -> list[Position]:
        """The positions of one source."""

    async def reach(self, consumer: str, sources: set[str]) -> None:
        """Wait until the consumer has applied the positions of these sources, as long as the request's budget lasts."""

    def missed(self, positions: Sequence[Position]) -> None:
        """Note the positions that were reached instead, where one was not reached."""


class Reader(Reads):
    """The reads of one request: the source of truth (`load`, `find`, `execute`), views, and what is borrowed."""

    def __init__(
        self,
        service: Service,
        session: Session,
        documents: DocumentReads,
        borrows: Mapping[str, BorrowReads],
        waiting: ReadYourWrites,
    ) -> None:
        super().__init__(service, session)
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
        reads, after = self._borrows[borrow.name], self._waiting.after(borrow.owner)
        found: Borrowed[Doc] = await reads.get(key, after, self._waiting.missed)
        return found

    async def borrowed_many(self, borrow: Borrow[Doc], keys: Sequence[str]) -> dict[str, Borrowed[Doc]]:
        """The borrowed values of many keys, in one call to the owner at most."""
        reads, after = self._borrows[borrow.name], self._waiting.after(borrow.owner)
        found: dict[str, Borrowed[Doc]] = await reads.get_many(keys, after, self._waiting.missed)
        return found
