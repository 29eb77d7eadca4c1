"""What a transaction has seen, has changed, or has looked for in vain.

Rows are locked as they are seen. Nobody can lock a row that is not there: so whatever was looked for is looked for
again at the end, by one after the other of the transactions that touch the same tables (decision 28).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from zlib import crc32

import msgspec

from chimera.entities import Entity, Key, Row, Table, Where, table_of
from chimera.errors import Conflict


class Guard(Entity, key="name", table="chimera_guards"):
    """A row that stands for a table: whoever has looked for rows there holds it from its last look until its commit.

    Those named `table#number` stand for values that are looked for: who was in each other's way waits there in turn.
    """

    name: str


GUARDS = table_of(Guard)
_CAUTIOUS = 200
_QUEUES = 64
_MOST_QUEUES = 4


def guards_of(table: str) -> list[str]:
    """The names of all rows that stand for a table."""
    return [table, *(f"{table}#{number}" for number in range(_QUEUES))]


class Look(msgspec.Struct):
    """A look for rows by their values: the keys that were found, and when, in steps of the transaction."""

    where: Where
    keys: set[Key]
    at: int

    def matches(self, values: Mapping[str, object]) -> bool:
        """True for a row, its values by column, that it would have found."""
        return all(name in values and values[name] in wanted for name, wanted in self.where.items())


class TableReads:
    """What a transaction knows of one table.

    `taken`: the keys of rows that it has locked, and at which step. `free`: those that had no row. A free key is
    inserted, never put over a row that came since: of two transactions that both found it free, the second fails.
    `missed`: free keys that it does not insert. `looks` are its looks for other rows; all rows were seen where one had
    no condition (`is_whole`), and then every other key is free.
    """

    def __init__(self, table: Table, steps: Iterator[int]) -> None:
        self.table = table
        self.taken: dict[Key, int] = {}
        self.free: set[Key] = set()
        self.missed: set[Key] = set()
        self.looks: dict[object, Look] = {}
        self.is_whole = False
        self.is_written = False
        self._steps = steps
        self._by_value: dict[str, dict[object, list[Look]]] = {}

    def take(self, keys: Iterable[Key]) -> None:
        """Rows with these keys are locked now, or written."""
        step = next(self._steps)
        for key in keys:
            self.taken.setdefault(key, step)
            self.free.discard(key)

    def look(self, where: Where, keys: Iterable[Key]) -> None:
        """These keys were found. The same look again can only have found more of what this transaction wrote."""
        name = tuple((column, tuple(values)) for column, values in sorted(where.items()))
        if name in self.looks:
            self.looks[name].keys.update(keys)
            return
        look = self.looks[name] = Look(where, set(keys), next(self._steps))
        if not where:
            self.is_whole = True
            return
        column = min(where, key=lambda each: len(where[each]))
        for value in where[column]:
            self._by_value.setdefault(column, {}).setdefault(value, []).append(look)

    def has_come(self, table: Table, rows: Iterable[Row]) -> Key | None:
        """The key of a row, not seen before, that should have been there when it was looked for; None without one."""
        if not (self.missed or self.looks):
            return None
        for row in rows:
            key = table.key_of(row)
            if key in self.taken:
                continue
            if key in self.missed or self.is_whole or any(True for _ in self._missed_by(table, row)):
                return key
        return None

    def has_come_beside_sql(self, table: Table, rows: Iterable[Row]) -> Key | None:
        """As `has_come`, of rows that others have committed: they may have been seen since they came."""
        for row in rows:
            key, step = table.key_of(row), self.taken.get(table.key_of(row))
            if key in self.missed or any(
                key not in look.keys and (step is None or step > look.at) for look in self._missed_by(table, row)
            ):
                return key
        return None

    def is_told_by_key(self, look: Look) -> bool:
        """True where a row's key tells whether a look would have found it."""
        return look.where.keys() <= set(self.table.key)

    def was_missed(self, key: Key) -> bool:
        """True where a look by columns of the key would have found any row with this one: there was none."""
        values = dict(zip(self.table.key, key, strict=True))
        return any(
            look.matches(values)
            for column, value in values.items()
            for look in self._by_value.get(column, {}).get(value, ())
            if self.is_told_by_key(look)
        )

    def _missed_by(self, table: Table, row: Row) -> Iterator[Look]:
        """The looks that match a row."""
        values = dict(zip((column.name for column in table.columns), row, strict=True))
        if whole := self.looks.get(()):
            yield whole
        for column, by_value in self._by_value.items():
            yield from (look for look in by_value.get(values.get(column), ()) if look.matches(values))


