"""Views' documents by key, and waiting for them to have what a request has seen already."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import cast

from chimera.core.aio.coalesce import Coalescer
from chimera.core.context import Context
from chimera.core.names import waiting_view
from chimera.core.tables import Progress
from chimera.entities import table_of
from chimera.journal.checkpoints import Look, Place, floor_of, reach, read_checkpoints, settled_checkpoints
from chimera.journal.consumers import Consumer, consumers_of
from chimera.messages import Position
from chimera.parts import Reaction
from chimera.ports import Checkpoint, Session, ViewStore
from chimera.reader import ListReads, Notes
from chimera.views.generations import GenerationReads
from chimera.views.lists.reads import ListReader
from chimera.views.parked import Lacking, first_of_key, lacking_of
from chimera.views.projections import ViewProjection


class Documents:
    """Views' documents by key, and how far views are: all that is asked for in one loop turn is asked once per view."""

    lists: ListReads

    def __init__(self, context: Context, generations: GenerationReads) -> None:
        self.lists = ListReader(context, generations)
        self._views = context.views
        self._generations = generations
        self._gets: dict[str, Coalescer[str, bytes | None]] = {}
        self._looks: dict[tuple[str, bool], Coalescer[None, Mapping[Place, Checkpoint]]] = {}
        self._projections = {
            view.name: ViewProjection(view) for view in context.service.views.values() if not view.is_keyed_as_events
        }
        self._context = context
        self._listed = {view.name: ViewProjection(view) for view in context.service.views.values() if view.lists}
        self._looked_aside: dict[str, float] = {}
        self._lacking: dict[str, tuple[float, Lacking]] = {}

    def __call__(self, view: str, key: str) -> asyncio.Future[bytes | None]:
        """The document's bytes as they are stored, or None."""
        gets = self._gets.get(view)
        if gets is None:
            gets = self._gets[view] = Coalescer(lambda keys: self._get(view, keys), concurrency=4)
        return gets.submit(key)

    def reached(self, view: str) -> asyncio.Future[Mapping[Place, Checkpoint]]:
        """The checkpoints of a view or copy: a document that is read afterwards has all that is up to there."""
        return self._look(view, settled=False)

    def shown(self, view: str) -> asyncio.Future[Mapping[Place, Checkpoint]]:
        """The checkpoints of a view or copy: a document that was read before has nothing beyond them."""
        return self._look(view, settled=not self._views.features.together)

    async def lacks(self, view: str, key: str, *, now: bool) -> Sequence[Position]:
        """The first events that a key's document, which is to be read afterwards, lacks because they are set aside.

        As they are `now`, or as they were a moment ago.
        """
        if not now:
            await self._look_aside(view)
            if view not in self._context.process.setting_aside:
                return []
        projection = self._projections.get(view)
        if projection is None:
            return await self._generations.read(view, lambda name: first_of_key(self._views, name, key))
        return (await self._look_at_lacking(view, projection, now=now)).positions(key)

    async def all_lack(self, view: str, *, now: bool) -> Sequence[Position]:
        """As `lacks`, of all documents of a view that has lists: any may be missing in a list, or stand elsewhere."""
        if not now:
            await self._look_aside(view)
            if view not in self._context.process.setting_aside:
                return []
        return (await self._look_at_lacking(view, self._listed[view], now=now)).all_positions

    async def _look_at_lacking(self, view: str, projection: ViewProjection, *, now: bool) -> Lacking:
        at, lacking = self._lacking.get(view, (float("-inf"), Lacking({}, {})))
        if now or self._context.clock.monotonic() > at + self._context.timing.switch_look_s:
            at = self._context.clock.monotonic()
            lacking = await self._generations.read(view, lambda name: self._look_at_all(projection, name))
            self._lacking[view] = at, lacking
        return lacking

    async def _look_at_all(self, projection: ViewProjection, name: str) -> Lacking:
        if not await self._views.scan(waiting_view(name), limit=1):
            return Lacking({}, {})
        return await lacking_of(self._views, projection.named(name))

    async def _look_aside(self, view: str) -> None:
        """Look now and then whether a view has set anything aside."""
        now, process = self._context.clock.monotonic(), self._context.process
        if now < self._looked_aside.get(view, float("-inf")) + self._context.timing.switch_look_s:
            return
        self._looked_aside[view] = now
        if await self._generations.read(view, lambda name: self._views.scan(waiting_view(name), limit=1)):
            process.setting_aside.add(view)
        else:
            process.setting_aside.discard(view)

    def _look(self, view: str, *, settled: bool) -> asyncio.Future[Mapping[Place, Checkpoint]]:
        looks = self._looks.get((view, settled))
        if looks is None:
            look = settled_checkpoints if settled else _checkpoints
            looks = Coalescer(lambda callers: self._checkpoints(view, look, callers), concurrency=4)
            self._looks[view, settled] = looks
        return looks.submit(None)

    async def _checkpoints(
        self,
        view: str,
        look: Callable[[ViewStore, str], Awaitable[Mapping[Place, Checkpoint]]],
        callers: Sequence[None],
    ) -> Sequence[Mapping[Place, Checkpoint]]:
        return [await self._generations.read(view, lambda name: look(self._views, name))] * len(callers)

    async def _get(self, view: str, keys: list[str]) -> list[bytes | None]:
        wanted = list(dict.fromkeys(keys))
        await self._look_aside(view)
        found = await self._generations.read(view, lambda name: self._views.get(name, wanted))
        return [document.data if (document := found.get(key)) else None for key in keys]


