"""The proof that a history is whole: its chain computed again from the bytes that are stored, and who stands on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chimera.core.aio.turns import Turns
from chimera.core.context import Context
from chimera.core.keys.seals import Seal
from chimera.ports import Store

PAGE = 1000


class Proof(NamedTuple):
    """What came of computing a partition's chain again: the numbers looked at, and the chain at the last of them.

    `broken`: the first number whose event is not the one that was chained; 0 where all are. `unchained`: events from
    before there were chains, or under a key that is gone: nothing vouches for them.
    """

    partition: int
    first: int
    last: int
    chain: str
    broken: int = 0
    unchained: int = 0


async def prove(store: Store, partition: int, seal: Seal) -> Proof:
    """Compute the chain of a partition again, over every event that is still there. Raises Unavailable."""
    first = (await store.oldest())[partition]
    at = first - 1
    chain = (await store.chain({partition: at})).get(partition, "")
    unchained, turns = 0, Turns()
    while page := await store.journal(partition, at, PAGE):
        for event in page:
            await turns.after(len(event.data))
            if not event.chain:
                unchained, chain = unchained + 1, ""
            elif chain and not seal.may_follow(event, chain):
                return Proof(partition, first, event.number, event.chain, event.number, unchained)
            else:
                unchained, chain = unchained + (not seal.knows(event)), event.chain
            at = event.number
    return Proof(partition, first, at, chain, 0, unchained)


async def prove_all(context: Context, partitions: Sequence[int]) -> list[Proof]:
    """As `prove`, of each of these partitions of a service's journal."""
    return [await prove(context.store, partition, context.seals.of(context.service.name)) for partition in partitions]
