"""Mending what stands on a history that its owner lost: views are built anew, copies filled anew, reactions told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from chimera.commands.apart.kept import content_of
from chimera.core.context import Context
from chimera.core.names import all_of
from chimera.core.tables import KeptEvent, Progress
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.journal.checkpoints import again_on_conflict
from chimera.messages import Message
from chimera.parts import Reaction
from chimera.ports import Checkpoint
from chimera.upkeep.recovery.forks import Fork, JournalChains, led_to
from chimera.upkeep.recovery.witnesses import Witness
from chimera.views.rebuild import ask_for


class HandledLost(NamedTuple):
    """What a reaction has handled and its source lost: events up to where it stands, after a common checkpoint.

    `common` is None where that is not known: the log does not have all of the events any more.
    """

    witness: Witness
    common: Checkpoint | None
    events: Sequence[Message]


async def handled_of(owner: Context, witness: Witness, fork: Fork | None, common: int | None) -> HandledLost:
    """What a diverged reaction has handled and its source lost. `common`: where an operator says that they part."""
    partition, at, events = witness.partition, witness.at, None
    if fork is not None:
        journal = JournalChains(owner.store, partition, (await owner.store.heads())[partition])
        events = await led_to(fork, at.number, at.chain, journal, owner.seals.of(owner.service.name))
    if events is None and common is None:
        return HandledLost(witness, None, [])
    number = events[0].number - 1 if events else common or 0
    chain = (await owner.store.chain({partition: number})).get(partition, "")
    reaction = witness.consumer.declared
    types = reaction.types if isinstance(reaction, Reaction) else set()
    wanted = [each for each in events or () if each.type in types]
    return HandledLost(witness, Checkpoint(number, fork.end if fork else 0, chain), wanted)


async def settle(handled: HandledLost, keep: Collection[str] | None) -> None:
    """Let a reaction go on from where all have the same history.

    `keep`: the positions of the lost events whose effects stay, so that the same event is not handled again where it
    comes again; None for all of them.
    """
    if (common := handled.common) is None:
        raise ChimeraError(f"{handled.witness.title}: where it is to go on is not known")
    context, consumer, partition = handled.witness.context, handled.witness.name, handled.witness.partition
    kept = Counter(content_of(each) for each in handled.events if keep is None or str(each.position) in keep)
    table, progress, source = table_of(KeptEvent), table_of(Progress), handled.witness.consumer.source

    place = (consumer, source, partition)

    async def write() -> None:
        async with context.store.transaction() as session:
            unit = context.unit(session)
            at = [progress.from_row(row).checkpoint for row in await session.load(progress, [place])]
            if at != [handled.witness.at]:
                raise ChimeraError(f"{handled.witness.title} has moved meanwhile; look again")
            rows = await session.load(table, [(consumer, digest) for digest in kept])
            before = {row.digest: row.times for row in map(table.from_row, rows)}
            for digest, times in kept.items():
                unit.put(KeptEvent(consumer, digest, times + before.get(digest, 0)))
            unit.put(Progress.of(consumer, source, partition, common))
            await unit.flush()

    await again_on_conflict(write, context.clock)


async def mend_documents(witnesses: Collection[Witness]) -> list[tuple[Context, str, int]]:
    """Have diverged views built anew, and drop diverged copies, which are filled anew then.

    Returns the views' generations that are being built. Raises ChimeraError where one can't be.
    """
    building, seen = list[tuple[Context, str, int]](), set[tuple[str, str]]()
    for each in witnesses:
        context, name = each.context, each.consumer.name
        if not each.why or (context.service.name, name) in seen:
            continue
        if each.consumer.kind == "view":
            seen.add((context.service.name, name))
            building.append((context, name, await ask_for(context, name, force=True)))
        elif each.consumer.kind == "copy":
            seen.add((context.service.name, name))
            await context.views.drop(each.name, all_of(each.name))
            context.moved.notify()
    return building


def by_reaction(handled: Sequence[HandledLost]) -> Mapping[str, list[HandledLost]]:
    """What reactions have handled, by how an operator calls them."""
    found: dict[str, list[HandledLost]] = {}
    for each in handled:
        found.setdefault(each.witness.title, []).append(each)
    return found
