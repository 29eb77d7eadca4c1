"""A survey of an owner's history: where it and its log part, and which consumers stand on what was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chimera.core.context import Context
from chimera.core.tables import ParkedPlace
from chimera.entities import table_of
from chimera.journal.history import Epochs
from chimera.upkeep.recovery.forks import Fork, find_fork
from chimera.upkeep.recovery.mend import HandledLost, handled_of
from chimera.upkeep.recovery.witnesses import Witness, witnesses_of


class Survey(NamedTuple):
    """What is known of an owner's history.

    `forks`: where its log has what it lost, by partition. `handled`: the reactions' checkpoints that don't stand on it,
    with what they have handled; `parked`: how many messages they have parked, by reaction.
    """

    owner: Context
    heads: Mapping[int, int]
    forks: Mapping[int, Fork]
    witnesses: Sequence[Witness]
    handled: Sequence[HandledLost]
    parked: Mapping[str, int]

    @property
    def new(self) -> list[Fork]:
        """The forks that no epoch tells of yet."""
        return [each for each in self.forks.values() if each.is_new]

    @property
    def diverged(self) -> list[Witness]:
        """The checkpoints that don't stand on the history."""
        return [each for each in self.witnesses if each.why]

    @property
    def is_well(self) -> bool:
        """True when nothing is to be mended."""
        return not (self.new or self.diverged)


async def survey(owner: Context, contexts: Sequence[Context], common: Mapping[int, int]) -> Survey:
    """Look at everything. `common`: where an operator says that histories part, by partition. Raises ChimeraError."""
    heads, began = await owner.store.heads(), Epochs(await owner.owners[owner.service.name].epochs())
    found = await asyncio.gather(*(find_fork(owner, partition, began, whole=True) for partition in sorted(heads)))
    forks = {fork.partition: fork for fork in found if fork is not None}
    witnesses = await witnesses_of(contexts, owner)
    reactions = [each for each in witnesses if each.why and each.consumer.kind == "reaction"]
    handled = [
        await handled_of(owner, each, forks.get(each.partition), common.get(each.partition)) for each in reactions
    ]
    return Survey(owner, heads, forks, witnesses, handled, await _parked(reactions))


async def _parked(reactions: Sequence[Witness]) -> dict[str, int]:
    table, found = table_of(ParkedPlace), dict[str, int]()
    for each in reactions:
        async with each.context.store.snapshot() as session:
            rows = await session.find(table, {"consumer": [each.name], "partition": [each.partition]})
        if rows:
            found[each.title] = found.get(each.title, 0) + len(rows)
    return found
