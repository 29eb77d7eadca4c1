"""Folding events into documents: pure, and the same for views and for event-sourced entities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from chimera.messages import Event, Message
from chimera.service import DELETED, Fold, KeyOf


class Step(NamedTuple):
    """How one type of event is folded: its decoder, the keys of the documents that it touches, the function."""

    decoder: msgspec.json.Decoder[Event]
    key_of: KeyOf
    function: Any


class Folder:
    """A fold made ready to run: wire types looked up, decoders built once."""

    def __init__(self, fold: Fold[Any]) -> None:
        self._fold = fold
        self.steps = {
            event.wire_type(): Step(msgspec.json.Decoder(event), key_of, function)
            for event, (key_of, function) in fold.steps.items()
        }

    def keys(self, step: Step, event: Event) -> list[str]:
        """The keys of the documents that an event touches, each once."""
        keys = step.key_of(event)
        return [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))

    def apply(self, step: Step, document: Any | None, key: str, event: Event) -> Any | None:
        """The document after the event; None when the event removes it."""
        before = self._fold.new(key) if document is None else document
        after = step.function(before, event)
        if after is DELETED:
            return None
        return before if after is None else after

    def fold(self, key: str, messages: Iterable[Message]) -> Any | None:
        """The document of one key after these messages; None when none of them touched it."""
        document: Any | None = None
        for message in messages:
            step = self.steps.get(message.type)
            if step is not None:
                document = self.apply(step, document, key, step.decoder.decode(message.data))
        return document
