"""A service as the owner of its own events and shares."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from chimera.core.aio.resources import Resources
from chimera.core.aio.turns import Turns
from chimera.core.clock import Clock
from chimera.core.keys.subjects import SubjectKeys
from chimera.core.names import looked_through
from chimera.core.tables import Progress, ReportedConsumer, SharedKey, StoredEpoch
from chimera.entities import table_of
from chimera.errors import Conflict, Invalid, Unavailable
from chimera.messages import Message, position_of
from chimera.ports import BucketDigest, ConsumerAt, Entry, Epoch, Fetched, KnownKey, Owner, Store
from chimera.reads import Reads
from chimera.service import Service
from chimera.share.changes import shared_documents
from chimera.share.digests import BUCKETS, BucketSum, bucket_of

logger = logging.getLogger("chimera")

LOOK = 8
"""Buckets that are read at once."""

MOST_REPORTED = 10_000
"""Consumers of one other service, by partition, that are kept: whoever makes up names keeps no other service out."""
MOST_OF_ALL = 100_000
"""Consumers of all other services that are kept: nobody fills a table."""


class OwnStore:
    """A service's own store as its `Owner`: no network in between."""

    def __init__(
        self,
        service: Service,
        store: Store,
        clock: Clock,
        resources: Resources | None = None,
        keys: SubjectKeys | None = None,
    ) -> None:
        self.keys = keys
        self._resources = resources or Resources(service)
        self._service = service
        self._store = store
        self._clock = clock

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        self._check(share)
        async with self._store.snapshot() as session:
            heads = await session.heads()
            reads = Reads(self._service, session)
            documents = await shared_documents(self._resources.calling, self._service.shares[share], reads, keys)
        return Fetched(documents, {key: position_of(self._service.name, key, heads) for key in keys})

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        return await bucket_digests(self, share, partition)

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        self._check(share)
        keys, progress = table_of(SharedKey), table_of(Progress)
        wanted: dict[str, list[object]] = {"share": [share], "partition": [partition], "bucket": list(buckets)}
        async with self._store.snapshot() as session:
            if not await session.load(progress, [(looked_through(share), self._service.name, partition)]):
                raise Unavailable(
                    f"{self._service.name} has not looked through partition {partition} for {share!r} yet; "
                    "its write head does that"
                )
            rows = await session.find(keys, wanted)
        return {row.key: Entry(row.number, row.digest) for row in map(keys.from_row, rows)}

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return await self._store.journal(partition, after, limit)

    async def heads(self) -> Mapping[int, int]:
        return await self._store.heads()

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        return await self._store.chain(at)

    async def epochs(self) -> Sequence[Epoch]:
        table = table_of(StoredEpoch)
        async with self._store.snapshot(once=True) as session:
            rows: list[StoredEpoch] = list(map(table.from_row, await session.find(table, {})))
        return [Epoch(each.partition, each.number, each.chain, each.offset) for each in rows]

    async def report(self, consumers: Sequence[ConsumerAt]) -> None:
        """Raises Invalid for a number that the journal does not have, and for more consumers than are kept."""
        table, seen, heads = table_of(ReportedConsumer), self._clock.now(), await self.heads()
        for each in consumers:
            if not 0 <= each.number <= heads.get(each.partition, -1):
                raise Invalid(
                    f"{each.consumer[:64]!r} can't have number {each.number} of partition {each.partition}: "
                    f"the journal ends at {heads.get(each.partition, 'none such')}",
                    field="$.consumers",
                    status=409,
                )
        rows = [
            table.to_row(ReportedConsumer(each.consumer, each.partition, each.number, each.offset, seen))
            for each in consumers
        ]
        try:
            async with self._store.transaction() as session:
                new = len(rows) - len(await session.load(table, list(map(table.key_of, rows))))
                if new > 0:
                    _check_room(map(table.from_row, await session.find(table, {})), consumers, new)
                await session.save(table, rows)
        except Conflict as error:
            raise Unavailable(f"somebody else told the same: {error}") from error

    async def subject_keys(self, subjects: Sequence[str]) -> Mapping[str, KnownKey]:
        if self.keys is None:
            raise Unavailable(f"{self._service.name} tells no keys here")
        return await self.keys.of(subjects)

    async def close(self) -> None:
        """The store is closed by whoever opened it."""

    def _check(self, share: str) -> None:
        if share not in self._service.shares:
            raise Unavailable(f"{self._service.name} does not share {share!r}")


def _check_room(known: Iterable[ReportedConsumer], told: Sequence[ConsumerAt], new: int) -> None:
    """Raises Invalid where there is no room for so many new ones."""
    services = Counter(each.consumer.partition(" ")[0] for each in known)
    most = max(services[each.consumer.partition(" ")[0]] for each in told)
    if new + most > MOST_REPORTED or new + services.total() > MOST_OF_ALL:
        raise Invalid(f"{most:,} of its consumers are known already, by partition", field="$.consumers", status=409)


class OwnerBeside(OwnStore):
    """Another service of this process as an owner: what fails in its code is its failure, as it is over HTTP."""

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        try:
            return await super().fetch(share, keys)
        except Unavailable:
            raise
        except Exception as error:
            logger.exception("%s could not tell %s", self._service.name, share)
            raise Unavailable(f"{self._service.name} failed: {error!r}") from error


async def bucket_digests(owner: Owner, share: str, partition: int) -> dict[int, BucketDigest]:
    """As `Owner.digests`, from its entries."""
    sums: dict[int, BucketSum] = {}
    turns = Turns()
    for first in range(0, BUCKETS, LOOK):
        entries = await owner.entries(share, partition, range(first, first + LOOK))
        for key, entry in entries.items():
            if entry.digest:
                sums.setdefault(bucket_of(key), BucketSum()).add(key, entry.digest)
        await turns.after(items=len(entries))
    return {bucket: each.digest() for bucket, each in sums.items()}
