"""What a view makes of events, without anything that runs."""

from __future__ import annotations

from typing import TypeVar

from chimera.folds import Fold, Folder
from chimera.forms import AnyDocument, form_of
from chimera.messages import AnyEvent

Doc = TypeVar("Doc", bound=AnyDocument)


def folded(fold: Fold[Doc], *events: AnyEvent) -> dict[str, Doc]:
    """A view's documents by key after these events in this order, each as it comes over the wire.

    What no event touched is not there, nor what one removed. Events that the view does not follow change nothing.
    """
    folder = Folder(fold)
    found: dict[str, Doc | None] = {}
    for each in events:
        if step := folder.steps.get(each.wire_type()):
            event = step.decoder.decode(form_of(type(each)).encode(each))
            for key in folder.keys(step, event):
                found[key] = folder.apply(step, found.get(key), key, event)
    return {key: document for key, document in found.items() if document is not None}
