"""Which generation of a reaction's tables serves: rows of the store, so that it is switched with checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.tables import TableGenerations
from chimera.entities import table_of
from chimera.journal.checkpoints import again_on_conflict
from chimera.parts import Reaction
from chimera.ports import Session, Store
from chimera.signature import located
from chimera.views.generations import Generations

STATES = table_of(TableGenerations)
MOST = 1_000
"""Reactions with tables that a service has at most."""


class Built(NamedTuple):
    """A generation of a reaction's tables. `others`: those tables that have the names that they were given."""

    reaction: str
    number: int = 1
    others: frozenset[str] = frozenset()

    def number_of(self, table: str) -> int:
        """The generation that a table is of."""
        return 1 if table in self.others else self.number


class TablesState(NamedTuple):
    """The generations of a reaction's tables, and the tables of the one that serves."""

    generations: Generations = Generations()
    tables: frozenset[str] = frozenset()

    def serving(self, reaction: Reaction) -> Built:
        """The generation that serves; a table that it did not have when it was built is as it was given."""
        number = self.generations.serving.number
        others = frozenset(reaction.tables) - self.tables if number > 1 else frozenset()
        return Built(reaction.name, number, others)


async def states_in(session: Session) -> dict[str, TablesState]:
    """The states of all reactions whose tables were ever built anew, by name. What is read does not hold."""
    rows = map(STATES.from_row, await session.scan(STATES, (), MOST))
    return {row.reaction: _state_of(row) for row in rows}


async def held_state(session: Session, reaction: str) -> TablesState:
    """The state of a reaction; in a transaction that writes it holds until that ends."""
    found = [STATES.from_row(row) for row in await session.load(STATES, [(reaction,)])]
    return _state_of(found[0]) if found else TablesState()


async def read_states(store: Store) -> Mapping[str, TablesState]:
    """As `states_in`, of now."""
    async with store.snapshot(once=True) as session:
        return await states_in(session)


async def read_generations_of(store: Store, reaction: str) -> Generations:
    """The generations of a reaction's tables."""
    return (await read_states(store)).get(reaction, TablesState()).generations


async def unlisted_tables(context: Context) -> list[str]:
    """The tables of generations that are not in `tables=` any more, a line for each reaction that says what to do."""
    found: list[str] = []
    for name, state in (await read_states(context.store)).items():
        reaction = context.service.reactions.get(name)
        gone = state.tables - set(reaction.tables) if reaction is not None else ()
        if reaction is not None and gone and state.generations.serving.number > 1:
            written = ", ".join(f'"{table}"' for table in sorted(state.tables))
            found.append(
                f"{located(reaction.function)}: {name} writes {', '.join(sorted(gone))} in generation "
                f"{state.generations.serving.number}, and has to say so: project(…, tables=[{written}])"
            )
    return found


def _state_of(row: TableGenerations) -> TablesState:
    return TablesState(msgspec.json.decode(row.state, type=Generations), frozenset(row.tables.split()))


async def change_state(
    store: Store,
    clock: Clock,
    reaction: str,
    step: Callable[[Generations], Generations],
    *,
    report: str = "",
) -> Generations:
    """Take a step, from whatever state there is; returns the state afterwards. `report`, if any, is stored with it."""

    async def change() -> Generations:
        async with store.transaction() as session:
            before, tables = await held_state(session, reaction)
            after = step(before)
            if after != before or report:
                told = report or await report_in(session, reaction)
                await session.save(STATES, [STATES.to_row(state_row(reaction, TablesState(after, tables), told))])
            return after

    return await again_on_conflict(change, clock)


async def report_in(session: Session, reaction: str) -> str:
    """That report as it is stored; empty for none."""
    rows = await session.load(STATES, [(reaction,)])
    return str(STATES.from_row(rows[0]).report) if rows else ""


def state_row(reaction: str, state: TablesState, report: str) -> TableGenerations:
    """The row of a state and its report."""
    generations = msgspec.json.encode(state.generations).decode()
    return TableGenerations(reaction, generations, report, " ".join(sorted(state.tables)))
