"""Folds: a document type and, for each event, a pure function that folds the event into the document.

Views and event-sourced entities are declared as folds; a `Folder` runs one, the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from chimera.errors import DeclarationError
from chimera.messages import Event, Message
from chimera.signature import KeyOf, Page

Doc = TypeVar("Doc", bound=msgspec.Struct)
Ev = TypeVar("Ev", bound=Event)

Doc_co = TypeVar("Doc_co", bound=msgspec.Struct, covariant=True)
After = TypeVar("After")

Function = Callable[[Any, Any], Any]
"""From a document and an event to the document afterwards; None where it was changed in place, or DELETED."""
Absent = Literal["404", "empty"]


class _Deleted:
    """The type of DELETED."""

    def __repr__(self) -> str:
        return "DELETED"


DELETED = _Deleted()
"""Returned by the function of a fold to remove the document."""


class Fold(Generic[Doc_co]):
    """A document type and, for each event, a pure function that folds the event into the document."""

    def __init__(self, document: type[Doc_co], key: str) -> None:
        if key not in document.__struct_fields__:
            raise DeclarationError(f"{document.__name__} has no field {key!r} to be its key")
        self.document = document
        self.key = key
        self.steps: dict[type[Event], tuple[KeyOf, Function]] = {}
        self.is_keyed_as_events = True
        """True as long as each document's key is that of the events that touch it."""

    def on(
        self, event: type[Ev], *, key: str | Callable[[Ev], str | Iterable[str]] | None = None
    ) -> Callable[[Callable[[Doc_co, Ev], After]], Callable[[Doc_co, Ev], After]]:
        """Fold `event` by the decorated function: it changes the document it is given, or returns a new one or DELETED.

        The document's key is the event's field of the same name, or the field `key` names, or what the
        function `key` returns for the event: one key or several.
        """
        key_of = key_of_event(event, key if key is not None else self.key)

        def declare(step: Callable[[Doc_co, Ev], After]) -> Callable[[Doc_co, Ev], After]:
            read = {type_ for each in self.steps for type_ in each.wire_types()}
            if not read.isdisjoint(event.wire_types()):
                raise DeclarationError(f"{self.document.__name__} already folds {event.__name__} ({event.wire_type()})")
            self.steps[event] = (key_of, step)
            self.is_keyed_as_events &= event.__key_fields__ == (key or self.key,)
            return step

        return declare

    def new(self, key: str) -> Doc_co:
        """The document before its first event."""
        return self.document(**{self.key: key})

    @property
    def sources(self) -> set[str]:
        """The services whose events are folded."""
        return {event.__source__ for event in self.steps}


class View(Fold[Doc_co]):
    """Documents by key, folded from events, read in O(1).

    `name` is the one under which it is stored, `also` are its others. `declared_at`: file and line.
    """

    def __init__(
        self,
        name: str,
        document: type[Doc_co],
        key: str,
        path: str | None,
        absent: Absent,
        page: Page | None,
        version: str | int = "",
        also: tuple[str, ...] = (),
        declared_at: str = "",
    ) -> None:
        super().__init__(document, key)
        self.name = name
        self.path = path
        self.absent = absent
        self.page = page
        self.version = version
        self.also = also
        self.declared_at = declared_at


class Step(NamedTuple):
    """One type of event as it is folded: its decoder, the keys of the documents that it touches, the function."""

    decoder: msgspec.json.Decoder[Event]
    key_of: KeyOf
    function: Function


class Folder(Generic[Doc]):
    """A fold made ready to run: wire types looked up, decoders built once."""

    def __init__(self, fold: Fold[Doc]) -> None:
        self._fold = fold
        self.steps = {
            type_: Step(msgspec.json.Decoder(event), key_of, function)
            for event, (key_of, function) in fold.steps.items()
            for type_ in event.wire_types()
        }

    def keys(self, step: Step, event: Event) -> list[str]:
        """The keys of the documents that an event touches, each once."""
        keys = step.key_of(event)
        return [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))

    def apply(self, step: Step, document: Doc | None, key: str, event: Event) -> Doc | None:
        """The document after the event; None when the event removes it."""
        before = self._fold.new(key) if document is None else document
        after = step.function(before, event)
        if after is DELETED:
            return None
        return before if after is None else after

    def fold(self, key: str, messages: Iterable[Message]) -> Doc | None:
        """The document of one key after these messages; None when none of them touched it."""
        document: Doc | None = None
        for message in messages:
            step = self.steps.get(message.type)
            if step is not None:
                document = self.apply(step, document, key, step.decoder.decode(message.data))
        return document


def key_of_event(event: type[Event], key: str | KeyOf) -> KeyOf:
    """The function that tells an event's key: its field of a name, or `key` itself. Raises DeclarationError."""
    if not event.__source__ or not event.__key_fields__:
        raise DeclarationError(
            f'{event.__name__} needs an owner and a key: class {event.__name__}(Event, source="…", key="…")'
        )
    if callable(key):
        return key
    if key not in event.__struct_fields__:
        raise DeclarationError(f"{event.__name__} has no field {key!r}; name the field that holds the key with key=…")
    return lambda happened: str(getattr(happened, key))
