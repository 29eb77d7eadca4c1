"""Projectors: from events to documents, a batch at a time, one atomic write per batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from chimera.batchfold import BEHIND, BatchFold
from chimera.endings import ProcessEnded, Watch
from chimera.feed import Batch, Feed
from chimera.generations import view_of
from chimera.messages import Message
from chimera.metrics import Metrics
from chimera.parking import kept_key
from chimera.ports import Checkpoint, Document, Move, ViewStore
from chimera.projections import Projection
from chimera.recent import Recent
from chimera.rehearsal import Rehearsed, Write
from chimera.setaside import PAGE, Failure, events_of, failure_of, failures_of, line_of, waiting_view
from chimera.signals import Signal
from chimera.tasks import finish

logger = logging.getLogger("chimera")

TRIES = 20


class Folded(NamedTuple):
    """What to write of a batch, and the events that failed in it."""

    writes: Sequence[Document]
    failed: Sequence[Message] = ()


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
        self._recent = Recent(projection.name)
        self._none_waits = False

    async def run(self, feed: Feed, watch: Watch | None = None) -> None:
        """Apply batches as they come, until cancelled. Raises Unavailable when an engine can't be reached.

        What `watch` suspects of ending the process is folded apart, or set aside.

        Between batches it looks whether the checkpoints are still where it believes: others may move or delete them.
        """
        while True:
            batch = await feed.next()
            if not batch.messages:
                self._recent.forget()
            elif await finish(self._apply_watched(batch, watch)):
                continue
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
            if not await self._apply_apart(
                [each for each in batch.messages if each.partition == move.partition], move, watch
            ):
                return False
        return True

    async def _apply_apart(self, messages: Sequence[Message], move: Move, watch: Watch) -> bool:
        left = [message for message in messages if self._projection.wanted(message)]
        while left:
            count = watch.together(move.partition)
            part, left = left[:count], left[count:]
            step = watch.up_to(move, part[-1].number)
            async with watch.alone(step, len(part)) as ended:
                if not await self.apply(Batch(part, [step]), ended):
                    return False
            move = move._replace(before=step.after.number)
        return move.before == move.after.number or await self.apply(Batch([], [move]))

    async def apply(self, batch: Batch, ended: ProcessEnded | None = None) -> bool:
        """Fold a batch and write it with its moves. False when the checkpoints are elsewhere: nothing was written.

        With `ended` its one message is set aside instead. Raises Unavailable where too much is set aside already.
        """
        source = batch.moves[0].source
        wanted = [message for message in batch.messages if self._projection.wanted(message)]
        for _ in range(TRIES):
            documents, failed = await (self._set_aside(wanted[0], ended) if ended else self._fold(wanted))
            if revision := await self._views.write(self._projection.name, documents, batch.moves):
                self._wrote(documents, revision)
                self._metrics.applied(self._service, view_of(self._projection.name), source, len(wanted))
                self._moved.notify()
                for message in failed:
                    self._warn(message)
                return True
            self._refused()
            at = await self.checkpoints(source, [move.partition for move in batch.moves])
            if any(at[move.partition].number != move.before for move in batch.moves):
                return False
        return False

    def _wrote(self, documents: Sequence[Document], revision: int) -> None:
        self._recent.wrote(documents, revision)
        if any(document.view != self._projection.name for document in documents):
            self._none_waits = False

    def _refused(self) -> None:
        self._recent.refused()
        self._none_waits = False

    async def _set_aside(self, message: Message, ended: ProcessEnded) -> Folded:
        fold = BatchFold(self._projection, {}, await self._lines([message]))
        fold.park(message, ended, ended.times)
        return Folded(fold.writes(), fold.failed)

    async def _fold(self, messages: Sequence[Message]) -> Folded:
        if not messages:
            return Folded([])
        if lines := await self._lines(messages):
            return await self._fold_carefully(messages, lines)
        projection = self._projection
        try:
            prepared = [(message, *projection.prepare(message)) for message in messages]
        except Exception:  # noqa: BLE001 - the careful way finds the event at fault and keeps it with its cause
            return await self._fold_carefully(messages, lines)
        fold = BatchFold(projection, await self._current({key for _, keys, _ in prepared for key in keys}), lines)
        try:
            for message, keys, event in prepared:
                fold.fold(message, keys, event)
            return Folded(fold.writes())
        except Exception:  # noqa: BLE001 - as above
            return await self._fold_carefully(messages, lines)

    async def _fold_carefully(self, messages: Sequence[Message], lines: Mapping[str, Document]) -> Folded:
        fold = BatchFold(self._projection, await self._stored(messages), lines)
        for message in messages:
            fold.fold_carefully(message)
        return Folded(fold.writes(), fold.failed)

    def _warn(self, message: Message) -> None:
        logger.warning(
            "%s: view %s set aside %s of key %r, and what follows of that key; see: chimera parked list",
            self._service,
            self._projection.name,
            message.id,
            message.key,
        )

    async def _lines(self, messages: Iterable[Message]) -> Mapping[str, Document]:
        """What says of these events' keys what is set aside of them.

        Nearly always nothing waits. Of one source's keys nobody else can set anything aside while this one's writes
        succeed: that moves the checkpoint of the key's partition.
        """
        if self._none_waits:
            return {}
        name = waiting_view(self._projection.name)
        if await self._views.scan(name, limit=1):
            return await self._views.get(name, list({kept_key(message.key) for message in messages}))
        self._none_waits = len(self._projection.sources) == 1
        return {}

    async def _current(self, keys: set[str]) -> Mapping[str, Document]:
        """The documents with these keys, as far as is known; the write refuses those that have changed meanwhile."""
        known = self._recent.among(keys)
        if unknown := keys - known.keys():
            return {**known, **await self._views.get(self._projection.name, list(unknown))}
        return known

    async def _stored(self, messages: Iterable[Message]) -> Mapping[str, Document]:
        """The documents that these events touch."""
        keys = {key for message in messages for key in self._keys(message)}
        return await self._views.get(self._projection.name, list(keys))

    def _keys(self, message: Message) -> list[str]:
        try:
            return self._projection.prepare(message)[0]
        except Exception:  # noqa: BLE001 - it has no keys; folding it will say why
            return []

    async def redrive(self, key: str, *, drop: Sequence[str] = ()) -> list[tuple[Failure, bool]]:
        """Fold what is set aside under an event key again, in order, until an event fails again; a page in each write.

        The events to be dropped, by their ids, are the first: where others are, nothing more is done. Returns each
        event that was tried or dropped, and whether it is settled.
        """
        done: list[tuple[Failure, bool]] = []
        while page := await self._redrive_page(key, drop[len(done) :]):
            done += page
            if not page[-1][1]:
                break
        return done

    async def _redrive_page(self, key: str, drop: Sequence[str]) -> list[tuple[Failure, bool]]:
        for _ in range(TRIES):
            fold, failures = await self._first(key)
            first = [failure.message.id for failure in failures[: len(drop)]]
            if not failures or first != list(drop[: len(failures)]):
                return []
            done: list[tuple[Failure, bool]] = []
            for index, failure in enumerate(failures):
                done.append((failure, not fold.redo(failure, drop=index < len(drop))))
                if not done[-1][1]:
                    break
            if await self._views.write(self._projection.name, fold.writes(), []):
                self._moved.notify()
                return done
        return []

    async def rehearse(self, key: str) -> list[Rehearsed]:
        """What `redrive` would do, without doing it."""
        name, found, stored = self._projection.name, list[Rehearsed](), dict[str, Document]()
        fold = BatchFold(self._projection, stored, await self._views.get(waiting_view(name), [kept_key(key)]))
        async for failure in failures_of(self._views, name, key):
            message, keys = failure.message, self._keys(failure.message)
            if found and found[-1].result in ("failed", "waits"):
                found.append(Rehearsed(message.id, "waits", BEHIND))
                continue
            stored.update(await self._views.get(name, [each for each in keys if each not in stored]))
            if cause := fold.redo(failure):
                found.append(Rehearsed(message.id, "failed", cause))
            else:
                writes = [Write(name, each, fold.encoded(each)) for each in keys]
                found.append(Rehearsed(message.id, "applied", writes=writes))
        return found

    async def _first(self, key: str) -> tuple[BatchFold, list[Failure]]:
        """The first events that are set aside under an event key, and a fold to fold them again in."""
        kept, name = kept_key(key), self._projection.name
        lines = await self._views.get(waiting_view(name), [kept])
        events = await events_of(self._views, name, kept, line_of(lines.get(kept)).head(PAGE))
        failures = [failure_of(document) for document in events.values()]
        stored = await self._stored(failure.message for failure in failures)
        return BatchFold(self._projection, stored, lines, events), failures
