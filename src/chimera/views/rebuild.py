"""Rebuilding a view beside the one that serves: built from the journal, compared, flipped, and the old one dropped.

The write heads that run a generation's code fold it, each its own partitions: the serving generation, the one that is
being built, and one that was kept. What they do follows from the view's `Generations` alone, so that whoever is killed
is followed by the next, and whoever comes twice changes nothing. Only views are built: handlers of events are no part
of it.

Code that was never seen starts a rebuild by itself. Code that was seen before does so only when all write heads run
it: so a process with the old code that starts again in the middle of a rolling deploy takes nothing back.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec

from chimera.core.aio.signals import A_DAY_S
from chimera.core.context import Context
from chimera.core.declared import is_of_chimera, own_events
from chimera.core.names import GENERATIONS, all_of, generation_name, report_key
from chimera.errors import ChimeraError, Trimmed, Unavailable
from chimera.folds import View
from chimera.forms import AnyDocument
from chimera.journal.checkpoints import Place, numbers_of, reach, settled_checkpoints
from chimera.journal.crash_loop import watching
from chimera.journal.feed import Feed
from chimera.journal.history import known_divergences
from chimera.journal.leases import Leases, partitions_of
from chimera.journal.works import working
from chimera.ports import Checkpoint
from chimera.views.comparison import Comparison, compare
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import Generation, Generations, change, read_generations
from chimera.views.lists.filling import fill_lists
from chimera.views.lists.proof import prove_lists
from chimera.views.lists.state import ListsProof, list_states
from chimera.views.projections import ViewProjection
from chimera.views.projector import Projector
from chimera.views.switch import Settling

logger = logging.getLogger("chimera")

Work = Callable[[], Awaitable[None]]


class ViewKeeper:
    """A worker's part in keeping a view: folds its generations, and moves a rebuild on.

    `leases` say whether all write heads run the same code.
    """

    def __init__(self, context: Context, view: View[AnyDocument], leases: Leases) -> None:
        self._context = context
        self._view = view
        self._leases = leases
        self._timing = context.timing
        self._clock = context.clock
        self._code = fingerprint(view)
        self._types = tuple(sorted(event.wire_type() for event in view.steps))
        self._projection = ViewProjection(view)

    async def run(self, held: frozenset[int]) -> None:
        """Keep the view until cancelled. Raises Unavailable when the views can't be reached.

        `held` are this worker's partitions among those that run the same code.
        """
        settling: Settling[Generations] = Settling(self._timing.switch_settle_s, self._clock)
        pace, before = self._context.pace(self._timing.keep_s, self._context.views), Generations()
        async with working(self._context) as works:
            while True:
                state = await self._joined()
                await works.become(self._works(state, held))
                if settling.see(state) and 0 in held:
                    await self._flip(state)
                quiet = state == before and state.building is None and not state.retired and self._leases.all_alike
                before = state
                await pace.pause(quiet=quiet)

    async def _joined(self) -> Generations:
        """The state, once this worker's code is known in it."""
        state = await self._read()
        if not state.serving.code:
            return await self._change(lambda now: now if now.serving.code else now.adopted(self._code))
        if self._code in state.known:
            told = state.folding(self._code, self._types)
            return state if told == state else await self._change(lambda now: now)
        return await self._start(lambda now: now if self._code in now.known else now.resumed(self._code))

    async def _start(self, step: Callable[[Generations], Generations]) -> Generations:
        """Start to build this code's generation, or, where the events for it are gone, go on with what is there."""
        view, state = self._view.name, await self._read()
        try:
            if step(state).last != state.last:
                await can_be_built(self._context, self._view)
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
        """The works of this worker in this state, by name."""
        view = self._view.name
        building = state.building
        generations = [state.serving, state.kept, building.generation if building else None]
        works: dict[str, Work] = {}
        for generation in generations:
            if generation is not None and generation.code == self._code:
                name = generation_name(view, generation.number)
                for source in sorted(self._view.sources):
                    works[f"view {name} {source}"] = self._folding(name, source, held)
                if 0 in held:
                    works[f"unread of {name}"] = self._reading(name)
                    works |= self._listing(name)
        if 0 not in held:
            return works
        for number in state.retired:
            works[f"dropping {generation_name(view, number)}"] = self._dropping(number)
        if building is not None and building.generation.code == self._code:
            number = building.generation.number
            if building.phase == "building":
                works[f"comparing {generation_name(view, number)}"] = self._comparing(number)
        if self._leases.all_alike and _settled(state, self._code) != state:
            works[f"settling {view}"] = self._settling
        return works

    def _listing(self, name: str) -> dict[str, Work]:
        """Fill the lists that a generation came to have with this code, once nobody folds it with other code."""
        entries = self._projection.lists
        if entries is None:
            return {}

        async def work() -> None:
            if (await list_states(self._context.views, name, entries.digests)).are_complete:
                await self._leases.changed.wait(A_DAY_S)
            else:
                await self._clock.sleep(self._timing.switch_grace_s)
                await fill_lists(self._context, name, entries)

        return {f"lists of {name}": work}

    def _folding(self, name: str, source: str, held: frozenset[int]) -> Work:
        async def work() -> None:
            context = self._context
            projector = Projector(context, self._projection.named(name))
            at = await projector.checkpoints(source, await partitions_of(context, source, held))
            feed = Feed(context, source, at, name)
            try:
                heads = partial(context.owners.known_heads, source)
                async with watching(context, name, source, at, heads, in_views=True) as watch:
                    await projector.run(feed, watch)
            finally:
                await feed.close()

        return work

    def _reading(self, name: str) -> Work:
        """Fold what other builds could not read, and have parked, or still park beside this one."""
        projector = Projector(self._context, self._projection.named(name))

        async def work() -> None:
            while True:
                await projector.redrive_unread()
                if self._leases.all_alike:
                    await self._leases.changed.wait(A_DAY_S)
                else:
                    await self._clock.sleep(self._timing.lease_s)

        return work

    def _comparing(self, number: int) -> Work:
        async def work() -> None:
            await self._clock.sleep(self._timing.keep_s)
            state = await self._read()
            building = state.building
            if building is None or not state.is_building(number) or building.phase != "building":
                return
            old, new = (generation_name(self._view.name, each) for each in (state.serving.number, number))
            floor, _ = await self._floor(old)
            if not await self._has(new, floor) or await self._diverged(new):
                return
            found = Comparison(state.serving.number, number)
            meet = partial(self._meet, state.serving, building.generation)
            await compare(self._context.views, old, new, found, meet)
            await self._note_unread(state.serving, found)
            await self._prove_lists(state.serving, building.generation, found)
            held = bool(found.lacks) and not building.force
            if held:
                logger.error("%s", why_held(self._context.service.name, self._view.name, found))
            await self._change(
                lambda now: now.proved(number, "held" if held else "ready"), report=msgspec.json.encode(found)
            )

        return work

    async def _prove_lists(self, old: Generation, new: Generation, found: Comparison) -> None:
        """Prove the lists of both generations, and mend those of the new one; other code may read the old ones only."""
        if old.code == new.code:
            found.lists_before = await self._proof(old.number, mend=False)
        found.lists = await self._proof(new.number, mend=True)

    async def _proof(self, number: int, *, mend: bool) -> ListsProof | None:
        name, entries = generation_name(self._view.name, number), self._projection.lists
        if entries is None:
            return None
        return await prove_lists(self._context.views, name, entries, self._clock, mend=mend)

    async def _note_unread(self, old: Generation, found: Comparison) -> None:
        """Note which types of events the old generation has folded and this code does not, given up or not."""
        service, read = self._context.service, {type_ for event in self._view.steps for type_ in event.wire_types()}
        if old.types:
            found.unread = sorted({*old.types} - read)
            sources = {type_.partition(".")[0] for type_ in found.unread}
            found.renamed = any(type_.partition(".")[0] in sources for type_ in {*self._types} - {*old.types})
        elif service.name in self._view.sources and found.missing:  # an earlier release did not write them down
            known = {type_ for event in own_events(service) for type_ in event.wire_types()}
            types = await self._context.store.types()
            found.unread = sorted(each for each in types if each not in known and not is_of_chimera(service, each))

    async def _flip(self, state: Generations) -> None:
        """Let a generation of this code that is ready serve, once it has what the one that serves has."""
        building = state.building
        if building is None or not state.is_flipping or building.generation.code != self._code:
            return
        number, old = building.generation.number, generation_name(self._view.name, state.serving.number)
        try:
            new = generation_name(self._view.name, number)
            floor, lost = await self._floor(old)
            if await self._has(new, floor) and not await self._diverged(new):
                await self._change(lambda now: now.flipped(number, anew=bool(lost)))
                self._context.moved.notify()
        except Unavailable as error:  # what is folded goes on meanwhile
            logger.info("view %s can't flip yet: %s", self._view.name, error)

    def _dropping(self, number: int) -> Work:
        async def work() -> None:
            await self._clock.sleep(self._timing.switch_grace_s)
            name = generation_name(self._view.name, number)
            await self._context.views.drop(name, all_of(name))
            await self._change(lambda now: now.dropped(number))

        return work

    async def _settling(self) -> None:
        await self._clock.sleep(self._timing.alone_s)
        if not self._leases.all_alike:
            return
        state = await self._read()
        if state.building is None and _settled(state, self._code).building is not None:
            await self._start(lambda now: _settled(now, self._code))
        else:
            await self._change(lambda now: _settled(now, self._code))

    async def _meet(self, old: Generation, new: Generation) -> bool:
        """True when each gets to where the other is now; an old one whose code nobody runs any more gets nowhere."""
        names = [generation_name(self._view.name, each.number) for each in (old, new)]
        after = numbers_of(await settled_checkpoints(self._context.views, names[1]))
        floor, stuck = await self._floor(names[0])
        if not await self._has(names[1], floor):
            return False
        if old.code != new.code and self._leases.all_alike:
            return True
        return await self._has(names[0], {place: number for place, number in after.items() if place not in stuck})

    async def _has(self, name: str, floor: Mapping[Place, int]) -> bool:
        """True when a generation gets to these places in a moment: one that is busy is always a little behind."""
        floor = {place: number for place, number in floor.items() if place[0] in self._view.sources}
        return not await reach(self._context, name, floor, self._timing.meet_s)

    async def _floor(self, name: str) -> tuple[dict[Place, int], set[Place]]:
        """What one that takes over from a generation must have, and where it stands on what its source lost.

        There it is all that the source has now.
        """
        floor, diverged = numbers_of(await settled_checkpoints(self._context.views, name)), await self._diverged(name)
        for source, partition in diverged:
            head = (await self._context.owners.known_heads(source)).get(partition, 0)
            floor[source, partition] = min(floor[source, partition], head)
        return floor, diverged

    async def _diverged(self, name: str) -> set[Place]:
        """Where a generation does not stand on the history of its source."""
        stored = await self._context.views.checkpoints(name)
        by_source: dict[str, dict[int, Checkpoint]] = {}
        for (source, partition), checkpoint in stored.items():
            by_source.setdefault(source, {})[partition] = checkpoint
        return {
            (source, partition)
            for source, at in by_source.items()
            for partition in await known_divergences(self._context, source, at)
        }

    async def _read(self) -> Generations:
        return (await read_generations(self._context.views, [self._view.name]))[self._view.name]

    async def _change(self, step: Callable[[Generations], Generations], *, report: bytes | None = None) -> Generations:
        return await change(
            self._context.views,
            self._view.name,
            lambda now: step(now).folding(self._code, self._types),
            report=report,
        )


