"""Generations of a view: which one is read, which one is being built, and how all read heads go over to another one.

A view's documents and checkpoints are kept under the name of their generation: the first one has the view's own name,
later ones `name~2`, `name~3` and so on; a number is never given twice. A small document per view says which is which.

Read heads look at it now and then. A read is valid if its generation still served when the read was over, so a read
that took long looks once more, and reads again when it must. While a generation is *ready* to take over, every read
looks once more; when that has been so for long enough that every head does it, the view *flips*. So nobody reads from
the old generation after somebody has read from the new one, and no dropped generation is ever answered from.
A head that sees the flip first waits until the new generation has what the old one has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import msgspec

from chimera.coalesce import Coalescer
from chimera.ports import Checkpoint, Document, ViewStore
from chimera.service import Service
from chimera.signals import Signal

logger = logging.getLogger("chimera")

Found = TypeVar("Found")

SETTINGS = "chimera.views"
LOOK_S = 0.5
"""Seconds for which a look is good enough to begin a read."""
VALID_S = 0.75
"""Seconds after a look within which a read must be over; else it looks again."""
SETTLE_S = 1.0
"""Seconds after which no read is under way that has not seen a setting."""
GRACE_S = 2.0
"""Seconds after which no read is under way in a generation that does not serve any more."""
ENTER_S = 2.0
"""Seconds that a head waits at most for a new generation to have what the old one had."""

Phase = Literal["building", "held", "ready"]
"""`held`: it has set aside what the serving generation has not, and waits for a person; `ready`: it may flip."""


class Generation(msgspec.Struct, frozen=True):
    """A generation and the fingerprint of the code that folds it, empty where that is not known yet."""

    number: int = 1
    code: str = ""


class Building(msgspec.Struct, frozen=True):
    """A generation that is being built. `force`: it may flip whatever it has set aside."""

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
        return self.building is not None and self.building.phase == "ready"

    def is_building(self, number: int) -> bool:
        return self.building is not None and self.building.generation.number == number

    def adopted(self, code: str) -> Generations:
        """What is there already counts as made by this code."""
        return msgspec.structs.replace(self, serving=Generation(self.serving.number, code), known=self._knowing(code))

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
        """What is being built is to be kept beside, or to flip whatever it has set aside."""
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

    def flipped(self, number: int) -> Generations:
        """It serves; the one that served is kept or retired, and one that was kept is retired in its place."""
        if (building := self.building) is None or not (self.is_building(number) and self.is_flipping):
            return self
        kept = self.serving if building.keep_old else None
        retired = [each.number for each in (self.serving, self.kept) if each is not None and each != kept]
        return msgspec.structs.replace(
            self,
            serving=building.generation,
            before=self.serving.number,
            building=None,
            kept=kept,
            retired=(*self.retired, *retired),
        )

    def cancelled(self) -> Generations:
        """What was being built is dropped, and its code not built again by itself."""
        if self.building is None:
            return self
        code = self.building.generation.code
        return msgspec.structs.replace(
            self._without_building(), declined=self.declined if code == self.serving.code else code
        )

    def abandoned(self) -> Generations:
        """What was being built is dropped because nobody runs its code any more; who runs it later is new."""
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


def generation_name(view: str, number: int) -> str:
    """The name under which a generation's documents and checkpoints are kept."""
    return view if number == 1 else f"{view}~{number}"


def view_of(name: str) -> str:
    """The view whose generation it is."""
    return name.partition("~")[0]


async def read_generations(views: ViewStore, names: Sequence[str]) -> dict[str, Generations]:
    """How it stands with each of these views."""
    kept = await views.get(SETTINGS, names)
    return {name: _decoded(kept.get(name)) for name in names}


async def change(
    views: ViewStore, view: str, step: Callable[[Generations], Generations], *, report: bytes | None = None
) -> Generations:
    """Take a step, from whatever state there is, by compare-and-set; a step that changes nothing is not written.

    `report` is kept in the same write. Returns the state afterwards.
    """
    beside = report_key(view)
    while True:
        kept = await views.get(SETTINGS, [view, beside])
        before = _decoded(kept.get(view))
        after = step(before)
        if after == before:
            return before
        documents = [_document(kept, view, msgspec.json.encode(after))]
        if report is not None:
            documents.append(_document(kept, beside, report))
        if await views.write(SETTINGS, documents, []):
            return after


