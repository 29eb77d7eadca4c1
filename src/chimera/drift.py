"""Drift: where a copy is not what its owner emitted, found by comparing digests, and mended.

A copy is compared at equal positions, so that what is merely under way is never taken for drift. Of a key are
read, in this order: the copy's checkpoint c of its partition, the copy's document, and the number n of the
owner's last change of it. If n <= c, the document was read after that change was applied and before any other was
made: it must be that change's. If n > c the change is in flight, and the key is looked at again the next time.

In hybrid mode a key that the copy lacks is answered as absent, without asking the owner. If that is false, it is so
until the next audit of its partition: at most `LATE` * audit_s, and the time that the audit takes, as long as the
owner answers and that key's change is not in flight. `chimera audit` finds it at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from chimera.body import Body
from chimera.copies import copy_name
from chimera.digests import BucketSum, bucket_of, digest_of
from chimera.errors import Unavailable
from chimera.messages import partition_of
from chimera.modes import read_mode
from chimera.ports import Document, Entry
from chimera.projections import KNOWN
from chimera.service import Borrow, Mode
from chimera.setaside import lines_of
from chimera.sharing import pages

logger = logging.getLogger("chimera")

AUDITS = "chimera.audits"
ROUNDS = 3
AT_ONCE = 50_000
LOGGED = 20
LATE = 1.1
NOTHING = Entry(0, "")

Place = tuple[int, int]


class Report(msgspec.Struct):
    """What an audit found of a share: with `mode` owner, at its owner, else in a borrower's copy.

    `checked` counts the keys looked at; `changed`, `missing` and `invented` those whose document was another, was
    not there, or should not be there; `repaired` those made right; `in_flight` those that a change is on its way
    to. `keys` are the changed, missing and invented ones. `failed` says why nothing could be compared.
    """

    service: str
    share: str
    mode: str
    checked: int = 0
    changed: int = 0
    missing: int = 0
    invented: int = 0
    repaired: int = 0
    in_flight: int = 0
    keys: list[str] = []
    failed: str = ""

    @property
    def found(self) -> int:
        return self.changed + self.missing + self.invented


class Figures(msgspec.Struct):
    """What the last audit of a partition found; as in Report."""

    mode: str
    at: datetime
    checked: int
    changed: int
    missing: int
    invented: int
    repaired: int
    in_flight: int


class Kept(NamedTuple):
    """A key as the copy has it: its document's digest, empty for none, and its revision."""

    digest: str = ""
    revision: int = 0


class Drifted(NamedTuple):
    """A key to be repaired: the owner's document, or None for none, to be put over this revision."""

    key: str
    kind: str
    document: bytes | None
    revision: int


KINDS = ("changed", "missing", "invented")


def by_kind(found: Mapping[str, str]) -> dict[str, list[str]]:
    """The keys of each kind, in order, from the kinds by key."""
    return {kind: sorted(key for key, each in found.items() if each == kind) for kind in KINDS}


def kind_of(digest: str, wanted: str) -> str:
    """What is wrong with a document of this digest where another was wanted; empty digests are of none."""
    if not wanted:
        return "invented"
    return "changed" if digest else "missing"


