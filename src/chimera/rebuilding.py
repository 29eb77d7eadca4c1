"""Rebuilding a view beside the one that serves: built from the journal, compared, flipped, and the old one dropped.

The write heads that run a generation's code fold it, each its own partitions: the serving generation, the one that is
being built, and one that was kept. What they do follows from the view's `Generations` alone, so that whoever is killed
is followed by the next, and whoever comes twice changes nothing. Only views are built: handlers of events are no part
of it.

Code that was never seen starts a rebuild by itself. Code that was seen before does so only when all write heads run
it: so a process with the old code that starts again in the middle of a rolling deploy takes nothing back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from chimera.body import Body
from chimera.comparing import Comparison, compare
from chimera.errors import ChimeraError, Trimmed
from chimera.fingerprints import fingerprint
from chimera.generations import (
    GRACE_S,
    SETTINGS,
    SETTLE_S,
    Generation,
    Generations,
    change,
    generation_name,
    read_generations,
    report_key,
    settled_checkpoints,
)
from chimera.ports import Checkpoint
from chimera.projections import ViewProjection
from chimera.projector import Projector
from chimera.service import View
from chimera.setaside import kept_views
from chimera.tasks import stop

logger = logging.getLogger("chimera")

Work = Callable[[], Awaitable[None]]
Persist = Callable[[str, Work], Awaitable[None]]
Places = Mapping[tuple[str, int], Checkpoint]

LOOK_S = 0.25
MEET_S = 0.25
LOOK_AGAIN_S = 0.02
ALONE_S = 3.0
"""Seconds for which all write heads must be seen to run the same code before what only others run is given up."""


class ViewKeeper:
    """A worker's part in keeping a view: folds its generations, and moves a rebuild on.

    `persist` does a work again whenever it ends; `is_alone` says whether all write heads run the same code.
    """

    def __init__(self, body: Body, view: View[Any], persist: Persist, is_alone: Callable[[], bool]) -> None:
        self._body = body
        self._view = view
        self._persist = persist
        self._is_alone = is_alone
        self._code = fingerprint(view)

    async def run(self, held: frozenset[int]) -> None:
        """Keep the view until cancelled. Raises Unavailable when the views can't be reached.

        `held` are this worker's partitions among those that run the same code.
        """
        working: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                state = await self._joined()
                wanted = self._works(state, held)
                for name in working.keys() - wanted.keys():
                    await stop(working.pop(name))
                for name in wanted.keys() - working.keys():
                    working[name] = asyncio.ensure_future(
                        self._persist(f"{self._body.service.name} {name}", wanted[name])
                    )
                await asyncio.sleep(LOOK_S)
        finally:
            for task in working.values():
                task.cancel()
            for task in working.values():
                await stop(task)

    async def _joined(self) -> Generations:
        """The state, once this worker's code is known in it."""
        state = await self._read()
        if not state.serving.code:
            return await self._change(lambda now: now if now.serving.code else now.adopted(self._code))
        if self._code in state.known:
            return state
        return await self._start(lambda now: now if self._code in now.known else now.resumed(self._code))

    async def _start(self, step: Callable[[Generations], Generations]) -> Generations:
        """Start to build this code's generation, or, where the events for it are gone, go on with what is there."""
        view, state = self._view.name, await self._read()
        try:
            if step(state).last != state.last:
                await can_be_built(self._body, self._view)
        except Trimmed as error:
            logger.error(  # noqa: TRY400 - one line is enough
                "view %s has changed and can't be built anew (%s); its documents stay, later events are folded by the "
                "new code",
                view,
                error,
            )
            return await self._change(lambda now: now if step(now) == now else now.adopted(self._code))
        except ChimeraError as error:
            logger.warning("view %s has changed and can't be built anew yet: %s", view, error)
            return state
        logger.info("view %s has changed: it is built anew beside the one that serves", view)
        return await self._change(step)

    def _works(self, state: Generations, held: frozenset[int]) -> dict[str, Work]:
        """What there is to do for this worker in this state, by name."""
        view = self._view.name
        building = state.building
        generations = [state.serving, state.kept, building.generation if building else None]
        works: dict[str, Work] = {}
        for generation in generations:
            if generation is not None and generation.code == self._code:
                for source in sorted(self._view.sources):
                    name = generation_name(view, generation.number)
                    works[f"view {name} {source}"] = self._folding(name, source, held)
        if 0 not in held:
            return works
        for number in state.retired:
            works[f"dropping {generation_name(view, number)}"] = self._dropping(number)
        if building is not None and building.generation.code == self._code:
            number = building.generation.number
            if building.phase == "building":
                works[f"comparing {generation_name(view, number)}"] = self._comparing(number)
            elif building.phase == "ready":
                works[f"flipping {generation_name(view, number)}"] = self._flipping(number)
        if self._is_alone() and _settled(state, self._code) != state:
            works[f"settling {view}"] = self._settling
        return works

    def _folding(self, name: str, source: str, held: frozenset[int]) -> Work:
        async def work() -> None:
            body = self._body
            projection = ViewProjection(self._view, name)
            projector = Projector(body.service.name, projection, body.views, metrics=body.metrics, moved=body.moved)
            at = await projector.checkpoints(source, await body.partitions_of(source, held))
            feed = body.feed(source, at)
            try:
                heads = partial(body.known_heads, source)
                async with body.watching(name, source, at, heads, views=True) as watch:
                    await projector.run(feed, watch)
            finally:
                await feed.close()

        return work

    def _comparing(self, number: int) -> Work:
        async def work() -> None:
            await asyncio.sleep(LOOK_S)
            state = await self._read()
            building = state.building
            if building is None or not state.is_building(number) or building.phase != "building":
                return
            old, new = (generation_name(self._view.name, each) for each in (state.serving.number, number))
            if not await self._has(new, await self._at(old)):
                return
            found = Comparison(state.serving.number, number)
            meet = partial(self._meet, state.serving, building.generation)
            await compare(self._body.views, old, new, found, meet)
            held = found.aside > found.aside_before and not building.force
            if held:
                logger.error(
                    "view %s is built anew but has set aside events that it had folded before; it does not flip: see "
                    "chimera rebuild %s %s",
                    self._view.name,
                    self._body.service.name,
                    self._view.name,
                )
            await self._change(
                lambda now: now.proved(number, "held" if held else "ready"), report=msgspec.json.encode(found)
            )

        return work

    def _flipping(self, number: int) -> Work:
        async def work() -> None:
            await asyncio.sleep(SETTLE_S)
            old = generation_name(self._view.name, (await self._read()).serving.number)
            if await self._has(generation_name(self._view.name, number), await self._at(old)):
                await self._change(lambda now: now.flipped(number))
                self._body.moved.notify()

        return work

    def _dropping(self, number: int) -> Work:
        async def work() -> None:
            await asyncio.sleep(GRACE_S)
            name = generation_name(self._view.name, number)
            await self._body.views.drop(name, kept_views(name))
            await self._change(lambda now: now.dropped(number))

        return work

    async def _settling(self) -> None:
        await asyncio.sleep(ALONE_S)
        if not self._is_alone():
            return
        state = await self._read()
        if state.building is None and _settled(state, self._code).building is not None:
            await self._start(lambda now: _settled(now, self._code))
        else:
            await self._change(lambda now: _settled(now, self._code))

    async def _meet(self, old: Generation, new: Generation) -> bool:
        """Whether each gets to where the other is now; an old one whose code nobody runs any more gets nowhere."""
        names = [generation_name(self._view.name, each.number) for each in (old, new)]
        before, after = [await settled_checkpoints(self._body.views, name) for name in names]
        if not await self._has(names[1], before):
            return False
        return (old.code != new.code and self._is_alone()) or await self._has(names[0], after)

    async def _has(self, name: str, floor: Places) -> bool:
        """Whether a generation gets to these places in a moment: one that is busy is always a little behind."""
        until = asyncio.get_running_loop().time() + MEET_S
        floor = {place: checkpoint for place, checkpoint in floor.items() if place[0] in self._view.sources}
        while True:
            at = await self._at(name)
            if all(at.get(place, Checkpoint()).number >= checkpoint.number for place, checkpoint in floor.items()):
                return True
            if asyncio.get_running_loop().time() > until:
                return False
            await self._body.moved.wait(LOOK_AGAIN_S)

    async def _at(self, name: str) -> Places:
        return await self._body.views.checkpoints(name)

    async def _read(self) -> Generations:
        return (await read_generations(self._body.views, [self._view.name]))[self._view.name]

    async def _change(self, step: Callable[[Generations], Generations], *, report: bytes | None = None) -> Generations:
        return await change(self._body.views, self._view.name, step, report=report)


def _settled(state: Generations, code: str) -> Generations:
    """The state that follows when every write head has run this code for a while."""
    if state.building is not None:
        return state if state.building.generation.code == code else state.abandoned()
    if state.serving.code == code:
        return msgspec.structs.replace(state, known=(code,), declined="")
    return state if state.declined == code else state.resumed(code)


async def can_be_built(body: Body, view: View[Any]) -> None:
    """Raises Trimmed when the first events of a source are gone, Unavailable when it can't be asked."""
    for source in view.sources:
        owner = body.owner(source)
        for partition, head in (await owner.heads()).items():
            if head:
                await owner.journal(partition, 0, 1)


async def last_report(body: Body, view: str) -> Comparison | None:
    """What the last comparison of a view found."""
    key = report_key(view)
    kept = (await body.views.get(SETTINGS, [key])).get(key)
    return None if kept is None or kept.data is None else msgspec.json.decode(kept.data, type=Comparison)
