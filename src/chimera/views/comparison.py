"""Comparing two generations of a view row by row, while both are moving.

Every row of both is read once, in the order of the keys. Rows that differ may do so only because one generation is a
little ahead: so both are given the time to get to where the other one was, and those rows are read again. A row
that has not changed since and still differs, differs. One that keeps changing is said to be in flight.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Literal

import msgspec

from chimera.core.aio.turns import Turns
from chimera.core.paging import pages
from chimera.ports import Document, ViewStore
from chimera.views.lists.state import ListsProof
from chimera.views.parked import events_of, parked_event_of, spans_of

Kind = Literal["changed", "missing", "new"]
Pair = tuple[str, Document | None, Document | None]
"""A key, with its document in the old generation and in the new one."""

SAMPLES = 5
SAMPLE_BYTES = 2_000
DOUBTFUL = 100_000
"""So many rows that differ are read again; what differs beyond them is taken as it was."""
ROUNDS = 8


class Sample(msgspec.Struct, frozen=True):
    """A row that differs, with the documents before and after as JSON; of a large one the beginning, as a string."""

    kind: Kind
    key: str
    old: msgspec.Raw
    new: msgspec.Raw


class Comparison(msgspec.Struct):
    """The rows of a view in two generations, counted by what became of them from the old one to the new one.

    `missing`: only the old one has them; `new`: only the new one; `in_flight`: they changed all the time. `aside` and
    `aside_before`: the event keys with parked events in the new and in the old one; `causes`: of some in the new one.
    `unread`: the types of events that the old one has folded, or that nobody knows, and that the new one passes over;
    `renamed`: it folds others of the same source instead. `lists` and `lists_before`: how the lists of the new and of
    the old one differed from their own documents; those of the new one were mended, those of the old one were not.
    """

    old_generation: int
    new_generation: int
    equal: int = 0
    changed: int = 0
    missing: int = 0
    new: int = 0
    in_flight: int = 0
    aside: int = 0
    aside_before: int = 0
    samples: list[Sample] = []
    causes: list[str] = []
    unread: list[str] = []
    renamed: bool = False
    lists: ListsProof | None = None
    lists_before: ListsProof | None = None

    @property
    def lacks(self) -> str:
        """What of the old generation the new one lacks, so that it must not take over by itself; empty for nothing."""
        if self.aside > self.aside_before:
            keys = f"it has set aside events of {self.aside} keys ({self.aside_before} before)"
            return ": ".join([keys, *(["; ".join(self.causes)] if self.causes else [])])
        if self.lists is not None and self.lists.found > self.lists.mended:
            return f"its lists differ from its documents: {self.lists.told}"
        if self.missing and not self.equal + self.changed + self.in_flight:
            passed = f"; it passes over events of type {', '.join(self.unread)}" if self.unread else ""
            return f"all {self.missing} rows of generation {self.old_generation} are missing in it{passed}"
        if self.unread and (self.missing or (self.renamed and self.changed)):
            return (
                f"it passes over events of type {', '.join(self.unread)}, and {self.missing} rows of generation "
                f"{self.old_generation} are missing in it, {self.changed} changed"
            )
        return ""

    def count(self, key: str, old: Document | None, new: Document | None) -> None:
        """Note a row that differs."""
        kind: Kind = "missing" if new is None else "new" if old is None else "changed"
        setattr(self, kind, getattr(self, kind) + 1)
        if sum(sample.kind == kind for sample in self.samples) < SAMPLES:
            self.samples.append(Sample(kind, key, _shown(old), _shown(new)))


async def compare(
    views: ViewStore, old: str, new: str, found: Comparison, meet: Callable[[], Awaitable[bool]]
) -> Comparison:
    """Fill `found` with what differs between the generations stored under these names.

    `meet` gives each the time to get to where the other is, and says whether it has got there.
    """
    doubtful: dict[str, tuple[int, int]] = {}
    turns = Turns()
    async with aclosing(_pairs(views, old, new)) as pairs:
        async for key, before, after in pairs:
            await turns.after(_size(before) + _size(after))
            if _same(before, after):
                found.equal += 1
            elif len(doubtful) < DOUBTFUL:
                doubtful[key] = _revisions(before, after)
            else:
                found.count(key, before, after)
    for _ in range(ROUNDS):
        if doubtful:
            met = await meet()
            doubtful = await _read_again(views, old, new, found, doubtful, met=met)
    found.in_flight = len(doubtful)
    found.aside, found.causes = await _parked_keys(views, new)
    found.aside_before, _ = await _parked_keys(views, old)
    return found


async def _read_again(
    views: ViewStore, old: str, new: str, found: Comparison, doubtful: Mapping[str, tuple[int, int]], *, met: bool
) -> dict[str, tuple[int, int]]:
    """Settle what is equal now, and what has not changed though both `met`; returns the others, as they are now."""
    left: dict[str, tuple[int, int]] = {}
    turns = Turns()
    for keys in pages(list(doubtful)):
        befores, afters = await views.get(old, keys), await views.get(new, keys)
        for key in keys:
            before, after = befores.get(key), afters.get(key)
            await turns.after(_size(before) + _size(after))
            if _same(before, after):
                found.equal += before is not None
            elif met and _revisions(before, after) == doubtful[key]:
                found.count(key, before, after)
            else:
                left[key] = _revisions(before, after)
    return left


async def _pairs(views: ViewStore, old: str, new: str) -> AsyncGenerator[Pair, None]:
    """Every key of either, with the documents of both."""
    befores, afters = _rows(views, old), _rows(views, new)
    before, after = await anext(befores, None), await anext(afters, None)
    while before or after:
        # Strings are ordered by code points, which is the order of their UTF-8 bytes.
        key = min(each.key for each in (before, after) if each)
        pair = (before if before and before.key == key else None, after if after and after.key == key else None)
        yield key, *pair
        if pair[0]:
            before = await anext(befores, None)
        if pair[1]:
            after = await anext(afters, None)


async def _rows(views: ViewStore, name: str) -> AsyncGenerator[Document, None]:
    after = ""
    while page := await views.scan(name, after):
        for document in page:
            yield document
        after = page[-1].key


def _same(before: Document | None, after: Document | None) -> bool:
    if before is None or after is None:
        return before is after
    if before.data == after.data:
        return True
    return bool(msgspec.json.decode(before.data or b"null") == msgspec.json.decode(after.data or b"null"))


def _size(document: Document | None) -> int:
    return len(document.data or b"") if document else 0


def _revisions(before: Document | None, after: Document | None) -> tuple[int, int]:
    return (before.revision if before else 0, after.revision if after else 0)


def _shown(document: Document | None) -> msgspec.Raw:
    if document is None or document.data is None:
        return msgspec.Raw(b"null")
    if len(document.data) <= SAMPLE_BYTES:
        return msgspec.Raw(document.data)
    return msgspec.Raw(msgspec.json.encode(document.data[:SAMPLE_BYTES].decode(errors="replace") + "…"))


async def _parked_keys(views: ViewStore, name: str) -> tuple[int, list[str]]:
    """The number of event keys with parked events, and the causes of some of them."""
    count = 0
    causes: list[str] = []
    async for key, span in spans_of(views, name):
        count += 1
        if len(causes) < SAMPLES:
            first = await events_of(views, name, key, span.head(1))
            causes += [f"{key}: {parked_event_of(document).cause}" for document in first.values()]
    return count, causes
