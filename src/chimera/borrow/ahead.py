"""How far the documents of a copy may be ahead of its checkpoints: those that its owner gave, not its events.

A copy that is filled, or mended, has what its owner had at that moment; the checkpoint gets there later.
Who has seen such a document has seen all up to that moment. The mark is written with the documents, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from chimera.core.names import filling_view, start_key
from chimera.ports import Document, ViewStore


class Ahead(msgspec.Struct, omit_defaults=True):
    """The number that no document of a partition is beyond, but for its checkpoint; and whether it is filled by now."""

    through: int = 0
    filled: bool = False


class Mark(NamedTuple):
    """A mark as it is stored: of a copy's partition, at a revision."""

    view: str
    key: str
    ahead: Ahead = Ahead()
    revision: int = 0

    def moved(self, through: int, *, filled: bool) -> Document:
        """The mark to be written with documents that are not beyond `through`."""
        ahead = Ahead(max(through, self.ahead.through), filled)
        return Document(self.view, self.key, msgspec.json.encode(ahead), self.revision)


async def read_marks(views: ViewStore, copy: str, owner: str, partitions: Iterable[int]) -> dict[int, Mark]:
    """The marks of a copy's partitions; new ones where there are none."""
    view, keys = filling_view(copy), {partition: start_key(owner, partition) for partition in partitions}
    found = await views.get(view, list(keys.values()))
    marks = {}
    for partition, key in keys.items():
        document = found.get(key)
        revision = document.revision if document else 0
        marks[partition] = Mark(view, key, ahead_of(document.data if document else None), revision)
    return marks


def ahead_of(data: bytes | None) -> Ahead:
    """What a mark says."""
    return msgspec.json.decode(data, type=Ahead) if data else Ahead(filled=True)
