"""Names against what is stored: a service does not start where something that is stored would be missed or done again.

What a store was declared to hold is written into it, so a service needs nothing beside it. A build whose names were
admitted before is always admitted again: an old one may start in the middle of a rolling deploy, or come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from chimera.core.context import Context
from chimera.core.declared import (
    KINDS,
    DeclaredName,
    Kind,
    declared_names,
    digest_of_names,
    is_of_chimera,
    known_types,
)
from chimera.core.names import GENERATIONS, RELAY, events_topic, reaction_consumer
from chimera.core.tables import Progress, StoredName
from chimera.entities import Entity, table_of
from chimera.errors import ChimeraError, SettingsError, Unavailable
from chimera.journal.checkpoints import again_on_conflict
from chimera.parts import Reaction
from chimera.ports import Checkpoint
from chimera.service import Service
from chimera.signature import located
from chimera.upkeep.admission.marks import (
    StoreMark,
    ViewsMarks,
    last_records,
    mark_in,
    mark_views,
    others_names,
    put_mark,
    read_marks,
    store_of_another,
    strangers,
)
from chimera.upkeep.drift.unique import UNIQUE, keep_reserved
from chimera.upkeep.tables.state import unlisted_tables
from chimera.versions import base_of, gave_up, is_newer, too_new

logger = logging.getLogger("chimera")

BUILD = "build"
SHOWN = 3


class Stored(NamedTuple):
    """What a store knows of names: by kind, those that something is stored under, each with its detail.

    `builds`: the digests of those that were declared together. `consumers`: the checkpoints there are, by consumer.
    `types`: how many events of each type the journal has, where that had to be counted. `mark`: whose the store is, and
    `marks`: who has marked the view store. `unique`: see `keep_reserved`.
    """

    names: Mapping[Kind, Mapping[str, str]]
    builds: Collection[str]
    consumers: Mapping[str, Sequence[Progress]]
    types: Mapping[str, int]
    mark: StoreMark
    marks: ViewsMarks
    unique: Mapping[str, str]

    def incarnation(self, service: Service) -> str:
        """The store's incarnation; empty for a store that is new.

        One that was put back to a moment before there were marks is still what its view store belongs to.
        """
        if self.mark.incarnation or not (self.builds or self.consumers or self.types):
            return self.mark.incarnation
        return self.marks[service.name].incarnation if service.name in self.marks else ""

    @property
    def is_new(self) -> bool:
        """True for a store that no build with names has used yet."""
        return not self.builds


class Beginning(NamedTuple):
    """Where a new consumer begins: its checkpoints, by partition of its source."""

    consumer: str
    source: str
    at: Mapping[int, Checkpoint]


async def admit(context: Context) -> None:
    """Let a service start: write down its names, and where new reactions begin. Doing it twice changes nothing.

    Raises SettingsError, in one line, where names don't fit what is stored, DeclarationError where they don't fit
    each other. Nothing is changed then.
    """
    declared = declared_names(context.service)
    digest = digest_of_names(declared)
    stored, found = await _look(context, declared, digest)
    if found:
        more = f" (and {len(found) - 1} more; see: chimera check)" if len(found) > 1 else ""
        raise SettingsError(found[0] + more)
    await keep_reserved(context, stored.unique)
    beginnings = await _beginnings(context, stored)
    incarnation = stored.incarnation(context.service) or context.clock.random_bytes(16).hex()
    if stored.mark.incarnation and not beginnings and digest in stored.builds and not _news(declared, stored):
        await mark_views(context, incarnation)
        return
    rows = [StoredName(each.kind, each.name, each.detail) for each in declared]
    rows += [
        StoredName("events", type_.partition(".")[2])
        for type_ in stored.types
        if type_.startswith(f"{context.service.name}.") and not is_of_chimera(context.service, type_)
    ]
    gone = [] if digest in stored.builds else _gone(context.service, declared, stored)
    mark = StoreMark(context.service.name, incarnation)
    incarnation = await again_on_conflict(
        lambda: _write(context, [*rows, *gone, StoredName(BUILD, digest)], beginnings, mark), context.clock
    )
    await mark_views(context, incarnation)


async def misfits(context: Context) -> list[str]:
    """What is wrong with a service's names, a line each; nothing is written. Raises DeclarationError as `admit`."""
    declared = declared_names(context.service)
    _, found = await _look(context, declared, digest_of_names(declared))
    return found


async def _look(context: Context, declared: Sequence[DeclaredName], digest: str) -> tuple[Stored, list[str]]:
    """What is stored, and what is wrong with it; looked at again where another head was admitted meanwhile."""
    stored = await _stored(context, digest)
    while found := await _judged(context, declared, digest, stored):
        before, stored = stored, await _stored(context, digest)
        if stored.builds == before.builds:
            break
    return stored, found


