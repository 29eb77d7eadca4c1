"""Whether a build may be deployed now: the fleet that runs is asked what it can read, and the journals what they have.

Every write head says by its lease which build it runs, and its store knows what that build reads. So what stands
against a deploy is what runs, not what some branch has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from chimera.commands.apart.contracts import CanRead
from chimera.core.context import Context
from chimera.core.tables import Build, ReportedConsumer
from chimera.entities import table_of
from chimera.journal.leases import Leases
from chimera.messages import AnyEvent
from chimera.service import Service
from chimera_contracts.deriving import emitted, named, written_by
from chimera_contracts.misfits import misfits
from chimera_contracts.model import Break
from chimera_contracts.schemas import plain_schema


class WhatRuns(NamedTuple):
    """What was found: who stands against it, how many builds of how many services were asked, and who does not run."""

    against: list[Break]
    builds: int
    services: int
    idle: list[str]


async def ask_running(service: Service, contexts: Sequence[Context]) -> WhatRuns:
    """Ask what runs whether it can read what this build of a service would write. Raises Unavailable."""
    against: list[Break] = []
    builds, idle, asked = 0, list[str](), 0
    for context in contexts:
        if context.service.name == service.name:
            against += await _strangers(context, [each.service.name for each in contexts])
            continue
        reads, silent = await _builds(context)
        if silent and _uses(context.service, service.name):
            says = "has a build that does not say what it reads: it is of an earlier release"
            against.append(Break(context.service.name, context.service.name, "", says, "deploy that service first"))
        if reads or silent:
            builds, asked = builds + len(reads), asked + 1
        elif _uses(context.service, service.name):
            idle.append(context.service.name)
        for each in reads:
            against += _against(service, context.service.name, each)
    return WhatRuns(list(dict.fromkeys(against)), builds, asked, idle)


def users_of(owner: str, services: Iterable[Service]) -> list[str]:
    """The services that read events or shares of an owner, as their code has it here."""
    return sorted(each.name for each in services if each.name != owner and _uses(each, owner))


def _uses(service: Service, owner: str) -> bool:
    events = [event for fold in (*service.views.values(), *service.folds.values()) for event in fold.steps]
    events += [event for reaction in service.reactions.values() for event in reaction.events]
    return owner in {event.__source__ for event in events} | {each.owner for each in service.borrows.values()}


async def _builds(context: Context) -> tuple[list[CanRead], bool]:
    """What the builds can read that run now; and whether there is one that does not say so."""
    codes, table = await Leases(context, "").codes(), table_of(Build)
    async with context.store.snapshot(once=True) as session:
        rows = await session.load(table, [(code,) for code in sorted(codes - {""})])
    builds = [msgspec.json.decode(table.from_row(row).reads, type=CanRead) for row in rows]
    return builds, len(builds) < len(codes)


async def _strangers(context: Context, known: Sequence[str]) -> list[Break]:
    """The consumers that have reported to an owner, and that are of no service in the settings."""
    table = table_of(ReportedConsumer)
    async with context.store.snapshot(once=True) as session:
        rows = await session.find(table, {})
    consumers = sorted({str(table.from_row(row).consumer) for row in rows})
    others = sorted({each.partition(" ")[0] for each in consumers} - {*known})
    says = "consumes its events, and is no service of these settings, so that nobody knows what it reads"
    return [
        Break(context.service.name, each, "", says, f"add [services.{each}] with its app and url") for each in others
    ]


def _against(service: Service, consumer: str, reads: CanRead) -> Iterator[Break]:
    classes = emitted(service)
    by_reader: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for kind, found in (("reaction", reads.events), ("view", reads.folded)):
        for name, schema in found.items():
            reader, _, type_ = name.rpartition("/")
            if type_.startswith(f"{service.name}."):
                by_reader.setdefault((f"{kind} {reader}", type_.partition("@")[0]), {})[type_] = schema
    done: set[tuple[str, type[AnyEvent]]] = set()
    for (reader, base), schemas in sorted(by_reader.items()):
        event = classes.get(base)
        if event is None:
            says, todo = (
                "is read by what runs, and this build has no event of this name",
                "say renamed_from=, or stop it",
            )
            yield Break(base, consumer, reader, says, todo)
        elif (reader, event) not in done:
            done.add((reader, event))
            yield from _against_event(event, consumer, reader, schemas)
    yield from _against_shares(service, consumer, reads.copied)


def _against_event(
    event: type[AnyEvent], consumer: str, reader: str, schemas: Mapping[str, Mapping[str, Any]]
) -> Iterator[Break]:
    place, schema = named(event)[0], schemas.get(event.wire_type())
    if schema is None:
        says = f"would be sent as {event.wire_type()}, and what runs knows {', '.join(sorted(schemas))}"
        yield Break(place, consumer, reader, says, f"deploy {consumer} first")
        return
    for each in misfits(written_by(event), plain_schema(schema)):
        at = f"{place}.{each.path}" if each.path else place
        yield Break(at, consumer, reader, f"{each.says}, by what runs", f"deploy {consumer} first")


def _against_shares(service: Service, consumer: str, copied: Mapping[str, Mapping[str, Any]]) -> Iterator[Break]:
    shares: dict[str, Any] = {
        f"{service.name}/{name}": each.document for each in service.shares.values() for name in (each.name, *each.also)
    }
    for place, schema in sorted(copied.items()):
        if place.partition("/")[0] != service.name:
            continue
        if place not in shares:
            yield Break(place, consumer, "borrow", "is borrowed by what runs, and not shared", "share it again")
            continue
        for each in misfits(written_by(shares[place]), plain_schema(schema)):
            at = f"{place}.{each.path}" if each.path else place
            yield Break(at, consumer, "borrow", f"{each.says}, by what runs", f"deploy {consumer} first")
