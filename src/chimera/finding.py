"""Looking for entities by their values: in ranges, in an order, a page at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec

from chimera.entities import Column, Entity, Range, Row, Table, Where, Window, table_of
from chimera.errors import ChimeraError

Stored = TypeVar("Stored", bound=Entity)


class Finding(ABC):
    """Looking for entities by their values."""

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

    @abstractmethod
    def _table(self, entity: type[Entity]) -> Table:
        """The table of an entity that is declared."""

    @abstractmethod
    async def _find(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        """The rows of a window, as the engine has them."""

    @abstractmethod
    async def _count(self, table: Table, where: Where, window: Window) -> int:
        """The number of rows in a window's ranges."""


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
