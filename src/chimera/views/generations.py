"""Generations of a view: which one is read, which one is being built, and how all read heads go over to another one.

A view's documents and checkpoints are stored under the name of their generation: the first one has the view's own name,
later ones `name~2`, `name~3` and so on; a number is never given twice. A small document per view says which is which.

Read heads look at it now and then. A read is valid if its generation still served when the read was over, so a read
that took long looks once more, and reads again when it must. While a generation is *ready* to take over, every read
looks once more; when that has been so for long enough that every read head does it, the view *flips*. So nobody reads
from the old generation after somebody has read from the new one, and no dropped generation is ever answered from.
A read head that sees the flip first waits until the new generation has what the old one has.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, TypeVar

import msgspec

from chimera.core import names
from chimera.core.context import Context
from chimera.journal.checkpoints import numbers_of, reach, settled_checkpoints
from chimera.journal.register import Register
from chimera.ports import ViewStore
from chimera.views.switch import Follower, Seen

logger = logging.getLogger("chimera")

Found = TypeVar("Found")

Phase = Literal["building", "held", "ready"]
"""`held`: it lacks what the serving generation has, and waits for a person; `ready`: it may flip."""


class Generation(msgspec.Struct, frozen=True):
    """A generation and the fingerprint of the code that folds it, empty where that is not known yet.

    `types`: the types of events that it folds, where that is known.
    """

    number: int = 1
    code: str = ""
    types: tuple[str, ...] = ()


class Building(msgspec.Struct, frozen=True):
    """A generation that is being built. `force`: it may flip whatever it lacks."""

    generation: Generation
    phase: Phase = "building"
    keep_old: bool = False
    force: bool = False


class Generations(msgspec.Struct, frozen=True):
    """A view's generations. Every step is a method that returns the state after it.

    `before`: the generation that served before, whose readers are not to see less (0: no matter). `retired`: to be
    dropped. `last`: the highest number given. `known`: the code seen since all write heads ran the same. `declined`:
    code that was cancelled or gone back from, and is not built again by itself.
    """

    serving: Generation = Generation()
    before: int = 0
    building: Building | None = None
    kept: Generation | None = None
    retired: tuple[int, ...] = ()
    last: int = 1
    known: tuple[str, ...] = ()
    declined: str = ""

    @property
    def is_flipping(self) -> bool:
        """True when a generation is ready to take over."""
        return self.building is not None and self.building.phase == "ready"

    def is_building(self, number: int) -> bool:
        """True when the generation of this number is being built."""
        return self.building is not None and self.building.generation.number == number

    def adopted(self, code: str) -> Generations:
        """The generation that serves counts as made by this code."""
        return msgspec.structs.replace(self, serving=Generation(self.serving.number, code), known=self._knowing(code))

    def folding(self, code: str, types: tuple[str, ...]) -> Generations:
        """The generations of this code say which types of events they fold."""
        building = self.building
        if building is not None:
            building = msgspec.structs.replace(building, generation=_folding(building.generation, code, types))
        kept = None if self.kept is None else _folding(self.kept, code, types)
        return msgspec.structs.replace(self, serving=_folding(self.serving, code, types), building=building, kept=kept)

    def started(self, code: str, *, keep_old: bool = False, force: bool = False) -> Generations:
        """A new generation is built, instead of one that was being built."""
        building = Building(Generation(self.last + 1, code), keep_old=keep_old, force=force)
        left = self._without_building()
        known = self._knowing(code)
        return msgspec.structs.replace(left, building=building, last=self.last + 1, known=known, declined="")

    def resumed(self, code: str) -> Generations:
        """As `started`, but the generation that was kept goes on where it stands, if it is of this code."""
        if self.kept is None or self.kept.code != code:
            return self.started(code)
        left, known = self._without_building(), self._knowing(code)
        return msgspec.structs.replace(left, building=Building(self.kept), kept=None, known=known, declined="")

    def wished(self, *, keep_old: bool, force: bool) -> Generations:
        """The one being built is to keep the old one beside it, or to flip whatever it lacks."""
        if (building := self.building) is None:
            return self
        phase = "building" if force and building.phase == "held" else building.phase
        changed = Building(building.generation, phase, building.keep_old or keep_old, building.force or force)
        return msgspec.structs.replace(self, building=changed)

    def proved(self, number: int, phase: Phase) -> Generations:
        """It was compared, and may flip or is held."""
        if (building := self.building) is None or not self.is_building(number) or building.phase != "building":
            return self
        return msgspec.structs.replace(self, building=msgspec.structs.replace(building, phase=phase))

    def flipped(self, number: int, *, anew: bool = False) -> Generations:
        """It serves; the one that served is kept or retired, and one that was kept is retired in its place.

        `anew`: what the one that served has more was lost by its source.
        """
        if (building := self.building) is None or not (self.is_building(number) and self.is_flipping):
            return self
        kept = self.serving if building.keep_old else None
        retired = [each.number for each in (self.serving, self.kept) if each is not None and each != kept]
        return msgspec.structs.replace(
            self,
            serving=building.generation,
            before=0 if anew else self.serving.number,
            building=None,
            kept=kept,
            retired=(*self.retired, *retired),
        )

    def cancelled(self) -> Generations:
        """The one being built is dropped, and its code not built again by itself."""
        if self.building is None:
            return self
        code = self.building.generation.code
        return msgspec.structs.replace(
            self._without_building(), declined=self.declined if code == self.serving.code else code
        )

    def abandoned(self) -> Generations:
        """The one being built is dropped because nobody runs its code any more; who runs it later is new."""
        return msgspec.structs.replace(self._without_building(), known=(self.serving.code,))

    def gone_back(self) -> Generations:
        """The generation that was kept serves again, and the one that served is kept."""
        if self.kept is None:
            return self
        same = self.kept.code == self.serving.code
        return msgspec.structs.replace(
            self,
            serving=self.kept,
            before=self.serving.number if same else 0,
            kept=self.serving,
            declined="" if same else self.serving.code,
        )

    def without_kept(self) -> Generations:
        """The generation that was kept is dropped."""
        if self.kept is None:
            return self
        return msgspec.structs.replace(self, kept=None, retired=(*self.retired, self.kept.number))

    def dropped(self, number: int) -> Generations:
        """Nothing is left of a retired generation."""
        return msgspec.structs.replace(self, retired=tuple(each for each in self.retired if each != number))

    def _knowing(self, code: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.known, code)))

    def _without_building(self) -> Generations:
        if self.building is None:
            return self
        retired = (*self.retired, self.building.generation.number)
        return msgspec.structs.replace(self, building=None, retired=retired)


def _folding(generation: Generation, code: str, types: tuple[str, ...]) -> Generation:
    return msgspec.structs.replace(generation, types=types) if generation.code == code else generation


def _register(views: ViewStore) -> Register[Generations]:
    return Register(views, names.GENERATIONS, Generations)


async def read_generations(views: ViewStore, view_names: Sequence[str]) -> dict[str, Generations]:
    """The generations of each of these views, by name."""
    found = await _register(views).get(view_names)
    return {name: found.get(name, Generations()) for name in view_names}


async def change(
    views: ViewStore, view: str, step: Callable[[Generations], Generations], *, report: bytes | None = None
) -> Generations:
    """Take a step, from whatever state there is; a step that changes nothing is not written.

    `report` is stored in the same write. Returns the state afterwards.
    """
    beside = {} if report is None else {names.report_key(view): report}
    return await _register(views).change(view, Generations(), step, beside=beside)


async def serving_name(context: Context, view: str) -> str:
    """The name under which what is served of a view is stored now; anything but a view is stored under its own."""
    if view not in context.service.views:
        return view
    return names.generation_name(view, (await read_generations(context.views, [view]))[view].serving.number)


class GenerationReads:
    """The reads of views by a read head: each from the generation that serves."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._views = context.views
        self._timing = context.timing
        self._names = context.service.views.keys()
        self._follower: Follower[Mapping[str, Generations]] = Follower(self._read, {}, context.clock, concurrency=4)
        self._entered: dict[str, int] = {}

    async def read(self, view: str, get: Callable[[str], Awaitable[Found]]) -> Found:
        """The result of `get` with the name of the generation that serves when it is done.

        Raises Unavailable when the views can't be reached.
        """
        if view not in self._names:
            return await get(view)
        fresh = self._follower.looked_within(self._timing.switch_look_s)
        look = self._follower.latest if fresh else await self._follower.look()
        while True:
            state = look.setting[view]
            await self._enter(view, state)
            found = await get(names.generation_name(view, state.serving.number))
            if not state.is_flipping and self._is_valid(look):
                return found
            look = await self._follower.look()
            if look.setting[view].serving == state.serving:
                return found

    def _is_valid(self, look: Seen[Mapping[str, Generations]]) -> bool:
        return self._context.clock.monotonic() <= look.at + self._timing.switch_valid_s

    async def _read(self) -> Mapping[str, Generations]:
        return await read_generations(self._views, list(self._names))

    async def _enter(self, view: str, state: Generations) -> None:
        """Before the first read of a generation, wait until it has what the one before it has."""
        number = state.serving.number
        if self._entered.get(view) == number:
            return
        if state.before:
            await self._catch_up(names.generation_name(view, state.before), names.generation_name(view, number))
        self._entered[view] = number

    async def _catch_up(self, old: str, new: str) -> None:
        """Wait, but for sources that the new generation does not have at all."""
        floor = numbers_of(await settled_checkpoints(self._views, old))
        sources = {source for source, _ in await self._views.checkpoints(new)}
        within_s = self._timing.enter_s
        floor = {place: number for place, number in floor.items() if place[0] in sources}
        if await reach(self._context, new, floor, within_s):
            logger.warning("%s has not what %s had after %.0f s, and is read all the same", new, old, within_s)
