"""An owner in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from chimera.errors import Unavailable
from chimera.messages import Message, position_of
from chimera.ports import (
    BucketDigest,
    ConsumerAt,
    Entry,
    Epoch,
    Fetched,
    Store,
)
from chimera.share.changes import shared_key
from chimera.share.owner import bucket_digests


class MemoryOwner:
    """An owner in this process: its journal is a store's, and what it shares is a dict that a test may change.

    `shares` holds documents as JSON, by share and key; `reported` is what consumers told, by name and partition;
    `began_anew` are its epochs.
    """

    def __init__(self, store: Store, shares: Mapping[str, Mapping[str, bytes]], name: str = "memory") -> None:
        self._name = name
        self._store = store
        self._shares = shares
        self.began_anew: list[Epoch] = []
        self.reported: dict[tuple[str, int], ConsumerAt] = {}

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        """Raises Unavailable for a share that this owner does not have."""
        self._check(share)
        heads, documents = await self._store.heads(), self._shares[share]
        positions = {key: position_of(self._name, key, heads) for key in keys}
        return Fetched({key: documents[key] for key in keys if key in documents}, positions)

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        return await bucket_digests(self, share, partition)

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        """The last entry of each key, as the journal has it; raises as `fetch`."""
        self._check(share)
        heads = await self._store.heads()
        if partition not in heads:
            raise Unavailable(f"this owner has no partition {partition}")
        events = await self._store.journal(partition, 0, heads[partition])
        changes = [shared_key(share, event) for event in events if event.type.endswith(f".share.{share}")]
        return {change.key: Entry(change.number, change.digest) for change in changes if change.bucket in buckets}

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return await self._store.journal(partition, after, limit)

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        return await self._store.chain(at)

    async def heads(self) -> Mapping[int, int]:
        return await self._store.heads()

    async def epochs(self) -> Sequence[Epoch]:
        return self.began_anew

    async def report(self, consumers: Sequence[ConsumerAt]) -> None:
        self.reported.update({(each.consumer, each.partition): each for each in consumers})

    async def close(self) -> None: ...

    def _check(self, share: str) -> None:
        if share not in self._shares:
            raise Unavailable(f"this owner does not share {share!r}; it shares: {', '.join(self._shares) or 'nothing'}")
