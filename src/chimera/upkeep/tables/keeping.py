"""Building the tables of a reaction anew: from the journal, beside those that serve, compared, switched, and dropped.

What is built has checkpoints and parked events under a name of its own. To switch is one transaction: it holds the
checkpoints of both, which must be no further back than those of what serves, gives them to the reaction as its own, and
its parked events, and says which generation serves. So nobody else has to know that there are generations.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

import msgspec

from chimera.commands.react import keep_reacting
from chimera.core.context import Context
from chimera.core.names import reaction_consumer
from chimera.core.tables import Parked, Progress, Start
from chimera.entities import Entity, table_of
from chimera.errors import ChimeraError, Trimmed, Unavailable
from chimera.journal.checkpoints import Place, again_on_conflict
from chimera.journal.leases import Leases
from chimera.journal.works import working
from chimera.parts import Reaction
from chimera.ports import Session, WriteSession
from chimera.transaction import Unit
from chimera.upkeep.tables.comparing import ComparedTables, compare_tables
from chimera.upkeep.tables.naming import built_name
from chimera.upkeep.tables.reports import why_tables_held
from chimera.upkeep.tables.state import (
    Built,
    TablesState,
    change_state,
    held_state,
    read_generations_of,
    report_in,
    state_row,
)
from chimera.upkeep.tables.store import GenerationsStore
from chimera.views.comparison import SAMPLES, Comparison
from chimera.views.generations import Generations, Phase

logger = logging.getLogger("chimera")

Work = Callable[[], Awaitable[None]]
Own = TypeVar("Own", bound=Entity)
MEETINGS = 20
"""Looks at whether both generations have come equally far, before they are compared as they are."""


class TablesKeeper:
    """A worker's part in keeping a reaction's tables: builds another generation when asked, and moves that on."""

    def __init__(self, context: Context, reaction: Reaction, leases: Leases) -> None:
        self._context = context
        self._reaction = reaction
        self._leases = leases
        self._store = generations_of(context)
        self._timing = context.timing
        self._clock = context.clock

    async def run(self, held: frozenset[int]) -> None:
        """Keep the tables until cancelled. Raises Unavailable when the store can't be reached."""
        pace, before = self._context.pace(self._timing.keep_s, self._store), Generations()
        async with working(self._context) as works:
            while True:
                state = await read_generations_of(self._store.plain, self._reaction.name)
                await works.become(self._works(state, held))
                if 0 in held and state.is_flipping:
                    await self._switch(state)
                quiet = state == before and state.building is None and not state.retired
                before = state
                await pace.pause(quiet=quiet)

    def _works(self, state: Generations, held: frozenset[int]) -> dict[str, Work]:
        name, works = self._reaction.name, dict[str, Work]()
        if (building := state.building) is not None:
            number = building.generation.number
            for source in self._reaction.sources:
                works[f"tables of {name}, generation {number}, from {source}"] = self._building(number, source, held)
            if 0 in held and building.phase == "building":
                works[f"comparing tables of {name}, generation {number}"] = self._comparing(number)
        if 0 in held:
            for number in state.retired:
                works[f"dropping tables of {name}, generation {number}"] = self._dropping(number)
        return works

    def _building(self, number: int, source: str, held: frozenset[int]) -> Work:
        async def work() -> None:
            store = self._store.building(self._reaction.name, number)
            await store.make(Built(self._reaction.name, number))
            reaction = self._reaction._replace(name=built_name(self._reaction.name, number))
            context = replace(self._context, store=store)
            await keep_reacting(context, reaction, source, lambda: self._leases.held_alike, held)

        return work

    def _comparing(self, number: int) -> Work:
        async def work() -> None:
            await self._clock.sleep(self._timing.keep_s)
            state = await read_generations_of(self._store.plain, self._reaction.name)
            building = state.building
            if building is None or not state.is_building(number) or building.phase != "building":
                return
            found = await self._compared(number)
            if found is None:
                return
            held = bool(found.lacks) and not building.force
            if held:
                logger.error("%s", why_tables_held(self._context.service.name, self._reaction.name, found))
            phase: Phase = "held" if held else "ready"
            await self._change(lambda now: now.proved(number, phase), found)

        return work

    async def _compared(self, new: int) -> Comparison | None:
        """Both generations where they have come equally far, if that ever happens; None while the new one is behind."""
        own, built = self._reaction.name, built_name(self._reaction.name, new)
        for meeting in range(MEETINGS):
            async with self._store.plain.snapshot() as session:
                before, after = await self._progress(session, own), await self._progress(session, built)
                if _is_behind(after, before):
                    return None
                at_rest = {place: each.number for place, each in before.items() if each.number} == {
                    place: each.number for place, each in after.items() if each.number
                }
                if at_rest or meeting == MEETINGS - 1:
                    names = self._reaction.compared or self._reaction.tables
                    serving = (await held_state(session, own)).serving(self._reaction)
                    which = Built(own, new)
                    tables = ComparedTables(names, self._store.entities, serving, which)
                    found = await compare_tables(session, tables, at_rest=at_rest)
                    found.aside, found.causes = await self._parked(session, built)
                    found.aside_before, _ = await self._parked(session, own)
                    return found
            await self._clock.sleep(self._timing.keep_s)
        return None

    async def _switch(self, state: Generations) -> None:
        """Let the generation that is ready serve, once it has all that the one that serves has."""
        building = state.building
        assert building is not None
        number = building.generation.number
        try:
            if await again_on_conflict(partial(self._try_switch, number), self._clock):
                self._context.moved.notify()
                logger.info("tables of %s: generation %d serves", self._reaction.name, number)
        except Unavailable as error:  # what is built goes on meanwhile
            logger.info("the tables of %s can't be switched yet: %s", self._reaction.name, error)

    async def _try_switch(self, number: int) -> bool:
        own, built = self._reaction.name, built_name(self._reaction.name, number)
        async with self._store.plain.transaction() as session:
            unit = self._context.unit(session)
            before, after = await self._progress(session, own), await self._progress(session, built)
            state = (await held_state(session, own)).generations
            if not (state.is_building(number) and state.is_flipping) or _is_behind(after, before):
                return False
            if {place for place, each in after.items() if each.number} - before.keys():
                return False  # a checkpoint that is not there yet can't be held
            for (source, partition), row in after.items():
                unit.forget(row)
                unit.put(Progress.of(reaction_consumer(own, source), source, partition, row.checkpoint))
            await self._hand_over(session, unit, own, built)
            switched = TablesState(state.flipped(number), frozenset(self._reaction.tables))
            unit.put(state_row(own, switched, await report_in(session, own)))
            await unit.flush()
        return True

    async def _hand_over(self, session: WriteSession, unit: Unit, own: str, built: str) -> None:
        """The events that the new generation has parked are the reaction's, and those of the old one are nobody's."""
        for source in self._reaction.sources:
            old, new = reaction_consumer(own, source), reaction_consumer(built, source)
            for row in await _rows_of(session, Parked, old):
                unit.forget(row)
            for row in await _rows_of(session, Parked, new):
                unit.forget(row)
                unit.put(msgspec.structs.replace(row, consumer=old))
            for start in await _rows_of(session, Start, new):
                unit.forget(start)

    def _dropping(self, number: int) -> Work:
        async def work() -> None:
            await self._clock.sleep(self._timing.switch_grace_s)
            store, name = self._store, self._reaction.name
            await again_on_conflict(partial(self._forget, built_name(name, number)), self._clock)
            await store.drop(Built(name, number))
            await self._change(lambda now: now.dropped(number))

        return work

    async def _forget(self, built: str) -> None:
        """Forget how far a generation was, and what it had parked."""
        async with self._store.plain.transaction() as session:
            unit = self._context.unit(session)
            for source in self._reaction.sources:
                for entity in (Progress, Parked, Start):
                    for row in await _rows_of(session, entity, reaction_consumer(built, source)):
                        unit.forget(row)
            await unit.flush()

    async def _progress(self, session: Session, name: str) -> dict[Place, Progress]:
        """How far a generation is, under its name."""
        return {
            (row.source, row.partition): row
            for source in self._reaction.sources
            for row in await _rows_of(session, Progress, reaction_consumer(name, source))
        }

    async def _parked(self, session: Session, name: str) -> tuple[int, list[str]]:
        """The number of keys with parked events, and the causes of some of them."""
        rows = [
            row
            for source in self._reaction.sources
            for row in await _rows_of(session, Parked, reaction_consumer(name, source))
        ]
        causes = {row.key: f"{row.key}: {row.cause}" for row in rows if row.state != "behind"}
        return len({row.key for row in rows}), list(causes.values())[:SAMPLES]

    async def _change(self, step: Callable[[Generations], Generations], found: Comparison | None = None) -> Generations:
        report = "" if found is None else msgspec.json.encode(found).decode()
        return await change_state(self._store.plain, self._clock, self._reaction.name, step, report=report)