class Contention:
    """The tables in which a row came where it was looked for, lately: who looks there again waits in turn."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def note(self, table: str) -> None:
        """A transaction has to be run again because of its looks into this table."""
        self._left[table] = _CAUTIOUS

    def is_likely(self, table: str) -> bool:
        """True for the next so many looks."""
        left = self._left.get(table, 0)
        if left:
            self._left[table] = left - 1
        return left > 0


class ReadSet:
    """What a transaction knows of each table, by name."""

    def __init__(self, contention: Contention) -> None:
        self._contention = contention
        self._queues: set[Key] = set()
        self._tables: dict[str, TableReads] = {}
        self._steps = count(1)

    def loaded(self, table: Table, keys: Sequence[Key], rows: Sequence[Row], *, sql: bool = False) -> None:
        """Of the keys asked for, those of these rows are taken, the others free.

        Raises Conflict for a row that came since it was looked for; not after SQL of the transaction's own, which may
        have put it there.
        """
        seen = self._check(table, rows, sql=sql)
        seen.free.update(keys)
        seen.take(map(table.key_of, rows))
        if table.guarded:
            seen.missed.update(key for key in keys if key not in seen.taken)

    def found(self, table: Table, where: Where, rows: Sequence[Row], *, sql: bool = False) -> None:
        """These rows have the values. Raises Conflict as `loaded`."""
        seen = self._check(table, rows, sql=sql)
        keys = [table.key_of(row) for row in rows]
        if table.guarded:
            seen.look(where, keys)
        elif not where:
            seen.is_whole = True
        seen.take(keys)

    def queues(self, table: Table, where: Where) -> list[Key]:
        """The keys of the guards to wait for before a look, in order: few, so that nobody waits in a circle."""
        if not (where and table.guarded and self._contention.is_likely(table.name)):
            return []
        values = min(where.values(), key=len)
        wanted = {(f"{table.name}#{crc32(repr(value).encode()) % _QUEUES}",) for value in values} - self._queues
        if len(self._queues) + len(wanted) > _MOST_QUEUES:
            return []
        self._queues |= wanted
        return sorted(wanted)

    def unknown(self, table: Table, keys: Iterable[Key], *, wanted: bool) -> list[Key]:
        """The keys among these of which it has to be known whether they are free, and is not.

        That is where rows were looked for by what their keys don't tell, and everywhere if it is `wanted`.
        """
        seen = self.of(table)
        if seen.is_whole or not (wanted or seen.looks):
            return []
        rest = [key for key in keys if key not in seen.free and key not in seen.taken]
        if not seen.looks:
            return rest
        seen.free.update(key for key in rest if seen.was_missed(key))
        is_told = all(seen.is_told_by_key(look) for look in seen.looks.values()) and not wanted
        return [] if is_told else [key for key in rest if key not in seen.free]

    def to_insert(self, table: Table, keys: Collection[Key]) -> set[Key]:
        """The keys among these that are free; all of them count as taken from now on."""
        seen = self.written(table)
        free = {key for key in keys if key in seen.free or (seen.is_whole and key not in seen.taken)}
        seen.take(keys)
        seen.missed.difference_update(free)
        return free

    def written(self, table: Table) -> TableReads:
        """What is known of a table in which rows are changed."""
        seen = self.of(table)
        seen.is_written = True
        return seen

    def looked_in(self) -> list[TableReads]:
        """The tables where something was looked for that may have come since."""
        return [seen for seen in self._tables.values() if seen.missed or seen.looks]

    def guards(self) -> list[Key]:
        """The keys of the guards of all that was looked for or changed, in order."""
        tables = [each for each in self._tables.values() if each.missed or each.looks or each.is_written]
        return sorted((each.table.name,) for each in tables if each.table.guarded)

    def of(self, table: Table) -> TableReads:
        """What is known of a table."""
        if table.name not in self._tables:
            self._tables[table.name] = TableReads(table, self._steps)
        return self._tables[table.name]

    def _check(self, table: Table, rows: Sequence[Row], *, sql: bool) -> TableReads:
        seen = self.of(table)
        if not sql and (key := seen.has_come(table, rows)) is not None:
            raise self.came_since(table, key)
        return seen

    def came_since(self, table: Table, key: Key) -> Conflict:
        """The error of a row that is there now, and was not when it was looked for."""
        self._contention.note(table.name)
        return Conflict(f"{table.name} {', '.join(map(str, key))} came since it was looked for")


def together(looks: Iterable[Look]) -> list[Where]:
    """Few conditions that cover all that these looks have asked for: one of those that name the same columns."""
    by_columns: dict[tuple[str, ...], dict[str, dict[object, None]]] = {}
    for look in looks:
        columns = tuple(sorted(look.where))
        values = by_columns.setdefault(columns, {column: {} for column in columns})
        for column in columns:
            values[column].update(dict.fromkeys(look.where[column]))
    return [{column: list(wanted) for column, wanted in values.items()} for values in by_columns.values()]