class Audit:
    """One comparison of some of the owner's partitions with the copy of a borrow in one mode."""

    def __init__(self, body: Body, borrow: Borrow[Any], mode: Mode, partitions: Sequence[int], count: int) -> None:
        self._body = body
        self._borrow = borrow
        self._mode = mode
        self._partitions = partitions
        self._count = count
        self._owner = body.owner(borrow.owner)
        self._name = copy_name(borrow, mode)
        self._keys_only = mode == "hybrid"
        self._decoder = msgspec.json.Decoder(borrow.document)
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

    def report(self, partitions: Collection[int]) -> Report:
        """What was found in these partitions."""
        found = {key: kind for key, kind in self._found.items() if self._partition(key) in partitions}
        kinds = by_kind(found)
        return Report(
            self._body.service.name,
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
        """Keep what was found in each partition, for the status."""
        places = {f"{self._borrow.name}/{partition}": partition for partition in self._partitions}
        kept = await self._body.views.get(AUDITS, list(places))
        documents = []
        for place, partition in places.items():
            found = msgspec.structs.asdict(self.report([partition]))
            figures = msgspec.convert({**found, "at": datetime.now(UTC)}, Figures)
            revision = kept[place].revision if place in kept else 0
            documents.append(Document(AUDITS, place, msgspec.json.encode(figures), revision))
        await self._body.views.write(AUDITS, documents, [])

    def _partition(self, key: str) -> int:
        return partition_of(key, self._count)

    async def _compare(self) -> list[Drifted]:
        wanted = {p: await self._owner.digests(self._borrow.share, p) for p in self._partitions}
        theirs = {(partition, bucket): each for partition, found in wanted.items() for bucket, each in found.items()}
        sums: dict[Place, BucketSum] = {}
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
        for places in _passes(differing, {place: each.count for place, each in sums.items()}):
            drifted += await self._confirm(places)
        return drifted

    async def _confirm(self, places: set[Place]) -> list[Drifted]:
        """Those keys of differing buckets that have drifted; see the order above."""
        at = await self._reached()
        aside = {key async for key, _ in lines_of(self._body.views, self._name)}
        kept = {
            document.key: Kept(digest_of(document.data or b""), document.revision)
            async for document in self._scan()
            if self._place(document.key) in places
        }
        entries = await self._entries(places)
        await self._check_history(at)
        suspects = []
        for key in {*kept, *entries}:
            digest, entry = kept.get(key, Kept()).digest, entries.get(key, NOTHING)
            if bool(digest) == bool(entry.digest) if self._keys_only else digest == entry.digest:
                continue
            if entry.number > at[self._partition(key)] or key in aside:
                self._in_flight.add(key)
            else:
                suspects.append(key)
        drifted: list[Drifted] = []
        for page in pages(sorted(suspects)):
            drifted += await self._with_documents(page, kept, entries)
        return drifted

    async def _with_documents(
        self, keys: Sequence[str], kept: Mapping[str, Kept], entries: Mapping[str, Entry]
    ) -> list[Drifted]:
        """The keys with the owner's documents, but for those that the copy has as the owner has them now.

        Such a key was changed by the owner without an event, and it is the owner's audit that says so.
        """
        documents = await self._owner.fetch(self._borrow.share, keys)
        drifted = []
        for key in keys:
            digest, revision = kept.get(key, Kept())
            document = documents.get(key)
            if self._keys_only:
                same = bool(digest) == (document is not None)
            else:
                same = digest == ("" if document is None else digest_of(document))
            if not same:
                kind = kind_of(digest, entries.get(key, NOTHING).digest)
                drifted.append(Drifted(key, kind, KNOWN if document and self._keys_only else document, revision))
        return drifted

    async def _entries(self, places: set[Place]) -> dict[str, Entry]:
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
        self._body.moved.notify()
        return done

    async def _write(self, drifted: Sequence[Drifted]) -> bool:
        documents = [Document(self._name, each.key, each.document, each.revision) for each in drifted]
        return bool(await self._body.views.write(self._name, documents, []))

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
        service, share, metrics = self._body.service.name, self._borrow.name, self._body.metrics
        metrics.drift_repaired(service, share, len(self._repaired))
        for kind, keys in by_kind(self._found).items():
            metrics.drift_found(service, share, kind, len(keys))
            tell(f"{service}: the {self._mode} copy of {share} has {kind} keys", keys)
        left = sorted(self._found.keys() - self._repaired) if repair else []
        tell(f"{service}: could not repair the {self._mode} copy of {share} yet", left)

    async def _reached(self) -> dict[int, int]:
        at = await self._body.views.checkpoints(self._name)
        numbers = {partition: each.number for (source, partition), each in at.items() if source == self._borrow.owner}
        return {partition: numbers.get(partition, 0) for partition in self._partitions}

    async def _scan(self) -> Any:
        """The copy's documents of the partitions that are compared."""
        after = ""
        while page := await self._body.views.scan(self._name, after):
            for document in page:
                if self._partition(document.key) in self._partitions:
                    yield document
            after = page[-1].key
            await asyncio.sleep(0)

    def _place(self, key: str) -> Place:
        return self._partition(key), bucket_of(key)


def _passes(places: Sequence[Place], counts: Mapping[Place, int]) -> Iterator[set[Place]]:
    """The buckets in groups with no more keys than may be held at once."""
    group: set[Place] = set()
    keys = 0
    for place in places:
        if group and keys + counts.get(place, 0) > AT_ONCE:
            yield group
            group, keys = set(), 0
        group.add(place)
        keys += counts.get(place, 0)
    if group:
        yield group


def tell(what: str, keys: Sequence[str]) -> None:
    """Warn of keys, a few on a line."""
    for page in pages(keys, LOGGED):
        logger.warning("%s: %s", what, ", ".join(map(repr, page)))


async def audit_copy(
    body: Body, borrow: Borrow[Any], held: Collection[int] | None = None, *, repair: bool = True
) -> Report | None:
    """Compare a borrow's copy with its owner, of all partitions or those that belong to the leases `held`.

    None in sync mode, which has no copy. Raises Unavailable when owner or copy can't be read, or the owner does not
    know yet what it has emitted.
    """
    mode = (await read_mode(body, borrow)).mode
    if mode == "sync":
        return None
    heads = await body.owner(borrow.owner).heads()
    partitions = [each for each in sorted(heads) if held is None or each % body.service.partitions in held]
    audit = Audit(body, borrow, mode, partitions, len(heads))
    await audit.run(repair=repair)
    await audit.keep_figures()
    return audit.report(partitions)


async def last_audit(body: Body, borrow: Borrow[Any]) -> dict[str, Any] | None:
    """The figures of the last audit of the mode in force, `at` as old as its oldest part; None before the first."""
    mode = (await read_mode(body, borrow)).mode
    kept = [
        figures
        for document in await body.views.scan(AUDITS, f"{borrow.name}/", 256)
        if document.key.rpartition("/")[0] == borrow.name
        and (figures := msgspec.json.decode(document.data or b"", type=Figures)).mode == mode
    ]
    if not kept:
        return None
    sums = {
        name: sum(getattr(each, name) for each in kept)
        for name in ("checked", "changed", "missing", "invented", "repaired", "in_flight")
    }
    return {"at": min(each.at for each in kept), **sums}


async def keep_auditing(body: Body, borrow: Borrow[Any], every_s: float, held: frozenset[int]) -> None:
    """Compare the copy now and then, until cancelled; the first time after a part of the time, not all at once."""
    await at_times(every_s, lambda: audit_copy(body, borrow, held))


async def at_times(every_s: float, work: Callable[[], Awaitable[object]]) -> None:
    """Do the work about every so many seconds, at times that differ between workers; what fails is left to the next."""
    pause = every_s * random.random()  # noqa: S311 - not a secret
    while True:
        await asyncio.sleep(pause)
        try:
            await work()
        except Unavailable as error:
            logger.info("an audit has to wait: %s", error)
        pause = every_s * random.uniform(2 - LATE, LATE)  # noqa: S311 - not a secret
