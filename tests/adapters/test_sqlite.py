"""SQLite keeps the contracts, and what it promises beyond them."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from chimera.adapters import sqlite
from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews, open_engine
from chimera.entities import Row
from chimera.errors import SettingsError, Unavailable
from chimera.ports import Document
from chimera.testing.contracts import LogContract, StoreContract, ViewStoreContract
from chimera.testing.contracts.suite import event
from tests.adapters.relational import NOON, NOTED, THING, Opened, SQLGuarantees, save


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/engine"


class TestSQLiteLog(Opened, LogContract):
    adapter = sqlite
    kind = "log"


class TestSQLiteStore(SQLGuarantees, StoreContract):
    adapter = sqlite


class TestSQLiteViews(Opened, ViewStoreContract):
    adapter = sqlite
    kind = "views"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "deep" / "er" / "store.db")
    await store.create([THING], 2)
    yield store
    await store.close()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SQLiteLog]:
    log = SQLiteLog(tmp_path / "log")
    await log.create("events", 2)
    yield log
    await log.close()


async def test_times_are_text_of_fixed_width_that_sql_can_compare(store: SQLiteStore) -> None:
    later = NOON + timedelta(microseconds=1)
    async with store.transaction() as tx:
        await tx.save(THING, [("a", NOON), ("b", later)])
    async with store.snapshot() as session:
        assert await session.execute("SELECT at FROM things WHERE at > ?", [NOON]) == [("2024-05-01T12:00:00.000001Z",)]
        assert await session.find(THING, {"at": [later.astimezone(timezone(timedelta(hours=5)))]}) == [("b", later)]


async def test_another_number_of_partitions_is_refused(store: SQLiteStore, log: SQLiteLog) -> None:
    with pytest.raises(SettingsError, match="has 2 partitions, not 3"):
        await store.create([THING], 3)
    with pytest.raises(SettingsError, match="has 2 partitions, and 8 are needed"):
        await log.create("events", 8)


async def test_a_file_locked_for_too_long_is_unavailable(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db", lock_s=0.02)
    await store.create([THING], 2)
    [(_, _, path)] = store._file.reader.run("PRAGMA database_list")
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match=r"store\.db: database is locked"):
        await _save(store, "a")
    locker.execute("COMMIT")
    locker.close()
    await _save(store, "a")
    await store.close()


async def test_a_full_disk_is_unavailable_and_nothing_of_the_transaction_is_kept(store: SQLiteStore) -> None:
    await store.create([NOTED], 2)
    assert store._file._writer is not None
    [(pages,)] = store._file._writer.run("PRAGMA page_count")
    store._file._writer.run(f"PRAGMA max_page_count = {pages}")

    async def go_on_after_it() -> None:
        async with store.transaction() as tx:
            await tx.save(NOTED, [("a", NOON, None)])
            with pytest.raises(Unavailable, match=r"store\.db: database or disk is full"):
                await tx.save(NOTED, [("b", NOON, "x" * 100_000)])
            with suppress(Unavailable):
                await tx.save(NOTED, [("c", NOON, None)])

    with pytest.raises(Unavailable, match=r"store\.db: the transaction was rolled back"):
        await go_on_after_it()
    async with store.snapshot() as session:
        assert await session.find(NOTED, {}) == []
    store._file._writer.run("PRAGMA max_page_count = 1000000")
    await _save(store, "a")


@pytest.mark.parametrize("kind", ["store", "views"])
async def test_a_file_that_can_not_be_opened_is_unavailable(tmp_path: Path, kind: str) -> None:
    engine = SQLiteStore(tmp_path) if kind == "store" else SQLiteViews(tmp_path)
    with pytest.raises(Unavailable, match=r"can't be opened|unable to open"):
        await (engine.create([], 1) if isinstance(engine, SQLiteStore) else engine.create())


async def test_an_engine_opens_its_file_at_create_and_never_again_after_it_was_closed(
    tmp_path: Path, store: SQLiteStore
) -> None:
    unopened = SQLiteStore(tmp_path / "other.db")
    with pytest.raises(Unavailable, match="is not open"):
        await _save(unopened, "a")
    assert not unopened._file.path.exists()
    await store.close()
    with pytest.raises(Unavailable, match="was closed"):
        await store.create([THING], 2)


async def test_no_more_readers_are_kept_open_than_a_bound(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "store.db", readers=3)
    await store.create([THING], 2)
    await _save(store, "a")
    opened: list[Any] = []
    async with AsyncExitStack() as stack:
        for _ in range(8):
            session: Any = await stack.enter_async_context(store.snapshot())
            opened.append(session)
            assert await session.load(THING, [("a",)])
    assert len(store._file._idle) == 3
    async with store.snapshot() as session:
        assert await session.load(THING, [("a",)])
        assert len(store._file._idle) == 2
    await store.close()


async def test_a_transaction_cancelled_while_it_commits_ends_before_the_next_begins(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = store._file._writer
    assert writer is not None
    run, committing, loop = writer.run, asyncio.Event(), asyncio.get_running_loop()

    def slowly(sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        if sql == "COMMIT":
            loop.call_soon_threadsafe(committing.set)
            time.sleep(0.05)
        return run(sql, parameters)

    monkeypatch.setattr(writer, "run", slowly)
    saving = asyncio.create_task(_save(store, "a"))
    await committing.wait()
    following = asyncio.create_task(_save(store, "b"))
    for _ in range(3):
        saving.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([saving, following])
    assert saving.cancelled()
    assert following.exception() is None
    async with store.snapshot() as session:
        assert [row[0] for row in await session.find(THING, {})] == ["a", "b"]


async def test_wrong_sql_is_an_error_of_its_own(store: SQLiteStore) -> None:
    async with store.snapshot() as session:
        with pytest.raises(sqlite3.OperationalError, match="syntax"):
            await session.execute("SELEC 1")
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await session.execute("DELETE FROM things")


async def test_a_store_and_views_may_share_a_file(tmp_path: Path) -> None:
    store, views = SQLiteStore(tmp_path / "one.db"), SQLiteViews(tmp_path / "one.db")
    await asyncio.gather(store.create([THING], 2), views.create())
    await asyncio.gather(
        *(_save(store, f"{at}") for at in range(20)),
        *(views.write("c", [Document("v", f"{at}", b"1")], []) for at in range(20)),
    )
    async with store.snapshot() as session:
        assert len(await session.find(THING, {})) == len(await views.scan("v")) == 20
    await store.close()
    await views.close()


async def test_a_partition_with_a_backlog_does_not_starve_another(log: SQLiteLog) -> None:
    await log.append("events", [event(0, number) for number in range(1, 101)] + [event(1, 1)])
    async with aclosing(log.read("events", {0: 0, 1: 0}, limit=10)) as batches:
        first = await anext(batches)
    assert len(first) == 10
    assert {record.message.partition for record in first} == {0, 1}


async def test_idle_readers_ask_the_file_nothing(log: SQLiteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = log._topic("events")
    looks, fetch = [], topic.fetch

    def counted(*arguments: Any) -> Any:
        looks.append(1)
        return fetch(*arguments)

    monkeypatch.setattr(topic, "fetch", counted)
    reading = [asyncio.ensure_future(anext(log.read("events", {0: 0}))) for _ in range(10)]
    await asyncio.wait(reading, timeout=0.2)
    assert len(looks) == 10
    await log.append("events", [event(0, 1)])
    assert [len(batch) for batch in await asyncio.gather(*reading)] == [1] * 10
    assert len(looks) == 20


async def test_an_append_in_this_process_wakes_readers_without_polling(tmp_path: Path) -> None:
    log = SQLiteLog(tmp_path / "log", wake_s=60)
    await log.create("events", 2)
    reading = asyncio.ensure_future(anext(log.read("events", {0: 0})))
    await asyncio.sleep(0)
    await log.append("events", [event(0, 1)])
    assert len(await asyncio.wait_for(reading, 50)) == 1
    await log.close()


async def test_an_append_elsewhere_wakes_readers_by_the_bell(tmp_path: Path) -> None:
    log, other = SQLiteLog(tmp_path / "log", wake_s=60), SQLiteLog(tmp_path / "log")
    await log.create("events", 2)
    for number in range(1, 4):
        reading = asyncio.ensure_future(anext(log.read("events", {0: number - 1})))
        await asyncio.wait([reading], timeout=0.02)
        await other.append("events", [event(0, number)])
        assert len(await asyncio.wait_for(reading, 50)) == 1
    for each in (log, other):
        await each.close()


async def test_a_topic_that_another_engine_created_is_found_by_its_name(tmp_path: Path, log: SQLiteLog) -> None:
    await log.append("events", [event(1, 1)])
    other = SQLiteLog(tmp_path / "log")
    assert await other.ends("events") == {0: 0, 1: 1}
    with pytest.raises(Unavailable, match=r"no topic in .*missing\.db"):
        await other.ends("missing")
    with pytest.raises(SettingsError, match="can't name a topic"):
        await other.create("../events", 1)
    with pytest.raises(ValueError, match="has 2 partitions, no number 2"):
        await other.append("events", [event(2, 1)])
    await other.close()


async def test_engines_open_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store, views = open_engine("store", "sqlite:///data/store.db"), open_engine("views", f"sqlite:///{tmp_path}/v.db")
    assert isinstance(store, SQLiteStore)
    assert isinstance(views, SQLiteViews)
    assert isinstance(open_engine("log", "sqlite:///log"), SQLiteLog)
    assert not store._file.path.parent.exists()
    await store.create([], 1)
    await views.create()
    assert store._file.path.absolute() == tmp_path / "data" / "store.db"
    assert views._file.path == tmp_path / "v.db"
    await store.close()
    await views.close()
    with pytest.raises(SettingsError, match=r"sqlite:///data/store\.db"):
        open_engine("store", "sqlite://store.db")


async def _save(store: SQLiteStore, thing_id: str) -> None:
    await save(store, THING, (thing_id, NOON))
