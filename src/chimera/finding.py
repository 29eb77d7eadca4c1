"""Looking for entities by their values, in ranges and orders; who has what only one may have, and reserving it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

import msgspec

from chimera.entities import (
    RESERVED,
    SUBJECT_KEYS,
    Column,
    Entity,
    Key,
    Range,
    Reserved,
    Row,
    Sought,
    Table,
    Where,
    Window,
    table_of,
)
from chimera.errors import ChimeraError, Expired, Taken
from chimera.forms import json_of
from chimera.personal import BLINDING, SECRETS, Held, Personal, Revealing, Secret, unfindable
from chimera.unique import Reservable, ReservedChange, digest_under, end_of, is_longer, parts_of

Stored = TypeVar("Stored", bound=Entity)
Value = TypeVar("Value")
Now = Callable[[], datetime]
"""Tells the time, in UTC."""


class Finding(ABC):
    """Looking for entities by their values, and for who has what only one may have."""

    _time: Now | None
    """Who is not told the time sees reservations as rows are, whatever their deadline."""

    async def find(
        self,
        entity: type[Stored],
        *,
        order: str | Sequence[str] = (),
        limit: int | None = None,
        after: Stored | None = None,
        **where: object,
    ) -> list[Stored]:
        """The entities whose columns have these values: each one value, a list of them, or a `Range`.

        They are ordered by these fields (`-` from the greatest down; None before all else, text by its UTF-8 bytes) and
        then by key: at most `limit`, those behind `after`, an entity such as the last one of the page before. Where an
        entity has a field of the name `order`, `limit` or `after`, it is looked for by that as by any other.
        """
        given: dict[str, Any] = {"order": order, "limit": limit, "after": after}
        own = [name for name in given if name in entity.__struct_fields__]
        where |= {name: value for name in own if (value := given.pop(name)) not in ((), None)}
        table, (values, window) = self._table(entity), sought(entity, where, **given)
        return [cast("Stored", table.from_row(row)) for row in await self._find(table, values, window)]

    async def count(self, entity: type[Stored], **where: object) -> int:
        """How many entities `find` finds with these values."""
        table, (values, window) = self._table(entity), sought(entity, where)
        return await self._count(table, values, window)

    async def load_by(self, entity: type[Stored], **fields: object) -> Stored | None:
        """The entity with these values of fields that it is unique by, or None; as quick as by its key."""
        table = self._table(entity)
        rule = table.rule_of(fields)
        digest = rule.digest_by(fields)
        found = await self._reservation(digest) if digest else None
        row = None if found is None else await self._row(table, table.key_in(found.holder))
        return cast("Stored", table.from_row(row)) if row is not None and rule.digest_of(row) == digest else None

    async def reserved(self, name: str, value: Reservable) -> str | None:
        """Who has reserved a value under a name; None for nobody, or whoever had it until a moment that has passed."""
        found = await self._held(digest_under(name, value))
        return None if found is None else found.by

    async def _reservation(self, digest: str) -> Reserved | None:
        row = await self._row(RESERVED, (digest,))
        return None if row is None else cast("Reserved", RESERVED.from_row(row))

    async def _held(self, digest: str) -> Reserved | None:
        """What is reserved, and not over."""
        found = await self._reservation(digest)
        return None if found is None or (self._time is not None and found.is_over(self._time())) else found

    @abstractmethod
    def _table(self, entity: type[Entity]) -> Table:
        """The table of an entity that is declared."""

    @abstractmethod
    async def _find(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        """The rows of a window, as the engine has them."""

    @abstractmethod
    async def _count(self, table: Table, where: Where, window: Window) -> int:
        """The number of rows in a window's ranges."""

    @abstractmethod
    async def _row(self, table: Table, key: Key) -> Row | None:
        """The row with this key, or None."""


