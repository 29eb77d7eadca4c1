"""A service as an owner, seen from inside its process, over HTTP, and as its in-memory twin."""

from datetime import UTC, datetime

import msgspec
import pytest

from chimera.adapters.http import HttpOwner
from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.body import Body
from chimera.errors import Unavailable
from chimera.owners import OwnStore
from chimera.ports import ConsumerAt
from chimera.read_head import ReadHead
from chimera.records import Known
from chimera.serving import listening
from chimera.testing.contracts import OwnerContract
from chimera.testing.contracts.owner import SHARE, Note, nobody_else, owner_service
from chimera.testing.memory import MemoryOwner
from chimera.web.site import Site
from tests.support import all_of


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

    async def test_where_consumers_are_is_kept_with_the_time(self, engine, body):
        await reported(engine, body)


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


async def reported(engine, body):
    began = datetime.now(UTC)
    await engine.report([ConsumerAt(f"view {n}", n % 3, n, n + 1) for n in range(1500)])
    await engine.report([ConsumerAt("view 7", 1, 70, 71)])
    rows = {row.consumer: row for row in await all_of(body.store, Known)}
    assert len(rows) == 1500
    assert (rows["view 7"].number, rows["view 7"].offset) == (70, 71)
    assert (rows["view 8"].partition, rows["view 8"].number, rows["view 8"].offset) == (2, 8, 9)
    assert all(began <= row.seen <= datetime.now(UTC) for row in rows.values())


class TestHttpOwner(OwnerContract):
    @pytest.fixture
    async def engine(self, body):
        async with listening(Site([ReadHead(body)]), "127.0.0.1", 0) as base:
            owner = HttpOwner(owner_service.name, base)
            yield owner
            await owner.close()

    async def test_where_consumers_are_is_kept_with_the_time(self, engine, body):
        await reported(engine, body)

    async def test_entries_are_unavailable_before_the_journal_was_looked_through(self, engine, change):
        await change("a", "text")
        with pytest.raises(Unavailable, match="503"):
            await engine.entries(SHARE, 0, [0])

    async def test_what_can_not_be_a_consumer_is_refused(self, engine, body):
        for wrong in (ConsumerAt("", 0, 0, 0), ConsumerAt("c", 3, 0, 0), ConsumerAt("c", 0, -1, 0)):
            with pytest.raises(Unavailable, match="422"):
                await engine.report([wrong])
        assert await all_of(body.store, Known) == []


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