class ProjectedTables:
    """How far `project` has brought the tables of the store: asked once for all requests of a loop turn."""

    def __init__(self, context: Context) -> None:
        self._context = context
        reactions = [each for each in consumers_of(context.service) if isinstance(each.declared, Reaction)]
        self.consumers = [each for each in reactions if cast("Reaction", each.declared).batch]
        self._looks = {
            each.name: Coalescer[int, Checkpoint](partial(self._look, each), concurrency=4) for each in self.consumers
        }

    async def reached(self, consumer: Consumer, partitions: Sequence[int]) -> Mapping[Place, Checkpoint]:
        """The consumer's checkpoints in these partitions: rows read afterwards have all that is up to there."""
        found = await asyncio.gather(*(self._looks[consumer.name].submit(each) for each in partitions))
        return {(consumer.source, each): at for each, at in zip(partitions, found, strict=True)}

    async def shown(self, session: Session) -> list[Position]:
        """The positions that cover what a session reads: of its service's own events, and of what is projected."""
        name, table = self._context.service.name, table_of(Progress)
        found = [Position(name, partition, number) for partition, number in (await session.heads()).items()]
        if self.consumers:
            rows = await session.find(table, {"consumer": [each.name for each in self.consumers]})
            found += [Position(row.source, row.partition, row.number) for row in map(table.from_row, rows)]
        return found

    async def _look(self, consumer: Consumer, partitions: list[int]) -> Sequence[Checkpoint]:
        at = await read_checkpoints(self._context.store, consumer.name, consumer.source, set(partitions))
        return [at[each] for each in partitions]


class Waiting:
    """Waits until views and tables have what the reader of one request has seen before, within a budget in seconds."""

    def __init__(
        self,
        context: Context,
        documents: Documents,
        notes: Notes,
        budget: float,
        tables: ProjectedTables | None = None,
    ) -> None:
        self.notes = notes
        self._context = context
        self._documents = documents
        self._tables = tables
        self._has_read_tables = False
        self._until = context.clock.monotonic() + budget
        self._reached: dict[str, Sequence[Position]] = {}

    async def reach(self, consumer: str, sources: set[str]) -> None:
        """Wait for the consumer, once: what is noted is not newer than what is read afterwards."""
        floor = floor_of([each for source in sources for each in self.notes.after(source)])
        if not floor:
            return
        await self._reach(consumer, floor, partial(self._documents.reached, consumer))

    async def look_aside(self, view: str, key: str) -> None:
        """Note what the document of a key lacks that is to be read now: exactly for who follows, else as is known."""
        self.notes.lacks(await self._documents.lacks(view, key, now=self.notes.follows))

    async def look_aside_all(self, view: str) -> None:
        """As `look_aside`, of all documents of a view, any of which may be in a list."""
        self.notes.lacks(await self._documents.all_lack(view, now=self.notes.follows))

    async def reach_tables(self) -> None:
        """As `reach`, of all that `project` writes, before the first row is read."""
        self._has_read_tables = True
        if self._tables is None or not self.notes.follows:
            return
        wanted = [(each, floor_of(self.notes.after(each.source))) for each in self._tables.consumers]
        await asyncio.gather(
            *(
                self._reach(each.name, floor, partial(self._tables.reached, each, [part for _, part in floor]))
                for each, floor in wanted
                if floor
            )
        )

    async def cover_tables(self, session: Session) -> None:
        """As `cover`, of the rows that were read in this session, if any were."""
        if self._tables is not None and self._has_read_tables and self.notes.follows:
            self.notes.saw(await self._tables.shown(session))

    async def _reach(self, consumer: str, floor: Mapping[Place, int], look: Look) -> None:
        if consumer not in self._reached:
            left = self._until - self._context.clock.monotonic()
            behind = await reach(self._context, consumer, floor, left, look)
            self._reached[consumer] = [Position(*place, number) for place, number in behind.items()]
        self.notes.missed(self._reached[consumer])

    async def cover(self, consumer: str) -> None:
        """Note where a view is whose document was read just now, for a reader who follows."""
        if self.notes.follows:
            at = await self._documents.shown(consumer)
            self.notes.saw(Position(*place, each.number) for place, each in at.items())


async def _checkpoints(views: ViewStore, name: str) -> Mapping[Place, Checkpoint]:
    return await views.checkpoints(name)
