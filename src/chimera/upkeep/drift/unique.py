"""What only one row may have is reserved for the rows that are there: all of it at the first start, the rest later.

A handler reserves what it saves. Rows that somebody else has written, an older build of the service or SQL, are looked
through again now and then; a reservation whose row has the value no longer is nobody's.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from chimera.core.aio.again import rarely
from chimera.core.context import Context
from chimera.core.tables import StoredName
from chimera.entities import RESERVED, Entity, Key, Reserved, Row, Table, table_of
from chimera.errors import ChimeraError, SettingsError, class_at
from chimera.journal.checkpoints import again_on_conflict
from chimera.ports import WriteSession
from chimera.unique import UniqueRule, holder_of, told
from chimera.upkeep.drift.reserved import Remade, are_lost, mend_reserved, note_kept, remake

logger = logging.getLogger("chimera")

UNIQUE = "unique"
"""The kind, among stored names, of the rules by which all rows have reserved what they have."""
SHOWN = 3
TOLD_ROWS = 100_000


class Twice(NamedTuple):
    """A row that has what another one has reserved: the values, and both as holders."""

    rule: UniqueRule
    values: tuple[object, ...]
    first: str
    second: str


class LookedThrough(msgspec.Struct):
    """What looking through a table has come to: rows, how many values were not reserved yet, what rows have twice."""

    rows: int = 0
    reserved: int = 0
    twice: list[Twice] = []


class RuleStanding(NamedTuple):
    """What one row has at most, as people know it (`User by email`), and whether that is in force in this store.

    `refusal`: why the next start would refuse, because rows have the same; empty where it would not.
    """

    name: str
    is_in_force: bool
    refusal: str = ""


async def rules_standing(context: Context) -> list[RuleStanding]:
    """The rules of a service's entities. Tables with one that is not in force yet are looked through."""
    names = table_of(StoredName)
    async with context.store.snapshot(once=True) as session:
        stored = map(names.from_row, await session.find(names, {"kind": [UNIQUE]}))
    known = {each.name: each.detail for each in stored}
    found: list[RuleStanding] = []
    for entity in context.service.entities:
        for rule in table_of(entity).rules:
            name, is_in_force = f"{entity.__name__} by {', '.join(rule.fields)}", known.get(rule.name) == rule.probe
            twice = [] if is_in_force else await _with_the_same(context, table_of(entity), rule)
            found.append(RuleStanding(name, is_in_force, _refusal(entity, twice) if twice else ""))
    return found


async def _with_the_same(context: Context, table: Table, rule: UniqueRule) -> list[Twice]:
    holders: dict[str, str] = {}
    twice: list[Twice] = []
    after: Key = ()
    while True:
        async with context.store.snapshot(once=True) as session:
            page = await session.scan(table, after, context.limits.trim_page)
        if not page:
            return twice
        for row in page:
            holder, digest = _holder(table, row), rule.digest_of(row)
            if digest and (first := holders.setdefault(digest, holder)) != holder:
                twice.append(_twice(table, rule, row, first))
        after = table.key_of(page[-1])


async def reserve_all(context: Context, known: Mapping[str, str]) -> None:
    """Reserve what the rows have that are there, in small transactions. `known`: the rules for which that is done.

    What this service does not declare, and may write without reserving it, is not done any more. Raises SettingsError,
    in one line, where several rows have the same; what they have is not reserved then, and nothing is written down.
    """
    unique = [entity for entity in context.service.entities if table_of(entity).rules]
    rules = {rule.name: rule.probe for entity in unique for rule in table_of(entity).rules}
    if gone := [StoredName(UNIQUE, name, probe) for name, probe in known.items() if rules.get(name) != probe]:
        await again_on_conflict(partial(_write, context, [], gone), context.clock)
    for entity in unique:
        new = [rule for rule in table_of(entity).rules if known.get(rule.name) != rule.probe]
        if not new:
            continue
        found = await look_through(context, table_of(entity), new)
        if found.twice:
            raise SettingsError(_refusal(entity, found.twice))
        done = [StoredName(UNIQUE, rule.name, rule.probe) for rule in new]
        await again_on_conflict(partial(_write, context, done, []), context.clock)


async def keep_reserved(context: Context, known: Mapping[str, str]) -> None:
    """As `reserve_all`, and have what handlers have reserved by themselves; a table that was lost is made anew."""
    if not await are_lost(context):
        await reserve_all(context, known)
        return await note_kept(context)
    await reserve_all(context, {})
    found = await remake(context)
    logger.warning("%s: what was reserved had been lost, and is made anew: %s", context.service.name, found.told)
    return None


async def remake_all(context: Context) -> Remade:
    """As `remake`, and reserve what rows have and nobody has reserved; beside handlers that go on.

    Raises ChimeraError where several rows have the same.
    """
    found = await remake(context)
    for entity in context.service.entities:
        table = table_of(entity)
        if table.rules:
            looked = await look_through(context, table, table.rules)
            found.by_rows += looked.reserved
            if looked.twice:
                raise ChimeraError(_refusal(entity, looked.twice))
    return found


async def keep_unique(context: Context, held: frozenset[int]) -> None:
    """Look through all rows now and then, until cancelled, more and more rarely while there is nothing to reserve."""
    await rarely(held, context.timing.audit_s, partial(_mend, context), context.clock)


