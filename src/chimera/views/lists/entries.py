"""The entries that a document has in the lists of its view: worked out from the document as it is stored, alone.

So what an earlier write has put is known by the document that it has put, and nothing more is kept or read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from itertools import product
from typing import Any

from chimera.folds import ListField, View, ViewList
from chimera.forms import AnyDocument, decoder_of
from chimera.messages import MAX_KEY
from chimera.views.lists.order import Order, encoded

Place = tuple[bytes, bytes]
"""A filter of a list, as `within`, and the place of a document in it, as `Order.place`."""

FORMAT = 1
"""Counted up when the same list comes to have other bytes: then it is built anew."""


class ListEntries:
    """One list: which filters a document is in, and where."""

    def __init__(self, declared: ViewList[AnyDocument]) -> None:
        self.order = Order(declared.order)
        self.digest = list_digest(declared)
        self._where = declared.where
        self._decode = decoder_of(declared.view.document).decode

    def places(self, key: str, document: Any) -> Iterator[Place]:
        """The places of a document, in no order, none twice. Raises Unfit."""
        at = self.order.place(document, key)
        for values in product(*(_values(field, document) for field in self._where)):
            yield self._within(values), at

    def key_at(self, at: bytes) -> str | None:
        """The key that a place ends with; None for one that can't be of this list."""
        try:
            key = self.order.key(at)
        except (IndexError, ValueError):
            return None
        return key if 0 < len(key) <= MAX_KEY and "\0" not in key else None

    def holds(self, key: str, data: bytes, place: Place) -> bool:
        """True when a document, as it is stored, is at a place."""
        return place in self.places(key, self._decode(data))

    def within(self, values: Sequence[Any]) -> bytes:
        """The filter of these values, one for each field of `where`: 16 bytes. Raises Unfit."""
        return self._within([encoded(value, field.kind) for field, value in zip(self._where, values, strict=True)])

    def _within(self, values: Sequence[bytes]) -> bytes:
        return blake2b(b"".join([self.digest.encode(), *values]), digest_size=16).digest()


class ViewEntries:
    """All lists of a view."""

    def __init__(self, view: View[AnyDocument]) -> None:
        self._decode = decoder_of(view.document).decode
        self._lists = [ListEntries(each) for each in view.lists.values()]
        self.digests = [each.digest for each in self._lists]
        lists = view.lists.values()
        self._fields = sorted({field.name for each in lists for field in (*each.where, *each.order)})

    def places(self, key: str, data: bytes | None, among: Collection[str]) -> set[Place]:
        """The places of a document as it is stored, in lists of these digests; none of no document. Raises Unfit."""
        lists = [each for each in self._lists if each.digest in among]
        if data is None or not lists:
            return set()
        document = self._decode(data)
        return {place for each in lists for place in each.places(key, document)}

    def keys(self, at: bytes) -> set[str]:
        """The keys that a place may be of: which list it is in, its filter does not tell."""
        return {key for each in self._lists if (key := each.key_at(at)) is not None}

    def moves(
        self, key: str, before: bytes | None, after: bytes | None, among: Collection[str]
    ) -> tuple[list[Place], list[Place]]:
        """The places that a document leaves and comes to, as it was stored and is to be, in order. Raises Unfit."""
        if before is not None and after is not None:
            stored, document = self._decode(before), self._decode(after)
            if all(getattr(stored, name) == getattr(document, name) for name in self._fields):
                return [], []
        old, new = self.places(key, before, among), self.places(key, after, among)
        return sorted(old - new), sorted(new - old)


def list_digest(declared: ViewList[AnyDocument]) -> str:
    """The digest of all that the bytes of a list follow from: 16 hexadecimal digits."""
    described = [declared.view.name, declared.name, *map(_described, (*declared.where, *declared.order)), str(FORMAT)]
    described.insert(2, str(len(declared.where)))
    return blake2b("\n".join(described).encode(), digest_size=8).hexdigest()


def list_digests(view: View[AnyDocument]) -> tuple[str, ...]:
    """The digests of a view's lists."""
    return tuple(sorted(map(list_digest, view.lists.values())))


def _described(field: ListField) -> str:
    return f"{field.name} {field.kind} {field.is_many} {field.descends}"


def _values(field: ListField, document: Any) -> list[bytes]:
    """The values of a field that filter, as bytes."""
    value = getattr(document, field.name)
    if not field.is_many:
        return [encoded(value, field.kind)]
    return list(dict.fromkeys(encoded(each, field.kind) for each in value or ()))
