"""One batch of events folded in memory: what to write afterwards, and what had to be parked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from chimera.core.clock import Clock
from chimera.core.names import kept_key, parked_key, parked_view, waiting_view
from chimera.core.timing import Limits
from chimera.errors import Unavailable, Unfit, Unreadable
from chimera.journal.failures import cause_of, traceback_of
from chimera.messages import Message
from chimera.ports import Document
from chimera.views.parked import ParkedEvent, Span, span_of
from chimera.views.projections import Projection

BEHIND = "waits behind an earlier event of its key"


class BatchFold:
    """Folds events into documents that were read before.

    `stored` holds the documents by key as far as they exist; `spans` those of the events' keys that have parked events;
    `events` those events of them that are to be folded again. `failed` are the events that were parked because they
    failed, not those behind them. `largest`: the bytes of a document that its store takes.
    """

    def __init__(
        self,
        projection: Projection,
        stored: Mapping[str, Document],
        spans: Mapping[str, Document],
        events: Mapping[str, Document] = {},
        *,
        clock: Clock,
        limits: Limits,
        largest: int,
    ) -> None:
        self.failed: list[ParkedEvent] = []
        self._projection = projection
        self._clock = clock
        self._longest = limits.parked_line
        self._largest = largest
        self._stored = stored
        self._stored_spans = spans
        self._stored_events = events
        self._documents: dict[str, object | None] = {}
        self._spans = {key: span_of(document) for key, document in spans.items()}
        self._moved: dict[str, None] = {}
        self._events: dict[str, ParkedEvent | None] = {}

    def fold(self, message: Message, keys: Sequence[str], event: object) -> None:
        """Fold one event; raises what the projection raises, with the documents half done."""
        for key in keys:
            self._documents[key] = self._projection.apply(key, self._document(key), message, event)

    def fold_carefully(self, message: Message) -> None:
        """Fold one event, or undo it and park it, behind those of its key. Raises Unavailable for one too many."""
        if self._spans.get(kept_key(message.key)):
            self._queue(message, BEHIND, 0)
        elif error := self._try(message):
            self.park(message, error, 1)

    def park(self, message: Message, error: Exception, tries: int, *, left: bool = False) -> None:
        """Park one event without folding it, or behind those of its key. Raises Unavailable for one too many.

        `left`: its data stay in the journal.
        """
        if self._spans.get(kept_key(message.key)):
            self._queue(message, BEHIND, 0, left=left)
        else:
            self._queue(message, cause_of(error), tries, error, left=left)

    def redo(self, failure: ParkedEvent, error: Exception | None = None, *, drop: bool = False) -> str:
        """Fold the first parked event of its key, or drop it, and it is parked no more. Else it stays; returns why.

        With an `error` it stays because of that.
        """
        key = kept_key(failure.message.key)
        span = self._spans[key]
        error = error or (None if drop else self._try(failure.message))
        cause = "" if error is None else cause_of(error)
        again = None if error is None else self._failed_again(failure, error)
        self._events[parked_key(key, span.first)] = again
        self._spans[key] = span if cause else Span(span.first + 1, span.end)
        self._moved[key] = None
        return cause

    @property
    def before(self) -> Mapping[str, Document]:
        """The documents by key as they were read."""
        return self._stored

    def encoded(self, key: str) -> bytes | None:
        """A document as it is now; None for none."""
        document = self._document(key)
        return None if document is None else self._encoded(key, document)

    def writes(self) -> list[Document]:
        """The documents to write: those touched, and what is parked, or no more."""
        name = self._projection.name
        documents = [
            Document(name, key, None if now is None else self._encoded(key, now), _revision(self._stored, key))
            for key, now in self._documents.items()
        ]
        for key in self._moved:
            span = msgspec.json.encode(self._spans[key]) if self._spans[key] else None
            documents.append(Document(waiting_view(name), key, span, _revision(self._stored_spans, key)))
        for key, failure in self._events.items():
            data = None if failure is None else self._kept(failure)
            documents.append(Document(parked_view(name), key, data, _revision(self._stored_events, key)))
        return [document for document in documents if document.data is not None or document.revision]

    def _failed_again(self, failure: ParkedEvent, error: Exception) -> ParkedEvent:
        return msgspec.structs.replace(
            failure,
            cause=cause_of(error),
            tries=failure.tries + 1,
            last_at=self._clock.now(),
            traceback=traceback_of(error),
            unread_by=self._unread_by(error),
        )

    def _try(self, message: Message) -> Exception | None:
        """Fold one event; or undo it, and return what it failed with."""
        before: dict[str, object | None] = {}
        try:
            keys, event = self._projection.prepare(message)
            before = {key: self._detached(key) for key in keys}
            self.fold(message, keys, event)
            for key in keys:
                self._detached(key)
        except Exception as error:  # noqa: BLE001 - whatever the projection raises, the event is parked with its cause
            self._documents.update(before)
            return error
        return None

    def _document(self, key: str) -> object | None:
        if key in self._documents:
            return self._documents[key]
        stored = self._stored.get(key)
        return None if stored is None or stored.data is None else self._projection.decode(stored.data)

    def _detached(self, key: str) -> object | None:
        """The document, as an object of its own. Raises what makes it one that can't be stored."""
        document = self._document(key)
        return None if document is None else self._projection.decode(self._encoded(key, document))

    def _encoded(self, key: str, document: object) -> bytes:
        """A document as it is stored. Raises Unfit for one that can't be."""
        data = self._projection.encode(document)
        if len(data) > self._largest:
            raise Unfit(
                f"the document of key {key!r} in {self._projection.name} would have {len(data):,} bytes; "
                f"{self._largest:,} fit"
            )
        return data

    def _kept(self, failure: ParkedEvent) -> bytes:
        data = msgspec.json.encode(failure)
        if failure.left or len(data) > self._largest:
            return msgspec.json.encode(failure.without_data())
        return data

    def _unread_by(self, error: Exception | None) -> str:
        return self._projection.reads if isinstance(error, Unreadable) else ""

    def _queue(
        self, message: Message, cause: str, tries: int, error: Exception | None = None, *, left: bool = False
    ) -> None:
        """Park an event as the last of its key."""
        key, now = kept_key(message.key), self._clock.now()
        span = self._spans.get(key, Span())
        if len(span) >= self._longest:
            raise Unavailable(
                f"{self._projection.name} has set aside {len(span)} events of key {message.key!r} and waits; see: "
                "chimera parked list"
            )
        traceback = "" if error is None else traceback_of(error)
        parked = ParkedEvent(message, cause, tries, now, now, traceback, unread_by=self._unread_by(error))
        self._events[parked_key(key, span.end)] = parked.without_data() if left else parked
        self._spans[key] = Span(span.first, span.end + 1)
        self._moved[key] = None
        if tries:
            self.failed.append(parked)


def _revision(documents: Mapping[str, Document], key: str) -> int:
    stored = documents.get(key)
    return stored.revision if stored else 0