async def look_through(
    context: Context, table: Table, rules: Sequence[UniqueRule], pause_s: float = 0.0
) -> LookedThrough:
    """Reserve for a table's rows what they have and nobody has reserved, a page in each transaction."""
    found = LookedThrough()
    after: Key = ()
    while True:
        async with context.store.snapshot(once=True) as session:
            page = await session.scan(table, after, context.limits.trim_page)
        if not page:
            return found
        keys = [table.key_of(row) for row in page]
        reserved, twice = await again_on_conflict(partial(_reserve, context, table, rules, keys), context.clock)
        rows, after = found.rows + len(page), keys[-1]
        if rows // TOLD_ROWS > found.rows // TOLD_ROWS:
            logger.info("%s: %d rows of %s were looked through", context.service.name, rows, table.name)
        found = LookedThrough(rows, found.reserved + reserved, [*found.twice, *twice])
        await context.clock.sleep(pause_s)


async def _mend(context: Context) -> bool:
    """True where there was something to reserve."""
    found_any = await mend_reserved(context, context.timing.trim_pause_s)
    for entity in context.service.entities:
        table = table_of(entity)
        if not table.rules:
            continue
        found = await look_through(context, table, table.rules, context.timing.trim_pause_s)
        if found.twice:
            logger.error("%s; until then the others are free to take other values", _refusal(entity, found.twice))
        if found.reserved:
            logger.warning(
                "%s: %d values of %s were not reserved, because something else than handlers with unique= wrote them",
                context.service.name,
                found.reserved,
                table.name,
            )
        found_any |= bool(found.reserved or found.twice)
    return found_any


async def _reserve(
    context: Context, table: Table, rules: Sequence[UniqueRule], keys: Sequence[Key]
) -> tuple[int, list[Twice]]:
    async with context.store.transaction() as session:
        rows = sorted(await session.load(table, keys), key=table.key_of)
        wanted: dict[str, tuple[UniqueRule, Row]] = {}
        twice: list[Twice] = []
        for row, rule in ((row, rule) for row in rows for rule in rules):
            if digest := rule.digest_of(row):
                first = wanted.setdefault(digest, (rule, row))[1]
                if first is not row:
                    twice.append(_twice(table, rule, row, _holder(table, first)))
        held = await _held(session, table, wanted)
        new = []
        for digest, (rule, row) in wanted.items():
            holder = _holder(table, row)
            if digest not in held:
                new.append(RESERVED.to_row(Reserved(digest, rule.name, holder, rule.probe)))
            elif held[digest] != holder:
                twice.append(_twice(table, rule, row, held[digest]))
        if new:
            await session.save(RESERVED, new)
    return len(new), twice


async def _held(session: WriteSession, table: Table, wanted: Mapping[str, tuple[UniqueRule, Row]]) -> dict[str, str]:
    """The holders of those that are reserved, by digest, where the holder's row still has the value."""
    rows = await session.load(RESERVED, [(digest,) for digest in sorted(wanted)])
    holders = {each.digest: each.holder for each in map(RESERVED.from_row, rows)}
    others = {table.key_in(holder) for digest, holder in holders.items() if holder != _holder(table, wanted[digest][1])}
    theirs = {table.key_of(row): row for row in await session.load(table, sorted(others))} if others else {}

    def has(digest: str, holder: str) -> bool:
        rule, own = wanted[digest]
        row = own if holder == _holder(table, own) else theirs.get(table.key_in(holder))
        return row is not None and rule.digest_of(row) == digest

    return {digest: holder for digest, holder in holders.items() if has(digest, holder)}


async def _write(context: Context, done: Sequence[StoredName], gone: Sequence[StoredName]) -> None:
    async with context.store.transaction() as session:
        unit = context.unit(session)
        for each in gone:
            unit.forget(each)
        for each in done:
            unit.put(each)
        await unit.flush()


def _holder(table: Table, row: Row) -> str:
    return holder_of(table.key_of(row))


def _twice(table: Table, rule: UniqueRule, row: Row, first: str) -> Twice:
    values = tuple(row[at] for at in rule.at)
    return Twice(rule, values, first, _holder(table, row))


def _refusal(entity: type[Entity], twice: Sequence[Twice]) -> str:
    """What to say of rows that have the same, and what to do."""
    table, rule, count = table_of(entity), twice[0].rule, len(twice)
    unique = [table.columns[at].name for at in rule.at]
    fields, columns = ", ".join(rule.fields), ", ".join(dict.fromkeys((*table.key, *unique)))
    rows = [(", ".join(map(repr, each.values)), told(each.first), told(each.second)) for each in twice[:SHOWN]]
    shown = [f"{values} (rows {first} and {second})" for values, first, second in rows]
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    see = f"SELECT {columns} FROM {table.name} ORDER BY {unique[0]}"  # noqa: S608 - to be typed
    have = f"{count} row{'s have' if count > 1 else ' has'} what another one has: {'; '.join(shown)}{more}"
    return (
        f"{class_at(entity)}: {entity.__name__} is unique by {fields}, and {have}; change or delete all but one of "
        f"each; to see them, type in the store: {see}"
    )
