"""How far the documents of a generation are in its lists.

Nearly always all of them are, from the first one on. A list that comes to a generation that has documents already, as
where the events to build another one of are gone, is *filled*: in the order of the keys, a page in each write. Up to
the last key that was filled, every write of a document keeps the list; beyond it none does. A write of a document that
is not kept in a list is refused where the filling has gone on meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from chimera.core.names import listing_view
from chimera.ports import Document, ViewStore


class Filled(msgspec.Struct, frozen=True):
    """All documents up to the key `through` are in a list; where it is None, all there are."""

    through: str | None = None


class ListStates:
    """The states of the lists of a generation, as they were read: by digest."""

    def __init__(self, name: str, digests: Collection[str], stored: Mapping[str, Document]) -> None:
        self._documents = {digest: stored.get(digest, Document(listing_view(name), digest, None)) for digest in digests}
        self._through = {digest: _through(document) for digest, document in self._documents.items()}
        self.complete = [digest for digest, through in self._through.items() if through is None]
        self.are_complete = len(self.complete) == len(self._through)

    def keeping(self, key: str) -> Collection[str]:
        """The lists that a document of this key is kept in."""
        if self.are_complete:
            return self.complete
        return [digest for digest, through in self._through.items() if through is None or key <= through]

    def pins(self, keys: Sequence[str]) -> list[Document]:
        """What is written beside documents of these keys, so that the write is refused where a list has gone on."""
        if self.are_complete:
            return []
        last = max(keys, default="")
        return [
            self._documents[digest]
            for digest, through in self._through.items()
            if through is not None and last > through
        ]

    def unfilled(self) -> tuple[Document, str] | None:
        """The first list that is not complete, and up to which key it is."""
        for digest, through in self._through.items():
            if through is not None:
                return self._documents[digest], through
        return None


class ListsProof(msgspec.Struct):
    """How the lists of a generation differ from its documents, in keys of documents: `changed` stand at a wrong place,
    `missing` are not where they have to be, `invented` where they have not.

    `checked`: the entries that there have to be. `miscounted`: filters whose count was wrong. `mended`: how many of all
    those were made right. `keys`: some of them. `in_flight`: they moved all the time.
    """

    checked: int = 0
    changed: int = 0
    missing: int = 0
    invented: int = 0
    miscounted: int = 0
    mended: int = 0
    in_flight: int = 0
    keys: list[str] = []

    @property
    def found(self) -> int:
        """What was wrong."""
        return self.changed + self.missing + self.invented + self.miscounted

    @property
    def told(self) -> str:
        """What was wrong, in words; empty for nothing."""
        words = (
            f"{self.changed} at a wrong place",
            f"{self.missing} missing",
            f"{self.invented} that should not be there",
            f"{self.miscounted} counts",
        )
        return ", ".join(word for word in words if not word.startswith("0 "))


async def list_states(views: ViewStore, name: str, digests: Sequence[str]) -> ListStates:
    """The states of lists in a generation."""
    return ListStates(name, digests, await views.get(listing_view(name), digests))


async def is_empty(views: ViewStore, name: str) -> bool:
    """True for a generation that nothing was ever folded into: whatever its lists are, they have nothing."""
    return not (await views.checkpoints(name) or await views.scan(name, limit=1))


async def begun_lists(views: ViewStore, name: str, digests: Sequence[str]) -> ListStates:
    """The states of lists in a generation that is folded into: one that has nothing yet has all of its lists."""
    states = await list_states(views, name, digests)
    if states.are_complete or not await is_empty(views, name):
        return states
    complete = msgspec.json.encode(Filled())
    await views.write(name, [Document(listing_view(name), digest, complete) for digest in digests], [])
    return await list_states(views, name, digests)


def _through(document: Document) -> str | None:
    """Up to which key; nothing is, where nobody has begun."""
    return "" if document.data is None else msgspec.json.decode(document.data, type=Filled).through