def generations_of(context: Context) -> GenerationsStore:
    """The store of a service that has tables which can be built anew."""
    assert isinstance(context.store, GenerationsStore), f"{context.service.name} has no such tables"
    return context.store


async def ask_for_tables(context: Context, reaction: Reaction, *, force: bool = False) -> int:
    """Ask for a reaction's tables to be built anew: the number of the generation that is being built from now on.

    Raises ChimeraError where events of a source are gone.
    """
    for source in reaction.sources:
        owner = context.owners[source]
        for partition, head in (await owner.heads()).items():
            try:
                await owner.journal(partition, 0, 1) if head else None
            except Trimmed as error:
                raise ChimeraError(f"the tables of {reaction.name} can't be built anew: {error}") from error

    def step(now: Generations) -> Generations:
        return now.started("", force=force) if now.building is None else now.wished(keep_old=False, force=force)

    store = generations_of(context)
    after = await change_state(store.plain, context.clock, reaction.name, step)
    assert after.building is not None
    return after.building.generation.number


def _is_behind(after: Mapping[Place, Progress], before: Mapping[Place, Progress]) -> bool:
    return any(row.number > (after[place].number if place in after else 0) for place, row in before.items())


async def _rows_of(session: Session, entity: type[Own], consumer: str) -> list[Own]:
    table = table_of(entity)
    return [table.from_row(row) for row in await session.find(table, {"consumer": [consumer]})]
