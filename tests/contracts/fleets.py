"""Contracts made by hand, to be compared: an owner of one event, and who reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from chimera import Command, Event
from chimera.messages import KeyedMeta
from chimera_contracts.baseline import carried
from chimera_contracts.comparing import compare
from chimera_contracts.deriving import versions_of, written_by
from chimera_contracts.model import (
    Contracts,
    EventPromise,
    EventUse,
    FoundBreaks,
    Promised,
    ServiceContract,
    Uses,
    Wholly,
)
from chimera_contracts.schemas import meaning_of

Typed = dict[str, Any]
"""Fields by name: a type, or a type and its default."""


def event_of(fields: Typed, *, version: int = 1) -> type[Event]:
    annotations = {name: each[0] if isinstance(each, tuple) else each for name, each in fields.items()}
    defaults = {name: each[1] for name, each in fields.items() if isinstance(each, tuple)}
    space: Any = {"__annotations__": {"order_id": str, **annotations}, **defaults, "__module__": __name__}
    made: Any = KeyedMeta("Placed", (Event,), space, source="shop", key="order_id", kw_only=True)
    if version > 1:
        made.__version__ = version
    return made  # type: ignore[no-any-return]


def command_of(fields: Typed) -> type[Command]:
    annotations = {name: each[0] if isinstance(each, tuple) else each for name, each in fields.items()}
    defaults = {name: each[1] for name, each in fields.items() if isinstance(each, tuple)}
    space: Any = {"__annotations__": {"order_id": str, **annotations}, **defaults, "__module__": __name__}
    made: Any = KeyedMeta("Place", (Command,), space, key="order_id", kw_only=True, omit_defaults=True)
    return made  # type: ignore[no-any-return]


def fleet_of(
    event: type[Event], reads: Sequence[str] | Wholly = (), *, own: type[Event] | None = None, consumer: str = "mail"
) -> Contracts:
    """A shop that emits an event, and a consumer whose reaction reads these fields of it, by a class of its own."""
    version, upgrades = versions_of(event)
    promise = EventPromise(
        key=event.__key_fields__[0],
        names=["Placed"],
        schema=meaning_of(event),
        stored={str(version): written_by(event)},
        version=version,
        upgrades=upgrades,
    )
    use = EventUse(
        fields="all" if reads == "all" else sorted(reads),
        own=meaning_of(own) if own else None,
        version=versions_of(own or event)[0],
    )
    return {
        "shop": ServiceContract(promises=Promised(partitions=8, events={"Placed": promise})),
        consumer: ServiceContract(
            promises=Promised(partitions=8), uses=Uses(events={"shop.Placed": {"reaction send": use}})
        ),
    }


def compared(*steps: Contracts) -> FoundBreaks:
    """The last step beside those before it, which were exported one after the other."""
    before: Contracts = {name: msgspec.structs.replace(each) for name, each in steps[0].items()}
    for step in steps[1:-1]:
        before = carried(before, step)
    return compare(before, steps[-1], carried(before, steps[-1]))


def places(found: FoundBreaks) -> list[tuple[str, str]]:
    return [(each.place, each.consumer) for each in found.breaks]
