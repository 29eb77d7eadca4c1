"""A service as an owner, seen from inside its process, over HTTP, and as its in-memory twin."""

import msgspec
import pytest

from chimera.adapters.http import HttpOwner
from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.body import Body
from chimera.errors import Unavailable
from chimera.owners import OwnStore
from chimera.read_head import ReadHead
from chimera.serving import listening
from chimera.testing.contracts import OwnerContract
from chimera.testing.contracts.owner import SHARE, Note, nobody_else, owner_service
from chimera.testing.memory import MemoryOwner
from chimera.web.site import Site


class TestOwnStore(OwnerContract):
    @pytest.fixture
    def engine(self, body):
        return OwnStore(owner_service, body.store)

    async def test_entries_are_unavailable_before_the_journal_was_looked_through(self, engine, change):
        await change("a", "text")
        with pytest.raises(Unavailable, match="not looked through partition 0"):
            await engine.entries(SHARE, 0, [0])
        with pytest.raises(Unavailable, match="not looked through partition 0"):
            await engine.digests(SHARE, 0)


class TestOwnStoreOnSQLite(TestOwnStore):
    @pytest.fixture
    async def body(self, tmp_path):
        log, store, views = SQLiteLog(tmp_path / "log"), SQLiteStore(tmp_path / "a.db"), SQLiteViews(tmp_path / "b.db")
        body = Body(owner_service, log=log, store=store, views=views, owner_of=nobody_else)
        await body.open()
        yield body
        await body.close()
        for engine in (log, store, views):
            await engine.close()


class TestHttpOwner(OwnerContract):
    @pytest.fixture
    async def engine(self, body):
        async with listening(Site([ReadHead(body)]), "127.0.0.1", 0) as base:
            owner = HttpOwner(owner_service.name, base)
            yield owner
            await owner.close()

    async def test_entries_are_unavailable_before_the_journal_was_looked_through(self, engine, change):
        await change("a", "text")
        with pytest.raises(Unavailable, match="503"):
            await engine.entries(SHARE, 0, [0])


class TestMemoryOwner(OwnerContract):
    @pytest.fixture
    def notes(self):
        return {}

    @pytest.fixture
    def engine(self, body, notes):
        return MemoryOwner(body.store, {SHARE: notes})

    @pytest.fixture
    def change(self, body, notes):
        change_at_owner = OwnerContract.change.__wrapped__(self, body)

        async def change(key, text):
            await change_at_owner(key, text)
            notes.pop(key, None)
            if text is not None:
                notes[key] = msgspec.json.encode(Note(key, text))

        return change
