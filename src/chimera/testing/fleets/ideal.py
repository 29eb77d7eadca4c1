"""What views must hold: every event folded at once, in the order of its journal, at the moment when it is committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from chimera.folds import Folder, View
from chimera.messages import Message


class Version(NamedTuple):
    """A document after the event of this number; `data` is None where it has none."""

    number: int
    data: bytes | None


class History:
    """The versions of one document, as long as a single partition of a single source feeds it.

    `is_known`: whether they say what must be there: not for a document that several partitions feed, in whatever
    order they come, and not from an event on that can't be folded.
    """

    __slots__ = ("document", "is_known", "place", "versions")

    def __init__(self, place: tuple[str, int]) -> None:
        self.place = place
        self.is_known = True
        self.document: Any = None
        self.versions: list[Version] = []

    def at(self, number: int) -> bytes | None:
        """The document once every event up to this number is folded."""
        for version in reversed(self.versions):
            if version.number <= number:
                return version.data
        return None

    def newest(self, data: bytes | None) -> int:
        """The index of the newest version that looks like this, counted from 1; 0 for none at first, -1 if never."""
        for index in range(len(self.versions), 0, -1):
            if self.versions[index - 1].data == data:
                return index
        return 0 if data is None else -1

    def oldest(self, data: bytes | None) -> int:
        """As `newest`, of the oldest one."""
        if data is None:
            return 0
        return next((index for index, each in enumerate(self.versions, 1) if each.data == data), -1)

    def index_of(self, number: int) -> int:
        """How many versions there are up to an event's number."""
        return sum(version.number <= number for version in self.versions)


class IdealView:
    """One view's documents, by key. `touched`: the keys that each event touches, by place and number."""

    def __init__(self, view: View[Any]) -> None:
        self._folder = Folder(view)
        self.histories: dict[str, History] = {}
        self.touched: dict[tuple[str, int], dict[int, list[str]]] = {}

    def fold(self, message: Message) -> Mapping[str, History]:
        """Fold an event; the histories that it touches, by key."""
        step = self._folder.steps.get(message.type)
        if step is None:
            return {}
        place = (message.source, message.partition)
        try:
            event = step.decoder.decode(message.data)
            keys = self._folder.keys(step, event)
        except Exception:  # noqa: BLE001 - the projector parks it, and what is behind it of any key
            return {}
        self.touched.setdefault(place, {})[message.number] = keys
        found = {key: self.histories.setdefault(key, History(place)) for key in keys}
        for key, history in found.items():
            if history.place != place:
                history.is_known = False
            if not history.is_known:
                continue
            try:
                history.document = self._folder.apply(step, history.document, key, event)
            except Exception:  # noqa: BLE001 - as above
                history.is_known = False
                continue
            data = None if history.document is None else msgspec.json.encode(history.document)
            history.versions.append(Version(message.number, data))
        return found
