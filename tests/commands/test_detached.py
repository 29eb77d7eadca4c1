"""A transaction that holds nothing while it waits keeps the contract of every other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from chimera.commands.apart.detached import detached
from chimera.ports import Store, WriteSession
from chimera.testing.broken import WrappedStore
from chimera.testing.contracts import StoreContract
from chimera.testing.contracts.bank import PARTITIONS, TABLES
from chimera.testing.memory import MemoryStore


class DetachedStore(WrappedStore):
    """A store whose transactions are all of this kind."""

    def __init__(self, store: Store, idle_s: float) -> None:
        super().__init__(store)
        self._idle_s = idle_s
        self._room = asyncio.Semaphore(100)

    def transaction(self) -> AbstractAsyncContextManager[WriteSession]:
        return detached(self._store, self._room, self._idle_s)


@asynccontextmanager
async def opened(idle_s: float) -> AsyncIterator[Store]:
    store = DetachedStore(MemoryStore(), idle_s)
    await store.create(TABLES, PARTITIONS)
    yield store
    await store.close()


class TestDetachedTransactions(StoreContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Store]:
        async with opened(0.005) as store:
            yield store
