"""Which history a checkpoint stands on: its owner's, or one that its owner does not have (any more).

A checkpoint remembers the chain of its partition. An owner that was put back to an earlier moment, or was made anew,
ends before the checkpoint or has another chain there. Whoever consumes is therefore a witness of what was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chimera.core.context import Context
from chimera.core.keys.seals import Seal
from chimera.errors import ChimeraError
from chimera.messages import Message
from chimera.ports import Checkpoint, Epoch, Owner


class Epochs:
    """An owner's epochs, by partition: which records of the log are of a history that it does not have any more."""

    def __init__(self, epochs: Sequence[Epoch] = ()) -> None:
        self._began: dict[int, list[Epoch]] = {}
        for each in epochs:
            self._began.setdefault(each.partition, []).append(each)

    def is_over(self, partition: int, number: int, offset: int) -> bool:
        """True for a record that may be of the history before; the journal has what is not."""
        began = self._began.get(partition)
        return began is not None and any(offset <= each.offset and number > each.number for each in began)


def fits(message: Message, at: Checkpoint, seal: Seal) -> bool:
    """False where an event is not the one after a checkpoint, or could be anybody's in a fleet with keys.

    Without keys, what has no chain says nothing about it.
    """
    if not at.chain:
        return not seal.is_keyed
    return bool(message.chain and seal.follows(message, at.chain))


async def known_divergences(context: Context, source: str, at: Mapping[int, Checkpoint]) -> dict[int, str]:
    """As `divergences`; none while the owner can't be asked."""
    try:
        heads = await context.owners.heads(source).anew()
        return await divergences(source, context.owners[source], heads, at)
    except ChimeraError:
        return {}


async def divergences(
    source: str, owner: Owner, heads: Mapping[int, int], at: Mapping[int, Checkpoint]
) -> dict[int, str]:
    """Why checkpoints do not stand on their owner's history, by partition; those that do, or may, are left out.

    They have to be older than the heads. Raises Unavailable when the owner can't be asked.
    """
    within = {partition: each for partition, each in at.items() if each.number <= heads.get(partition, each.number)}
    chains = await owner.chain({partition: each.number for partition, each in within.items() if each.chain})
    found = {
        partition: f"stands at {source}/{partition}@{each.number}, but {source} ends at {heads[partition]}"
        for partition, each in at.items()
        if partition not in within
    }
    for partition, chain in chains.items():
        if chain != (each := within[partition]).chain:
            found[partition] = f"stands at {source}/{partition}@{each.number}, where {source} has another event"
    return found
