"""The owner's side of an audit: what it has emitted of its shares is complete, and is what they are now.

The rows of `SharedKey` move with the events. For a journal that is older than they are, they are made once from
it. A document that changed though no event of `changed_by` said so, or that was there before its share was, is
emitted here, for all borrowers at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from chimera.core.aio.again import at_times
from chimera.core.aio.turns import Turns
from chimera.core.context import Context
from chimera.core.names import announced, looked_through, share_type
from chimera.core.paging import pages
from chimera.core.tables import Progress, SharedKey
from chimera.entities import table_of
from chimera.errors import Unavailable
from chimera.journal.checkpoints import again_on_conflict
from chimera.messages import partition_of
from chimera.parts import Share
from chimera.reads import Reads
from chimera.share.changes import change_of, emitted_rows, record_changes, shared_documents, shared_key
from chimera.share.digests import BUCKETS, bucket_of, digest_of
from chimera.share.owner import LOOK
from chimera.signature import texts_of
from chimera.transaction import UnitReads
from chimera.upkeep.drift.audits import AuditReport, by_kind, kind_of, tell

JOURNAL_PAGE = 1000


async def keep_announcing(context: Context, held: frozenset[int]) -> None:
    """Complete what is known of the shares, announce those that never were, then audit them now and then."""
    shares = context.service.shares.values()
    for share in shares:
        await complete(context, share, held)
        if share.keys is not None:
            await _announce_first(context, share, held)

    async def audit() -> None:
        for share in shares:
            await audit_share(context, share, held)

    if context.timing.audit_s:
        await at_times(context.timing.audit_s, audit, context.clock)
    await asyncio.Event().wait()


async def complete(context: Context, share: Share, partitions: Collection[int]) -> None:
    """Make the rows of what was emitted before there were such rows, once, and say that none is missing."""
    for partition in await _without(context, looked_through(share.name), partitions):
        latest = await _last_changes(context, share, partition)
        for page in pages(sorted(latest)):
            await again_on_conflict(partial(_store_newer, context, [latest[key] for key in page]), context.clock)
        await _mark(context, looked_through(share.name), partition)


async def audit_share(
    context: Context, share: Share, held: Collection[int] | None = None, *, repair: bool = True
) -> AuditReport:
    """Compare what was emitted with the share's documents as they are, and emit those that differ.

    Compared are the keys ever emitted and those of the share's `keys`, in all partitions or those `held`. Raises
    Unavailable where it is not known yet what was emitted.
    """
    partitions = sorted(range(context.service.partitions) if held is None else held)
    if missing := await _without(context, looked_through(share.name), partitions):
        raise Unavailable(
            f"{context.service.name} has not looked through partition {missing[0]} for {share.name!r} yet; "
            f"start its write head: chimera run {context.service.name} --write"
        )
    report = AuditReport(context.service.name, share.name, "owner")
    declared = await _declared_keys(context, share)
    found: dict[str, str] = {}
    turns = Turns()
    for partition in partitions:
        for first in range(0, BUCKETS, LOOK):
            buckets = range(first, first + LOOK)
            keys = await _emitted_keys(context, share, partition, buckets)
            keys |= {key for key in declared.get(partition, ()) if bucket_of(key) in buckets}
            report.checked += len(keys)
            for page in pages(sorted(keys)):
                await turns.after(items=len(page))
                differing = await _differing(context, share, page)
                found |= differing
                if repair and differing:
                    report.repaired += len(
                        await again_on_conflict(partial(_emit, context, share, sorted(differing)), context.clock)
                    )
    report.changed, report.missing, report.invented = map(len, by_kind(found).values())
    report.keys = sorted(found)
    if repair:
        _tell(context, share, found)
    return report


async def _announce_first(context: Context, share: Share, held: Collection[int]) -> None:
    name = announced(share.name)
    if left := await _without(context, name, held):
        await audit_share(context, share, left)
        for partition in left:
            await _mark(context, name, partition)


async def _without(context: Context, name: str, partitions: Collection[int]) -> list[int]:
    """The partitions that have no such mark yet."""
    async with context.store.snapshot() as session:
        rows = await session.load(
            table_of(Progress), [(name, context.service.name, each) for each in sorted(partitions)]
        )
    marked = {table_of(Progress).from_row(row).partition for row in rows}
    return [each for each in sorted(partitions) if each not in marked]


async def _mark(context: Context, name: str, partition: int) -> None:
    async def mark() -> None:
        async with context.store.transaction() as session:
            unit = context.unit(session)
            unit.put(Progress(name, context.service.name, partition, 1, 0))
            await unit.flush()

    await again_on_conflict(mark, context.clock)


async def _last_changes(context: Context, share: Share, partition: int) -> dict[str, SharedKey]:
    """The last change of each key, as the journal has it."""
    type_ = share_type(context.service.name, share.name)
    latest: dict[str, SharedKey] = {}
    number, turns = (await context.store.oldest())[partition] - 1, Turns()
    while page := await context.store.journal(partition, number, JOURNAL_PAGE):
        await turns.after(sum(len(event.data) for event in page), items=len(page))
        latest |= {row.key: row for row in (shared_key(share.name, event) for event in page if event.type == type_)}
        number = page[-1].number
    return latest


async def _store_newer(context: Context, changes: Sequence[SharedKey]) -> None:
    """Store those changes that are newer than the stored ones."""
    async with context.store.transaction() as session:
        unit = context.unit(session)
        keys = [each.key for each in changes]
        stored = await emitted_rows(session, changes[0].share, context.service.partitions, keys)
        for change in changes:
            if change.key not in stored or stored[change.key].number < change.number:
                unit.put(change)
        await unit.flush()


async def _declared_keys(context: Context, share: Share) -> dict[int, set[str]]:
    """The keys that the share says there are, by partition."""
    if share.keys is None:
        return {}
    by_partition: dict[int, set[str]] = {}
    turns = Turns()
    async with context.store.snapshot() as session:
        for key in texts_of(await share.keys(Reads(context.service, session))):
            await turns.after()
            by_partition.setdefault(partition_of(key, context.service.partitions), set()).add(key)
    return by_partition


async def _emitted_keys(context: Context, share: Share, partition: int, buckets: Collection[int]) -> set[str]:
    return set(await context.owners[context.service.name].entries(share.name, partition, buckets))


async def _differing(context: Context, share: Share, keys: Sequence[str]) -> dict[str, str]:
    """The kinds, by key, of those whose document is not what was emitted: seen in one snapshot, without a lock."""
    async with context.store.snapshot() as session:
        rows = await emitted_rows(session, share.name, context.service.partitions, keys)
        documents = await shared_documents(context.resources.calling, share, Reads(context.service, session), keys)
    return _differences(keys, rows, documents)


def _differences(keys: Sequence[str], rows: Mapping[str, SharedKey], documents: Mapping[str, bytes]) -> dict[str, str]:
    emitted = {key: rows[key].digest if key in rows else "" for key in keys}
    now = {key: digest_of(documents[key]) if key in documents else "" for key in keys}
    return {key: kind_of(emitted[key], now[key]) for key in keys if emitted[key] != now[key]}


async def _emit(context: Context, share: Share, keys: Sequence[str]) -> list[str]:
    """Emit what still differs, in one transaction; returns the keys.

    Its rows are read first: whoever changes such a document writes its row before committing, so either that is
    seen here, or it comes after, or one of the two has to try again.
    """
    async with context.store.transaction() as session:
        unit = context.unit(session)
        rows = await emitted_rows(session, share.name, context.service.partitions, keys)
        documents = await shared_documents(context.resources.calling, share, UnitReads(unit), keys)
        differing = _differences(keys, rows, documents)
        at = context.clock.stamp()
        unit.events += [change_of(context.service, share, key, documents.get(key), at) for key in differing]
        record_changes(unit, await unit.number())
        await unit.flush()
    context.committed.notify()
    return list(differing)


def _tell(context: Context, share: Share, found: Mapping[str, str]) -> None:
    name = context.service.name
    for kind, keys in by_kind(found).items():
        context.metrics.announced(name, share.name, kind, len(keys))
        if kind != "missing":
            tell(f"{name}: share {share.name} emitted documents that no event in its changed_by had announced", keys)
