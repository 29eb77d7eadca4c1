"""Projectors: from events to documents, a batch at a time, one atomic write per batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from chimera.batchfold import BatchFold, Failure, SetAside, failures_of, parked_view, set_aside
from chimera.endings import ProcessEnded, Watch
from chimera.feed import Batch, Feed
from chimera.generations import view_of
from chimera.messages import Message
from chimera.metrics import Metrics
from chimera.parking import kept_key
from chimera.ports import Checkpoint, Document, Move, ViewStore
from chimera.projections import Projection
from chimera.rehearsal import Rehearsed, Write
from chimera.signals import Signal
from chimera.tasks import finish

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

    async def run(self, feed: Feed, watch: Watch | None = None) -> None:
        """Apply batches as they come, until cancelled. Raises Unavailable when an engine can't be reached.

        What `watch` suspects of ending the process is folded alone, or set aside.

        Between batches it looks whether the checkpoints are still where it believes: others may move or delete them.
        """
        while True:
            batch = await feed.next()
            if not batch.messages or not await finish(self._apply_watched(batch, watch)):
                feed.reset(await self.checkpoints(feed.source, feed.partitions))

    async def checkpoints(self, source: str, partitions: Iterable[int]) -> dict[int, Checkpoint]:
        """Where the projection is, by partition of the source."""
        stored = await self._views.checkpoints(self._projection.name)
        return {partition: stored.get((source, partition), Checkpoint()) for partition in partitions}

    async def _apply_watched(self, batch: Batch, watch: Watch | None) -> bool:
        if watch is None or not (careful := watch.careful(batch.moves)):
            return await self.apply(batch)
        apart = {move.partition for move in careful}
        rest = Batch(
            [message for message in batch.messages if message.partition not in apart],
            [move for move in batch.moves if move.partition not in apart],
        )
        if rest.moves and not await self.apply(rest):
            return False
        for move in careful:
            if not await self._apply_alone(
                [each for each in batch.messages if each.partition == move.partition], move, watch
            ):
                return False
        return True

    async def _apply_alone(self, messages: Sequence[Message], move: Move, watch: Watch) -> bool:
        for message in filter(self._projection.wanted, messages):
            step = watch.up_to(move, message.number)
            async with watch.alone(step) as ended:
                if not await self.apply(Batch([message], [step]), ended):
                    return False
            move = move._replace(before=message.number)
        return move.before == move.after.number or await self.apply(Batch([], [move]))

    async def apply(self, batch: Batch, ended: ProcessEnded | None = None) -> bool:
        """Fold a batch and write it with its moves. False when the checkpoints are elsewhere: nothing was written.

        With `ended` its one message is set aside instead.
        """
        source = batch.moves[0].source
        wanted = [message for message in batch.messages if self._projection.wanted(message)]
        for _ in range(TRIES):
            documents = await (self._set_aside(wanted[0], ended) if ended else self._fold(wanted))
            if await self._views.write(self._projection.name, documents, batch.moves):
                self._metrics.applied(self._service, view_of(self._projection.name), source, len(wanted))
                self._moved.notify()
                return True
            at = await self.checkpoints(source, [move.partition for move in batch.moves])
            if any(at[move.partition].number != move.before for move in batch.moves):
                return False
        return False

    async def _set_aside(self, message: Message, ended: ProcessEnded) -> list[Document]:
        fold = BatchFold(self._projection, {}, await set_aside(self._views, self._projection.name, [message.key]))
        fold.park(message, ended, ended.times)
        self._warn(message)
        return fold.writes()

    async def _fold(self, messages: Sequence[Message]) -> list[Document]:
        projection, name = self._projection, self._projection.name
        try:
            prepared = [(message, *projection.prepare(message)) for message in messages]
        except Exception:  # noqa: BLE001 - the careful way finds the event at fault and keeps it with its cause
            return await self._fold_carefully(messages)
        aside = await self._views.get(parked_view(name), list({kept_key(message.key) for message in messages}))
        if aside:
            return await self._fold_carefully(messages)
        stored = await self._views.get(name, list({key for _, keys, _ in prepared for key in keys}))
        fold = BatchFold(projection, stored, SetAside({}, {}))
        try:
            for message, keys, event in prepared:
                fold.fold(message, keys, event)
            return fold.writes()
        except Exception:  # noqa: BLE001 - as above
            return await self._fold_carefully(messages)

    async def _fold_carefully(self, messages: Sequence[Message]) -> list[Document]:
        name = self._projection.name
        stored = await self._views.get(name, list({key for message in messages for key in self._keys(message)}))
        fold = BatchFold(
            self._projection, stored, await set_aside(self._views, name, [message.key for message in messages])
        )
        for message in messages:
            if not fold.fold_carefully(message):
                self._warn(message)
        return fold.writes()

    def _warn(self, message: Message) -> None:
        logger.warning(
            "%s: view %s set aside %s of key %r; see: chimera parked list",
            self._service,
            self._projection.name,
            message.id,
            message.key,
        )

    def _keys(self, message: Message) -> list[str]:
        try:
            return self._projection.prepare(message)[0]
        except Exception:  # noqa: BLE001 - it has no keys; folding it will say why
            return []

    async def redrive(self, key: str, *, drop: Sequence[str] = ()) -> list[tuple[Failure, bool]]:
        """Fold what is set aside under an event key again, in order, without the events to be dropped, by their ids.

        Returns each event and whether it is settled now. Those after one that fails again stay behind it. Nothing is
        done, and nothing returned, unless those to be dropped are the first.
        """
        for _ in range(TRIES):
            fold, failures = await self._unparked(key)
            if [failure.message.id for failure in failures[: len(drop)]] != list(drop):
                return []
            settled = [
                index < len(drop)
                or fold.fold_carefully(failure.message, tries=failure.tries + 1, first_at=failure.first_at)
                for index, failure in enumerate(failures)
            ]
            if await self._views.write(self._projection.name, fold.writes(), []):
                self._moved.notify()
                return list(zip(failures, settled, strict=True))
        return []

    async def rehearse(self, key: str) -> list[Rehearsed]:
        """What `redrive` would do, without doing it."""
        fold, failures = await self._unparked(key)
        found: list[Rehearsed] = []
        for message in [failure.message for failure in failures]:
            if fold.fold_carefully(message):
                writes = [Write(self._projection.name, each, fold.encoded(each)) for each in self._keys(message)]
                found.append(Rehearsed(message.id, "applied", writes=writes))
            else:
                waits = found and found[-1].result in ("failed", "waits")
                found.append(Rehearsed(message.id, "waits" if waits else "failed", fold.cause(message)))
        return found

    async def _unparked(self, key: str) -> tuple[BatchFold, list[Failure]]:
        """What is set aside under an event key, taken out in a fold that is not written yet."""
        aside = await set_aside(self._views, self._projection.name, [key])
        failures = [failure for document in aside.events.values() for failure in failures_of(document)]
        keys = list({each for failure in failures for each in self._keys(failure.message)})
        fold = BatchFold(self._projection, await self._views.get(self._projection.name, keys), aside)
        if failures:
            fold.unpark(key)
        return fold, failures
