"""Marks: whose a store, a view store and a topic are, so that nobody goes to work on what is another's.

A store bears its service's name and its *incarnation*, a random id that no other store has; both are written once, with
its first admission, and come back with a backup. A view store bears, for each service on it, the incarnation of that
service's store and the names that it keeps there. A topic needs none: its events bear chains of their journal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from msgspec import Struct

from chimera.core.context import Context
from chimera.core.names import MARKS, RELAY, borrow_name, commands_topic, events_topic
from chimera.core.tables import Progress, StoredEpoch, StoredName
from chimera.entities import table_of
from chimera.errors import SettingsError
from chimera.journal.checkpoints import read_checkpoints
from chimera.journal.register import Register
from chimera.messages import Message
from chimera.ports import Log, Record, Removable, Store, ViewStore
from chimera.service import Service
from chimera.transaction import Unit

logger = logging.getLogger("chimera")

MARK = "mark"
"""The kind of the names by which a store says whose it is."""
SHOWN = 8
"""Characters of an incarnation that people are shown."""
_KEY = "services"


class StoreMark(NamedTuple):
    """Whose a store is: the name of its service, and its incarnation; both empty where it bears none yet."""

    service: str = ""
    incarnation: str = ""


class ViewsMark(Struct, frozen=True):
    """What a service has in a view store: its store's incarnation, and the names, in order, that it keeps there."""

    incarnation: str
    names: list[str]


ViewsMarks = Mapping[str, ViewsMark]
"""The marks of a view store, by the name of the service."""


def mark_in(rows: Iterable[StoredName]) -> StoreMark:
    """The mark among the names that a store has."""
    found = {row.name: row.detail for row in rows if row.kind == MARK}
    return StoreMark(found.get("service", ""), found.get("incarnation", ""))


async def put_mark(unit: Unit, mark: StoreMark) -> str:
    """Mark a store, unless it is marked; returns the incarnation that it has then.

    Raises SettingsError where it is another service's.
    """
    table = table_of(StoredName)
    rows = await unit.session.load(table, [(MARK, "service"), (MARK, "incarnation")])
    found = mark_in(map(table.from_row, rows))
    if found.service and found.service != mark.service:
        raise SettingsError(others_store(unit.service, found.service))
    if found.incarnation:
        return found.incarnation
    unit.put(StoredName(MARK, "service", mark.service))
    unit.put(StoredName(MARK, "incarnation", mark.incarnation))
    return mark.incarnation


async def read_marks(views: ViewStore) -> ViewsMarks:
    """The marks of a view store.

    They are read before the store: by the time that they were written, the store has had its own.
    """
    return (await _register(views).get([_KEY])).get(_KEY, {})


async def mark_views(context: Context, incarnation: str) -> None:
    """Mark the view store for this service, unless it is marked. Raises SettingsError where it is another's."""
    service = context.service
    names = kept_names(service)

    def step(marks: dict[str, ViewsMark]) -> dict[str, ViewsMark]:
        if lines := others_views(context, incarnation, marks):
            raise SettingsError(lines[0])
        before = marks.get(service.name)
        if before and names <= set(before.names):
            return marks
        also = before.names if before else []  # what an older build has kept is still there
        return {**marks, service.name: ViewsMark(incarnation, sorted(names.union(also)))}

    await _register(context.views).change(_KEY, {}, step)


def kept_names(service: Service) -> set[str]:
    """The names under which a service keeps documents in its view store: its views, and what it borrows."""
    return {*service.views, *map(borrow_name, service.borrows)}


def others_names(service: Service, marks: ViewsMarks) -> set[str]:
    """The names under which other services keep documents in the same view store."""
    return {name for other, mark in marks.items() if other != service.name for name in mark.names}