class Reserving(Finding):
    """Having a value under a name as the only one, for a while or for good, without a row that has it."""

    _key: str

    @property
    @abstractmethod
    def now(self) -> datetime:
        """When what is done now was asked for, in UTC."""

    async def reserve(
        self, name: str, value: Reservable, holder: str = "", *, until: datetime | timedelta | None = None
    ) -> datetime | None:
        """Have a value under a name as the only one: from now on, until a moment, or for so long. Returns until when.

        `holder`: who has it; the command's key unless given. When the deadline has passed without `confirm`, the value
        is anybody's. Doing it twice changes nothing: it lasts for the longer of both; None, for good, is the longest.
        Raises Taken where another holder has it, Expired for a moment that has passed.
        """
        digest, by, found = await self._found(name, value, holder)
        now = self._time() if self._time else self.now
        end = end_of(until, now)
        if end is not None and end <= now:
            raise Expired(name, _text_of(value))
        if found is None or is_longer(end, than=found.until):
            self._say(digest, ReservedChange(name, by, end))
            return end
        return found.until

    async def confirm(self, name: str, value: Reservable, holder: str = "") -> None:
        """Keep for good what this holder has reserved. Doing it twice changes nothing.

        Raises Taken where another holder has it, Expired where nobody has: its deadline has passed, or it was released.
        """
        digest, by, found = await self._found(name, value, holder)
        if found is None:
            raise Expired(name, _text_of(value))
        if found.until is not None:
            self._say(digest, ReservedChange(name, by))

    async def release(self, name: str, value: Reservable, holder: str = "") -> None:
        """Give a value back that this holder has; nothing where it has not."""
        digest, by = self._sought(name, value, holder)
        found = await self._reservation(digest)
        if found is not None and found.by == by:
            self._say(digest, ReservedChange(name))

    def _sought(self, name: str, value: Reservable, holder: str) -> tuple[str, str]:
        """The digest of a value, which is looked for, and who shall have it."""
        digest, by = digest_under(name, value), holder or self._key
        if not by:
            raise ChimeraError('say who has it: tx.reserve(name, value, holder="…"); a batch of events has no key')
        self._seek(digest, Sought(RESERVED, name, parts_of(value)))
        return digest, by

    async def _found(self, name: str, value: Reservable, holder: str) -> tuple[str, str, Reserved | None]:
        """As `_sought`, and what this holder has of it. Raises Taken where another one has it."""
        digest, by = self._sought(name, value, holder)
        found = await self._held(digest)
        if found is not None and found.by != by:
            raise Taken(name, _text_of(value), found.by)
        return digest, by, found

    @abstractmethod
    def _seek(self, digest: str, what: Sought) -> None:
        """Note what is looked for among what is reserved."""

    @abstractmethod
    def _say(self, digest: str, change: ReservedChange) -> None:
        """Change who has a value, here and in the journal."""


class Conceals(Protocol):
    """The keys of subjects, to conceal with and to reveal: see `chimera.core.keys.subjects.SubjectKeys`."""

    service: str

    def new(self, subject: str) -> Row:
        """The row of a new key."""

    def unwrapped(self, row: Row) -> Any:
        """The id and the key of a row. Raises Unavailable."""

    def conceal(self, row: Row, data: bytes, salt: str) -> str:
        """The text of a value's JSON, with the key of a row; the same of all these makes the same."""

    async def reveal(self, values: Sequence[Personal[Any]], rows: Mapping[str, Row | None] | None = None) -> list[Any]:
        """What each of them holds, or Forgotten. Raises Unavailable."""


