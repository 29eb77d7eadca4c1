"""Projections: how events become documents. A view folds them; a copy of borrowed data takes them as they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import msgspec

from chimera.folding import Folder
from chimera.messages import MAX_KEY, Message
from chimera.service import View
from chimera.sharing import SharedChange


def _fitting(keys: list[str]) -> list[str]:
    for key in keys:
        if len(key) > MAX_KEY:
            raise ValueError(f"a key of {len(key)} characters; at most {MAX_KEY} fit")
    return keys


class Projection(Protocol):
    """What a projector does with events: which documents they touch, and what becomes of those."""

    name: str
    sources: Collection[str]
    """The services whose events matter."""

    def wanted(self, message: Message) -> bool:
        """Whether this event matters here."""

    def prepare(self, message: Message) -> tuple[list[str], Any]:
        """The keys of the documents that an event touches, and the decoded event."""

    def apply(self, key: str, document: Any | None, message: Message, event: Any) -> Any | None:
        """The document after the event, or None when there is none any more."""

    def encode(self, document: Any) -> bytes: ...

    def decode(self, data: bytes) -> Any: ...


class ViewProjection:
    """Folds events into a view's documents, kept under its name or that of one of its generations."""

    def __init__(self, view: View[Any], name: str = "") -> None:
        self.name = name or view.name
        self.sources: Collection[str] = view.sources
        self._folder = Folder(view)
        self._decoder = msgspec.json.Decoder(view.document)
        self.encode = msgspec.json.Encoder().encode

    def wanted(self, message: Message) -> bool:
        return message.type in self._folder.steps

    def prepare(self, message: Message) -> tuple[list[str], Any]:
        step = self._folder.steps[message.type]
        event = step.decoder.decode(message.data)
        return _fitting(self._folder.keys(step, event)), event

    def apply(self, key: str, document: Any | None, message: Message, event: Any) -> Any | None:
        return self._folder.apply(self._folder.steps[message.type], document, key, event)

    def decode(self, data: bytes) -> Any:
        return self._decoder.decode(data)


KNOWN = b"true"


class CopyProjection:
    """Keeps a copy of what an owner shares, or only which keys have a document (`keys_only`)."""

    def __init__(self, name: str, event_type: str, document: Any, *, keys_only: bool) -> None:
        self.name = name
        self.sources: Collection[str] = (event_type.partition(".")[0],)
        self._event_type = event_type
        self._check = msgspec.json.Decoder(document)
        self._keys_only = keys_only
        self._changes = msgspec.json.Decoder(SharedChange)

    def wanted(self, message: Message) -> bool:
        return message.type == self._event_type

    def prepare(self, message: Message) -> tuple[list[str], Any]:
        change = self._changes.decode(message.data)
        if not change.removed:
            self._check.decode(change.document)
        return _fitting([change.key]), change

    def apply(self, key: str, document: Any | None, message: Message, event: Any) -> Any | None:
        if event.removed:
            return None
        return KNOWN if self._keys_only else bytes(event.document)

    def encode(self, document: Any) -> bytes:
        return bytes(document)

    def decode(self, data: bytes) -> Any:
        return data