async def _judged(context: Context, declared: Sequence[DeclaredName], digest: str, stored: Stored) -> list[str]:
    """What is wrong, a line each: with whose store it is, and with the names of a build that is not known yet."""
    service = context.service
    if line := store_of_another(service, stored.mark, {each.source for each in stored.consumers.get(RELAY, ())}):
        return [line]
    if lines := await unlisted_tables(context):
        return lines
    found = await strangers(context, stored.incarnation(service), stored.marks, is_new=stored.is_new)
    return found if found or digest in stored.builds else await _misfits(context, declared, stored)


async def _stored(context: Context, digest: str) -> Stored:
    table, progress = table_of(StoredName), table_of(Progress)
    marks = await read_marks(context.views)
    async with context.store.snapshot() as session:
        rows: list[StoredName] = list(map(table.from_row, await session.find(table, {})))
        checkpoints: list[Progress] = list(map(progress.from_row, await session.find(progress, {})))
    names: dict[Kind, dict[str, str]] = {
        kind: {row.name: row.detail for row in rows if row.kind == kind and not row.gone} for kind in KINDS
    }
    consumers: dict[str, list[Progress]] = {}
    for each in checkpoints:
        consumers.setdefault(each.consumer, []).append(each)
    gone = {row.name for row in rows if row.gone and row.kind == "reactions"}
    names["reactions"] |= {
        name: ""
        for consumer in consumers
        if (name := consumer.rpartition(":")[0]) and name not in gone  # kept by a build without names
    }
    builds = {row.name for row in rows if row.kind == BUILD}
    types: Mapping[str, int] = {}
    if not builds:
        others = others_names(context.service, marks)
        names["views"] |= {name: "" for name in await _stored_views(context) if name not in others}
        types = await _types(context)
    elif digest not in builds and _lacks_events(context.service, names["events"]):
        types = await _types(context)
    unique = {row.name: row.detail for row in rows if row.kind == UNIQUE}
    return Stored(names, builds, consumers, types, mark_in(rows), marks, unique)


def _lacks_events(service: Service, stored: Iterable[str]) -> bool:
    """True where an event of a name that is stored is neither read nor given up."""
    types = {f"{service.name}.{name}" for name in stored} - known_types(service)
    return not all(gave_up(service.forgot, type_) for type_ in types)


async def _stored_views(context: Context) -> list[str]:
    """The views that the view store has, and of those that are declared the ones that it had before generations."""
    found, after = [], ""
    while page := await context.views.scan(GENERATIONS, after):
        found += [document.key for document in page if "~" not in document.key]
        after = page[-1].key
    found += [view for view in context.service.views if view not in found and await context.views.checkpoints(view)]
    return found


async def _types(context: Context) -> Mapping[str, int]:
    """The types in the journal; none where they can't be counted, for a journal may be too large to be read through."""
    if not any((await context.store.heads()).values()):
        return {}
    try:
        return await context.store.types()
    except ChimeraError as error:
        logger.warning("%s: its journal's types can't be counted, and are not checked: %s", context.service.name, error)
        return {}


async def _misfits(context: Context, declared: Sequence[DeclaredName], stored: Stored) -> list[str]:
    service = context.service
    found = _unknown_types(service, declared, stored)
    for kind in KINDS:
        if kind in ("events", "reactions"):
            continue
        for new, old in _renames(service, kind, declared, stored):
            if await _has_rows(context, kind, old):
                found.append(_like_a_rename(service, new, old))
    found += _went_on_elsewhere(service, stored)
    found += [
        _without_start(context.service, reaction, source, _missing(service, "reactions", declared, stored), count)
        for reaction, source in _new_reactions(service, stored)
        if reaction.start is None and (count := await _past(context, source))
    ]
    return found


def _unknown_types(service: Service, declared: Sequence[DeclaredName], stored: Stored) -> list[str]:
    known = known_types(service)
    unknown = [
        type_
        for type_ in stored.types
        if type_ not in known
        and type_.startswith(f"{service.name}.")
        and not (is_of_chimera(service, type_) or gave_up(service.forgot, type_))
    ]
    new = [each for each in declared if each.kind == "events" and each.name not in stored.names["events"]]
    new = [each for each in new if f"{service.name}.{each.name}" not in stored.types]
    return [_unknown_type(service, type_, stored.types[type_], new) for type_ in sorted(unknown)]


