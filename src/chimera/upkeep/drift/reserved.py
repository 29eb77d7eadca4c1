"""Reservations of handlers, as the journal says it: what it lacks is said, what is over goes, the lost is made anew.

Every change of a reservation is an event whose key is the value's digest. So who has a value is what the last event of
that key says: a row that differs is put right in a transaction that holds the row and the partition's head, beside
handlers that go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Literal

import msgspec

from chimera.core.context import Context
from chimera.core.tables import StoredName
from chimera.entities import RESERVED, Key, Reserved, table_of
from chimera.errors import Trimmed
from chimera.journal.checkpoints import again_on_conflict
from chimera.messages import partition_of
from chimera.ports import WriteSession
from chimera.transaction import Unit, reserved_row, saying
from chimera.unique import ReservedChange, is_under_a_name, reserved_type

AT_ONCE = 50
"""Reservations that are looked at in one transaction, which holds the heads of their partitions."""
KEPT = StoredName("reserved", "journal")
"""Among stored names: from here on, all that handlers reserve is in the journal."""
MARK = Reserved("~", "~", '""')
"""The row by which the table is known to be the one that was kept; of a table that was lost, it is lost too."""

Kind = Literal["missing", "changed", "extra", "unsaid", "over"]
"""What is wrong with a row: not there; another; not in the journal, or given back there; not said yet; not needed."""


class Remade(msgspec.Struct):
    """What making the reservations anew has found: how many were `equal`, and how many were put right, by kind.

    `by_rows`: of values that rows have (`unique=`), how many were not reserved. `left`: how many reservations still
    were not as the journal says when all was looked at once more; 0 is the proof.
    """

    equal: int = 0
    missing: int = 0
    changed: int = 0
    extra: int = 0
    unsaid: int = 0
    over: int = 0
    by_rows: int = 0
    left: int = 0

    @property
    def told(self) -> str:
        """What was found, in words."""
        found = {name: getattr(self, name) for name in ("missing", "changed", "extra", "unsaid", "over")}
        parts = [f"{count} {name}" for name, count in found.items() if count]
        return ", ".join([f"{self.equal} equal", *parts, f"{self.by_rows} of rows"])


_NAMES = table_of(StoredName)
_CHANGES = msgspec.json.Decoder(ReservedChange)


async def are_lost(context: Context) -> bool:
    """True where reservations were kept in the journal, and the table is not the one that they were kept in."""
    async with context.store.snapshot() as session:
        is_kept = await session.load(_NAMES, [_NAMES.key_of(_NAMES.to_row(KEPT))])
        return bool(is_kept) and not await session.load(RESERVED, [(MARK.digest,)])


async def note_kept(context: Context) -> None:
    """Say in the journal what earlier releases have reserved, once; from then on it tells all that is reserved."""
    async with context.store.snapshot(once=True) as session:
        if await session.load(RESERVED, [(MARK.digest,)]):
            return
    await mend_reserved(context)
    await again_on_conflict(partial(_put_mark, context), context.clock)


async def mend_reserved(context: Context, pause_s: float = 0.0) -> bool:
    """Say in the journal what it does not say yet, and drop what has been over for a while; true for any."""
    before = context.clock.now() - timedelta(seconds=context.timing.audit_s)
    found: Counter[Kind] = Counter()
    async for page in _pages(context):
        digests = [row.digest for row in page if not row.told or row.is_over(before)]
        for some in _in_parts(digests):
            found += await again_on_conflict(partial(_put_right, context, some, is_anew=False), context.clock)
        await context.clock.sleep(pause_s)
    return any(found.values())


async def remake(context: Context) -> Remade:
    """Make anew what handlers have reserved, from the journal, beside handlers that go on; then look once more.

    It needs about 300 bytes of memory for each value that is reserved.
    """
    found = Remade()
    found.equal, wrong = await _compared(context)
    for some in _in_parts(wrong):
        kinds = await again_on_conflict(partial(_put_right, context, some, is_anew=True), context.clock)
        for kind, count in kinds.items():
            setattr(found, kind, getattr(found, kind) + count)
    if wrong:
        found.left = len((await _compared(context))[1])
    await again_on_conflict(partial(_put_mark, context), context.clock)
    return found


async def unlike(context: Context) -> list[str]:
    """The digests of reservations that are not as the journal says, in order; nothing is changed."""
    return (await _compared(context))[1]


async def say_again(context: Context, session: WriteSession, digests: Collection[str], through: int) -> None:
    """Before events up to a number are forgotten: what only they say of these reservations is said once more.

    All are of one partition.
    """
    unit = context.unit(session)
    rows = await _held_rows(unit, digests)
    now = context.clock.now()
    for digest, row in rows.items():
        if row is not None and not row.is_over(now) and not await _said(unit, digest, through):
            unit.events.append(saying(context.service, digest, _change_of(row), context.clock.stamp()))
    await unit.number()


async def _compared(context: Context) -> tuple[int, list[str]]:
    """How many rows are as the journal says, and the digests of those that are not, in order."""
    said, now, equal, wrong = await _all_said(context), context.clock.now(), 0, []
    async for page in _pages(context):
        for row in page:
            change = said.pop(row.digest, None)
            if row.told and not row.is_over(now) and _change_of(row) == change:
                equal += 1
            elif not row.is_over(now) or change is not None:
                wrong.append(row.digest)
    return equal, sorted([*wrong, *said])


async def _all_said(context: Context) -> dict[str, ReservedChange]:
    """Who has which value, by digest, as the whole journal says it."""
    found: dict[str, ReservedChange] = {}
    for partition in range(context.service.partitions):
        found |= await _said_in(context, partition)
    return found


async def _said_in(context: Context, partition: int) -> dict[str, ReservedChange]:
    store, type_ = context.store, reserved_type(context.service.name)
    while True:
        found: dict[str, ReservedChange] = {}
        after = (await store.oldest())[partition] - 1
        try:
            while page := await store.journal(partition, after, context.limits.trim_page):
                found |= {each.key: _CHANGES.decode(each.data) for each in page if each.type == type_}
                after = page[-1].number
        except Trimmed:  # meanwhile: what is still needed was said again, further on
            continue
        now = context.clock.now()
        return {digest: change for digest, change in found.items() if _is_in_force(change, now)}


async def _pages(context: Context) -> AsyncIterator[list[Reserved]]:
    """All that handlers have reserved, as it is stored, a page at a time."""
    after: Key = ()
    while True:
        async with context.store.snapshot(once=True) as session:
            rows: Sequence[Reserved] = [
                RESERVED.from_row(row) for row in await session.scan(RESERVED, after, context.limits.trim_page)
            ]
        if not rows:
            return
        yield [row for row in rows if is_under_a_name(row.name)]
        after = (rows[-1].digest,)


async def _put_right(context: Context, digests: Sequence[str], *, is_anew: bool) -> Counter[Kind]:
    """Let the rows of these digests, and the journal, say the same; what was wrong with how many.

    A row that was never said is said. Else the journal is right, where all is made anew.
    """
    found: Counter[Kind] = Counter()
    now, stamp = context.clock.now(), context.clock.stamp()
    async with context.store.transaction() as session:
        unit = context.unit(session)
        for digest, row in (await _held_rows(unit, digests)).items():
            said = await _said(unit, digest)
            if kind := _wrong_with(row, said, now, is_anew=is_anew):
                found[kind] += 1
                if kind == "unsaid" and row is not None:
                    said = _change_of(row)
                    unit.events.append(saying(context.service, digest, said, stamp))
                is_nobodys = said is None or not _is_in_force(said, now)
                _set(unit, digest, None if said is None or is_nobodys else said)
        await unit.flush()
        await unit.number()
    context.committed.give(unit.appended)
    context.committed.notify()
    return found


def _wrong_with(row: Reserved | None, said: ReservedChange | None, now: datetime, *, is_anew: bool) -> Kind | None:
    if said is not None and not _is_in_force(said, now):
        said = None
    if row is None:
        return "missing" if said is not None and is_anew else None
    if row.is_over(now):
        return "over" if said is None else "changed" if is_anew else None
    if not row.told:
        return "unsaid"
    if _change_of(row) == said or not is_anew:
        return None
    return "extra" if said is None else "changed"


async def _held_rows(unit: Unit, digests: Collection[str]) -> dict[str, Reserved | None]:
    """The rows of these digests, which nobody else changes until the unit ends, nor says anything of them."""
    keys: list[Key] = [(digest,) for digest in sorted(digests)]
    await unit.fetch(RESERVED, keys)
    await unit.session.hold({partition_of(digest, unit.service.partitions) for digest in digests})
    rows = {key: unit.rows[RESERVED, key] for key in keys}
    return {str(key[0]): None if row is None else RESERVED.from_row(row) for key, row in rows.items()}


async def _said(unit: Unit, digest: str, after: int = 0) -> ReservedChange | None:
    """What the journal says last of a digest, after a number; None where it says nothing."""
    partition, type_ = partition_of(digest, unit.service.partitions), reserved_type(unit.service.name)
    said = [each for each in await unit.session.history(partition, digest, after) if each.type == type_]
    return _CHANGES.decode(said[-1].data) if said else None


def _set(unit: Unit, digest: str, change: ReservedChange | None) -> None:
    slot = (RESERVED, (digest,))
    unit.rows[slot] = unit.dirty[slot] = None if change is None else reserved_row(digest, change)


def _change_of(row: Reserved) -> ReservedChange:
    return ReservedChange(row.name, row.by, row.until)


def _is_in_force(change: ReservedChange, now: datetime) -> bool:
    return bool(change.holder) and (change.until is None or change.until > now)


async def _put_mark(context: Context) -> None:
    async with context.store.transaction() as session:
        unit = context.unit(session)
        unit.put(MARK)
        unit.put(KEPT)
        await unit.flush()


def _in_parts(digests: Iterable[str]) -> Iterable[list[str]]:
    left = iter(digests)
    while some := list(islice(left, AT_ONCE)):
        yield some
