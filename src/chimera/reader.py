"""The reads of a query: the source of truth, views, and what is borrowed."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from chimera.entities import Entity, Row
from chimera.errors import ChimeraError
from chimera.finding import Now
from chimera.folds import View, ViewList
from chimera.forms import AnyDocument, decoder_of
from chimera.messages import Position
from chimera.parts import Borrow, Borrowed, Mode
from chimera.personal import BLINDING, Held, Personal, Revealing
from chimera.ports import Session
from chimera.reads import Reads
from chimera.service import Service
from chimera.signature import AnyKey, Key, by_key, texts_of

Doc = TypeVar("Doc", bound=AnyDocument)
Item = TypeVar("Item")
Stored = TypeVar("Stored", bound=Entity)


class ListPage(msgspec.Struct, Generic[Item]):
    """A page of a list: documents in its order, and how many there are in all of the list with these values.

    `next`: the cursor after which the next page begins; None at the end.
    """

    items: Sequence[Item]
    count: int
    next: str | None = None


PAGE = 20
"""Documents of a page unless it is said."""
LONGEST_PAGE = 200
LONGEST_OFFSET = 10_000


class ListReads(Protocol):
    """Lists of views, read a page at a time: see `chimera.views.lists.reads`."""

    async def page(
        self, declared: ViewList[Any], values: Sequence[object], limit: int, after: str | None, offset: int
    ) -> ListPage[msgspec.Raw]:
        """A page of documents as they are stored. Raises Invalid for a cursor that is not one of this list."""


class DocumentReads(Protocol):
    """Views' documents by key, as they are stored; their lists."""

    lists: ListReads

    def __call__(self, view: str, key: str) -> Awaitable[bytes | None]: ...


POSITIONS_LIMIT = 512
"""Positions that a request brings back, or is given, at most."""
Place = tuple[str, int]
"""A source and one of its partitions."""


class Notes:
    """The notes of one request: what its reader has seen before, and what the answer says besides what it shows.

    Who brings positions back `follows`: she is given those that cover what she has seen and is shown. One who has none
    yet brings one at number 0. A query that is asked twice begins its notes anew.
    """

    def __init__(self, after: Sequence[Position] = ()) -> None:
        self.follows = bool(after)
        self._after = after
        self._behind: dict[Place, int] = {}
        self._seen: dict[Place, int] = {}
        self._lacks: dict[Place, int] = {}

    def begin(self) -> None:
        """Nothing is shown yet."""
        self._behind.clear()
        self._lacks.clear()
        self._seen.clear()

    def after(self, source: str) -> list[Position]:
        """The positions of one source that she has seen before."""
        return [position for position in self._after if position.source == source]

    def missed(self, positions: Iterable[Position]) -> None:
        """What is shown has only what is up to these positions, where she has seen more."""
        for source, partition, number in map(_parts, positions):
            self._behind[source, partition] = min(number, self._behind.get((source, partition), number))

    def saw(self, positions: Iterable[Position]) -> None:
        """What is shown has nothing beyond these positions, as far as it comes from their partitions."""
        for source, partition, number in map(_parts, positions):
            self._seen[source, partition] = max(number, self._seen.get((source, partition), 0))

    def lacks(self, positions: Iterable[Position]) -> None:
        """What is shown lacks the events at these positions, which are set aside, and those behind them."""
        for source, partition, number in map(_parts, positions):
            self._lacks[source, partition] = min(number, self._lacks.get((source, partition), number))
            if any(each.partition == partition and each.number >= number for each in self.after(source)):
                self.missed([Position(source, partition, number - 1)])

    @property
    def lacking(self) -> list[Position]:
        """The positions of the first events that what is shown lacks, because they are set aside."""
        return [Position(*place, number) for place, number in self._lacks.items()]

    @property
    def behind(self) -> list[Position]:
        """The positions that were reached instead of those that she has seen before."""
        return [Position(*place, number) for place, number in self._behind.items()]

    @property
    def seen(self) -> list[Position]:
        """The positions that cover what she is shown, as far as is known, and what she has seen before."""
        found = dict(self._seen)
        for source, partition, number in map(_parts, self._after):
            found[source, partition] = max(number, found.get((source, partition), 0))
        return [Position(*place, number) for place, number in found.items() if number][:POSITIONS_LIMIT]