class Concealing(Finding, Revealing):
    """Keeping values about persons with their keys, which are made where there are none, and telling what they hold."""

    command_id: str
    _made_so_far = 0

    async def conceal(self, subject: str, value: Value) -> Personal[Value]:
        """A value about a person, to be kept and emitted; without anything in it where she was forgotten.

        Raises Unfit for what no JSON can be made of.
        """
        return Personal(await self._concealed(subject, value), type(value))

    async def conceal_secret(self, value: Value) -> Secret[Value]:
        """A value that is secret, to be kept and emitted. Raises Unfit for what no JSON can be made of."""
        return Secret(await self._concealed(SECRETS, value), type(value))

    async def _concealed(self, subject: str, value: object) -> str:
        row, data = await self._subject(subject), json_of(value, "a personal value")
        self._made_so_far += 1
        return self._keys.conceal(row, data, f"{self.command_id}/{self._made_so_far}")

    async def _revealed(self, values: Sequence[Personal[Any]]) -> Held:
        own = [parts for each in values if (parts := each.parts) and parts.service == self._keys.service]
        rows = {each.subject: await self._row(SUBJECT_KEYS, (each.subject,)) for each in own}
        return await self._keys.reveal(values, rows)

    async def _blinding(self) -> bytes:
        key: bytes = self._keys.unwrapped(await self._subject(BLINDING)).key
        return key

    async def _subject(self, subject: str) -> Row:
        """The row of a subject's key, which is made where there is none."""
        if (row := await self._row(SUBJECT_KEYS, (subject,))) is None:
            row = self._keys.new(subject)
            self._put_subject(row)
        return row

    @property
    @abstractmethod
    def _keys(self) -> Conceals:
        """The keys of subjects. Raises ChimeraError where there are none."""

    @abstractmethod
    def _put_subject(self, row: Row) -> None:
        """Keep a key that was made."""


def sought(
    entity: type[Entity],
    where: Mapping[str, object],
    order: str | Sequence[str] = (),
    limit: int | None = None,
    after: Entity | None = None,
) -> tuple[Where, Window]:
    """What `find` is to find: the values that columns may have, and the window. Raises ChimeraError."""
    table = table_of(entity)
    ranges = {name: value for name, value in where.items() if isinstance(value, Range)}
    values = table.where({name: value for name, value in where.items() if name not in ranges})
    names = [order] if isinstance(order, str) else order
    ordered = [(_compared(entity, table, name.removeprefix("-")).name, name.startswith("-")) for name in names]
    if limit is not None and limit < 0:
        raise ChimeraError(f"limit is 0 or more, not {limit}")
    within = {_compared(entity, table, name).name: _held(table, name, value) for name, value in ranges.items()}
    return values, Window(within, ordered, None if after is None else _place(table, ordered, after), limit)


def _place(table: Table, ordered: Sequence[tuple[str, bool]], after: Entity) -> list[object]:
    row = dict(zip((column.name for column in table.columns), table.to_row(after), strict=True))
    named = [name for name, _ in ordered]
    return [row[name] for name in (*named, *(key for key in table.key if key not in named))]


def _compared(entity: type[Entity], table: Table, field: str) -> Column:
    """The column of a field that is ordered by, or is to be in a range. Raises ChimeraError."""
    if field not in table.fields:
        raise ChimeraError(f"table {table.name} has no {field}; it has: {', '.join(sorted(table.fields))}")
    if field in table.personal:
        raise ChimeraError(unfindable(entity.__name__, field))
    column = table.columns[table.fields[field]]
    plain = next(each.type for each in msgspec.structs.fields(entity) if each.name == field)
    if column.kind in ("json", "bytes") or column.family not in _COMPARED or _is_in(plain, (Decimal, UUID)):
        raise ChimeraError(
            f"{entity.__name__} can't be ordered by {field}, nor looked for in a range of it: engines do not compare "
            "its column alike; give it a field of type int, float, str, bool, date or datetime for that"
        )
    return column


_COMPARED = ("", "integer", "real", "boolean")
"""The families of declared SQL types that every engine compares alike."""


def _is_in(annotation: Any, types: Sequence[type]) -> bool:
    """True for one of these types, also an optional or annotated one."""
    return annotation in types or any(_is_in(each, types) for each in getattr(annotation, "__args__", ()))


def _held(table: Table, field: str, wanted: Range) -> Range:
    """The bounds as columns hold such values."""
    encode = table.encoders[table.fields[field]]
    bounds = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    return Range(**{name: encode(value) if encode and value is not None else value for name, value in bounds.items()})


def _text_of(value: Reservable) -> str:
    return ", ".join(map(str, parts_of(value)))
