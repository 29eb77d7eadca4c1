"""Owners as this process sees them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from chimera.coalesce import Coalescer
from chimera.digests import BUCKETS, BucketSum, bucket_of
from chimera.entities import table_of
from chimera.errors import Conflict, Unavailable
from chimera.messages import Message
from chimera.ports import BucketDigest, ConsumerAt, Entry, Owner, Store
from chimera.records import Known, Progress, SharedKey
from chimera.service import Service
from chimera.sharing import knows_every_key, shared_documents
from chimera.tasks import take_exception
from chimera.transaction import Reads

LOOK = 8
"""Buckets that are read in one turn of the event loop."""


class OwnStore:
    """A service as the owner of its own events and shares: no network in between."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service = service
        self._store = store

    async def fetch(self, share: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        self._check(share)
        async with self._store.snapshot() as session:
            return await shared_documents(self._service.shares[share], Reads(self._service, session), keys)

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        return await bucket_digests(self, share, partition)

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        self._check(share)
        keys, progress = table_of(SharedKey), table_of(Progress)
        wanted: dict[str, list[Any]] = {"share": [share], "partition": [partition], "bucket": list(buckets)}
        async with self._store.snapshot() as session:
            if not await session.load(progress, [(knows_every_key(share), self._service.name, partition)]):
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

    async def report(self, consumers: Sequence[ConsumerAt]) -> None:
        table, seen = table_of(Known), datetime.now(UTC)
        rows = [
            table.to_row(Known(each.consumer, each.partition, each.number, each.offset, seen)) for each in consumers
        ]
        try:
            async with self._store.transaction() as session:
                await session.save(table, rows)
        except Conflict as error:
            raise Unavailable(f"somebody else told the same: {error}") from error

    async def close(self) -> None:
        """The store is closed by whoever opened it."""

    def _check(self, share: str) -> None:
        if share not in self._service.shares:
            raise Unavailable(f"{self._service.name} does not share {share!r}")


async def bucket_digests(owner: Owner, share: str, partition: int) -> dict[int, BucketDigest]:
    """As `Owner.digests`, from its entries."""
    sums: dict[int, BucketSum] = {}
    for first in range(0, BUCKETS, LOOK):
        for key, entry in (await owner.entries(share, partition, range(first, first + LOOK))).items():
            if entry.digest:
                sums.setdefault(bucket_of(key), BucketSum()).add(key, entry.digest)
        await asyncio.sleep(0)
    return {bucket: each.digest() for bucket, each in sums.items()}


class SharedHeads:
    """An owner's heads, asked for at most every `every_s` seconds however many in this process want them."""

    def __init__(self, owner: Owner, *, every_s: float = 0.5) -> None:
        self._owner = owner
        self._every_s = every_s
        self._asking: asyncio.Future[Mapping[int, int]] | None = None
        self._asked_at = float("-inf")
        self._calls: Coalescer[None, Mapping[int, int]] = Coalescer(self._call)

    async def __call__(self) -> Mapping[int, int]:
        """As `Owner.heads`, at most `every_s` old. Raises Unavailable."""
        return (await self.dated())[1]

    async def dated(self) -> tuple[float, Mapping[int, int]]:
        """The heads, and when the owner was asked for them (monotonic seconds). Raises Unavailable."""
        if self._asking is None or time.monotonic() >= self._asked_at + self._every_s:
            self._asked_at = time.monotonic()
            self._asking = asyncio.ensure_future(self._owner.heads())
            self._asking.add_done_callback(take_exception)
        asked_at, asking = self._asked_at, self._asking
        return asked_at, await asyncio.shield(asking)

    async def anew(self) -> Mapping[int, int]:
        """The heads as the owner has them from now on: all who ask while a call is under way share the next one."""
        return await self._calls.submit(None)

    async def _call(self, callers: list[None]) -> Sequence[Mapping[int, int]]:
        return [await self._owner.heads()] * len(callers)