def _unknown_type(service: Service, type_: str, count: int, new: Sequence[DeclaredName]) -> str:
    old, known = base_of(type_).partition(".")[2], known_types(service)
    if is_newer(type_, known):
        return (
            f"{service.declared_at}: the journal of {service.name} has {_events(count)} of type {type_}, and "
            f"{too_new(type_, known)}; start that, or declare the version and its @…upgrade here"
        )
    if new:
        classes = " or ".join(f"{each.python} ({each.where})" for each in new[:SHOWN])
        now = f"if {classes} is what it is called now, type: {renamed(service, new[0], old)}"
    else:
        now = f'declare it again: class {old}(Event, source="{service.name}", key="…")'
    return (
        f"{service.declared_at}: the journal of {service.name} has {_events(count)} of type {type_}, which no class is "
        f"read from; {now}; if they are given up, type: {given_up(service, 'events', old)}"
    )


def _renames(
    service: Service, kind: Kind, declared: Sequence[DeclaredName], stored: Stored
) -> list[tuple[DeclaredName, str]]:
    """What is new of a kind, each with what is gone and may have been it: of commands, one at the same route."""
    missing = _missing(service, kind, declared, stored)
    known = stored.names[kind]
    found = []
    for each in declared:
        if each.kind == kind and each.name not in known:
            like = [old for old in missing if kind != "commands" or (known[old] and known[old] == each.detail)]
            if like:
                found.append((each, like[0]))
    return found


def _missing(service: Service, kind: Kind, declared: Sequence[DeclaredName], stored: Stored) -> list[str]:
    """The names of a kind that something is stored under, and that are neither declared nor given up."""
    here = {name for each in declared if each.kind == kind for name in (each.name, *each.also)}
    return sorted(set(stored.names[kind]) - here - service.forgot.get(kind, frozenset()))


def _like_a_rename(service: Service, new: DeclaredName, old: str) -> str:
    word = new.kind.removesuffix("s")
    return (
        f"{new.where}: the {word} {new.name!r} of {service.name} is new, and {old!r} is gone: if that is its name "
        f"until now, type: {renamed(service, new, old)}; if it is given up, type: {given_up(service, new.kind, old)}"
    )


def renamed(service: Service, new: DeclaredName, old: str) -> str:
    """What to type where something has another name now."""
    return {
        "events": f'class {new.python}(Event, …, renamed_from="{old}")',
        "commands": f'class {new.python}(Command, …, renamed_from="{old}")',
        "views": f'{variable(service)}.view({new.python}, …, renamed_from="{old}")',
        "reactions": f'@{variable(service)}.on(…, renamed_from="{old}")',
        "tables": f'class {new.python}(Entity, …, renamed_from="{old}")',
        "shares": f'{variable(service)}.share("{new.name}", …, renamed_from="{old}")',
    }[new.kind]


def given_up(service: Service, kind: Kind, old: str) -> str:
    """What to type where a name is given up."""
    return f'{variable(service)}.forgotten({kind}=["{old}"])'


async def _has_rows(context: Context, kind: Kind, old: str) -> bool:
    """False where nothing can be missed: no event for a view, an empty table."""
    if kind == "views":
        return any([await _past(context, source) for view in context.service.views.values() for source in view.sources])
    if kind != "tables":
        return True
    try:
        async with context.store.snapshot() as session:
            if not session.dialect:
                return True
            mark = "`" if session.dialect == "mysql" else '"'
            return bool(await session.execute(f"SELECT 1 FROM {mark}{old}{mark} LIMIT 1"))  # noqa: S608 - declared once
    except Unavailable:
        raise
    except Exception:  # noqa: BLE001 - whatever the driver raises for a table that is not there
        return False


def _new_reactions(service: Service, stored: Stored) -> list[tuple[Reaction, str]]:
    """The reactions that have no checkpoint in a source."""
    return [
        (reaction, source)
        for reaction in service.reactions.values()
        for source in reaction.sources
        if reaction_consumer(reaction.name, source) not in stored.consumers
    ]


def _went_on_elsewhere(service: Service, stored: Stored) -> list[str]:
    """What to say of reactions that have run under another of their names, and have got further there."""
    found = []
    for reaction, source in ((each, source) for each in service.reactions.values() for source in each.sources):
        own = {row.partition: row.number for row in stored.consumers.get(reaction_consumer(reaction.name, source), ())}
        for name in reaction.also:
            rows = stored.consumers.get(reaction_consumer(name, source), ())
            if own and any(row.number > own.get(row.partition, 0) for row in rows):
                found.append(
                    f"{located(reaction.function)}: the reaction {reaction.name!r} of {service.name} has also run as "
                    f"{name!r}, and has got further there: it would repeat events of {source}; to go on from there, "
                    f'type: name="{name}" without renamed_from='
                )
    return found


