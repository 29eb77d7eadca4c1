"""What a view or a copy has set aside: for each event key a line of events, in order, each a document of its own.

A small document for each key says which numbers its line has. So an event is set aside in two small writes, however
many are before it. A line has at most LONGEST events: then its view waits, and what is to come stays in the journal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from hashlib import blake2b

import msgspec

from chimera.endings import starts_view
from chimera.messages import Message
from chimera.parking import kept_key
from chimera.ports import Document, ViewStore

LONGEST = 100_000
"""Events of one key that a view sets aside at most."""
PAGE = 500
"""Events that are read, or folded again, at once."""


class Failure(msgspec.Struct, frozen=True):
    """An event that a projection failed on, or one that waits behind it (`tries` is 0 then).

    Its data is kept in base64: it may be anything, and may be here because it is not JSON.
    """

    message: Message
    cause: str
    tries: int
    first_at: datetime
    last_at: datetime


class Line(msgspec.Struct, frozen=True):
    """The numbers of the events of one key that are set aside: from `first` to before `end`."""

    first: int = 1
    end: int = 1

    def __len__(self) -> int:
        return self.end - self.first

    def head(self, count: int) -> Line:
        """The first numbers of the line, at most so many."""
        return Line(self.first, min(self.end, self.first + count))


def parked_view(view: str) -> str:
    """The name under which a view's set-aside events are kept."""
    return f"{view}.parked"


def waiting_view(view: str) -> str:
    """The name under which a view's lines are kept, by the events' keys."""
    return f"{view}.waiting"


def kept_views(view: str) -> list[str]:
    """All that is kept of a view: its documents, and what is beside them."""
    return [view, parked_view(view), waiting_view(view), starts_view(view)]


def place_of(key: str, number: int) -> str:
    """The key under which an event of a line is kept."""
    return f"{blake2b(key.encode(), digest_size=16).hexdigest()}/{number}"


def line_of(document: Document | None) -> Line:
    """The line that a document holds; an empty one for none."""
    return Line() if document is None else msgspec.json.decode(document.data or b"", type=Line)


def failure_of(document: Document) -> Failure:
    """The event that a document holds."""
    return msgspec.json.decode(document.data or b"", type=Failure)


async def lines_of(views: ViewStore, view: str) -> AsyncGenerator[tuple[str, Line], None]:
    """Every line that a view has, by its key as it is kept."""
    after = ""
    while page := await views.scan(waiting_view(view), after):
        for document in page:
            yield document.key, line_of(document)
        after = page[-1].key


async def events_of(views: ViewStore, view: str, key: str, line: Line) -> Mapping[str, Document]:
    """The events that have these numbers in the line of a key as it is kept: in order, by their places."""
    places = [place_of(key, number) for number in range(line.first, line.end)]
    found = await views.get(parked_view(view), places)
    return {place: found[place] for place in places if place in found}


async def failures_of(views: ViewStore, view: str, key: str) -> AsyncGenerator[Failure, None]:
    """The events of a key that are set aside, in order."""
    kept = kept_key(key)
    line = line_of((await views.get(waiting_view(view), [kept])).get(kept))
    while line:
        page = line.head(PAGE)
        for document in (await events_of(views, view, kept, page)).values():
            yield failure_of(document)
        line = Line(page.end, line.end)


async def first_failures(views: ViewStore, view: str) -> AsyncGenerator[tuple[Failure, int], None]:
    """The first event of each line, and how many the line has."""
    async for key, line in lines_of(views, view):
        for document in (await events_of(views, view, key, line.head(1))).values():
            yield failure_of(document), len(line)


async def all_failures(views: ViewStore, view: str) -> list[Failure]:
    """Every event that a view has set aside, in order within each key."""
    keys = [key async for key, _ in lines_of(views, view)]
    return [failure for key in keys async for failure in failures_of(views, view, key)]


async def waiting_count(views: ViewStore, view: str) -> int:
    """How many events a view has set aside, without reading them."""
    return sum([len(line) async for _, line in lines_of(views, view)])
