"""Projectors: from events to documents, a batch at a time, one atomic write per batch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from chimera.core.aio.tasks import finish
from chimera.core.context import Context
from chimera.core.names import kept_key, view_of, waiting_view
from chimera.journal.apart import Apart, may_be_its_own
from chimera.journal.crash_loop import MessageAt, Watch
from chimera.journal.failures import ProcessEnded, Rehearsed, Write
from chimera.journal.feed import Batch, Feed
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Move
from chimera.supplies import Work
from chimera.views.folding.batch import BEHIND, BatchFold
from chimera.views.folding.recent import Recent
from chimera.views.lists.keeping import ListKeeping
from chimera.views.parked import (
    ParkedEvent,
    events_of,
    first_parked,
    parked_event_of,
    parked_events_of,
    span_of,
    whole,
)
from chimera.views.projections import Projection

logger = logging.getLogger("chimera")

TRIES = 20


class Folded(NamedTuple):
    """The documents to write of a batch, the events that failed in it, and the documents that were read before."""

    writes: Sequence[Document]
    failed: Sequence[ParkedEvent] = ()
    before: Mapping[str, Document] = {}

    @classmethod
    def of(cls, fold: BatchFold) -> Folded:
        """What a fold has come to."""
        return cls(fold.writes(), fold.failed, fold.before)


class Blame(NamedTuple):
    """The reason why an event is parked without being folded. `left`: its data stay in the journal."""

    error: Exception
    tries: int
    left: bool = False


class Pieces:
    """A batch that is written in pieces, one after another. `hints`: where the log was read on from, by partition."""

    def __init__(self, batch: Batch, hints: Mapping[int, int]) -> None:
        self.revision = 0
        self._hints = hints
        self._moves = {move.partition: move for move in batch.moves}
        self._beside = batch.beside

    def of(self, messages: Sequence[Message]) -> Batch:
        """The next piece: the next messages of the batch, with the moves up to them."""
        last = {message.partition: message for message in messages}
        return Batch(messages, [self._up_to(self._moves[each], at) for each, at in last.items()], self._beside)

    def written(self, messages: Sequence[Message], revision: int) -> bool:
        """The next piece was written at a revision, or (0) was not."""
        self.revision = revision
        for move in self.of(messages).moves:
            self._moves[move.partition] = self._moves[move.partition]._replace(before=move.after.number)
        self._beside = [each._replace(revision=revision) for each in self._beside]
        return revision > 0

    def _up_to(self, move: Move, at: Message) -> Move:
        """The part of a move up to an event. One that leads nowhere, as while a copy is filled, is whole."""
        if move.before >= move.after.number or at.number >= move.after.number:
            return move
        return move._replace(after=Checkpoint(at.number, self._hints[move.partition], at.chain))


class Projector:
    """Folds one source's events into the documents of one projection.

    `moved` is notified after each write, for those who wait to read it.
    """

    def __init__(self, context: Context, projection: Projection) -> None:
        self._context = context
        self._projection = projection
        self._views = context.views
        self._around = context.resources.around()
        self._moved = context.moved
        self._page = context.limits.parked_page
        self._recent = Recent(projection.name)
        self._lists = None
        if projection.lists is not None:
            self._lists = ListKeeping(context.views, projection, projection.lists)
        self._none_waits = False

    async def run(self, feed: Feed, watch: Watch | None = None) -> None:
        """Apply batches as they come, until cancelled. Raises Unavailable when an engine can't be reached.

        What `watch` suspects of ending the process is folded apart, or parked.

        Between batches it looks whether the checkpoints are still where it believes: others may move or delete them.
        """
        while True:
            batch = await feed.next()
            if not batch.messages:
                self._forget()
            elif await finish(self._apply_watched(batch, watch), self._context.timing.finish_s):
                continue
            feed.reset(await self.checkpoints(feed.source, feed.partitions))

    async def checkpoints(self, source: str, partitions: Iterable[int]) -> dict[int, Checkpoint]:
        """The checkpoints of the projection, by partition of the source."""
        stored = await self._views.checkpoints(self._projection.name)
        return {partition: stored.get((source, partition), Checkpoint()) for partition in partitions}

    async def _apply_watched(self, batch: Batch, watch: Watch | None) -> int:
        if watch is None or not watch.careful(batch.moves):
            return await self.apply(batch)

        async def work(part: Sequence[Message], moves: Sequence[Move], ended: ProcessEnded | None) -> bool:
            return await self.apply(Batch(part, moves), ended) > 0

        wanted = [message for message in batch.messages if self._projection.wanted(message)]
        return await watch.run(wanted, batch.moves, _place_of, work)

    async def apply(self, batch: Batch, ended: ProcessEnded | None = None) -> int:
        """Fold a batch and write it with its moves; returns the revision of what was put.

        0 when the checkpoints, or the documents beside it, are elsewhere: then nothing more was written.

        With `ended` its one message is parked instead. What can't be written because of one event is written without
        it, and that is parked. Raises Unavailable where too much is parked already.
        """
        if ended is not None:
            return await self._write(batch, Blame(ended, ended.times))
        try:
            return await self._write(batch)
        except Exception as error:
            if not may_be_its_own(error) or not batch.messages:
                raise
            failed = error
        return await self._write_apart(batch, failed)

    async def _write_apart(self, batch: Batch, error: Exception) -> int:
        stored = await self.checkpoints(batch.moves[0].source, [move.partition for move in batch.moves])
        pieces = Pieces(batch, {partition: checkpoint.offset for partition, checkpoint in stored.items()})

        async def write(messages: Sequence[Message]) -> bool:
            return pieces.written(messages, await self._write(pieces.of(messages)))

        async def set_aside(message: Message, error: Exception, tries: int) -> bool:
            if not self._projection.wanted(message):
                raise error
            piece, blame = pieces.of([message]), Blame(error, tries)
            try:
                revision = await self._write(piece, blame)
            except Exception as again:
                if not may_be_its_own(again):
                    raise
                revision = await self._write(piece, blame._replace(left=True))
            return pieces.written([message], revision)

        apart = Apart(self._context, write, set_aside, self._answers)
        return pieces.revision if await apart.run(batch.messages, error) else 0

    async def _answers(self) -> None:
        """Have the view store write nothing, which shows that it is there."""
        await self._views.write(self._projection.name, [], [])

    async def _write(self, batch: Batch, blame: Blame | None = None) -> int:
        """As `apply`, all of it at once or nothing; with a blame its one message is parked."""
        source = batch.moves[0].source
        wanted = [message for message in batch.messages if self._projection.wanted(message)]
        for _ in range(TRIES):
            folded = await (self._park(wanted[0], blame) if blame else self._fold(wanted))
            if revision := await self._put(folded, batch.moves, batch.beside):
                self._wrote(folded.writes, revision)
                self._context.metrics.applied(
                    self._context.service.name, view_of(self._projection.name), source, len(wanted)
                )
                self._moved.notify()
                for parked in folded.failed:
                    self._warn(parked)
                return revision
            self._refused()
            at = await self.checkpoints(source, [move.partition for move in batch.moves])
            if any(at[move.partition].number != move.before for move in batch.moves):
                return 0
        return 0

    async def _put(self, folded: Folded, moves: Sequence[Move], beside: Sequence[Document] = ()) -> int:
        """Write what was folded, and its part in lists; returns the revision, or 0 where nothing was written."""
        name, documents = self._projection.name, folded.writes
        if self._lists is None:
            revision = await self._views.write(name, [*documents, *beside], moves)
        else:
            listed = await self._lists.beside(folded.before, documents, moves)
            written = [*documents, *listed.counts, *listed.pins, *beside]
            revision = await self._views.write(name, written, moves, listed.listings)
            if revision:
                self._lists.wrote(listed, revision)
        return revision

    def _wrote(self, documents: Sequence[Document], revision: int) -> None:
        self._recent.wrote(documents, revision)
        if any(document.view != self._projection.name for document in documents):
            self._none_waits = False
            self._context.process.setting_aside.add(view_of(self._projection.name))

    def _refused(self) -> None:
        self._recent.refused()
        if self._lists is not None:
            self._lists.refused()
        self._none_waits = False

    def _forget(self) -> None:
        self._recent.forget()
        if self._lists is not None:
            self._lists.forget()

    async def _park(self, message: Message, blame: Blame) -> Folded:
        fold = self._batch_fold({}, await self._spans([message]))
        fold.park(message, blame.error, blame.tries, left=blame.left)
        return Folded.of(fold)

    async def _fold(self, messages: Sequence[Message]) -> Folded:
        if self._around is None:
            return await self._fold_now(messages)
        found: list[Folded] = []

        async def go_on() -> None:
            found.append(await self._fold_now(messages))

        await self._around(Work("fold", self._projection.name, messages), go_on)
        return found[0] if found else await self._fold_now(messages)

    async def _fold_now(self, messages: Sequence[Message]) -> Folded:
        if not messages:
            return Folded([])
        if spans := await self._spans(messages):
            return await self._fold_carefully(messages, spans)
        projection = self._projection
        try:
            prepared = [(message, *projection.prepare(message)) for message in messages]
        except Exception:  # noqa: BLE001 - the careful way finds the event at blame and parks it with its cause
            return await self._fold_carefully(messages, spans)
        fold = self._batch_fold(await self._current({key for _, keys, _ in prepared for key in keys}), spans)
        try:
            for message, keys, event in prepared:
                fold.fold(message, keys, event)
            return Folded.of(fold)
        except Exception:  # noqa: BLE001 - as above
            return await self._fold_carefully(messages, spans)

    async def _fold_carefully(self, messages: Sequence[Message], spans: Mapping[str, Document]) -> Folded:
        fold = self._batch_fold(await self._stored(messages), spans)
        for message in messages:
            fold.fold_carefully(message)
            await self._context.clock.sleep(0)  # a large document takes long, and others shall not wait
        return Folded.of(fold)

    def _batch_fold(
        self, stored: Mapping[str, Document], spans: Mapping[str, Document], events: Mapping[str, Document] = {}
    ) -> BatchFold:
        return BatchFold(
            self._projection,
            stored,
            spans,
            events,
            clock=self._context.clock,
            limits=self._context.limits,
            largest=self._views.features.largest,
        )

    def _warn(self, parked: ParkedEvent) -> None:
        logger.warning(
            "%s: view %s set aside %s of key %r, and what follows of that key: %s; see: chimera parked list",
            self._context.service.name,
            self._projection.name,
            parked.message.id,
            parked.message.key,
            parked.cause,
        )

    async def _spans(self, messages: Iterable[Message]) -> Mapping[str, Document]:
        """The spans, by these events' keys, of what is parked of them.

        Nearly always nothing waits. Of one source's keys nobody else can park anything while this one's writes
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

    async def redrive(self, key: str, *, drop: Sequence[str] = ()) -> list[tuple[ParkedEvent, bool]]:
        """Fold what is parked under an event key again, in order, until an event fails again; a page in each write.

        The events to be dropped, by their ids, are the first: where others are, nothing more is done. Returns each
        event that was tried or dropped, and whether it is settled.
        """
        done: list[tuple[ParkedEvent, bool]] = []
        while page := await self._redrive_next(key, drop[len(done) :]):
            done += page
            if not page[-1][1]:
                break
        return done

    async def _redrive_next(self, key: str, drop: Sequence[str]) -> list[tuple[ParkedEvent, bool]]:
        """A page of them; or one, where the page can't be written; which stays, where that can't be written either."""
        error = None
        for page in (self._page, 1, 1):
            try:
                return await self._redrive_page(key, drop[:page], page, error)
            except Exception as failed:
                if not may_be_its_own(failed) or error is not None:
                    raise
                error = failed if page == 1 else None
        return []

    async def _redrive_page(
        self, key: str, drop: Sequence[str], page: int, error: Exception | None
    ) -> list[tuple[ParkedEvent, bool]]:
        for _ in range(TRIES):
            fold, failures = await self._first(key, len(drop), page)
            first = [failure.message.id for failure in failures[: len(drop)]]
            if not failures or first != list(drop[: len(failures)]):
                return []
            done: list[tuple[ParkedEvent, bool]] = []
            for index, failure in enumerate(failures):
                done.append((failure, not fold.redo(failure, error, drop=index < len(drop))))
                if not done[-1][1]:
                    break
            if await self._put(Folded.of(fold), []):
                self._moved.notify()
                return done
            self._refused()
        return []

    async def redrive_unread(self) -> None:
        """Fold again what is parked because another build could not read it, as far as this one can."""
        async for event, _ in first_parked(self._views, self._projection.name):
            if event.unread_by not in ("", self._projection.reads):
                await self.redrive(event.message.key)

    async def rehearse(self, key: str) -> list[Rehearsed]:
        """The ends that `redrive` would come to with the events of a key, in order; nothing is written."""
        name, found, stored = self._projection.name, list[Rehearsed](), dict[str, Document]()
        fold = self._batch_fold(stored, await self._views.get(waiting_view(name), [kept_key(key)]))
        async for kept in parked_events_of(self._views, name, key, self._page):
            failure = await whole(self._context.owners, kept)
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

    async def _first(self, key: str, dropped: int, page: int) -> tuple[BatchFold, list[ParkedEvent]]:
        """The first parked events of an event key, and a fold to fold them again in, but for those to be dropped."""
        kept, name = kept_key(key), self._projection.name
        spans = await self._views.get(waiting_view(name), [kept])
        events = await events_of(self._views, name, kept, span_of(spans.get(kept)).head(page))
        failures = [parked_event_of(document) for document in events.values()]
        failures[dropped:] = [await whole(self._context.owners, each) for each in failures[dropped:]]
        stored = await self._stored(failure.message for failure in failures)
        return self._batch_fold(stored, spans, events), failures


def _place_of(message: Message) -> MessageAt:
    return MessageAt(message.partition, message.number, chain=message.chain)