def _without_start(service: Service, reaction: Reaction, source: str, missing: Sequence[str], count: int) -> str:
    declared = next(each for each in declared_names(service) if (each.kind, each.name) == ("reactions", reaction.name))
    events = ", ".join(event.__name__ for event in reaction.events)
    call = f"@{variable(service)}.{'project' if reaction.batch else 'on'}({events}, "
    renamed = (
        f'; and {missing[0]!r} is gone: if that is its name until now, type: {call}renamed_from="{missing[0]}"); else '
        if missing
        else ": "
    )
    return (
        f"{declared.where}: the reaction {reaction.name!r} of {service.name} is new, and {source} has {_events(count)} "
        f'already{renamed}say where it begins, type: {call}start="now") or start="beginning"'
    )


async def _past(context: Context, source: str) -> int:
    """The number of events that a source has had; 0 where none is known of."""
    if source == context.service.name:
        return sum((await context.store.heads()).values())
    known = 0
    with suppress(Unavailable):  # its topic is not there yet
        known = sum((await context.log.ends(events_topic(source))).values())
    return known or sum((await context.owners.known_heads(source)).values())


async def _beginnings(context: Context, stored: Stored) -> list[Beginning]:
    """Where those reactions begin that have no checkpoint yet; a mark at 0 says that one is known."""
    found = []
    for reaction, source in _new_reactions(context.service, stored):
        at: Mapping[int, Checkpoint] = {}
        if reaction.start == "now":
            at = await _now(context, source)
        found.append(Beginning(reaction_consumer(reaction.name, source), source, at or {0: Checkpoint()}))
    return found


async def _now(context: Context, source: str) -> dict[int, Checkpoint]:
    """Where a source stands: its journal's heads, or what its log has last where the owner can't be asked."""
    ends: Mapping[int, int] = {}
    with suppress(Unavailable):
        ends = await context.log.ends(events_topic(source))
    if source == context.service.name:
        heads = await context.store.heads()
        return {partition: Checkpoint(number, ends.get(partition, 0)) for partition, number in heads.items()}
    try:
        async with asyncio.timeout(context.timing.ask_s):
            at = await _last_of(context, source, ends)
    except TimeoutError as error:
        raise Unavailable(
            f"the last events of {source} can't be read from its log in {context.timing.ask_s:g} s"
        ) from error
    for partition, number in (await context.owners.known_heads(source)).items():
        if number > at.get(partition, Checkpoint()).number:
            at[partition] = Checkpoint(number, ends.get(partition, 0))
    return at


async def _last_of(context: Context, source: str, ends: Mapping[int, int]) -> dict[int, Checkpoint]:
    """The last records of a log's partitions, as checkpoints."""
    at = {partition: Checkpoint() for partition in ends}
    for offset, message in await last_records(context.log, events_topic(source), ends):
        if message.number > at[message.partition].number:
            at[message.partition] = Checkpoint(message.number, offset)
    return at


def _news(declared: Iterable[DeclaredName], stored: Stored) -> bool:
    return any(each.name not in stored.names[each.kind] for each in declared)


def _gone(service: Service, declared: Sequence[DeclaredName], stored: Stored) -> list[StoredName]:
    """What is not declared any more; of events, what the journal has none of."""
    here = {(each.kind, name) for each in declared for name in (each.name, *each.also)}
    return [
        StoredName(kind, name, detail, gone=True)
        for kind in KINDS
        for name, detail in stored.names[kind].items()
        if (kind, name) not in here and (kind != "events" or f"{service.name}.{name}" not in stored.types)
    ]


async def _write(context: Context, rows: Sequence[StoredName], beginnings: Sequence[Beginning], mark: StoreMark) -> str:
    """Put the rows, the mark and the checkpoints of those that have none; a mark or checkpoint that is there stays.

    Returns the store's incarnation from now on. Raises SettingsError where it is another service's by now.
    """
    table, progress = table_of(StoredName), table_of(Progress)
    async with context.store.transaction() as session:
        unit = context.unit(session)
        incarnation = await put_mark(unit, mark)
        keys = [(row.kind, row.name) for row in rows]
        known: dict[tuple[str, str], Entity] = {
            (row.kind, row.name): row for row in map(table.from_row, await session.load(table, keys))
        }
        for row in rows:
            if known.get((row.kind, row.name)) != row:
                unit.put(row)
        for consumer, source, at in beginnings:
            if await session.load(progress, [(consumer, source, partition) for partition in at]):
                continue
            for partition, checkpoint in at.items():
                unit.put(Progress.of(consumer, source, partition, checkpoint))
        await unit.flush()
    return incarnation


def _events(count: int) -> str:
    return f"{count} event{'s' * (count != 1)}"


def variable(service: Service) -> str:
    """A service as it is probably called in its code."""
    return service.name.replace("-", "_")
