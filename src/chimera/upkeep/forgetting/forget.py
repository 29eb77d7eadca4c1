"""Forgetting a person: it is asked for, her key is destroyed, everybody is told, and it is looked through.

Each step is kept before the next one, so that whoever comes goes on: the command line, or a write head. What nobody can
read any more stays where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

import msgspec

from chimera.caller import BY_SYSTEM
from chimera.core.aio.again import at_times
from chimera.core.aio.signals import A_DAY_S
from chimera.core.context import Context
from chimera.core.names import forgotten_type
from chimera.core.tables import Forgetting
from chimera.entities import RESERVED, SUBJECT_KEYS, Key, Reserved, SubjectKey, table_of
from chimera.errors import SettingsError
from chimera.journal.checkpoints import again_on_conflict
from chimera.messages import MAX_KEY, Position, partition_of
from chimera.personal import BLINDING, SECRETS
from chimera.transaction import Pending, Unit, reserved_row, saying
from chimera.unique import ReservedChange, holder_of
from chimera.upkeep.forgetting.search import FoundOf, found_of
from chimera.upkeep.positions import known_consumers

logger = logging.getLogger("chimera")

FORGETTING = table_of(Forgetting)
Stage = Literal["unknown", "asked", "destroyed", "done"]
SLACK = 2.0
"""A key that was destroyed is used for `Timing.subject_keys_s` at most; clocks may differ by as much."""


class LookedFor(msgspec.Struct):
    """What was looked through when all was over: what is concealed of her, by where it is, and what of it opens."""

    concealed: dict[str, int] = {}
    opens: int = 0


class ForgettingStatus(NamedTuple):
    """How far it has come in a service. `waiting`: consumers that don't have the event yet; `position` is its."""

    service: str
    stage: Stage
    position: str = ""
    waiting: Sequence[str] = ()
    proof: LookedFor | None = None


async def ask(context: Context, subject: str, by: str) -> None:
    """Write down that a person is to be forgotten, before anything is. Raises SettingsError for what is no person."""
    if not subject or len(subject) > MAX_KEY or subject in (BLINDING, SECRETS):
        raise SettingsError(f"{subject[:64]!r} is nobody; type her id, as in: chimera forget u-1")

    async def work() -> None:
        async with context.store.transaction() as session:
            if not await session.load(FORGETTING, [(subject,)]):
                await session.save(FORGETTING, [FORGETTING.to_row(Forgetting(subject, by, context.clock.now()))])

    await again_on_conflict(work, context.clock)


async def go_on(context: Context, subject: str) -> ForgettingStatus:
    """Do what can be done now of what was asked for; says how far it has come."""
    row = await _read(context, subject)
    if row is None:
        return ForgettingStatus(context.service.name, "unknown")
    if row.destroyed_at is None:
        await again_on_conflict(lambda: _destroy(context, subject), context.clock)
        context.personal.forget(subject)
        row = await _read(context, subject) or row
    if not row.position:
        row = await _with_position(context, row)
    if row.done_at is not None:
        return _status(context, row, [])
    waiting = await _waiting(context, row)
    if not waiting:
        row.done_at, row.proof = context.clock.now(), msgspec.json.encode(await prove(context, subject)).decode()
        await _keep(context, row)
    return _status(context, row, waiting)


async def status_of(context: Context, subject: str) -> ForgettingStatus:
    """How far it has come; nothing is done."""
    row = await _read(context, subject)
    if row is None:
        return ForgettingStatus(context.service.name, "unknown")
    is_over = row.destroyed_at is None or row.done_at is not None
    return _status(context, row, [] if is_over else await _waiting(context, row))


async def prove(context: Context, subject: str) -> LookedFor:
    """Look through all that is kept for what is concealed of a person, and try to open it."""
    proof = LookedFor()
    async for found in found_of(context, subject):
        proof.concealed[found.place] = proof.concealed.get(found.place, 0) + len(found.values)
        proof.opens += await _opened(context, found)
    return proof


async def keep_forgetting(context: Context, held: Collection[int]) -> None:
    """Go on with those who are being forgotten, and wrap keys by the newest master key, until cancelled."""

    async def work() -> None:
        async with context.store.snapshot(once=True) as session:
            rows: list[Forgetting] = [FORGETTING.from_row(row) for row in await session.find(FORGETTING, {})]
        for row in rows:
            if row.done_at is None:
                await go_on(context, row.subject)
        if count := await rewrap(context):
            first = context.personal.masters.first
            logger.info("%s: %d keys of persons are wrapped by master key %s now", context.service.name, count, first)

    if 0 in held:
        await at_times(context.timing.rewrap_s, work, context.clock)
    await context.clock.sleep(A_DAY_S)


async def rewrap(context: Context) -> int:
    """Wrap the keys that an older master key has wrapped by the first one; says how many. Then the older can go."""
    after: Key = ()
    count, masters = 0, context.personal.masters
    while True:
        async with context.store.snapshot(once=True) as session:
            rows = await session.scan(SUBJECT_KEYS, after, context.limits.trim_page)
        if not rows:
            return count
        after = SUBJECT_KEYS.key_of(rows[-1])
        old = [each for each in map(SUBJECT_KEYS.from_row, rows) if each.wrapped and each.master != masters.first]
        if old:
            subjects = [each.subject for each in old]
            await again_on_conflict(lambda some=subjects: _rewrap(context, some), context.clock)  # type: ignore[misc]
            count += len(old)


