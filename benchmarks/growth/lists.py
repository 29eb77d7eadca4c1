"""Lists as they grow: `python -m benchmarks.growth.lists page|fold ENGINE SIZE…`. Prints one line for each size.

`benchmarks.growth.pages` runs it as `fill` and `pages`, with a URL for an engine: the sizes beside each other in one
store, and their pages in turn; the last line is JSON.

`page`: milliseconds, the median and the 95th percentile, for a page of 20 documents with its count: of all documents
from cursors anywhere in them, and of one author's 100. `fold`: events a second that are folded and written in batches
of 500, with no list and with one: `new` documents, those that are `moved` in the list, and those that are `kept` there.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median, quantiles

import msgspec
import uvloop

from benchmarks.engines import make, place
from chimera import Event, Service, View, ViewList
from chimera.core.context import Context
from chimera.journal.feed import Batch
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Move, ViewStore
from chimera.run.engines import context_of, open_engine
from chimera.testing.memory import MemoryLog, MemoryStore
from chimera.views.generations import GenerationReads
from chimera.views.lists.entries import ListEntries
from chimera.views.lists.keeping import ListKeeping
from chimera.views.lists.reads import ListReader, cursor_of
from chimera.views.projections import ViewProjection
from chimera.views.projector import Projector

PAGES = 300
MEASURED = 1_000
AT_ONCE = 2_000
BY_AUTHOR = 100
BATCH = 500
SERVICE = "bench-lists"


class Written(Event, source=SERVICE, key="article_id"):
    article_id: str
    author_id: str
    at: int
    text: str = ""


class Article(msgspec.Struct):
    article_id: str
    author_id: str = ""
    at: int = 0
    text: str = ""


class Subject:
    """A service with a view, with or without a list; of a size, with two, and with a view of its own."""

    def __init__(self, *, listed: bool, size: int = 0) -> None:
        self.service = Service(SERVICE, partitions=1)
        named = f"articles_{size}" if size else None
        self.view: View[Article] = self.service.view(Article, key="article_id", name=named)
        self.every: ViewList[Article] | None = self.view.list("every", order="-at") if listed else None
        self.by_author: ViewList[Article] | None = None
        if size:
            self.by_author = self.view.list("by-author", where="author_id", order="-at")

        @self.view.on(Written)
        def written(article: Article, event: Written) -> None:
            article.author_id, article.at, article.text = event.author_id, event.at, event.text

    def context(self, views: ViewStore) -> Context:
        return context_of(self.service, MemoryLog(), MemoryStore(), views, _nobody)


def _nobody(name: str) -> object:
    raise LookupError(name)


async def page(views: ViewStore, sizes: Sequence[int]) -> None:
    for size in sizes:
        subject = Subject(listed=True, size=size)
        began = time.perf_counter()
        await _fill(views, subject, size)
        took = time.perf_counter() - began
        pages = _Pages(views, subject, size)
        spent: dict[str, list[float]] = {"every": [], "author": []}
        for turn in range(PAGES):
            spent["every"].append(await pages.every(turn))
            spent["author"].append(await pages.author(turn))
        told = "; ".join(
            f"{what} {median(each):.2f} p95 {quantiles(each, n=20)[-1]:.2f}" for what, each in spent.items()
        )
        print(f"{size:>9,} documents: {told} (filled in {took:.0f} s)", flush=True)


async def fill(views: ViewStore, sizes: Sequence[int]) -> None:
    for size in sizes:
        await _fill(views, Subject(listed=True, size=size), size)


async def pages(views: ViewStore, sizes: Sequence[int]) -> None:
    """One page of each size after the other, so that whatever disturbs one disturbs the other as well.

    Each is read once before: what is measured is how the work grows, with all of it in memory, and not a cold start.
    """
    read = {size: _Pages(views, Subject(listed=True, size=size), size) for size in sizes}
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(2 * MEASURED):
        for size in sizes:
            for what, page in (("all", read[size].every), ("an author's", read[size].author)):
                took = await page(turn % MEASURED)
                if turn >= MEASURED:
                    spent[f"{what}, of {size:,}"].append(took)
    print(json.dumps(percentiles(spent)))


def percentiles(spent: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median and the 99th percentile of each."""
    found: dict[str, float] = {}
    for what, each in spent.items():
        found[f"{what}, p50"], found[f"{what}, p99"] = median(each), quantiles(each, n=100)[-1]
    return found


