"""Looking through what a service keeps for what is concealed of a person."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from chimera.core.context import Context
from chimera.core.declared import own_events
from chimera.core.json import collector_of
from chimera.core.tables import Handled, Parked
from chimera.entities import Entity, Key, Table, table_of
from chimera.errors import Trimmed
from chimera.forms import Decodes, decoder_of, readers_of
from chimera.journal.consumers import document_consumers
from chimera.parts import Borrow
from chimera.personal import MARK, Personal
from chimera.upkeep.positions import names_of

PAGE = 500


class FoundOf(NamedTuple):
    """What was found in a `place`, such as `table users`, under a key: the object, and her values in it.

    `whole` is None where no type tells what it is.
    """

    place: str
    key: str
    values: list[Personal[Any]]
    whole: Any = None


async def found_of(context: Context, subject: str) -> AsyncIterator[FoundOf]:
    """All that is concealed of a person in rows, documents, events, and in what is parked or was answered."""
    needle = msgspec.json.encode(f".{subject}")[1:]
    for entity in context.service.entities:
        if (table := table_of(entity)).personal:
            async for found in _in_rows(context, table, subject):
                yield found
    for own, column in ((Handled, "body"), (Parked, "data")):
        async for found in _in_own(context, own, column, needle, subject):
            yield found
    async for found in _in_journal(context, needle, subject):
        yield found
    async for found in _in_documents(context, needle, subject):
        yield found


def about(values: Iterable[Personal[Any]], subject: str) -> list[Personal[Any]]:
    """Those of some values that are about a person."""
    return [each for each in values if (parts := each.parts) and parts.subject == subject]


def personal_in(whole: Any) -> list[Personal[Any]]:
    """The personal values in what can be written as JSON."""
    values: list[Personal[Any]] = []
    collector_of(values).encode(whole)
    return values


async def _in_rows(context: Context, table: Table, subject: str) -> AsyncIterator[FoundOf]:
    async for row in _rows(context, table):
        entity = table.from_row(row)
        if values := about(personal_in(entity), subject):
            yield FoundOf(f"table {table.name}", "/".join(map(str, table.key_of(row))), values, entity)


async def _in_own(
    context: Context, own: type[Entity], column: str, needle: bytes, subject: str
) -> AsyncIterator[FoundOf]:
    table = table_of(own)
    at = table.fields[column]
    async for row in _rows(context, table):
        if needle in row[at] and (values := _untyped(row[at], subject)):
            yield FoundOf(f"table {table.name}", "/".join(map(str, table.key_of(row))), values)


async def _rows(context: Context, table: Table) -> AsyncIterator[Any]:
    after: Key = ()
    while True:
        async with context.store.snapshot(once=True) as session:
            rows = await session.scan(table, after, PAGE)
        for row in rows:
            yield row
        if not rows:
            return
        after = table.key_of(rows[-1])


async def _in_journal(context: Context, needle: bytes, subject: str) -> AsyncIterator[FoundOf]:
    readers: dict[str, Decodes[Any]] = {}
    for event in own_events(context.service):
        readers |= readers_of(event, context.service.name)
    for partition, oldest in (await context.store.oldest()).items():
        after = oldest - 1
        while page := await _page(context, partition, after):
            for each in page:
                if needle in each.data or each.key == subject:
                    whole = _read(readers.get(each.type), each.data)
                    values = _untyped(each.data, subject) if whole is None else about(personal_in(whole), subject)
                    if values:
                        yield FoundOf("journal", str(each.position), values, whole)
            after = page[-1].number


async def _page(context: Context, partition: int, after: int) -> Any:
    try:
        return await context.store.journal(partition, after, PAGE)
    except Trimmed:
        return await context.store.journal(partition, (await context.store.oldest())[partition] - 1, PAGE)


async def _in_documents(context: Context, needle: bytes, subject: str) -> AsyncIterator[FoundOf]:
    for consumer in document_consumers(context.service).values():
        declared = consumer.declared
        document = None if declared is None else getattr(declared, "document", None)
        word = "copy" if isinstance(declared, Borrow) else "view"
        for name in await names_of(context, consumer, also_kept=True):
            after = ""
            while page := await context.views.scan(name, after, PAGE):
                for each in page:
                    if needle in (each.data or b""):
                        whole = _read(decoder_of(document) if document else None, each.data or b"")
                        values = _untyped(each.data, subject) if whole is None else about(personal_in(whole), subject)
                        if values:
                            yield FoundOf(f"{word} {name}", each.key, values, whole)
                after = page[-1].key


def _read(decoder: Decodes[Any] | None, data: bytes) -> Any:
    try:
        return None if decoder is None else decoder.decode(data)
    except msgspec.MsgspecError:
        return None


def _untyped(data: Any, subject: str) -> list[Personal[Any]]:
    """The values about a person in JSON of which no type is known."""
    try:
        return about(_texts(msgspec.json.decode(data)), subject)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []


def _texts(value: object) -> Iterable[Personal[Any]]:
    if isinstance(value, str) and value.startswith(f"{MARK}."):
        yield Personal(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for each in parts:
        yield from _texts(each)
