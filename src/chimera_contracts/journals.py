"""What journals have, read by everybody who reads it: the truth about every version that was ever written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec

from chimera.core.context import Context
from chimera.core.declared import is_of_chimera
from chimera.errors import ChimeraError, Trimmed
from chimera.forms import Decodes
from chimera.messages import AnyEvent, Message
from chimera.ports import Store
from chimera.run.addresses import is_there
from chimera.run.engines import probed
from chimera.run.settings import Settings
from chimera.service import Service
from chimera_contracts.deriving import decoders_of, events_read
from chimera_contracts.model import Break

PAGE = 500
ALL = 0


class Journals(NamedTuple):
    """What was found in journals: what can't be read, how many events were looked at, and what was not looked at."""

    breaks: list[Break]
    events: int
    away: list[str]


class _StoredReader(NamedTuple):
    """Who reads events of a type in a journal, and by what."""

    service: str
    reader: str
    decoder: Decodes[AnyEvent]


class _Fault(NamedTuple):
    """The first event of a type that one who reads can't, and how many there are."""

    message: Message
    cause: str
    times: int


@asynccontextmanager
async def reachable(settings: Settings, names: Sequence[str]) -> AsyncIterator[tuple[list[Context], list[str]]]:
    """The services whose stores are there, with their engines, and why the others are not; no file is made."""
    there = [name for name in names if is_there(settings.engine_url("store", name))]
    away = [f"{name} has never run here" for name in names if name not in there]
    async with probed(settings, there) as (contexts, failed):
        yield contexts, [*away, *(str(error) for error in failed)]


async def look_at_journals(
    contexts: Sequence[Context], services: Iterable[Service], most: int, *, types_of: Collection[str] = ()
) -> tuple[list[Break], int]:
    """What the journals have and some service can't read, and how many events were looked at.

    `most`: events of each journal, from its beginning and from its end; ALL for all. `types_of`: only what these
    services read; all unless given.
    """
    services = list(services)
    breaks: list[Break] = []
    count = 0
    for context in contexts:
        readers = _readers(context.service.name, services, types_of)
        faults: dict[tuple[str, str, str], _Fault] = {}
        async for message in _events(context.store, most):
            count += 1
            for each in readers.get(message.type, ()) or _of_nobody(context.service, message, types_of):
                if cause := _cause(each, message):
                    key = (message.type, each.service, each.reader)
                    known = faults.get(key)
                    faults[key] = known._replace(times=known.times + 1) if known else _Fault(message, cause, 1)
        breaks += [_break(key, fault) for key, fault in sorted(faults.items())]
    return breaks, count


def _readers(owner: str, services: Iterable[Service], only: Collection[str]) -> Mapping[str, list[_StoredReader]]:
    found: dict[str, list[_StoredReader]] = {}
    for service in services:
        for reader, event in events_read(service) if not only or service.name in only else ():
            for type_, decoder in decoders_of(event).items() if event.__source__ == owner else ():
                found.setdefault(type_, []).append(_StoredReader(service.name, reader, decoder))
    return found


class _Nothing:
    """What an event is read by that nothing reads."""

    def decode(self, data: bytes, /) -> AnyEvent:
        raise UnicodeError("no class is read from it")


def _of_nobody(owner: Service, message: Message, only: Collection[str]) -> list[_StoredReader]:
    if only or owner.reads(message.type) or is_of_chimera(owner, message.type):
        return []
    return [_StoredReader(owner.name, "journal", _Nothing())]


def _cause(reader: _StoredReader, message: Message) -> str:
    try:
        reader.decoder.decode(message.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return str(error)
    return ""


def _break(key: tuple[str, str, str], fault: _Fault) -> Break:
    type_, service, reader = key
    more = f" (and {fault.times - 1:,} more)" if fault.times > 1 else ""
    says = f"can't be read at {fault.message.position}{more}: {fault.cause}"
    if reader == "journal":
        todo = f'say renamed_from="{type_.partition(".")[2]}" where it is now, or give it up with forgotten(events=[…])'
    else:
        todo = "give what is missing a default, read both types, or make it another version and write an upgrade"
    return Break(type_.partition("@")[0], service, reader, says, todo)


async def _events(store: Store, most: int) -> AsyncIterator[Message]:
    """The events of a journal, partition by partition: all, or the first and the last ones."""
    heads, oldest = await store.heads(), await store.oldest()
    each = max(2, most // max(1, len(heads)))
    for partition, head in sorted(heads.items()):
        first = oldest.get(partition, 1)
        if most == ALL or head - first < each:
            parts = [(first, head)]
        else:
            parts = [(first, first + each // 2 - 1), (head - each // 2 + 1, head)]
        for start, end in parts:
            async for message in _between(store, partition, start, end):
                yield message


async def _between(store: Store, partition: int, start: int, end: int) -> AsyncIterator[Message]:
    while start <= end:
        try:
            page = await store.journal(partition, start - 1, min(PAGE, end - start + 1))
        except Trimmed:  # meanwhile
            return
        for message in page:
            yield message
        if not page:
            return
        start = page[-1].number + 1


async def in_journals(settings: Settings, services: Sequence[Service], most: int) -> Journals:
    """What all journals that can be reached have and somebody can't read."""
    try:
        async with reachable(settings, [service.name for service in services]) as (contexts, away):
            breaks, events = await look_at_journals(contexts, services, most)
            return Journals(breaks, events, away)
    except ChimeraError as error:
        return Journals([], 0, [str(error)])
