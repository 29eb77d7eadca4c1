"""The events that a view or a copy has parked: by event key, in order, each a document of its own.

A small document for each key, its span, says which numbers its events have. So an event is parked in two small writes,
however many are before it. A key has at most `Limits.parked_line` of them: then its view waits, and what is to come
stays in the journal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple

import msgspec

from chimera.core.aio.turns import Turns
from chimera.core.context import Owners
from chimera.core.names import kept_key, parked_key, parked_view, waiting_view
from chimera.errors import Unavailable
from chimera.messages import Message, Position
from chimera.ports import Document, ViewStore
from chimera.reader import Place
from chimera.views.projections import Projection

PAGE = 500
"""Parked events that are read at once."""


class ParkedEvent(msgspec.Struct, frozen=True):
    """An event that a projection failed on, or one that waits behind it (`tries` is 0 then).

    `traceback`: where the last try failed; empty where none is known. `left`: its data were too large to be kept here,
    and are in its source's journal only. `unread_by`: what could not read it (see `Projection.reads`), if it is that.
    Its data is stored in base64: it may be anything, and may be here because it is not JSON.
    """

    message: Message
    cause: str
    tries: int
    first_at: datetime
    last_at: datetime
    traceback: str = ""
    left: bool = False
    unread_by: str = ""

    def without_data(self) -> ParkedEvent:
        """The same, with its data left in the journal."""
        message = msgspec.structs.replace(self.message, data=b"")
        return msgspec.structs.replace(self, message=message, left=True)


async def whole(owners: Owners, event: ParkedEvent) -> ParkedEvent:
    """The event with its data. Raises Unavailable, or Trimmed, where the journal that has them can't give them."""
    if not event.left:
        return event
    at = event.message.position
    for found in await owners[at.source].journal(at.partition, at.number - 1, 1):
        return msgspec.structs.replace(event, message=msgspec.structs.replace(event.message, data=found.data))
    raise Unavailable(f"the journal of {at.source} does not give {at} now")


class Span(msgspec.Struct, frozen=True):
    """The numbers of the parked events of one key: from `first` to before `end`."""

    first: int = 1
    end: int = 1

    def __len__(self) -> int:
        return self.end - self.first

    def head(self, count: int) -> Span:
        """The first numbers of the span, at most so many."""
        return Span(self.first, min(self.end, self.first + count))


def span_of(document: Document | None) -> Span:
    """The span that a document holds; an empty one for none."""
    return Span() if document is None else msgspec.json.decode(document.data or b"", type=Span)


def parked_event_of(document: Document) -> ParkedEvent:
    """The event that a document holds."""
    return msgspec.json.decode(document.data or b"", type=ParkedEvent)


async def spans_of(views: ViewStore, view: str) -> AsyncGenerator[tuple[str, Span], None]:
    """Every span that a view has, with its event key as it is stored."""
    after, turns = "", Turns()
    while page := await views.scan(waiting_view(view), after):
        for document in page:
            await turns.after()
            yield document.key, span_of(document)
        after = page[-1].key


async def events_of(views: ViewStore, view: str, key: str, span: Span) -> Mapping[str, Document]:
    """The parked events of a key (as it is stored) in this span, in order, by the keys of their documents."""
    wanted = [parked_key(key, number) for number in range(span.first, span.end)]
    found = await views.get(parked_view(view), wanted)
    return {each: found[each] for each in wanted if each in found}


async def parked_events_of(
    views: ViewStore, view: str, key: str, page: int = PAGE
) -> AsyncGenerator[ParkedEvent, None]:
    """The parked events of a key, in order; `page` of them are read at once."""
    kept = kept_key(key)
    span, turns = span_of((await views.get(waiting_view(view), [kept])).get(kept)), Turns()
    while span:
        part = span.head(page)
        for document in (await events_of(views, view, kept, part)).values():
            await turns.after(len(document.data or b""))
            yield parked_event_of(document)
        span = Span(part.end, span.end)


async def first_parked(views: ViewStore, view: str) -> AsyncGenerator[tuple[ParkedEvent, int], None]:
    """The first parked event of each key, and how many the key has."""
    async for key, span in spans_of(views, view):
        for document in (await events_of(views, view, key, span.head(1))).values():
            yield parked_event_of(document), len(span)


async def all_parked(views: ViewStore, view: str) -> list[ParkedEvent]:
    """Every event that a view has parked, in order within each key."""
    keys = [key async for key, _ in spans_of(views, view)]
    return [failure for key in keys async for failure in parked_events_of(views, view, key)]


async def waiting_count(views: ViewStore, view: str) -> int:
    """The number of events that a view has parked, without reading them."""
    return sum([len(span) async for _, span in spans_of(views, view)])


async def first_of_key(views: ViewStore, view: str, key: str) -> list[Position]:
    """The position of the first event that a view has parked of an event key; none where it has none."""
    kept = kept_key(key)
    span = span_of((await views.get(waiting_view(view), [kept])).get(kept))
    first = await events_of(views, view, kept, span.head(1)) if span else {}
    return [parked_event_of(document).message.position for document in first.values()]


class Lacking(NamedTuple):
    """The first events, by place, that documents lack because they are parked: by document, and of whichever it is."""

    of: dict[str, dict[Place, int]]
    of_any: dict[Place, int]

    def positions(self, key: str) -> list[Position]:
        """The positions of the first events that the document of a key lacks, or may lack."""
        found = dict(self.of_any)
        for place, number in self.of.get(key, {}).items():
            found[place] = min(number, found.get(place, number))
        return [Position(*place, number) for place, number in found.items()]

    @property
    def all_positions(self) -> list[Position]:
        """The positions of the first events that documents of any key lack."""
        found = dict(self.of_any)
        for each in self.of.values():
            for place, number in each.items():
                found[place] = min(number, found.get(place, number))
        return [Position(*place, number) for place, number in found.items()]


async def lacking_of(views: ViewStore, projection: Projection) -> Lacking:
    """The events that a view's documents lack.

    Of an event that can't be read nobody knows whose it is, nor where more than PAGE are parked.
    """
    found, looked_at = Lacking({}, {}), 0
    async with aclosing(spans_of(views, projection.name)) as spans:
        async for kept, span in spans:
            for document in (await events_of(views, projection.name, kept, span.head(PAGE))).values():
                message, looked_at = parked_event_of(document).message, looked_at + 1
                try:
                    keys = projection.prepare(message)[0] if looked_at < PAGE else []
                except Exception:  # noqa: BLE001 - it is parked because of that
                    keys = []
                place = (message.source, message.partition)
                for each in [found.of.setdefault(key, {}) for key in keys] or [found.of_any]:
                    each[place] = min(message.number, each.get(place, message.number))
            if looked_at >= PAGE:
                break
    return found
