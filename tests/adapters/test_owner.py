"""A service as an owner, seen from inside its process, over HTTP, and as its in-memory twin."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from chimera.adapters.http import HttpOwner
from chimera.core.context import Context
from chimera.core.tables import ReportedConsumer
from chimera.errors import Invalid, Unavailable
from chimera.ports import ConsumerAt, Owner
from chimera.run.engines import context_of
from chimera.run.serving import listening
from chimera.share.owner import MOST_REPORTED, OwnStore
from chimera.testing.contracts import OwnerContract
from chimera.testing.contracts.owner import SHARE, Change, SharedNote, give_text, nobody_else, owner_service
from chimera.testing.engines import sqlite_engines
from chimera.testing.memory import MemoryOwner
from chimera.transaction import Pending, Unit
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.support import all_of


class TestOwnStore(OwnerContract):
    @pytest.fixture
    def engine(self, context: Context) -> Owner:
        return OwnStore(owner_service, context.store, context.clock)

    async def test_entries_are_unavailable_before_the_journal_was_looked_through(
        self, engine: Owner, change: Change
    ) -> None:
        await change("a", "text")
        with pytest.raises(Unavailable, match="not looked through partition 0"):
            await engine.entries(SHARE, 0, [0])
        with pytest.raises(Unavailable, match="not looked through partition 0"):
            await engine.digests(SHARE, 0)

    async def test_where_consumers_are_is_kept_with_the_time(self, engine: Owner, context: Context) -> None:
        await reported(engine, context)


class TestOwnStoreOnSQLite(TestOwnStore):
    @pytest.fixture
    async def context(self, tmp_path: Path) -> AsyncIterator[Context]:
        engines = sqlite_engines(tmp_path)
        context = context_of(owner_service, *engines, nobody_else)
        await context.prepare()
        yield context
        await context.owners.close()
        await engines.close()


async def reported(engine: Owner, context: Context) -> None:
    began = datetime.now(UTC)
    async with context.store.transaction() as session:
        unit = Unit(owner_service, session)
        unit.events += [Pending("contract.Happened", "key", n % 3, b"{}", "") for n in range(1500)]
        await unit.number()
    await engine.report([ConsumerAt(f"view {n}", n % 3, n // 3, n + 1) for n in range(1500)])
    await engine.report([ConsumerAt("view 7", 1, 70, 71)])
    rows = {row.consumer: row for row in await all_of(context.store, ReportedConsumer)}
    assert len(rows) == 1500
    assert (rows["view 7"].number, rows["view 7"].offset) == (70, 71)
    assert (rows["view 8"].partition, rows["view 8"].number, rows["view 8"].offset) == (2, 2, 9)
    assert all(began <= row.seen <= datetime.now(UTC) for row in rows.values())
    for wrong in (ConsumerAt("view 7", 1, 501, 71), ConsumerAt("view 7", 3, 0, 0)):  # it would trim what others need
        with pytest.raises((Invalid, Unavailable)):
            await engine.report([ConsumerAt("view 9", 0, 1, 1), wrong])
    for start in range(0, MOST_REPORTED, 1000):
        await engine.report([ConsumerAt(f"made up {start + n}", 0, 0, 0) for n in range(1000)])
    with pytest.raises((Invalid, Unavailable)):
        await engine.report([ConsumerAt("made one more", 0, 0, 0)])
    await engine.report([ConsumerAt("one more", 0, 0, 0)])  # no other service is kept out
    await engine.report([ConsumerAt("view 7", 1, 71, 72)])


class TestHttpOwner(OwnerContract):
    @pytest.fixture
    async def engine(self, context: Context) -> AsyncIterator[Owner]:
        async with listening(Site([ReadHead(context)]), "127.0.0.1", 0) as base:
            owner = HttpOwner(owner_service.name, base)
            yield owner
            await owner.close()

    async def test_where_consumers_are_is_kept_with_the_time(self, engine: Owner, context: Context) -> None:
        await reported(engine, context)

    async def test_entries_are_unavailable_before_the_journal_was_looked_through(
        self, engine: Owner, change: Change
    ) -> None:
        await change("a", "text")
        with pytest.raises(Unavailable, match="503"):
            await engine.entries(SHARE, 0, [0])

    async def test_what_can_not_be_a_consumer_is_refused(self, engine: Owner, context: Context) -> None:
        for wrong in (ConsumerAt("", 0, 0, 0), ConsumerAt("c", 3, 0, 0), ConsumerAt("c", 0, -1, 0)):
            with pytest.raises(Unavailable, match="422"):
                await engine.report([wrong])
        assert await all_of(context.store, ReportedConsumer) == []


class TestMemoryOwner(OwnerContract):
    @pytest.fixture
    def notes(self) -> dict[str, bytes]:
        return {}

    @pytest.fixture
    def engine(self, context: Context, notes: dict[str, bytes]) -> Owner:
        return MemoryOwner(context.store, {SHARE: notes}, owner_service.name)

    @pytest.fixture
    def change(self, context: Context, notes: dict[str, bytes]) -> Change:
        async def change(key: str, text: str | None) -> None:
            await give_text(context, key, text)
            notes.pop(key, None)
            if text is not None:
                notes[key] = msgspec.json.encode(SharedNote(key, text))

        return change
