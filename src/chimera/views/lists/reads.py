"""Reading lists: a page of documents after a cursor, and how many there are.

A cursor is the place of the last document of its page, with what list and values it is of and a checksum: it means the
same in every generation of the view and on every engine, and can't be taken for one of another list.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from chimera.core.context import Context
from chimera.core.paging import pages
from chimera.errors import Invalid, NotYet, Unfit
from chimera.folds import ViewList
from chimera.ports import PAGE_BYTES, ViewStore
from chimera.reader import LONGEST_OFFSET, LONGEST_PAGE, ListPage
from chimera.views.generations import GenerationReads
from chimera.views.lists.counts import count_of
from chimera.views.lists.entries import ListEntries
from chimera.views.lists.state import is_empty, list_states

AT_ONCE = 50
"""Documents that are read in one call: of large ones, not many more than fit a page."""


class ListReader:
    """The lists of a service's views, as a read head reads them."""

    def __init__(self, context: Context, generations: GenerationReads) -> None:
        self._views = context.views
        self._generations = generations
        self._lists = {
            (view.name, each.name): ListEntries(each)
            for view in context.service.views.values()
            for each in view.lists.values()
        }
        self._complete: set[tuple[str, str]] = set()

    async def page(
        self, declared: ViewList[Any], values: Sequence[object], limit: int, after: str | None, offset: int
    ) -> ListPage[msgspec.Raw]:
        """As `ListReads.page`."""
        _check(declared, values, limit, after, offset)
        entries = self._lists[declared.view.name, declared.name]
        try:
            within = entries.within(values)
        except Unfit as error:
            raise Invalid(str(error)) from error
        place = _place(after, within) if after else b""
        page = _Page(self._views, entries, within, limit, place, offset, len(declared.view.sources))

        async def read(name: str) -> ListPage[msgspec.Raw] | None:
            return await page.read(name) if await self._is_complete(name, entries.digest) else None

        if (found := await self._generations.read(declared.view.name, read)) is None:
            raise NotYet(f"the list {declared.name} of {declared.view.name} is being built, and is not served yet")
        return found

    async def _is_complete(self, name: str, digest: str) -> bool:
        """True when all documents of a generation are in a list, which stays so, or there are none yet."""
        if (name, digest) not in self._complete:
            if not (await list_states(self._views, name, [digest])).are_complete:
                return await is_empty(self._views, name)
            self._complete.add((name, digest))
        return True


class _Page:
    """One page of one list."""

    def __init__(
        self, views: ViewStore, entries: ListEntries, within: bytes, limit: int, after: bytes, offset: int, sources: int
    ) -> None:
        self._views = views
        self._entries = entries
        self._within = within
        self._limit = limit
        self._after = after
        self._offset = offset
        self._sources = sources

    async def read(self, name: str) -> ListPage[msgspec.Raw]:
        """The page as a generation has it."""
        places, count = await asyncio.gather(
            self._views.listed(name, self._within, self._after, self._limit + 1, self._offset),
            count_of(self._views, name, self._sources, self._within),
        )
        items, last = await self._items(name, places[: self._limit])
        is_last = not places or (last == places[-1] and len(places) <= self._limit)
        return ListPage(items, max(0, count), None if is_last else cursor_of(last, self._within))

    async def _items(self, name: str, places: Sequence[bytes]) -> tuple[list[msgspec.Raw], bytes]:
        """The documents at these places, and the place up to which they are: of large ones, no more than a page has."""
        items: list[msgspec.Raw] = []
        left = PAGE_BYTES
        for part in pages(places, AT_ONCE):
            found = await self._documents(name, part)
            for place in part:
                if (data := found.get(place)) is not None:
                    items.append(msgspec.Raw(data))
                    left -= len(data)
                if left <= 0:
                    return items, place
        return items, places[-1] if places else b""

    async def _documents(self, name: str, places: Sequence[bytes]) -> dict[bytes, bytes]:
        """The documents at these places, but for those that have just moved to another one."""
        keys = {self._entries.order.key(place): place for place in places}
        found = await self._views.get(name, list(keys))
        return {
            keys[key]: document.data
            for key, document in found.items()
            if document.data is not None and self._entries.holds(key, document.data, (self._within, keys[key]))
        }


def _check(declared: ViewList[Any], values: Sequence[object], limit: int, after: str | None, offset: int) -> None:
    """Raises ValueError where a page can't be asked for like that."""
    if len(values) != len(declared.where):
        names = ", ".join(field.name for field in declared.where) or "nothing"
        raise ValueError(f"the list {declared.name!r} is read with a value for {names}, not with {len(values)} values")
    if not 1 <= limit <= LONGEST_PAGE:
        raise ValueError(f"limit is from 1 to {LONGEST_PAGE}, not {limit}")
    if not 0 <= offset <= LONGEST_OFFSET:
        raise ValueError(f"offset is from 0 to {LONGEST_OFFSET}, not {offset}; go on with after= instead")
    if after and offset:
        raise ValueError("a page begins after a cursor or at an offset, not both")


def cursor_of(place: bytes, within: bytes) -> str:
    """The cursor that goes on after a place of a filter."""
    data = within[:8] + place
    return urlsafe_b64encode(data + crc32(data).to_bytes(4, "big")).rstrip(b"=").decode()


def _place(cursor: str, within: bytes) -> bytes:
    """The place in a cursor. Raises Invalid for one that is none, or not of this list and these values."""
    try:
        data = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except ValueError:
        data = b""
    known, place, checksum = data[:8], data[8:-4], data[-4:]
    if not place or crc32(known + place).to_bytes(4, "big") != checksum:
        raise Invalid("it is no cursor; take the `next` of a page as it is", field="query.after", status=400)
    if known != within[:8]:
        raise Invalid(
            "it is a cursor of another list, order or value; begin without one", field="query.after", status=400
        )
    return place