class _Pages:
    """The pages of a view of a size, that many documents apart from one another at random."""

    def __init__(self, views: ViewStore, subject: Subject, size: int) -> None:
        context = subject.context(views)
        self._lists = ListReader(context, GenerationReads(context))
        self._subject = subject
        self._authors = max(1, size // BY_AUTHOR)
        chance = random.Random(1)  # noqa: S311 - the same pages for everybody
        self._cursors = [_cursor(subject, _article(chance.randrange(size), size)) for _ in range(PAGES)]

    async def every(self, turn: int) -> float:
        """Milliseconds for a page of all documents."""
        return await self._page(self._subject.every, (), self._cursors[turn % PAGES])

    async def author(self, turn: int) -> float:
        """Milliseconds for the first page of an author's."""
        return await self._page(self._subject.by_author, (f"author{turn * 7919 % self._authors}",), "")

    async def _page(self, declared: ViewList[Article] | None, values: tuple[str, ...], cursor: str) -> float:
        assert declared is not None
        began = time.perf_counter()
        found = await self._lists.page(declared, values, 20, cursor, 0)
        took = (time.perf_counter() - began) * 1000
        assert len(found.items) == 20
        return took


def _article(number: int, size: int) -> Article:
    authors = max(1, size // BY_AUTHOR)
    return Article(f"a{number:07}", f"author{number % authors}", number * 7919 % size, "x" * 200)


def _cursor(subject: Subject, article: Article) -> str:
    """The cursor after an article in the list of all; at the beginning for one near the end."""
    assert subject.every is not None
    entries = ListEntries(subject.every)  # type: ignore[arg-type]
    return "" if article.at < 40 else cursor_of(entries.order.place(article, article.article_id), entries.within(()))


async def _fill(views: ViewStore, subject: Subject, size: int) -> None:
    name, projection = subject.view.name, ViewProjection(subject.view)
    assert projection.lists is not None
    keeping = ListKeeping(views, projection, projection.lists)
    for start in range(0, size, AT_ONCE):
        numbers = range(start, min(size, start + AT_ONCE))
        made = [_article(n, size) for n in numbers]
        documents = [Document(name, each.article_id, msgspec.json.encode(each)) for each in made]
        moves = [Move(SERVICE, 0, start, Checkpoint(start + len(numbers)))]
        listed = await keeping.beside({}, documents, moves)
        revision = await views.write(name, [*documents, *listed.counts], moves, listed.listings)
        assert revision
        keeping.wrote(listed, revision)


async def fold(views: ViewStore, sizes: Sequence[int]) -> None:
    for size in sizes:
        told = []
        for listed in (False, True):
            subject = Subject(listed=listed)
            subject.view.name = f"folded_{size}_{listed}"
            projector = Projector(subject.context(views), ViewProjection(subject.view))
            number = 0
            for what, step in (("new", 0), ("moved", 1), ("kept", 1)):
                began = time.perf_counter()
                for start in range(0, size, BATCH):
                    messages = [_message(number + n + 1, start + n, step) for n in range(BATCH)]
                    move = Move(SERVICE, 0, number, Checkpoint(number + BATCH))
                    assert await projector.apply(Batch(messages, [move]))
                    number += BATCH
                told.append(f"{what} {size / (time.perf_counter() - began):,.0f}")
        half = len(told) // 2
        print(
            f"{size:>9,} documents, events/s: no list: {', '.join(told[:half])}; one: {', '.join(told[half:])}",
            flush=True,
        )


def _message(number: int, key: int, step: int) -> Message:
    event = Written(f"a{key:07}", f"author{key % 1000}", key * 7919 % 1_000_003 + step, f"{number}")
    data = msgspec.json.encode(event)
    return Message(f"{SERVICE}/0@{number}", SERVICE, Written.wire_type(), event.key, "", data, 0, number)


async def main(what: str, url: str, sizes: Sequence[str]) -> None:
    if what in ("page", "fold"):
        await make(url)
    views = open_engine("views", url)
    try:
        await views.create()
        works = {"page": page, "fold": fold, "fill": fill, "pages": pages}
        await works[what](views, [int(size) for size in sizes])
    finally:
        await views.close()


if __name__ == "__main__":
    with place() as where, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        url = sys.argv[2] if "://" in sys.argv[2] else where.url(sys.argv[2], "views")
        runner.run(main(sys.argv[1], url, sys.argv[3:]))
