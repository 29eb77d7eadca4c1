"""One batch of events folded in memory: what to write afterwards, and what had to be set aside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from chimera.endings import starts_view
from chimera.messages import Message
from chimera.parking import cause_of, kept_key
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


def waiting_view(view: str) -> str:
    """The name under which is kept how many events each key of a view has set aside."""
    return f"{view}.waiting"


def kept_views(view: str) -> list[str]:
    """All that is kept of a view: its documents, and what is beside them."""
    return [view, parked_view(view), waiting_view(view), starts_view(view)]


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


async def waiting_count(views: ViewStore, view: str) -> int:
    """How many events a view has set aside, without reading them."""
    count, after = 0, ""
    while page := await views.scan(waiting_view(view), after):
        count += sum(int(document.data or b"0") for document in page)
        after = page[-1].key
    return count


class SetAside(NamedTuple):
    """What a view has set aside of some event keys: the events, and how many they are."""

    events: Mapping[str, Document]
    counts: Mapping[str, Document]


async def set_aside(views: ViewStore, view: str, keys: Iterable[str]) -> SetAside:
    """What is set aside of these event keys."""
    wanted = list({kept_key(key) for key in keys})
    return SetAside(await views.get(parked_view(view), wanted), await views.get(waiting_view(view), wanted))


class BatchFold:
    """Folds events into documents that were read before.

    `stored` holds the documents by key as far as they exist; `aside` what is set aside of the events' keys.
    """

    def __init__(self, projection: Projection, stored: Mapping[str, Document], aside: SetAside) -> None:
        self._projection = projection
        self._stored = stored
        self._aside = aside
        self._documents: dict[str, Any | None] = {}
        self._parked = {key: ParkedEvents(key, failures_of(document)) for key, document in aside.events.items()}
        self._parked_now: set[str] = set()

    def fold(self, message: Message, keys: Sequence[str], event: Any) -> None:
        """Fold one event; raises what the projection raises, with the documents half done."""
        for key in keys:
            self._documents[key] = self._projection.apply(key, self._document(key), message, event)

    def fold_carefully(self, message: Message, *, tries: int = 1, first_at: datetime | None = None) -> bool:
        """Fold one event, or undo it and set it aside, behind those of its key. Says whether it is folded."""
        if kept_key(message.key) in self._parked:
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

    def park(self, message: Message, error: Exception, tries: int) -> None:
        """Set one event aside without folding it."""
        self._set_aside(message, cause_of(error), tries, None)

    def unpark(self, key: str) -> None:
        """Take a key's events out of parking, to fold them again."""
        self._parked_now.add(kept_key(key))
        del self._parked[kept_key(key)]

    def cause(self, message: Message) -> str:
        """Why an event is set aside."""
        return next(each.cause for each in self._parked[kept_key(message.key)].failures if each.message == message)

    def encoded(self, key: str) -> bytes | None:
        """A document as it is now; None for none."""
        document = self._document(key)
        return None if document is None else self._projection.encode(document)

    def writes(self) -> list[Document]:
        """What to write: the documents touched, and those that hold what is set aside."""
        name = self._projection.name
        documents = [
            Document(
                name, key, None if document is None else self._projection.encode(document), _revision(self._stored, key)
            )
            for key, document in self._documents.items()
        ]
        for key in self._parked_now:
            parked = self._parked.get(key)
            data, count = (msgspec.json.encode(parked), b"%d" % len(parked.failures)) if parked else (None, None)
            documents.append(Document(parked_view(name), key, data, _revision(self._aside.events, key)))
            documents.append(Document(waiting_view(name), key, count, _revision(self._aside.counts, key)))
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
        key = kept_key(message.key)
        parked = self._parked.setdefault(key, ParkedEvents(key, []))
        parked.failures.append(Failure(message, cause, tries, first_at or now, now))
        self._parked_now.add(key)


def _revision(documents: Mapping[str, Document], key: str) -> int:
    stored = documents.get(key)
    return stored.revision if stored else 0
