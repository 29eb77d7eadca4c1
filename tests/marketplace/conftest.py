from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from chimera import Entity, Event
from chimera.entities import table_of
from chimera.folding import Folder
from chimera.service import Fold


class FakeTransaction:
    """The few verbs that handlers use, over a dict of rows."""

    now = datetime(2025, 5, 4, 23, 59, tzinfo=UTC)

    def __init__(self) -> None:
        self.rows: dict[tuple[type, tuple], Entity] = {}
        self.emitted: list[Event] = []

    async def load(self, entity: type, *key: Any) -> Any:
        found = self.rows.get((entity, key))
        return None if found is None else msgspec.structs.replace(found)

    async def find(self, entity: type, **where: Any) -> list[Any]:
        def fits(row: Any, name: str, value: Any) -> bool:
            return getattr(row, name) in (value if isinstance(value, list) else [value])

        found = [row for (kind, _), row in sorted(self.rows.items(), key=lambda item: item[0][1]) if kind is entity]
        return [row for row in found if all(fits(row, name, value) for name, value in where.items())]

    def save(self, entity: Any) -> None:
        self.rows[type(entity), self._key(entity)] = entity

    def delete(self, entity: Any) -> None:
        del self.rows[type(entity), self._key(entity)]

    def emit(self, event: Event) -> None:
        self.emitted.append(event)

    def new_id(self) -> str:
        return f"made-{len(self.rows) + 1}"

    def _key(self, entity: Any) -> tuple:
        return tuple(getattr(entity, field) for field in table_of(type(entity)).key)


@pytest.fixture
def tx() -> FakeTransaction:
    return FakeTransaction()


def _folded(view: Fold[Any], key: str, *events: Event) -> Any:
    folder, document = Folder(view), None
    for event in events:
        step = folder.steps.get(event.wire_type())
        if step is None:
            continue
        decoded = step.decoder.decode(msgspec.json.encode(event))
        if key in folder.keys(step, decoded):
            document = folder.apply(step, document, key, decoded)
    return document


@pytest.fixture(scope="session")
def folded() -> Callable[..., Any]:
    """The document of one key after these events, each through the wire format."""
    return _folded
