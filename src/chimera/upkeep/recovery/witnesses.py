"""The witnesses of a history: the checkpoints of all its consumers, and which of them don't stand on it any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chimera.borrow.modes import read_mode
from chimera.core.context import Context
from chimera.journal.consumers import Consumer, consumers_of
from chimera.journal.history import divergences
from chimera.parts import Borrow
from chimera.ports import Checkpoint
from chimera.upkeep.positions import checkpoints_of, names_of


class Witness(NamedTuple):
    """A consumer's checkpoint in one partition; `name` is that which it is stored under.

    `why` says why it does not stand on its source's history; empty where it does.
    """

    context: Context
    consumer: Consumer
    name: str
    partition: int
    at: Checkpoint
    why: str

    @property
    def title(self) -> str:
        """How an operator calls the consumer."""
        declared = self.consumer.declared
        return f"{self.context.service.name}.{declared.name if declared is not None else self.name}"


async def witnesses_of(contexts: Iterable[Context], owner: Context) -> list[Witness]:
    """The checkpoints that these services' consumers have in an owner's journal. Raises Unavailable."""
    source, heads = owner.service.name, await owner.store.heads()
    own, found = owner.owners[source], list[Witness]()
    for context, consumer in await _consumers(contexts, source):
        for name in await names_of(context, consumer, also_kept=True):
            at = await checkpoints_of(context, consumer, name, sorted(heads))
            why = await divergences(source, own, heads, at)
            found += [
                Witness(context, consumer, name, partition, each, why.get(partition, ""))
                for partition, each in at.items()
            ]
    return found


async def _consumers(contexts: Iterable[Context], source: str) -> Sequence[tuple[Context, Consumer]]:
    found = []
    for context in contexts:
        for consumer in consumers_of(context.service):
            if consumer.source != source or consumer.kind in ("commands", "relay"):
                continue
            if isinstance(consumer.declared, Borrow):
                setting = await read_mode(context, consumer.declared)
                if consumer.mode not in (setting.mode, setting.wanted):
                    continue
            found.append((context, consumer))
    return found
