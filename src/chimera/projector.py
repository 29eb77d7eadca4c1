"""Projectors: from events to documents, a batch at a time, one atomic write per batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from chimera.batchfold import BatchFold, Failure, failures_of, parked_view
from chimera.feed import Batch, Feed
from chimera.messages import Message
from chimera.metrics import Metrics
from chimera.ports import Checkpoint, Document, ViewStore
from chimera.projections import Projection
from chimera.signals import Signal

logger = logging.getLogger("chimera")

TRIES = 20


class Projector:
    """Folds one source's events into the documents of one projection.

    `moved` is notified after each write, for those who wait to read it.
    """

    def __init__(
        self, service: str, projection: Projection, views: ViewStore, *, metrics: Metrics, moved: Signal
    ) -> None:
        self._service = service
        self._projection = projection
        self._views = views
        self._metrics = metrics
        self._moved = moved

    async def run(self, feed: Feed) -> None:
        """Apply batches as they come, until cancelled. Raises Unavailable when an engine can't be reached.

        Between batches it looks whether the checkpoints are still where it believes: a rebuild deletes them.
        """
        while True:
            batch = await feed.next()
            if not (batch.messages and await self.apply(batch)):
                feed.reset(await self.checkpoints(feed.source, feed.partitions))

    async def checkpoints(self, source: str, partitions: Iterable[int]) -> dict[int, Checkpoint]:
        """Where the projection is, by partition of the source."""
        stored = await self._views.checkpoints(self._projection.name)
        return {partition: stored.get((source, partition), Checkpoint()) for partition in partitions}

    async def apply(self, batch: Batch) -> bool:
        """Fold a batch and write it with its moves. False when the checkpoints are elsewhere: nothing was written."""
        source = batch.moves[0].source
        wanted = [message for message in batch.messages if self._projection.wanted(message)]
        for _ in range(TRIES):
            documents = await self._fold(wanted)
            if await self._views.write(self._projection.name, documents, batch.moves):
                self._metrics.applied(self._service, self._projection.name, source, len(wanted))
                self._moved.notify()
                return True
            at = await self.checkpoints(source, [move.partition for move in batch.moves])
            if any(at[move.partition].number != move.before for move in batch.moves):
                return False
        return False

    async def _fold(self, messages: Sequence[Message]) -> list[Document]:
        projection, name = self._projection, self._projection.name
        try:
            prepared = [(message, *projection.prepare(message)) for message in messages]
        except Exception:  # noqa: BLE001 - the careful way finds the event at fault and keeps it with its cause
            return await self._fold_carefully(messages)
        aside = await self._views.get(parked_view(name), list({message.key for message in messages}))
        if aside:
            return await self._fold_carefully(messages)
        stored = await self._views.get(name, list({key for _, keys, _ in prepared for key in keys}))
        fold = BatchFold(projection, stored, {})
        try:
            for message, keys, event in prepared:
                fold.fold(message, keys, event)
            return fold.writes()
        except Exception:  # noqa: BLE001 - as above
            return await self._fold_carefully(messages)

    async def _fold_carefully(self, messages: Sequence[Message]) -> list[Document]:
        name = self._projection.name
        stored = await self._views.get(name, list({key for message in messages for key in self._keys(message)}))
        aside = await self._views.get(parked_view(name), list({message.key for message in messages}))
        fold = BatchFold(self._projection, stored, aside)
        for message in messages:
            if not fold.fold_carefully(message):
                logger.warning(
                    "%s: view %s set aside %s of key %r; see: chimera parked list",
                    self._service,
                    name,
                    message.id,
                    message.key,
                )
        return fold.writes()

    def _keys(self, message: Message) -> list[str]:
        try:
            return self._projection.prepare(message)[0]
        except Exception:  # noqa: BLE001 - it has no keys; folding it will say why
            return []

    async def redrive(self, key: str, *, drop_first: bool = False) -> list[tuple[Failure, bool]]:
        """Fold what is set aside under an event key again, in order, the first left out if it is to be dropped.

        Returns each event and whether it is settled now. Those after one that fails again stay behind it.
        """
        name = self._projection.name
        for _ in range(TRIES):
            aside = await self._views.get(parked_view(name), [key])
            if key not in aside:
                return []
            failures = failures_of(aside[key])
            messages = [failure.to_message() for failure in failures]
            stored = await self._views.get(name, list({k for message in messages for k in self._keys(message)}))
            fold = BatchFold(self._projection, stored, aside)
            fold.unpark(key)
            settled = [
                (drop_first and index == 0)
                or fold.fold_carefully(message, tries=failure.tries + 1, first_at=failure.first_at)
                for index, (message, failure) in enumerate(zip(messages, failures, strict=True))
            ]
            if await self._views.write(name, fold.writes(), []):
                self._moved.notify()
                return list(zip(failures, settled, strict=True))
        return []