def report_key(view: str) -> str:
    """The key of the report about a view's last comparison."""
    return f"{view}~report"


class _Look(NamedTuple):
    """What was seen at a time (monotonic seconds)."""

    at: float
    of: Mapping[str, Generations]


class GenerationReads:
    """How a process reads views: each from the generation that serves it."""

    def __init__(self, service: Service, views: ViewStore, moved: Signal) -> None:
        self._service = service
        self._views = views
        self._moved = moved
        self._looks: Coalescer[None, _Look] = Coalescer(self._look, concurrency=4)
        self._latest = _Look(float("-inf"), {})
        self._entered: dict[str, int] = {}

    async def name(self, view: str) -> str:
        """The name under which what is served of a view is kept now; anything but a view is kept under its own."""
        if view not in self._service.views:
            return view
        look = await self._looks.submit(None)
        return generation_name(view, look.of[view].serving.number)

    async def read(self, view: str, get: Callable[[str], Awaitable[Found]]) -> Found:
        """What `get` finds under the name of the generation that serves when it is done.

        Raises Unavailable when the views can't be reached.
        """
        if view not in self._service.views:
            return await get(view)
        fresh = time.monotonic() <= self._latest.at + LOOK_S
        look = self._latest if fresh else await self._looks.submit(None)
        while True:
            state = look.of[view]
            await self._enter(view, state)
            found = await get(generation_name(view, state.serving.number))
            if not state.is_flipping and time.monotonic() <= look.at + VALID_S:
                return found
            look = await self._looks.submit(None)
            if look.of[view].serving == state.serving:
                return found

    async def _look(self, askers: Sequence[None]) -> Sequence[_Look]:
        at = time.monotonic()
        look = _Look(at, await read_generations(self._views, list(self._service.views)))
        if at > self._latest.at:
            self._latest = look
        return [look] * len(askers)

    async def _enter(self, view: str, state: Generations) -> None:
        """Before the first read of a generation, wait until it has what the one before it has."""
        number = state.serving.number
        if self._entered.get(view) == number:
            return
        if state.before:
            await self._catch_up(generation_name(view, state.before), generation_name(view, number))
        self._entered[view] = number

    async def _catch_up(self, old: str, new: str) -> None:
        until = time.monotonic() + ENTER_S
        floor = await settled_checkpoints(self._views, old)
        while missing(floor, await self._views.checkpoints(new)):
            if time.monotonic() > until:
                logger.warning("%s has not what %s had after %.0f s, and is read all the same", new, old, ENTER_S)
                return
            await self._moved.wait(self._views.features.poll_s)


async def settled_checkpoints(views: ViewStore, name: str) -> Mapping[tuple[str, int], Checkpoint]:
    """A generation's checkpoints, which cover all that could be seen of its documents.

    A store without transactions shows documents before their checkpoints; the next write, here an empty one, finishes
    what was begun.
    """
    await views.write(name, [], [])
    return await views.checkpoints(name)


def missing(
    floor: Mapping[tuple[str, int], Checkpoint], at: Mapping[tuple[str, int], Checkpoint]
) -> list[tuple[str, int]]:
    """The places in which these checkpoints are not at the floor, but for sources that they don't have at all."""
    sources = {source for source, _ in at}
    return [
        place
        for place, wanted in floor.items()
        if place[0] in sources and at.get(place, Checkpoint()).number < wanted.number
    ]


def _decoded(kept: Document | None) -> Generations:
    if kept is None or kept.data is None:
        return Generations()
    return msgspec.json.decode(kept.data, type=Generations)


def _document(kept: Mapping[str, Document], key: str, data: bytes) -> Document:
    return Document(SETTINGS, key, data, kept[key].revision if key in kept else 0)