def _parts(position: Position) -> tuple[str, int, int]:
    return position.source, position.partition, position.number


class BorrowReads(Protocol):
    """One borrow, as a request reads it: see `chimera.borrow.reads.BorrowedReads`."""

    @property
    def mode(self) -> Mode:
        """The mode in force, as this process knows it."""

    async def get(self, key: str, notes: Notes) -> Borrowed[Any]:
        """The borrowed value of a key, and what is to be noted about it.

        One that is `fresh` has what the owner did up to the positions that the reader has seen before.
        """

    async def get_many(self, keys: Sequence[str], notes: Notes) -> dict[str, Borrowed[Any]]:
        """As `get`, of each of these keys."""

    async def ask(self, keys: Sequence[str]) -> dict[str, Any]:
        """The owner's documents as it has them now, in one call; keys without one are left out. Raises Unavailable."""


class ReadWaiting(Protocol):
    """Waits for views and tables, for one request: see `chimera.views.documents.Waiting`."""

    notes: Notes

    async def reach(self, consumer: str, sources: set[str]) -> None:
        """Wait until the consumer has what the reader has seen of these sources, as long as the budget lasts."""

    async def cover(self, consumer: str) -> None:
        """Note where a view is whose document was read just now, for a reader who follows."""

    async def look_aside(self, view: str, key: str) -> None:
        """Note what the document of a key lacks that is to be read now, because its events are set aside."""

    async def look_aside_all(self, view: str) -> None:
        """As `look_aside`, of all documents of a view, any of which may be in a list."""

    async def reach_tables(self) -> None:
        """As `reach`, of all that `project` writes, before the first row is read."""


class Reveals(Protocol):
    """Tells what personal values hold: see `chimera.core.keys.subjects.SubjectKeys`."""

    async def reveal(self, values: Sequence[Personal[Any]]) -> list[Any]:
        """What each of them holds, or Forgotten. Raises Unavailable."""

    async def made(self, subject: str) -> Any:
        """The id and the key of a subject, which is made where there is none. Raises Unavailable."""


class Reader(Reads, Revealing):
    """The reads of one request: the source of truth (`load`, `find`, `execute`), views, and what is borrowed."""

    def __init__(
        self,
        service: Service,
        session: Session,
        documents: DocumentReads,
        borrows: Mapping[str, BorrowReads],
        waiting: ReadWaiting,
        now: Now | None = None,
        keys: Reveals | None = None,
    ) -> None:
        super().__init__(service, session, now)
        self._documents = documents
        self._borrows = borrows
        self._waiting = waiting
        self._subjects = keys

    async def load(self, entity: type[Doc], *key: object) -> Doc | None:
        """The entity with this key, or None. An event-sourced one is folded from its events."""
        await self._waiting.reach_tables()
        return await super().load(entity, *key)

    async def find(
        self,
        entity: type[Stored],
        *,
        order: str | Sequence[str] = (),
        limit: int | None = None,
        after: Stored | None = None,
        **where: object,
    ) -> list[Stored]:
        """The entities whose columns have these values, in an order, a page at a time; see `Reads.find`."""
        await self._waiting.reach_tables()
        return await super().find(entity, order=order, limit=limit, after=after, **where)

    async def count(self, entity: type[Stored], **where: object) -> int:
        """How many entities `find` finds with these values."""
        await self._waiting.reach_tables()
        return await super().count(entity, **where)

    async def load_by(self, entity: type[Stored], **fields: object) -> Stored | None:
        """The entity with these values of fields that it is unique by, or None."""
        await self._waiting.reach_tables()
        return await super().load_by(entity, **fields)

    async def execute(self, sql: str, *parameters: object) -> Sequence[Row]:
        """Rows of a query in the store's own SQL."""
        await self._waiting.reach_tables()
        return await super().execute(sql, *parameters)

    async def view(self, view: View[Doc], key: Key) -> Doc | None:
        """The view's document of a key; without one None, or the empty document where the view is declared so."""
        await self._waiting.reach(view.name, view.sources)
        await self._waiting.look_aside(view.name, text := str(key))
        data = await self._documents(view.name, text)
        await self._waiting.cover(view.name)
        if data is None:
            return view.new(text) if view.absent == "empty" else None
        return decoder_of(view.document).decode(data)

    async def borrowed(self, borrow: Borrow[Doc], key: Key) -> Borrowed[Doc]:
        """The borrowed value of a key and its state. Never raises for the owner's sake."""
        found: Borrowed[Doc] = await self._borrows[borrow.name].get(str(key), self._waiting.notes)
        return found

    async def borrowed_many(self, borrow: Borrow[Doc], keys: Sequence[AnyKey]) -> dict[AnyKey, Borrowed[Doc]]:
        """The borrowed values of many keys, in one call to the owner at most."""
        reads = self._borrows[borrow.name]
        return by_key(keys, await reads.get_many(texts_of(keys), self._waiting.notes))

    async def list(
        self,
        declared: ViewList[Doc],
        *values: object,
        limit: int = PAGE,
        after: str | None = None,
        offset: int = 0,
    ) -> ListPage[Doc]:
        """A page of a view's list: the documents with these values, one for each field of its `where`.

        At most `limit` of them (1 to 200), after a cursor that is the `next` of another page, or the first `offset`
        (up to 10,000) not. Raises Invalid for a cursor that was changed, or is of another list, order or value.
        """
        view = declared.view
        await self._waiting.reach(view.name, view.sources)
        await self._waiting.look_aside_all(view.name)
        found = await self._documents.lists.page(declared, values, limit, after, offset)
        await self._waiting.cover(view.name)
        return _typed(declared, found)

    async def _revealed(self, values: Sequence[Personal[Any]]) -> Held:
        return await self._of_subjects().reveal(values)

    async def _blinding(self) -> bytes:
        key: bytes = (await self._of_subjects().made(BLINDING)).key
        return key

    def _of_subjects(self) -> Reveals:
        if self._subjects is None:
            raise ChimeraError("there are no keys of personal values here")
        return self._subjects


