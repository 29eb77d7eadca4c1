"""Small documents that many processes read and change: each by compare-and-set, in a view store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from chimera.errors import Unavailable
from chimera.ports import Document, ViewStore

Value = TypeVar("Value")

TRIES = 10


class Register(Generic[Value]):
    """Values of one type by key, as JSON in the documents of `view`, written as `consumer` (`view` unless given)."""

    def __init__(self, views: ViewStore, view: str, type_: type[Value], *, consumer: str | None = None) -> None:
        self._views = views
        self._view = view
        self._consumer = view if consumer is None else consumer
        self._decoder = msgspec.json.Decoder(type_)

    async def get(self, keys: Sequence[str]) -> dict[str, Value]:
        """The values that were ever set among these keys."""
        found = await self._views.get(self._view, keys)
        return {key: self._decoder.decode(each.data) for key, each in found.items() if each.data is not None}

    async def change(
        self, key: str, default: Value, step: Callable[[Value], Value], *, beside: Mapping[str, bytes] = {}
    ) -> Value:
        """Take a step from whatever value there is (`default` where none was set), and return the value afterwards.

        A step that changes nothing of what was set is not written, nor one that returns just what it was given; where
        somebody else was faster it is taken again, from there.
        `beside` are other documents of the view, by key, that are put in the same write.
        """
        while True:
            found = await self._views.get(self._view, [key, *beside])
            stored = found.get(key)
            before = default if stored is None or stored.data is None else self._decoder.decode(stored.data)
            after = step(before)
            if after is before or (stored is not None and after == before):
                return before
            if await self._write(found, {key: msgspec.json.encode(after), **beside}):
                return after

    async def put(self, values: Mapping[str, Value]) -> None:
        """Set these values, whatever is there. Raises Unavailable where others were faster again and again."""
        data = {key: msgspec.json.encode(value) for key, value in values.items()}
        for _ in range(TRIES):
            if await self._write(await self._views.get(self._view, list(data)), data):
                return
        raise Unavailable(f"others write {self._view} again and again")

    async def _write(self, found: Mapping[str, Document], data: Mapping[str, bytes]) -> bool:
        revisions = {key: each.revision for key, each in found.items()}
        documents = [Document(self._view, key, each, revisions.get(key, 0)) for key, each in data.items()]
        return bool(await self._views.write(self._consumer, documents, []))
