"""PostgreSQL keeps the contracts, and what it promises beyond them."""

import itertools
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from chimera.adapters.postgresql import PostgreSQLStore, PostgreSQLViews, open_engine
from chimera.errors import SettingsError
from chimera.testing.contracts import StoreContract, ViewStoreContract
from chimera.testing.contracts.bank import EVERYTHING
from tests.contract.relational import NOON, THING, RelationalGuarantees, save
from tests.contract.services import url_of

_schemas = (f"test_{os.getpid()}_{number}" for number in itertools.count(1))


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The URL of a schema of the test's own."""
    server, schema = url_of("postgresql"), next(_schemas)
    yield f"{server}{'&' if '?' in server else '?'}schema={schema}"
    connection = await asyncpg.connect(server)
    await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
    await connection.close()


@pytest.fixture
async def views(url: str) -> AsyncIterator[PostgreSQLViews]:
    views = PostgreSQLViews(url)
    yield views
    await views.close()


class TestPostgreSQLStore(StoreContract, RelationalGuarantees):
    def open(self, url: str) -> PostgreSQLStore:
        return PostgreSQLStore(url)

    async def hang_up(self, engine: Any) -> None:
        connection = await asyncpg.connect(url_of("postgresql"))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY ($1)",
            [each.get_server_pid() for each in _connections(engine)],
        )
        await connection.close()

    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], PostgreSQLStore]:
        return lambda: PostgreSQLStore(url)

    @pytest.fixture
    async def engine(self, reopen: Callable[[], PostgreSQLStore]) -> AsyncIterator[PostgreSQLStore]:
        store = reopen()
        yield store
        await store.close()


class TestPostgreSQLViews(ViewStoreContract):
    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], PostgreSQLViews]:
        return lambda: PostgreSQLViews(url)

    @pytest.fixture
    async def engine(self, reopen: Callable[[], PostgreSQLViews]) -> AsyncIterator[PostgreSQLViews]:
        views = reopen()
        yield views
        await views.close()


async def test_services_may_share_a_database_in_schemas_of_their_own(url: str) -> None:
    one, two = PostgreSQLStore(url), PostgreSQLStore(f"{url}_two")
    await one.create([THING], 2)
    await two.create([THING], 3)
    await save(one, THING, ("a", NOON))
    async with two.snapshot() as session:
        assert await session.find(THING, {}) == []
    async with two.transaction() as tx:
        await tx.execute(f'DROP SCHEMA "{url.rpartition("=")[2]}_two" CASCADE')
    await one.close()
    await two.close()


async def test_columns_have_types_that_sql_can_use(url: str) -> None:
    store = PostgreSQLStore(url)
    await store.create([EVERYTHING], 1)
    row = (1, "x", 0.5, True, b"\x00", datetime(2024, 5, 1, tzinfo=UTC), '["a",  "b"]', None, None, None)
    await save(store, EVERYTHING, row)
    async with store.snapshot() as session:
        assert await session.load(EVERYTHING, [(1,)]) == [row]
        assert await session.find(EVERYTHING, {"tags": ['["a",  "b"]'], "flag": [True]}) == [row]
        query = "SELECT tags->>1, date_trunc('month', moment) FROM contract_everything WHERE flag AND moment > $1"
        [found] = await session.execute(query, [datetime(2024, 4, 30, tzinfo=UTC)])
        assert found == ("b", datetime(2024, 5, 1, tzinfo=UTC))
    await store.close()


async def test_what_sql_sets_ends_with_the_session(url: str) -> None:
    store = PostgreSQLStore(f"{url}&pool=1")
    await store.create([THING], 1)
    async with store.transaction() as tx:
        await tx.execute("SET search_path = pg_catalog")
    await save(store, THING, ("a", NOON))
    await store.close()


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("store", "postgresql://db.example/shop", "db.example/shop' is no address"),
        ("views", "postgresql://me@:5432/shop", "is no address"),
        ("store", "postgresql://me:secret@db:port/shop", "'db:port/shop' is no address"),
        ("store", "postgresql://me:secret@db/shop?pool=none", "pool=none"),
        ("log", "postgresql://me:secret@db/shop", "PostgreSQL is no log"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(kind: Any, url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        open_engine(kind, url)
    assert "secret" not in str(refused.value)


async def test_engines_open_by_url(url: str) -> None:
    assert isinstance(open_engine("store", url), PostgreSQLStore)
    assert isinstance(open_engine("views", url), PostgreSQLViews)


def _connections(engine: Any) -> list[Any]:
    return list(engine._database.pool.opened)