class Lagging:
    """The reads of a handler that may be behind: views, and what is borrowed.

    They are not of the handler's transaction: what they show may have changed by the commit, and what the handler does
    is not in them. What must hold is loaded from the source of truth.
    """

    def __init__(self, documents: DocumentReads, borrows: Mapping[str, BorrowReads]) -> None:
        self._documents = documents
        self._borrows = borrows

    async def view(self, view: View[Doc], key: Key) -> Doc | None:
        """As `Reader.view`, without waiting for anything."""
        data = await self._documents(view.name, text := str(key))
        if data is None:
            return view.new(text) if view.absent == "empty" else None
        return decoder_of(view.document).decode(data)

    async def borrowed(self, borrow: Borrow[Doc], key: Key) -> Borrowed[Doc]:
        """The borrowed value of a key and its state, in the mode in force. Never raises for the owner's sake."""
        found: Borrowed[Doc] = await self._borrows[borrow.name].get(str(key), Notes())
        return found

    async def borrowed_many(self, borrow: Borrow[Doc], keys: Sequence[AnyKey]) -> dict[AnyKey, Borrowed[Doc]]:
        """As `borrowed`, of many keys, in one call to the owner at most."""
        return by_key(keys, await self._borrows[borrow.name].get_many(texts_of(keys), Notes()))

    async def ask(self, borrow: Borrow[Doc], keys: Sequence[AnyKey]) -> dict[AnyKey, Doc]:
        """What the owner has now, whatever the mode, in one call; keys without a document are left out.

        Raises Unavailable where the owner does not answer: the command is tried again later.
        """
        return by_key(keys, await self._borrows[borrow.name].ask(texts_of(keys)))

    async def list(
        self,
        declared: ViewList[Doc],
        *values: object,
        limit: int = PAGE,
        after: str | None = None,
        offset: int = 0,
    ) -> ListPage[Doc]:
        """As `Reader.list`, without waiting for anything."""
        return _typed(declared, await self._documents.lists.page(declared, values, limit, after, offset))


def _typed(declared: ViewList[Doc], found: ListPage[msgspec.Raw]) -> ListPage[Doc]:
    """A page with its documents as objects."""
    items = [decoder_of(declared.view.document).decode(item) for item in found.items]
    return ListPage(items, found.count, found.next)
