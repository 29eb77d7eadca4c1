"""Projections: how events become documents. A view folds them; a copy of borrowed data takes them as they are."""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from functools import cache
from typing import Any, Protocol

import msgspec

from chimera.commands.apart.contracts import schema_of
from chimera.errors import Unreadable
from chimera.folds import Folder, View, upgrades_of
from chimera.forms import AnyDocument, cached, decoder_of, encode, form_of, is_model
from chimera.journal.failures import decoded
from chimera.messages import MAX_KEY, AnyEvent, Message
from chimera.share.digests import SharedChange, digest_of
from chimera.versions import is_newer, too_new
from chimera.views.lists.entries import ViewEntries


def _fitting(keys: list[str]) -> list[str]:
    for key in keys:
        if len(key) > MAX_KEY:
            raise ValueError(f"a key of {len(key)} characters; at most {MAX_KEY} fit")
    return keys


class Projection(Protocol):
    """A projector's way with events: which documents they touch, and what becomes of those.

    Documents and decoded events are its own: others only hand them back to it.
    """

    name: str
    sources: Collection[str]
    """The services whose events matter."""
    reads: str
    """A digest of what it can read of events: another one may read what this could not."""
    lists: ViewEntries | None
    """The lists that are kept with its documents, if there are any."""

    def wanted(self, message: Message) -> bool:
        """True for an event that matters here."""

    def prepare(self, message: Message) -> tuple[list[str], object]:
        """The keys of the documents that an event touches, and the decoded event. Raises whatever is wrong with it."""

    def apply(self, key: str, document: object | None, message: Message, event: object) -> object | None:
        """The document after the event, or None when there is none any more."""

    def encode(self, document: Any, /) -> bytes:
        """A document as it is stored. Raises Unfit for one with a float that JSON can't hold."""

    def decode(self, data: bytes) -> object:
        """A stored document, as an object of its own."""


class ViewProjection:
    """Folds events into a view's documents, stored under its name or that of one of its generations."""

    def __init__(self, view: View[AnyDocument], name: str = "") -> None:
        self.name = name or view.name
        self.sources: Collection[str] = view.sources
        self.reads = _reads_of(view)
        self.lists = ViewEntries(view) if view.lists else None
        self._folder = Folder(view)
        self._decoder = decoder_of(view.document)
        form = form_of(view.document)
        self.encode = form.encode if form.may_lose_numbers or is_model(view.document) else encode

    def named(self, name: str) -> ViewProjection:
        """The same for the generation of this name."""
        other = copy(self)
        other.name = name
        return other

    def wanted(self, message: Message) -> bool:
        """True for an event that the view folds, or would fold if this code knew its version."""
        return message.type in self._folder.steps or is_newer(message.type, self._folder.steps)

    def prepare(self, message: Message) -> tuple[list[str], AnyEvent]:
        """As `Projection.prepare`. Raises ValueError for a key that is too long, Unreadable for what it can't read."""
        step = self._folder.steps.get(message.type)
        if step is None:
            raise Unreadable(too_new(message.type, self._folder.steps))
        event = decoded(step.decoder, message)
        return _fitting(self._folder.keys(step, event)), event

    def apply(self, key: str, document: Any, message: Message, event: Any) -> AnyDocument | None:
        """As `Projection.apply`; a document that the view's function changes in place is the one returned."""
        return self._folder.apply(self._folder.steps[message.type], document, key, event)

    def decode(self, data: bytes) -> AnyDocument:
        """A stored document, as an object of its own."""
        return self._decoder.decode(data)


@cache
def _reads_of(view: View[AnyDocument]) -> str:
    reads = (" ".join([event.wire_type(), _digest_of(event), *upgrades_of(event)]) for event in view.steps)
    return digest_of(" ".join(sorted(reads)).encode())


@cached
def _digest_of(struct: type) -> str:
    return digest_of(msgspec.json.encode(schema_of(struct), order="sorted"))


KNOWN = b"true"


class CopyProjection:
    """Keeps a copy of what an owner shares, or only which keys have a document (`keys_only`)."""

    lists: ViewEntries | None = None

    def __init__(self, name: str, event_type: str, document: type[AnyDocument], *, keys_only: bool) -> None:
        self.name = name
        self.sources: Collection[str] = (event_type.partition(".")[0],)
        self._event_type = event_type
        self._check = decoder_of(document)
        self.reads = _digest_of(document)
        self._keys_only = keys_only
        self._changes = msgspec.json.Decoder(SharedChange)

    def wanted(self, message: Message) -> bool:
        return message.type == self._event_type

    def prepare(self, message: Message) -> tuple[list[str], SharedChange]:
        change = decoded(self._changes, message)
        if not change.removed:
            try:
                self._check.decode(change.document)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise Unreadable(f"{message.type}: {error}") from error
        return _fitting([change.key]), change

    def apply(self, key: str, document: object | None, message: Message, event: Any) -> bytes | None:
        if event.removed:
            return None
        return KNOWN if self._keys_only else bytes(event.document)

    def encode(self, document: Any) -> bytes:
        return bytes(document)

    def decode(self, data: bytes) -> bytes:
        return data
