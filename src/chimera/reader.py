"""What a query is given: the source of truth, views, and what is borrowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from chimera.borrowed import Borrowed
from chimera.service import Borrow, View
from chimera.transaction import Reads

if TYPE_CHECKING:  # to declare a service takes none of what runs it
    from chimera.body import Body
    from chimera.borrowing import BorrowedReads
    from chimera.documents import Documents, Waiting
    from chimera.ports import Session

Doc = TypeVar("Doc", bound=msgspec.Struct)


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
        reads, after = self._borrows[borrow.name], self._waiting.after(borrow.owner)
        found: Borrowed[Doc] = await reads.get(key, after)
        if after and found.age != 0.0:
            self._waiting.missed(await reads.missing(after))
        return found

    async def borrowed_many(self, borrow: Borrow[Doc], keys: Sequence[str]) -> dict[str, Borrowed[Doc]]:
        """The borrowed values of many keys, in one call to the owner at most."""
        reads, after = self._borrows[borrow.name], self._waiting.after(borrow.owner)
        found: dict[str, Borrowed[Doc]] = await reads.get_many(keys, after)
        if after and any(each.age != 0.0 for each in found.values()):
            self._waiting.missed(await reads.missing(after))
        return found
