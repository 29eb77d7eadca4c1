"""The names of a reaction's tables in a generation: in rows and in SQL. The first generation has the tables' own.

SQL is the author's, so every mention of a table by its name, outside of quoted text, is renamed, and what a schema's
statement makes for a table (an index, a trigger, a sequence) as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import msgspec

from chimera.entities import Table

Names = tuple[tuple[str, str], ...]
"""Tables' names, each with the one that it has in a generation."""

_MADE = re.compile(
    r"(?P<what>\bCREATE\s+(?:UNIQUE\s+)?(?:INDEX|TRIGGER|SEQUENCE)\s+(?:CONCURRENTLY\s+)?(?:IF\s+NOT\s+EXISTS\s+)?[\"`]?)"
    r"(?P<name>\w+)",
    re.IGNORECASE,
)


def table_in(name: str, number: int) -> str:
    """The name of a table in a generation."""
    return name if number == 1 else f"{name}__{number}"


def built_name(reaction: str, number: int) -> str:
    """The name under which a generation that is being built has its checkpoints and parked events."""
    return f"{reaction}~{number}"


def names_in(tables: Sequence[str], number: int) -> Names:
    """The names of these tables in a generation; none where they are their own."""
    return () if number == 1 else tuple((name, table_in(name, number)) for name in tables)


def mentioned(sql: str, tables: Sequence[str]) -> list[str]:
    """Those of these tables that SQL names."""
    found = {match["name"] for match in _pattern(tuple(tables)).finditer(sql) if match["name"]}
    return [name for name in tables if name in found]


@lru_cache(maxsize=1024)
def renamed(sql: str, names: Names) -> str:
    """SQL with the tables' names in it exchanged."""
    if not names:
        return sql
    by_name = dict(names)
    return _pattern(tuple(by_name)).sub(lambda match: by_name[match["name"]] if match["name"] else match[0], sql)


def statement_in(sql: str, tables: Sequence[str], number: int) -> str:
    """A statement of a schema that makes these tables, or something of them, as it makes them in a generation."""
    if number == 1:
        return sql
    made = _MADE.sub(lambda match: match["what"] + table_in(match["name"], number), sql, count=1)
    return renamed(made, names_in(tables, number))


def statements_in(
    statements: Mapping[str, Sequence[str]], tables: Sequence[str], number: int
) -> dict[str, tuple[str, ...]]:
    """Of a service's schema, by dialect, the statements that name these tables, as they are in a generation."""
    return {
        dialect: tuple(statement_in(line, tables, number) for line in lines if mentioned(line, tables))
        for dialect, lines in statements.items()
    }


@cache
def renamed_table(table: Table, number: int) -> Table:
    """The table of an entity in a generation."""
    return table if number == 1 else msgspec.structs.replace(table, name=table_in(table.name, number))


@cache
def _pattern(tables: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(tables, key=len, reverse=True)))
    return re.compile(rf"'(?:[^']|'')*'|(?<!\w)(?P<name>{names})(?!\w)")