async def _rewrap(context: Context, subjects: Sequence[str]) -> None:
    masters = context.personal.masters
    async with context.store.transaction() as session:
        rows = await session.load(SUBJECT_KEYS, [(each,) for each in subjects])
        changed: list[SubjectKey] = []
        for each in map(SUBJECT_KEYS.from_row, rows):
            if each.wrapped and each.master != masters.first:
                key = masters.unwrap(each.subject, each.master, each.wrapped)
                each.wrapped = masters.wrap(each.subject, key, context.clock.random_bytes(12))
                each.master = masters.first
                changed.append(each)
        await session.save(SUBJECT_KEYS, list(map(SUBJECT_KEYS.to_row, changed)))


async def _destroy(context: Context, subject: str) -> None:
    """Destroy her key, give back what she has reserved, and say so in the journal: in one transaction."""
    now = context.clock.now()
    async with context.store.transaction() as session:
        unit = context.unit(session)
        [asked] = await session.load(FORGETTING, [(subject,)])
        row: Forgetting = FORGETTING.from_row(asked)
        if row.destroyed_at is not None:
            return
        found = await session.load(SUBJECT_KEYS, [(subject,)])
        known = SUBJECT_KEYS.from_row(found[0]) if found else SubjectKey(subject, "", b"", "", now)
        unit.put(msgspec.structs.replace(known, wrapped=b"", master="", forgotten_at=now))
        row.destroyed_at = now
        unit.put(row)
        await _give_back(unit, subject, context.clock.stamp())
        data = msgspec.json.encode({"subject": subject})
        type_, partition = forgotten_type(context.service.name), partition_of(subject, context.service.partitions)
        unit.events.append(Pending(type_, subject, partition, data, context.clock.stamp(), metadata=BY_SYSTEM))
        await unit.flush()
        await unit.number()
    context.committed.give(unit.appended)
    context.committed.notify()


async def _give_back(unit: Unit, subject: str, stamp: str) -> None:
    """What handlers have reserved for her is anybody's again."""
    for row in await unit.session.find(RESERVED, {"holder": [holder_of(subject)]}):
        reserved: Reserved = RESERVED.from_row(row)
        if reserved.told:
            slot = (RESERVED, (reserved.digest,))
            change = ReservedChange(reserved.name)
            unit.rows[slot] = unit.dirty[slot] = reserved_row(reserved.digest, change)
            unit.events.append(saying(unit.service, reserved.digest, change, stamp))


async def _with_position(context: Context, row: Forgetting) -> Forgetting:
    partition, type_ = partition_of(row.subject, context.service.partitions), forgotten_type(context.service.name)
    async with context.store.snapshot() as session:
        told = [each for each in await session.history(partition, row.subject) if each.type == type_]
    if told:
        row.position = str(told[-1].position)
        await _keep(context, row)
    return row


async def _waiting(context: Context, row: Forgetting) -> list[str]:
    """Who does not have the event yet, and processes that may know the key for a moment longer."""
    waiting: list[str] = []
    if row.position:
        at = Position.parse(row.position)
        now = context.clock.now()
        waiting = [
            each.name
            for each in await known_consumers(context)
            if each.partition == at.partition and each.number < at.number and not each.is_silent(context.retention, now)
        ]
    last = timedelta(seconds=context.timing.subject_keys_s * SLACK)
    if row.destroyed_at is not None and context.clock.now() < row.destroyed_at + last:
        waiting.append(f"processes that may know the key until {row.destroyed_at + last:%H:%M:%S}")
    return waiting


async def _opened(context: Context, found: FoundOf) -> int:
    """How many of these values open still."""
    held = [each for each in found.values if (parts := each.parts) and parts.service == context.service.name]
    keys = await context.personal.of({parts.subject for each in held if (parts := each.parts)})
    return sum(bool(keys[parts.subject].key) for each in held if (parts := each.parts))


def _status(context: Context, row: Forgetting, waiting: Sequence[str]) -> ForgettingStatus:
    stage: Stage = "done" if row.done_at else "destroyed" if row.destroyed_at else "asked"
    proof = msgspec.json.decode(row.proof, type=LookedFor) if row.proof else None
    return ForgettingStatus(context.service.name, stage, row.position, waiting, proof)


async def _read(context: Context, subject: str) -> Forgetting | None:
    async with context.store.snapshot(once=True) as session:
        rows = await session.load(FORGETTING, [(subject,)])
    return FORGETTING.from_row(rows[0]) if rows else None


async def _keep(context: Context, row: Forgetting) -> None:
    async def work() -> None:
        async with context.store.transaction() as session:
            await session.save(FORGETTING, [FORGETTING.to_row(row)])

    await again_on_conflict(work, context.clock)
