"""Filling a copy from what its owner has now, instead of replaying all that ever happened.

Noted first are where the log ends and then the owner's head H of a partition; then the documents are taken, then
the checkpoint moves from 0 to H. A document newer than H does no harm: its events come again and end at it. And no
record at or before the noted end has a number above H. Every write minds that the checkpoint is still at 0, so that
whoever comes second changes nothing; what a filling that was cut off left behind, the next one writes over.

A mark says that the partition is being filled. Every write puts it anew, at the revision of the one before: so a copy
that was dropped, or put back to an earlier moment, in between is begun again. The mark also says how far ahead the
documents are.
A copy that is older than what its owner keeps is filled in the same way, from where it is instead of from 0.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from chimera.borrow.ahead import Mark, ahead_of, read_marks
from chimera.core.context import Context
from chimera.core.names import events_topic, share_type
from chimera.core.paging import pages
from chimera.errors import ChimeraError
from chimera.forms import AnyDocument
from chimera.journal.feed import Batch
from chimera.messages import Message
from chimera.parts import Borrow
from chimera.ports import Checkpoint, Entry, Fetched, Move
from chimera.share.changes import change_data
from chimera.share.digests import BUCKETS
from chimera.share.owner import LOOK
from chimera.views.projector import Projector

logger = logging.getLogger("chimera")


class Bootstrap:
    """Fills those partitions of a copy that have no checkpoint yet; `name` is the copy's, `projector` writes it."""

    def __init__(self, context: Context, borrow: Borrow[AnyDocument], name: str, projector: Projector) -> None:
        self._context = context
        self._borrow = borrow
        self._name = name
        self._projector = projector
        self._owner = context.owners[borrow.owner]

    async def fill(self, partitions: Collection[int], late: Collection[int] = ()) -> None:
        """Fill what is at 0, if the owner can tell what it has; else the events have to be replayed.

        So are those that are `late`: the owner has trimmed the events that they need next.
        """
        try:
            await self._fill(partitions, late)
        except (ChimeraError, TimeoutError) as error:
            logger.info("%s can't be filled from its owner's documents now: %s", self._name, error)

    async def keep_trying(self, partitions: Collection[int]) -> None:
        """Fill until cancelled: what is still at 0 can't be replayed perhaps, because the journal was cut."""
        while True:
            await self._context.clock.sleep(self._context.timing.bootstrap_s)
            await self.fill(partitions)

    async def _fill(self, partitions: Collection[int], late: Collection[int]) -> None:
        at = await self._projector.checkpoints(self._borrow.owner, partitions)
        if not (to_fill := {each: now for each, now in at.items() if now.number == 0 or each in late}):
            return
        ends = await self._context.log.ends(events_topic(self._borrow.owner))
        async with asyncio.timeout(self._context.timing.ask_s):
            heads = await self._owner.heads()
            chain = await self._owner.chain(heads)
        for partition, now in to_fill.items():
            if (head := heads.get(partition, 0)) > now.number:
                await self._fill_partition(
                    partition, now, Checkpoint(head, ends.get(partition, 0), chain.get(partition, ""))
                )

    async def _fill_partition(self, partition: int, now: Checkpoint, full: Checkpoint) -> None:
        owner, share = self._borrow.owner, self._borrow.share
        still = Move(owner, partition, now.number, now)
        mark = (await read_marks(self._context.views, self._name, owner, [partition]))[partition]
        for first in range(0, BUCKETS, LOOK):
            entries = await self._owner.entries(share, partition, range(first, first + LOOK))
            for keys in pages(sorted(entries)):
                messages, through = await self._changes(partition, {key: entries[key] for key in keys})
                filling = mark.moved(through, filled=False)
                if not (revision := await self._projector.apply(Batch(messages, [still], [filling]))):
                    return
                mark = Mark(mark.view, mark.key, ahead_of(filling.data), revision)
        done = [mark.moved(0, filled=True)] if mark.revision else []
        if await self._context.views.write(self._name, done, [Move(owner, partition, now.number, full)]):
            self._context.moved.notify()

    async def _changes(self, partition: int, entries: dict[str, Entry]) -> tuple[Sequence[Message], int]:
        """The owner's documents as if they were the changes that led to them, and the number that none is beyond."""
        owner, share = self._borrow.owner, self._borrow.share
        existing = [key for key, entry in entries.items() if entry.digest]
        documents, positions = await self._owner.fetch(share, existing) if existing else Fetched({})
        through = max(
            (*(each.number for each in entries.values()), *(each.number for each in positions.values())), default=0
        )
        return [
            Message(
                f"{owner}/{partition}@{entry.number}",
                owner,
                share_type(owner, share),
                key,
                "",
                change_data(key, documents.get(key)),
                partition,
                entry.number,
            )
            for key, entry in entries.items()
        ], through
