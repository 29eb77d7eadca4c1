"""The state of a fleet at a moment, as an invariant sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from chimera.core.names import GENERATIONS, generation_name
from chimera.entities import Entity, table_of
from chimera.errors import DeclarationError
from chimera.folds import View
from chimera.forms import AnyDocument
from chimera.messages import Message
from chimera.testing.memory import MemoryStore, MemoryViews
from chimera.testing.plans.fleet import Fleet
from chimera.testing.plans.plan import Sending
from chimera.views.generations import Generations

Row = TypeVar("Row", bound=Entity)
Doc = TypeVar("Doc", bound=AnyDocument)


class SettledCommand(NamedTuple):
    """A command that was sent, how it was answered each time, and what became of it.

    `state` is `done`, `rejected` or `parked`, or `unknown` where the service never heard of it.
    """

    sending: Sending
    statuses: tuple[int, ...]
    state: str


class State:
    """What is committed now: the entities, documents and events of every service.

    `commands`: in the end, all that were sent, in the order in which each client sent its own.
    """

    def __init__(self, fleet: Fleet, stores: Mapping[str, MemoryStore], views: Mapping[str, MemoryViews]) -> None:
        self._fleet = fleet
        self._stores = stores
        self._views = views
        self.commands: Sequence[SettledCommand] = ()

    def rows(self, entity: type[Row]) -> list[Row]:
        """All rows of an entity, in the order of their keys."""
        table = table_of(entity)
        for name, service in self._fleet.services.items():
            if entity in service.entities:
                found = self._stores[name].state.tables.get(table.name, {})
                return [table.from_row(found[key]) for key in sorted(found)]
        raise DeclarationError(f"no service of the fleet has the entity {entity.__name__}")

    def row(self, entity: type[Row], *key: object) -> Row | None:
        """The entity with this key, or None."""
        table = table_of(entity)
        for name, service in self._fleet.services.items():
            if entity in service.entities:
                found = self._stores[name].state.tables.get(table.name, {}).get(key)
                return None if found is None else table.from_row(found)
        raise DeclarationError(f"no service of the fleet has the entity {entity.__name__}")

    def documents(self, view: View[Doc]) -> dict[str, Doc]:
        """All documents of a view that serve now, by key."""
        for name, service in self._fleet.services.items():
            if service.views.get(view.name) is view:
                return {
                    document.key: msgspec.json.decode(document.data or b"null", type=view.document)
                    for document in self._views[name].documents_of(self._serving(name, view.name))
                }
        raise DeclarationError(f"no service of the fleet has the view {view.name}")

    def _serving(self, service: str, view: str) -> str:
        """The name of the generation that serves."""
        for document in self._views[service].documents_of(GENERATIONS):
            if document.key == view:
                state = msgspec.json.decode(document.data or b"", type=Generations)
                return generation_name(view, state.serving.number)
        return view

    def events(self, service: str) -> list[Message]:
        """All events of a service that are still in its journal, partition by partition."""
        events = self._stores[service].state.events
        return [event for partition in sorted(events) for event in events[partition]]
