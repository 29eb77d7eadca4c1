"""A projection's documents as they were last written, so that the next batch need not read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from chimera.ports import Document

MOST_BYTES = 4 << 20
_OVERHEAD = 512
"""About what a document takes in memory besides its key and data."""
PAUSE = 100
"""Batches for which nothing is remembered after what was remembered had changed."""


class Recent:
    """The documents that one writer has written of a view, as far as it remembers them: at most MOST_BYTES.

    It may be out of date, which shows when it is written: no store puts a document that is not at its revision. Then
    somebody else writes the same documents, so that remembering them would cost a try each time: for a while
    nothing is remembered.
    """

    def __init__(self, view: str) -> None:
        self._view = view
        self._documents: dict[str, Document] = {}
        self._bytes = 0
        self._pause = 0

    def among(self, keys: Collection[str]) -> dict[str, Document]:
        """The remembered documents among these keys."""
        return {key: self._documents[key] for key in keys if key in self._documents}

    def wrote(self, documents: Iterable[Document], revision: int) -> None:
        """They were written, and are at this revision now. What was remembered longer makes room."""
        if self._pause:
            self._pause -= 1
            return
        kept = self._documents
        for view, key, data, _ in documents:
            if view == self._view:
                self._drop(key)
                if data is not None:
                    kept[key] = Document(view, key, data, revision)
                    self._bytes += len(data) + len(key) + _OVERHEAD
        while self._bytes > MOST_BYTES:
            self._drop(next(iter(kept)))

    def refused(self) -> None:
        """A write was refused: what is remembered may be out of date."""
        if self._documents:
            self._pause = PAUSE
        self.forget()

    def forget(self) -> None:
        """Remember nothing of what was written until now."""
        self._documents, self._bytes = {}, 0

    def _drop(self, key: str) -> None:
        document = self._documents.pop(key, None)
        if document is not None:
            self._bytes -= len(document.data or b"") + len(key) + _OVERHEAD