def others_store(service: Service, owner: str, *, sent: bool = False) -> str:
    """What to say where a service is given another's store; `sent`: the journal has events that were sent."""
    why = ", whose events stand in its journal" if sent else ", which was the first to start on it"
    return (
        f'{service.declared_at}: Service("{service.name}") has the store of {owner!r}{why}; call it Service("{owner}") '
        f"again, and [services.{owner}] (the variable may be called otherwise), or give [services.{service.name}] a "
        "store of its own"
    )


async def strangers(context: Context, incarnation: str, marks: ViewsMarks, *, is_new: bool) -> list[str]:
    """What to say where the view store or the topic does not belong to this store, a line each.

    `incarnation`: the store's, empty where it has none. `is_new`: nobody has started on it yet. The topic of another is
    not judged: its store may have been put back to a moment before its first event, and has to go on.
    """
    return others_views(context, incarnation, marks, await others_events(context) if is_new else None)


def others_views(context: Context, incarnation: str, marks: ViewsMarks, event: Message | None = None) -> list[str]:
    """As `strangers`; `event` is one of the topic that the journal never had."""
    service = context.service
    own = marks.get(service.name)
    other = own.incarnation if own and own.incarnation != incarnation else ""
    line = _installation(context, incarnation, other, event, sorted(marks.keys() - {service.name}))
    return [each for each in (line, _shared(service, marks)) if each]


async def others_events(context: Context) -> Message | None:
    """An event of this service in its log that its journal never had, where that is empty and has sent nothing."""
    if not await _is_blank(context):
        return None
    topic = events_topic(context.service.name)
    ends = await context.log.ends(topic)
    try:
        async with asyncio.timeout(context.timing.ask_s):
            records = await last_records(context.log, topic, ends)
    except TimeoutError:  # as where all of it was dropped by the broker's own retention
        logger.warning(
            "%s: the last records of %s can't be read, and whose they are is not checked", context.service.name, topic
        )
        return None
    found = [message for _, message in records if message.source == context.service.name and message.chain]
    # Whatever was sent had been committed: what another head has begun to do meanwhile is in the journal by now.
    return found[0] if found and await _is_blank(context) else None


def check_apart(contexts: Sequence[Context]) -> None:
    """Raises SettingsError where services of one process share a store, or a view store with names of both."""
    for at, context in enumerate(contexts):
        for other in contexts[:at]:
            service, name = context.service, other.service.name
            if name == service.name:
                continue
            if context.store is other.store:
                raise SettingsError(
                    f'{service.declared_at}: Service("{service.name}") has the same store as {name!r}: give it one of '
                    f'its own, as [services.{service.name}] store = "…"'
                )
            kept = ViewsMark("", sorted(kept_names(other.service)))
            if context.views is other.views and (line := _shared(service, {name: kept})):
                raise SettingsError(line)


async def check_store(context: Context) -> None:
    """Open a store without making anything of this service's in it. Raises SettingsError where it is another's."""
    tables = [table_of(StoredName), table_of(Progress)]
    try:
        await context.store.create(tables, context.service.partitions)
    except SettingsError as error:  # as for another number of partitions: whose it is says more
        line = ""
        with suppress(Exception):  # whatever an engine raises for a table that could not be made
            line = await _owner_of(context)
        raise (SettingsError(line) if line else error) from None
    if line := await _owner_of(context):
        raise SettingsError(line)


async def was_used(store: Store) -> bool:
    """True where a service has run on a store: it has left names, checkpoints or events there."""
    async with store.snapshot() as session:
        if await session.find(table_of(StoredName), {}) or await session.find(table_of(Progress), {}):
            return True
        return any((await session.heads()).values())


def store_of_another(service: Service, mark: StoreMark, relays: Collection[str]) -> str:
    """What to say where a store is another service's; else nothing. `relays`: the sources that were sent from it."""
    if mark.service:
        return "" if mark.service == service.name else others_store(service, mark.service)
    if not relays or service.name in relays:
        return ""
    return others_store(service, min(relays), sent=True)