def why_held(service: str, view: str, found: Comparison | None) -> str:
    """The line that says why a view that was built anew does not serve, and what to type."""
    return (
        f"view {view} of {service} is built anew and does not flip: {found.lacks if found else 'it lacks something'}; "
        f"mend its code, or let it serve as it is: chimera rebuild {service} {view} --force, or drop it: "
        f"chimera rebuild {service} {view} --cancel"
    )


def _settled(state: Generations, code: str) -> Generations:
    """The state that follows when every write head has run this code for a while."""
    if state.building is not None:
        return state if state.building.generation.code == code else state.abandoned()
    if state.serving.code == code:
        return msgspec.structs.replace(state, known=(code,), declined="")
    return state if state.declined == code else state.resumed(code)


async def ask_for(context: Context, view: str, *, keep_old: bool = False, force: bool = False) -> int:
    """Ask for a view to be built anew: the number of the generation that is being built from now on.

    It is with this code. Raises ChimeraError when one is being built with other code, or events of it are gone.
    """
    declared = context.service.views[view]
    code = fingerprint(declared)

    def step(now: Generations) -> Generations:
        if now.building is None:
            adopted = now if now.serving.code else now.adopted(code)
            return adopted.started(code, keep_old=keep_old, force=force)
        return now.wished(keep_old=keep_old, force=force) if now.building.generation.code == code else now

    state = (await read_generations(context.views, [view]))[view]
    if state.building is None:
        try:
            await can_be_built(context, declared)
        except Trimmed as error:
            raise ChimeraError(f"view {view} can't be built anew: {error}") from error
    after = await change(context.views, view, step)
    if after.building is None or after.building.generation.code != code:
        raise ChimeraError(
            f"view {view} is being rebuilt with other code; first: chimera rebuild {context.service.name} {view} "
            "--cancel"
        )
    return after.building.generation.number


async def can_be_built(context: Context, view: View[AnyDocument]) -> None:
    """Raises Trimmed when the first events of a source are gone, Unavailable when it can't be asked."""
    for source in view.sources:
        owner = context.owners[source]
        for partition, head in (await owner.heads()).items():
            if head:
                await owner.journal(partition, 0, 1)


async def last_report(context: Context, view: str) -> Comparison | None:
    """The report of the last comparison of a view; None where it was never compared."""
    key = report_key(view)
    found = (await context.views.get(GENERATIONS, [key])).get(key)
    return None if found is None or found.data is None else msgspec.json.decode(found.data, type=Comparison)
