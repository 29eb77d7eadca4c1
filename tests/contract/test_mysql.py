"""MySQL and MariaDB keep the contracts, and what the adapter promises beyond them."""

import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import asyncmy
import pytest
from asyncmy.errors import MySQLError

from chimera.adapters import mysql
from chimera.adapters.mysql import MySQLStore, MySQLViews, open_engine
from chimera.adapters.relational import parse_address
from chimera.errors import SettingsError
from chimera.ports import Document
from chimera.testing.contracts import StoreContract, ViewStoreContract
from chimera.testing.contracts.bank import EVERYTHING, TABLES
from tests.contract.relational import NOON, THING, RelationalGuarantees, save
from tests.contract.services import url_of

_databases = (f"test_{os.getpid()}_{number}" for number in itertools.count(1))


async def administer(*statements: str) -> list[tuple]:
    address = parse_address(url_of("mysql"), "mysql", 3306)
    connection = await asyncmy.connect(
        host=address.host, port=address.port, user=address.user, password=address.password, autocommit=True
    )
    async with connection.cursor() as cursor:
        for statement in statements:
            await cursor.execute(statement)
        rows = list(await cursor.fetchall())
    await connection.ensure_closed()
    return rows


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The URL of a database of the test's own."""
    server, database = url_of("mysql"), next(_databases)
    await administer(f"CREATE DATABASE {database}")
    plain, question, options = server.partition("?")
    yield f"{plain.rpartition('/')[0]}/{database}{question}{options}"
    await administer(f"DROP DATABASE {database}")


@pytest.fixture
async def views(url: str) -> AsyncIterator[MySQLViews]:
    views = MySQLViews(url)
    yield views
    await views.close()


class TestMySQLStore(StoreContract, RelationalGuarantees):
    def open(self, url: str) -> MySQLStore:
        return MySQLStore(url)

    async def hang_up(self, engine: Any) -> None:
        for connection in engine._database.pool.opened:
            with suppress(MySQLError):
                await administer(f"KILL {connection.thread_id()}")

    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], MySQLStore]:
        return lambda: MySQLStore(url)

    @pytest.fixture
    async def engine(self, reopen: Callable[[], MySQLStore]) -> AsyncIterator[MySQLStore]:
        store = reopen()
        yield store
        await store.close()


class TestMySQLViews(ViewStoreContract):
    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], MySQLViews]:
        return lambda: MySQLViews(url)

    @pytest.fixture
    async def engine(self, reopen: Callable[[], MySQLViews]) -> AsyncIterator[MySQLViews]:
        views = reopen()
        yield views
        await views.close()


async def test_a_create_that_was_interrupted_is_taken_up_again(url: str) -> None:
    database = url.partition("?")[0].rpartition("/")[2]
    store, views = MySQLStore(url), MySQLViews(url)
    await store.create(TABLES, 2)
    await administer(f"DELETE FROM {database}.chimera_store_version", f"DROP TABLE {database}.heads")
    await store.create(TABLES, 2)
    assert dict(await store.heads()) == {0: 0, 1: 0}
    await administer(f"CREATE TABLE {database}.chimera_views_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    await views.create()
    assert await views.write("consumer", [Document("view", "key", b"1")], [])
    await store.close()
    await views.close()


async def test_an_index_that_is_there_already_is_passed_over(url: str) -> None:
    store = MySQLStore(url)
    for _ in range(2):
        await store.create([THING], 1, {"mysql": ["CREATE INDEX things_by_time ON things (at)"]})
    await store.close()


async def test_columns_have_types_that_sql_can_use(url: str) -> None:
    store = MySQLStore(url)
    await store.create([EVERYTHING], 1)
    row = (1, "x", 0.5, True, b"\x00", datetime(2024, 5, 1, tzinfo=UTC), '["a",  "b"]', None, None, None)
    await save(store, EVERYTHING, row)
    async with store.snapshot() as session:
        assert await session.load(EVERYTHING, [(1,)]) == [row]
        assert await session.find(EVERYTHING, {"tags": ['["a",  "b"]'], "flag": [True]}) == [row]
        query = "SELECT json_value(tags, '$[1]') FROM contract_everything WHERE flag AND moment > %s"
        assert await session.execute(query, [datetime(2024, 4, 30, tzinfo=UTC)]) == [("b",)]
    await store.close()


async def test_no_two_processes_give_the_same_revision(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql, "_REVISIONS", 3)
    engines = [MySQLViews(url) for _ in range(3)]
    for engine in engines:
        await engine.create()
    taken = [await engine._revision() for _ in range(7) for engine in engines]
    assert len(set(taken)) == 21
    assert min(taken) >= 1
    for engine in engines:
        await engine.close()


async def test_a_batch_larger_than_a_packet_is_written_in_parts(url: str) -> None:
    views = MySQLViews(url)
    await views.create()
    documents = [Document("view", f"{at}", b"'\\\x00" * 400_000) for at in range(12)]
    assert await views.write("consumer", documents, [])
    kept = await views.get("view", [each.key for each in documents])
    assert {key: each.data for key, each in kept.items()} == {each.key: each.data for each in documents}
    await views.close()


async def test_what_sql_sets_ends_with_the_session(url: str) -> None:
    store = MySQLStore(f"{url}?pool=1")
    await store.create([THING], 1)
    async with store.transaction() as tx:
        await tx.execute("SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    await save(store, THING, ("a\\'", NOON))
    await store.close()


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("store", "mysql://db.example/shop", "db.example/shop' is no address"),
        ("store", "mysql://me:secret@db:port/shop", "'db:port/shop' is no address"),
        ("store", "mysql://me:secret@db/shop?pool=none", "pool=none"),
        ("store", "mysql://me:secret@db/shop?colour=red", "unknown option colour"),
        ("views", "mysql://me:secret@db/shop?ssl_ca=/no/such/file", "ssl_ca"),
        ("log", "mysql://me:secret@db/shop", "MySQL is no log"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(kind: Any, url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        open_engine(kind, url)
    assert "secret" not in str(refused.value)


async def test_engines_open_by_url(url: str) -> None:
    assert isinstance(open_engine("store", url), MySQLStore)
    assert isinstance(open_engine("views", url), MySQLViews)
