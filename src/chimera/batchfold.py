"""One batch of events folded in memory: what to write afterwards, and what had to be set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from chimera.errors import Unavailable
from chimera.messages import Message
from chimera.parking import cause_of, kept_key
from chimera.ports import Document
from chimera.projections import Projection
from chimera.setaside import LONGEST, Failure, Line, line_of, parked_view, place_of, waiting_view

BEHIND = "waits behind an earlier event of its key"


class BatchFold:
    """Folds events into documents that were read before.

    `stored` holds the documents by key as far as they exist; `lines` those of the events' keys that have events set
    aside; `events` those events of them that are to be folded again. `failed` are the events that were set aside
    because they failed, not those behind them.
    """

    def __init__(
        self,
        projection: Projection,
        stored: Mapping[str, Document],
        lines: Mapping[str, Document],
        events: Mapping[str, Document] = {},
    ) -> None:
        self.failed: list[Message] = []
        self._projection = projection
        self._stored = stored
        self._kept_lines = lines
        self._kept_events = events
        self._documents: dict[str, Any | None] = {}
        self._lines = {key: line_of(document) for key, document in lines.items()}
        self._moved: set[str] = set()
        self._events: dict[str, Failure | None] = {}

    def fold(self, message: Message, keys: Sequence[str], event: Any) -> None:
        """Fold one event; raises what the projection raises, with the documents half done."""
        for key in keys:
            self._documents[key] = self._projection.apply(key, self._document(key), message, event)

    def fold_carefully(self, message: Message) -> None:
        """Fold one event, or undo it and set it aside, behind those of its key. Raises Unavailable for one too many."""
        if self._lines.get(kept_key(message.key)):
            self._queue(message, BEHIND, 0)
        elif cause := self._try(message):
            self._queue(message, cause, 1)

    def park(self, message: Message, error: Exception, tries: int) -> None:
        """Set one event aside without folding it. Raises Unavailable for one too many."""
        self._queue(message, cause_of(error), tries)

    def redo(self, failure: Failure, *, drop: bool = False) -> str:
        """Fold the first event of its line, or drop it, and it leaves the line. Else it stays; returns why."""
        key = kept_key(failure.message.key)
        line = self._lines[key]
        cause = "" if drop else self._try(failure.message)
        now = datetime.now(UTC)
        again = msgspec.structs.replace(failure, cause=cause, tries=failure.tries + 1, last_at=now) if cause else None
        self._events[place_of(key, line.first)] = again
        self._lines[key] = line if cause else Line(line.first + 1, line.end)
        self._moved.add(key)
        return cause

    def encoded(self, key: str) -> bytes | None:
        """A document as it is now; None for none."""
        document = self._document(key)
        return None if document is None else self._projection.encode(document)

    def writes(self) -> list[Document]:
        """What to write: the documents touched, and what is set aside, or no more."""
        name = self._projection.name
        documents = [Document(name, key, self.encoded(key), _revision(self._stored, key)) for key in self._documents]
        for key in self._moved:
            line = msgspec.json.encode(self._lines[key]) if self._lines[key] else None
            documents.append(Document(waiting_view(name), key, line, _revision(self._kept_lines, key)))
        for place, failure in self._events.items():
            data = None if failure is None else msgspec.json.encode(failure)
            documents.append(Document(parked_view(name), place, data, _revision(self._kept_events, place)))
        return [document for document in documents if document.data is not None or document.revision]

    def _try(self, message: Message) -> str:
        """Fold one event, or undo it and say why."""
        before: dict[str, Any | None] = {}
        try:
            keys, event = self._projection.prepare(message)
            before = {key: self._snapshot(key) for key in keys}
            self.fold(message, keys, event)
            for key in keys:
                self._snapshot(key)
        except Exception as error:  # noqa: BLE001 - whatever the projection raises, the event is kept with its cause
            self._documents.update(before)
            return cause_of(error)
        return ""

    def _document(self, key: str) -> Any | None:
        if key in self._documents:
            return self._documents[key]
        stored = self._stored.get(key)
        return None if stored is None or stored.data is None else self._projection.decode(stored.data)

    def _snapshot(self, key: str) -> Any | None:
        """A copy that the projection can't change. Raises what makes the document one that can't be kept."""
        document = self._document(key)
        return None if document is None else self._projection.decode(self._projection.encode(document))

    def _queue(self, message: Message, cause: str, tries: int) -> None:
        """Set an event aside as the last of its line."""
        key, now = kept_key(message.key), datetime.now(UTC)
        line = self._lines.get(key, Line())
        if len(line) >= LONGEST:
            raise Unavailable(
                f"{self._projection.name} has set aside {len(line)} events of key {message.key!r} and waits; see: "
                "chimera parked list"
            )
        self._events[place_of(key, line.end)] = Failure(message, cause, tries, now, now)
        self._lines[key] = Line(line.first, line.end + 1)
        self._moved.add(key)
        if tries:
            self.failed.append(message)


def _revision(documents: Mapping[str, Document], key: str) -> int:
    stored = documents.get(key)
    return stored.revision if stored else 0
