"""Owners as this process sees them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from chimera.errors import Unavailable
from chimera.messages import Message
from chimera.ports import Owner, Store
from chimera.service import Service
from chimera.sharing import shared_documents
from chimera.tasks import take_exception
from chimera.transaction import Reads


class OwnStore:
    """A service as the owner of its own events and shares: no network in between."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service = service
        self._store = store

    async def fetch(self, share: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        if share not in self._service.shares:
            raise Unavailable(f"{self._service.name} does not share {share!r}")
        async with self._store.snapshot() as session:
            return await shared_documents(self._service.shares[share], Reads(self._service, session), keys)

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        return await self._store.journal(partition, after, limit)

    async def heads(self) -> Mapping[int, int]:
        return await self._store.heads()

    async def close(self) -> None:
        """The store is closed by whoever opened it."""


class SharedHeads:
    """An owner's heads, asked for at most every `every_s` seconds however many in this process want them."""

    def __init__(self, owner: Owner, *, every_s: float = 0.5) -> None:
        self._owner = owner
        self._every_s = every_s
        self._asking: asyncio.Task[Mapping[int, int]] | None = None
        self._asked_at = float("-inf")

    async def __call__(self) -> Mapping[int, int]:
        """As `Owner.heads`, at most `every_s` old. Raises Unavailable."""
        if self._asking is None or time.monotonic() >= self._asked_at + self._every_s:
            self._asked_at = time.monotonic()
            self._asking = asyncio.ensure_future(self._owner.heads())
            self._asking.add_done_callback(take_exception)
        return await asyncio.shield(self._asking)
