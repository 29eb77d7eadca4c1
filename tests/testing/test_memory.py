"""The in-memory twins keep the contracts."""

from collections.abc import AsyncIterator

import pytest

from chimera.errors import SettingsError, Unavailable
from chimera.testing.contracts import LogContract, StoreContract, ViewStoreContract
from chimera.testing.contracts.bank import emitted
from chimera.testing.memory import MemoryLog, MemoryOwner, MemoryStore, MemoryViews, open_engine


class TestMemoryLog(LogContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[MemoryLog]:
        log = MemoryLog()
        yield log
        await log.close()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[MemoryStore]:
        store = MemoryStore()
        yield store
        await store.close()


class TestMemoryViews(ViewStoreContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[MemoryViews]:
        views = MemoryViews()
        yield views
        await views.close()


async def test_an_owner_in_memory_answers_from_its_store_and_its_documents() -> None:
    store, documents = MemoryStore(), {"a": b"1"}
    await store.create([], 2)
    await emitted(store, 1, "a")
    [stored] = await store.journal(1, 0, 10)
    owner = MemoryOwner(store, {"clients": documents})
    documents["b"] = b"2"
    assert (await owner.fetch("clients", ["a", "b", "nobody"])).documents == {"a": b"1", "b": b"2"}
    assert await owner.heads() == {0: 0, 1: 1}
    assert list(await owner.journal(1, 0, 10)) == [stored]
    with pytest.raises(Unavailable, match="does not share 'gigs'; it shares: clients"):
        await owner.fetch("gigs", ["a"])


def test_each_url_in_memory_is_a_new_engine() -> None:
    assert open_engine("log", "memory://x") is not open_engine("log", "memory://x")
    assert isinstance(open_engine("store", "memory://x"), MemoryStore)
    assert isinstance(open_engine("views", "memory://x"), MemoryViews)
    with pytest.raises(SettingsError, match="memory://log"):
        open_engine("log", "redis://x")