async def last_records(log: Log, topic: str, ends: Mapping[int, int]) -> list[Record]:
    """The last record of each partition of a topic that has one; `ends` as the log has told them."""
    left = {partition: end for partition, end in ends.items() if end}
    found: list[Record] = []
    if not left:
        return found
    reading: Any = log.read(topic, {partition: end - 1 for partition, end in left.items()})
    async with aclosing(reading) as batches:
        async for batch in batches:
            for record in batch:
                found.append(record)
                if record.offset >= left.get(record.message.partition, record.offset):
                    left.pop(record.message.partition, None)
            if not left:
                break
    return found


def _register(views: ViewStore) -> Register[dict[str, ViewsMark]]:
    return Register(views, MARKS, dict[str, ViewsMark])


async def _owner_of(context: Context) -> str:
    """As `store_of_another`, by what the store has."""
    names, progress = table_of(StoredName), table_of(Progress)
    async with context.store.snapshot() as session:
        mark = mark_in(map(names.from_row, await session.find(names, {"kind": [MARK]})))
        relays = [progress.from_row(row) for row in await session.find(progress, {"consumer": [RELAY]})]
    return store_of_another(context.service, mark, {row.source for row in relays})


async def _is_blank(context: Context) -> bool:
    """True for a journal that has never had an event, whose relay has sent none, and that nobody has recovered."""
    service = context.service
    async with context.store.snapshot(once=True) as session:
        if await session.find(table_of(StoredEpoch), {}):
            return False
    sent = await read_checkpoints(context.store, RELAY, service.name, range(service.partitions))
    heads = await context.store.heads()
    return not any(heads.values()) and not any(each.number for each in sent.values())


def _shared(service: Service, marks: ViewsMarks) -> str:
    """What to say where another service keeps documents under the same names; else nothing."""
    for other in sorted(marks.keys() - {service.name}):
        if same := sorted(kept_names(service).intersection(marks[other].names)):
            kept = f"the view {same[0]!r}" if same[0] in service.views else f"what is copied as {same[0]!r}"
            more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
            return (
                f'{service.declared_at}: Service("{service.name}") has the view store of {other!r}, and both keep '
                f'{kept} there{more}: give it one of its own, as [services.{service.name}] views = "…"'
            )
    return ""


def _installation(context: Context, incarnation: str, other: str, event: Message | None, beside: Sequence[str]) -> str:
    """What to say of another installation; nothing where there is no sign of one.

    `other`: its incarnation, which the view store bears; `event`: one of its events, which the topic has. `beside`: the
    services that use the same view store.
    """
    if not other and event is None:
        return ""
    service = context.service
    store = f"the store {incarnation[:SHOWN]}" if incarnation else "a new store"
    found, own, gone = [], [], []
    if other:
        found.append(f"its view store belongs to {service.name} with the store {other[:SHOWN]}")
        own.append('views = "…"')
        gone.append(_removal(context.views, []) + (f" (there {', '.join(beside)} keep theirs too)" if beside else ""))
    if event:
        topics = [events_topic(service.name), commands_topic(service.name)]
        found.append(f"its topic {topics[0]} has events that its empty journal never had, such as {event.position}")
        own.append('log = "…"')
        gone.append(_removal(context.log, topics))
    return (
        f'{service.declared_at}: Service("{service.name}") has {store}, but {" and ".join(found)}: give this '
        f"installation its own, as [services.{service.name}] {', '.join(own)} (on one server: another database or "
        f"prefix); or put back the store that belongs to it; or, if that is lost and its data is given up: "
        f"{'; '.join(gone)}"
    )


def _removal(engine: Log | ViewStore, topics: Sequence[str]) -> str:
    """What to type or do to remove what a view store keeps, or these topics."""
    if isinstance(engine, Removable):
        return engine.removal(topics)
    return f"delete the topics {' and '.join(topics)}" if topics else "empty the view store"
