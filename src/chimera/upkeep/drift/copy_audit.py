"""Drift: where a copy is not what its owner emitted, found by comparing digests, and mended.

A copy is compared at equal positions, so that what is merely under way is never taken for drift. Of a key are
read, in this order: the copy's checkpoint c of its partition, the copy's document, and the number n of the
owner's last change of it. If n <= c, the document was read after that change was applied and before any other was
made: it must be that change's. If n > c the change is in flight, and the key is compared again the next time.

In hybrid mode a key that the copy lacks is answered as absent, without asking the owner. If that is false, it is so
until the next audit of its partition: at most 1.1 * audit_s, and the time that the audit takes, as long as the
owner answers and that key's change is not in flight. `chimera audit` finds it at once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from chimera.borrow.ahead import read_marks
from chimera.borrow.modes import read_mode
from chimera.core import names
from chimera.core.aio.again import at_times
from chimera.core.aio.turns import Turns
from chimera.core.context import Context
from chimera.core.names import copy_name
from chimera.core.paging import pages
from chimera.errors import Unavailable
from chimera.forms import AnyDocument, decoder_of
from chimera.journal.register import Register
from chimera.messages import partition_of
from chimera.parts import Borrow, Mode
from chimera.ports import Document, Entry
from chimera.share.digests import BucketSum, bucket_of, digest_of
from chimera.upkeep.drift.audits import AuditReport, by_kind, kind_of, tell
from chimera.views.parked import spans_of
from chimera.views.projections import KNOWN

logger = logging.getLogger("chimera")

ROUNDS = 3
NOTHING = Entry(0, "")

Slot = tuple[int, int]
"""A partition and one of its buckets."""


class AuditFigures(msgspec.Struct):
    """The findings of the last audit of a partition; as in AuditReport."""

    mode: str
    at: datetime
    checked: int
    changed: int
    missing: int
    invented: int
    repaired: int
    in_flight: int


class CopiedKey(NamedTuple):
    """A key as the copy has it: its document's digest, empty for none, and its revision."""

    digest: str = ""
    revision: int = 0


class Drifted(NamedTuple):
    """A key to be repaired: the owner's document, or None for none, to be put over this revision.

    `number`: all that the document has is up to there, as far as is known.
    """

    key: str
    kind: str
    document: bytes | None
    revision: int
    number: int = 0


