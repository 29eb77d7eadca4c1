"""One batch of events folded in memory: what to write afterwards, and what had to be set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from chimera.messages import Message
from chimera.parking import cause_of
from chimera.ports import Document, ViewStore
from chimera.projections import Projection


class Failure(msgspec.Struct):
    """An event that a projection failed on, or one that waits behind it (`tries` is 0 then).

    Its data is kept in base64: it may be anything, and may be here because it is not JSON.
    """

    message: Message
    cause: str
    tries: int
    first_at: datetime
    last_at: datetime

    def to_message(self) -> Message:
        return self.message


class ParkedEvents(msgspec.Struct):
    """All events of one key that are set aside, in order; kept as a document beside the view's own."""

    key: str
    failures: list[Failure]


def parked_view(view: str) -> str:
    """The name under which a view's set-aside events are kept."""
    return f"{view}.parked"


def failures_of(document: Document) -> list[Failure]:
    """What a document of set-aside events holds."""
    return msgspec.json.decode(document.data or b"", type=ParkedEvents).failures


async def all_failures(views: ViewStore, view: str) -> list[Failure]:
    """Every event that a view has set aside, in order within each key."""
    failures: list[Failure] = []
    after = ""
    while page := await views.scan(parked_view(view), after):
        failures += [failure for document in page for failure in failures_of(document)]
        after = page[-1].key
    return failures


class BatchFold:
    """Folds events into documents that were read before.

    `stored` holds the documents by key as far as they exist; `aside` the set-aside events by event key.
    """

    def __init__(self, projection: Projection, stored: Mapping[str, Document], aside: Mapping[str, Document]) -> None:
        self._projection = projection
        self._stored = stored
        self._aside = aside
        self._documents: dict[str, Any | None] = {}
        self._parked = {key: ParkedEvents(key, failures_of(document)) for key, document in aside.items()}
        self._parked_now: set[str] = set()

    def fold(self, message: Message, keys: Sequence[str], event: Any) -> None:
        """Fold one event; raises what the projection raises, with the documents half done."""
        for key in keys:
            self._documents[key] = self._projection.apply(key, self._document(key), message, event)

    def fold_carefully(self, message: Message, *, tries: int = 1, first_at: datetime | None = None) -> bool:
        """Fold one event, or undo it and set it aside, behind those of its key. Says whether it is folded."""
        if message.key in self._parked:
            self._set_aside(message, "waits behind an earlier event of its key", 0, None)
            return False
        before: dict[str, Any | None] = {}
        try:
            keys, event = self._projection.prepare(message)
            before = {key: self._snapshot(key) for key in keys}
            self.fold(message, keys, event)
            for key in keys:
                self._snapshot(key)
        except Exception as error:  # noqa: BLE001 - whatever the projection raises, the event is kept with its cause
            self._documents.update(before)
            self._set_aside(message, cause_of(error), tries, first_at)
            return False
        return True

    def unpark(self, key: str) -> None:
        """Take a key's events out of parking, to fold them again."""
        self._parked_now.add(key)
        del self._parked[key]

    def writes(self) -> list[Document]:
        """What to write: the documents touched, and those that hold what is set aside."""
        name, aside = self._projection.name, parked_view(self._projection.name)
        documents = [
            Document(
                name, key, None if document is None else self._projection.encode(document), _revision(self._stored, key)
            )
            for key, document in self._documents.items()
        ]
        for key in self._parked_now:
            parked = self._parked.get(key)
            data = None if parked is None else msgspec.json.encode(parked)
            documents.append(Document(aside, key, data, _revision(self._aside, key)))
        return [document for document in documents if document.data is not None or document.revision]

    def _document(self, key: str) -> Any | None:
        if key in self._documents:
            return self._documents[key]
        stored = self._stored.get(key)
        return None if stored is None or stored.data is None else self._projection.decode(stored.data)

    def _snapshot(self, key: str) -> Any | None:
        """A copy that the projection can't change. Raises what makes the document one that can't be kept."""
        document = self._document(key)
        return None if document is None else self._projection.decode(self._projection.encode(document))

    def _set_aside(self, message: Message, cause: str, tries: int, first_at: datetime | None) -> None:
        now = datetime.now(UTC)
        parked = self._parked.setdefault(message.key, ParkedEvents(message.key, []))
        parked.failures.append(Failure(message, cause, tries, first_at or now, now))
        self._parked_now.add(message.key)


def _revision(documents: Mapping[str, Document], key: str) -> int:
    stored = documents.get(key)
    return stored.revision if stored else 0
