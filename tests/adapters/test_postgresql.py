"""PostgreSQL keeps the contracts, and what it promises beyond them."""

import itertools
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest

from chimera.adapters.relational import postgresql
from chimera.adapters.relational.postgresql import PostgreSQLStore
from chimera.errors import SettingsError, Unavailable
from chimera.testing.contracts import StoreContract, ViewStoreContract
from chimera.testing.contracts.bank import ACCOUNTS, emitted, get, put
from tests.adapters.relational import (
    NOON,
    NOTED,
    THING,
    Opened,
    RelationalGuarantees,
    save,
    with_options,
)
from tests.adapters.services import url_of

_schemas = (f"test_{os.getpid()}_{number}" for number in itertools.count(1))


async def administer(statement: str, *parameters: Any) -> None:
    connection = await asyncpg.connect(url_of("postgresql"))
    await connection.fetch(statement, *parameters)
    await connection.close()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The URL of a schema of the test's own."""
    server, schema = url_of("postgresql"), next(_schemas)
    yield f"{server}{'&' if '?' in server else '?'}schema={schema}"
    await administer(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


class TestPostgreSQLStore(RelationalGuarantees, StoreContract):
    adapter = postgresql
    typed = (
        "SELECT tags->>1, date_trunc('month', moment) FROM contract_everything WHERE flag AND moment > $1",
        ("b", datetime(2024, 5, 1, tzinfo=UTC)),
    )
    unsettling = "SET search_path = pg_catalog"

    def open(self, url: str) -> PostgreSQLStore:
        """PostgreSQL looks for deadlocks after a second, which would make these tests slow."""
        return PostgreSQLStore(with_options(url, "deadlock_timeout=20"))

    async def hang_up(self, engine: Any) -> None:
        pids = [each.get_server_pid() for each in engine._database.pool.opened]
        await administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY ($1)", pids)

    async def test_a_connection_that_was_given_up_in_a_transaction_is_unavailable_too(self, engine: Any) -> None:
        await put(engine, ("a", 1, None))

        async def lose() -> None:
            async with engine.transaction() as tx:
                engine._database.pool.opened[0].terminate()
                await tx.save(ACCOUNTS, [("a", 2, None)])

        with pytest.raises(Unavailable):
            await lose()
        assert await get(engine, "a") == ("a", 1, None)

    def impatient(self, url: str) -> PostgreSQLStore:
        return PostgreSQLStore(url, wait_s=0.05, lock_s=0.05)


class TestPostgreSQLViews(Opened, ViewStoreContract):
    adapter = postgresql
    kind = "views"


@pytest.fixture
async def database() -> AsyncIterator[str]:
    """The URL of a database of the test's own."""
    name, (server, _, options) = f"{next(_schemas)}_database", url_of("postgresql").partition("?")
    await administer(f"CREATE DATABASE {name}")
    yield f"{server.rpartition('/')[0]}/{name}?{options}"
    await administer(f"DROP DATABASE {name} WITH (FORCE)")


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


async def test_a_schema_is_complete_though_public_has_tables_of_the_same_names(database: str) -> None:
    one, two = PostgreSQLStore(database), PostgreSQLStore(with_options(database, "schema=two"))
    for store in (one, two):
        await store.create([THING], 2)
    await emitted(one, 0, "a")
    assert dict(await two.heads()) == {0: 0, 1: 0}
    for store in (one, two):
        await store.close()


async def test_a_database_that_is_not_there_is_named_with_what_to_do_in_a_line(database: str) -> None:
    missing = database.replace("_database", "_missing")
    store = PostgreSQLStore(missing)
    with pytest.raises(SettingsError) as refused:
        await store.create([], 1)
    told, name = str(refused.value), missing.partition("?")[0].rpartition("/")[2]
    assert told.endswith(f'the database does not exist; create it: CREATE DATABASE "{name}"')
    assert "\n" not in told


async def test_who_may_not_make_a_schema_is_told_what_to_do_in_a_line(url: str) -> None:
    schema, place = url.rpartition("schema=")[2], url.rpartition("@")[2]
    await administer(f"CREATE USER {schema} PASSWORD 'hunter2'")
    store = PostgreSQLStore(f"postgresql://{schema}:hunter2@{place}")
    try:
        with pytest.raises(SettingsError) as refused:
            await store.create([], 1)
        told = str(refused.value)
        assert "hunter2" not in told
        assert "\n" not in told
        await administer(told.partition("run: ")[2])
        await store.create([], 1)
    finally:
        await store.close()
        await administer(f"DROP OWNED BY {schema} CASCADE")
        await administer(f"DROP USER {schema}")


async def test_creating_while_somebody_reads_the_table_for_too_long_is_unavailable(url: str) -> None:
    store, other = PostgreSQLStore(url), PostgreSQLStore(url, lock_s=0.05)
    await store.create([THING], 1)
    async with store.snapshot() as session:
        await session.find(THING, {})
        with pytest.raises(Unavailable, match="lock timeout"):
            await other.create([NOTED], 1)
    await other.create([NOTED], 1)
    for each in (store, other):
        await each.close()