class Audit:
    """One comparison of some of the owner's partitions with the copy of a borrow in one mode."""

    def __init__(
        self, context: Context, borrow: Borrow[AnyDocument], mode: Mode, partitions: Sequence[int], count: int
    ) -> None:
        self._context = context
        self._borrow = borrow
        self._mode = mode
        self._partitions = partitions
        self._count = count
        self._owner = context.owners[borrow.owner]
        self._name = copy_name(borrow.name, mode)
        self._keys_only = mode == "hybrid"
        self._decoder = decoder_of(borrow.document)
        self._checked: Counter[int] = Counter()
        self._found: dict[str, str] = {}
        self._repaired: set[str] = set()
        self._in_flight: set[str] = set()

    async def run(self, *, repair: bool = True) -> None:
        """Compare, and after a repair compare again. Raises Unavailable when owner or copy can't be read."""
        try:
            for _ in range(ROUNDS):
                drifted = await self._compare()
                self._note(drifted)
                if not (drifted and repair):
                    break
                self._repaired |= await self._repair(drifted)
        finally:
            self._tell(repair=repair)

    def report(self, partitions: Collection[int]) -> AuditReport:
        """The findings in these partitions."""
        found = {key: kind for key, kind in self._found.items() if self._partition(key) in partitions}
        kinds = by_kind(found)
        return AuditReport(
            self._context.service.name,
            self._borrow.name,
            self._mode,
            sum(self._checked[partition] for partition in partitions),
            len(kinds["changed"]),
            len(kinds["missing"]),
            len(kinds["invented"]),
            len(self._repaired.intersection(found)),
            sum(self._partition(key) in partitions for key in self._in_flight),
            sorted(found),
        )

    async def keep_figures(self) -> None:
        """Store the findings of each partition, for the status."""
        now = self._context.clock.now()
        figures = {
            names.audit_key(self._borrow.name, partition): msgspec.convert(
                {**msgspec.structs.asdict(self.report([partition])), "at": now}, AuditFigures
            )
            for partition in self._partitions
        }
        await Register(self._context.views, names.AUDITS, AuditFigures).put(figures)

    def _partition(self, key: str) -> int:
        return partition_of(key, self._count)

    async def _compare(self) -> list[Drifted]:
        wanted = {p: await self._owner.digests(self._borrow.share, p) for p in self._partitions}
        theirs = {(partition, bucket): each for partition, found in wanted.items() for bucket, each in found.items()}
        sums: dict[Slot, BucketSum] = {}
        async for document in self._scan():
            sums.setdefault(self._place(document.key), BucketSum()).add(document.key, digest_of(document.data or b""))
        self._checked = Counter()
        for (partition, _), each in sums.items():
            self._checked[partition] += each.count
        ours = {place: each.digest() for place, each in sums.items()}
        differing = [
            place
            for place in sorted({*ours, *theirs})
            if place not in ours
            or place not in theirs
            or ours[place].keys != theirs[place].keys
            or (not self._keys_only and ours[place].documents != theirs[place].documents)
        ]
        self._in_flight = set()
        drifted: list[Drifted] = []
        for places in _passes(
            differing, {place: each.count for place, each in sums.items()}, self._context.limits.audit_keys
        ):
            drifted += await self._confirm(places)
        return drifted

    async def _confirm(self, places: set[Slot]) -> list[Drifted]:
        """The keys of differing buckets that have drifted; see the order above."""
        at = await self._reached()
        parked = {key async for key, _ in spans_of(self._context.views, self._name)}
        copied = {
            document.key: CopiedKey(digest_of(document.data or b""), document.revision)
            async for document in self._scan()
            if self._place(document.key) in places
        }
        entries = await self._entries(places)
        await self._check_history(at)
        suspects, turns = [], Turns()
        for key in dict.fromkeys((*copied, *entries)):
            await turns.after()
            digest, entry = copied.get(key, CopiedKey()).digest, entries.get(key, NOTHING)
            if bool(digest) == bool(entry.digest) if self._keys_only else digest == entry.digest:
                continue
            if entry.number > at[self._partition(key)] or key in parked:
                self._in_flight.add(key)
            else:
                suspects.append(key)
        drifted: list[Drifted] = []
        for page in pages(sorted(suspects)):
            drifted += await self._with_documents(page, copied, entries)
        return drifted

    async def _with_documents(
        self, keys: Sequence[str], copied: Mapping[str, CopiedKey], entries: Mapping[str, Entry]
    ) -> list[Drifted]:
        """The keys with the owner's documents, but for those that the copy has as the owner has them now.

        Such a key was changed by the owner without an event, and it is the owner's audit that says so.
        """
        documents, positions = await self._owner.fetch(self._borrow.share, keys)
        drifted = []
        for key in keys:
            digest, revision = copied.get(key, CopiedKey())
            document = documents.get(key)
            if self._keys_only:
                same = bool(digest) == (document is not None)
            else:
                same = digest == ("" if document is None else digest_of(document))
            if not same:
                kind = kind_of(digest, entries.get(key, NOTHING).digest)
                number = positions[key].number if key in positions else 0
                drifted.append(
                    Drifted(key, kind, KNOWN if document and self._keys_only else document, revision, number)
                )
        return drifted

    async def _entries(self, places: set[Slot]) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for partition in sorted({partition for partition, _ in places}):
            buckets = sorted(bucket for each, bucket in places if each == partition)
            found = await self._owner.entries(self._borrow.share, partition, buckets)
            if any(self._place(key) not in places for key in found):
                raise Unavailable(f"{self._borrow.owner} answered with keys of other partitions or buckets")
            entries |= found
        return entries

    async def _check_history(self, at: Mapping[int, int]) -> None:
        """Raises Unavailable when the copy can't be compared: dropped meanwhile, or ahead of its owner."""
        now, heads = await self._reached(), await self._owner.heads()
        for partition, number in at.items():
            if now[partition] < number:
                raise Unavailable(f"{self._name} was dropped while it was compared")
            if heads.get(partition, 0) < number:
                raise Unavailable(
                    f"{self._name} is at {self._borrow.owner}/{partition}@{number}, but its owner only at "
                    f"{heads.get(partition, 0)}: it went back in time, so switch to sync and back to fill the copy anew"
                )

    async def _repair(self, drifted: Sequence[Drifted]) -> set[str]:
        """Write the owner's documents; returns the keys of those written. One that moved on meanwhile is left."""
        done: set[str] = set()
        for found in pages(drifted):
            page = [each for each in found if self._is_valid(each)]
            if await self._write(page):
                done.update(each.key for each in page)
            else:
                done.update([each.key for each in page if await self._write([each])])
        self._context.moved.notify()
        return done

    async def _write(self, drifted: Sequence[Drifted]) -> bool:
        documents = [Document(self._name, each.key, each.document, each.revision) for each in drifted]
        ahead: dict[int, int] = {}
        for each in drifted:
            partition = self._partition(each.key)
            ahead[partition] = max(each.number, ahead.get(partition, 0))
        marks = await read_marks(self._context.views, self._name, self._borrow.owner, ahead)
        documents += [
            mark.moved(ahead[partition], filled=mark.ahead.filled)
            for partition, mark in marks.items()
            if ahead[partition] > mark.ahead.through
        ]
        return bool(await self._context.views.write(self._name, documents, []))

    def _is_valid(self, drifted: Drifted) -> bool:
        try:
            if not self._keys_only and drifted.document is not None:
                self._decoder.decode(drifted.document)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("%s: the owner's document of %r can't be kept: %s", self._name, drifted.key, error)
            return False
        return True

    def _note(self, drifted: Sequence[Drifted]) -> None:
        self._found = {each.key: each.kind for each in drifted} | self._found
        self._repaired -= {each.key for each in drifted}

    def _tell(self, *, repair: bool) -> None:
        service, share, metrics = self._context.service.name, self._borrow.name, self._context.metrics
        metrics.drift_repaired(service, share, len(self._repaired))
        for kind, keys in by_kind(self._found).items():
            metrics.drift_found(service, share, kind, len(keys))
            tell(f"{service}: the {self._mode} copy of {share} has {kind} keys", keys)
        left = sorted(self._found.keys() - self._repaired) if repair else []
        tell(f"{service}: could not repair the {self._mode} copy of {share} yet", left)

    async def _reached(self) -> dict[int, int]:
        at = await self._context.views.checkpoints(self._name)
        numbers = {partition: each.number for (source, partition), each in at.items() if source == self._borrow.owner}
        return {partition: numbers.get(partition, 0) for partition in self._partitions}

    async def _scan(self) -> AsyncIterator[Document]:
        """The copy's documents of the partitions that are compared."""
        after, turns = "", Turns()
        while page := await self._context.views.scan(self._name, after):
            for document in page:
                await turns.after(len(document.data or b""))
                if self._partition(document.key) in self._partitions:
                    yield document
            after = page[-1].key

    def _place(self, key: str) -> Slot:
        return self._partition(key), bucket_of(key)


def _passes(places: Sequence[Slot], counts: Mapping[Slot, int], audit_keys: int) -> Iterator[set[Slot]]:
    """The buckets in groups with no more keys than may be held at once."""
    group: set[Slot] = set()
    keys = 0
    for place in places:
        if group and keys + counts.get(place, 0) > audit_keys:
            yield group
            group, keys = set(), 0
        group.add(place)
        keys += counts.get(place, 0)
    if group:
        yield group


async def audit_copy(
    context: Context, borrow: Borrow[AnyDocument], held: Collection[int] | None = None, *, repair: bool = True
) -> AuditReport | None:
    """Compare a borrow's copy with its owner, of all partitions or those that belong to the leases `held`.

    None in sync mode, which has no copy. Raises Unavailable when owner or copy can't be read, or the owner does not
    know yet what it has emitted.
    """
    mode = (await read_mode(context, borrow)).mode
    if mode == "sync":
        return None
    heads = await context.owners[borrow.owner].heads()
    partitions = [each for each in sorted(heads) if held is None or each % context.service.partitions in held]
    audit = Audit(context, borrow, mode, partitions, len(heads))
    await audit.run(repair=repair)
    await audit.keep_figures()
    return audit.report(partitions)


async def last_audit(context: Context, borrow: Borrow[AnyDocument]) -> dict[str, datetime | int] | None:
    """The figures of the last audit of the mode in force, `at` as old as its oldest part; None before the first."""
    mode = (await read_mode(context, borrow)).mode
    audits = [
        figures
        for document in await context.views.scan(names.AUDITS, names.audits_of(borrow.name), 256)
        if document.key.rpartition("/")[0] == borrow.name
        and (figures := msgspec.json.decode(document.data or b"", type=AuditFigures)).mode == mode
    ]
    if not audits:
        return None
    sums = {
        name: sum(getattr(each, name) for each in audits)
        for name in ("checked", "changed", "missing", "invented", "repaired", "in_flight")
    }
    return {"at": min(each.at for each in audits), **sums}


async def keep_auditing(context: Context, borrow: Borrow[AnyDocument], held: frozenset[int]) -> None:
    """Audit the copy every `audit_s` or so, until cancelled; the first time after a part of it, not all at once."""
    await at_times(context.timing.audit_s, lambda: audit_copy(context, borrow, held), context.clock)
