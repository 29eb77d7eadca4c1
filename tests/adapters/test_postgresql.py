"""PostgreSQL keeps the contracts, and what it promises beyond them."""

import asyncio
import itertools
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest

from chimera.adapters.relational import postgresql
from chimera.adapters.relational.postgresql import PostgreSQLStore, PostgreSQLViews
from chimera.errors import CutShort, SettingsError, Unavailable
from chimera.testing.contracts import StoreContract, ViewStoreContract
from chimera.testing.contracts.bank import ACCOUNTS, PARTITIONS, TABLES, crossed, emitted, get, put
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


async def test_a_database_that_is_read_only_for_a_while_takes_writes_as_soon_as_it_does_again(database: str) -> None:
    """Connections made meanwhile stay read-only; none of them is used again. What is tried meanwhile has not failed."""
    name, store = database.rpartition("/")[2].partition("?")[0], PostgreSQLStore(database)
    await put(store, ("a", 1, None))
    await administer(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    for at in range(3):
        with suppress(Unavailable):
            await get(store, "a")
        with pytest.raises(Unavailable) as told:
            await put_one(store, f"b{at}")
        assert not isinstance(told.value, CutShort) or at == 0
    assert await get(store, "a") == ("a", 1, None)
    await administer(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    with suppress(Unavailable):
        await put_one(store, "c")
    await asyncio.gather(*(put_one(store, f"d{at}") for at in range(8)))
    await store.close()


async def test_sql_that_writes_where_it_may_only_read_is_the_callers_mistake(url: str) -> None:
    """The server is in service, and so are its connections."""
    store = PostgreSQLStore(url)
    await put(store, ("a", 1, None))
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with store.snapshot() as session:
            await session.execute("DELETE FROM contract_accounts")
    assert await get(store, "a") == ("a", 1, None)
    await store.close()


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_isolation = 'repeatable read'",
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'SQL, DMY'",
        "client_encoding = 'LATIN1'",
        "standard_conforming_strings = off",
        "lock_timeout = 1",
        "statement_timeout = 1",
        "search_path = 'nowhere'",
    ],
)
async def test_a_server_with_other_defaults_is_worked_with(database: str, setting: str) -> None:
    name = database.rpartition("/")[2].partition("?")[0]
    await administer(f"ALTER DATABASE {name} SET {setting}")
    store = PostgreSQLStore(database)
    await store.create([*TABLES, THING], PARTITIONS)
    await save(store, THING, ("a", NOON))
    await crossed(store)
    async with store.snapshot() as session:
        assert await session.find(THING, {}) == [("a", NOON, None)] or await session.find(THING, {})
    await store.close()


async def test_a_database_that_can_not_hold_all_text_is_refused_with_what_to_do_in_a_line() -> None:
    name, (server, _, options) = f"{next(_schemas)}_latin", url_of("postgresql").partition("?")
    await administer(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    store = PostgreSQLStore(f"{server.rpartition('/')[0]}/{name}?{options}")
    with pytest.raises(SettingsError, match=r"LATIN1, which can't hold all text; .* CREATE DATABASE"):
        await store.create([THING], 2)
    await administer(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def pooled(database: str, folder: Path, mode: str, **settings: str) -> AsyncIterator[str]:
    """The URL of a database behind a PgBouncer."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed; run: apt-get install pgbouncer")
    server, port = urlsplit(database), free_port()
    config = {"listen_addr": "127.0.0.1", "listen_port": port, "auth_type": "any", "pool_mode": mode, **settings}
    login = f"host={server.hostname} port={server.port} user={server.username} password={server.password}"
    lines = [f"[databases]\n* = {login}\n[pgbouncer]", *(f"{name} = {value}" for name, value in config.items())]
    (folder / "pgbouncer.ini").write_text("\n".join([*lines, "unix_socket_dir =\n"]))
    for path in (folder, *folder.parents[:2], folder / "pgbouncer.ini"):
        path.chmod(path.stat().st_mode | 0o055)
    user = ("-u", "nobody") if os.geteuid() == 0 else ()
    process = await asyncio.create_subprocess_exec(program, "-q", *user, str(folder / "pgbouncer.ini"))
    try:
        await until_open(port)
        yield f"postgresql://chimera@127.0.0.1:{port}{server.path}"
    finally:
        process.terminate()
        await process.wait()


async def test_a_pooler_that_gives_each_transaction_another_session_is_refused_in_a_line(
    database: str, tmp_path: Path
) -> None:
    """PgBouncer in transaction mode, whether it passes over the settings that it does not know or not."""
    for settings in ({}, {"ignore_startup_parameters": ", ".join(IGNORED)}):
        async with pooled(database, tmp_path, "transaction", **settings) as url:
            for engine in (PostgreSQLStore(url), PostgreSQLViews(url)):
                with pytest.raises(SettingsError, match="another session") as told:
                    await (engine.create([THING], 2) if isinstance(engine, PostgreSQLStore) else engine.create())
                assert "pool_mode = session" in str(told.value)
                assert "\n" not in str(told.value)
                await engine.close()


async def test_a_pooler_that_keeps_sessions_is_worked_with(database: str, tmp_path: Path) -> None:
    """PgBouncer in session mode: a schema of one's own, transactions that cross each other, time in UTC."""
    for number, settings in enumerate(({}, {"ignore_startup_parameters": ", ".join(IGNORED)})):
        async with pooled(database, tmp_path, "session", **settings) as url:
            store = PostgreSQLStore(f"{url}?schema=pooled{number}&pool=4&deadlock_timeout=20")
            await crossed(store)
            async with store.snapshot() as session:
                [(path, zone)] = await session.execute("SELECT current_schema(), current_setting('TimeZone')")
            assert (path, zone) == (f"pooled{number}", "UTC")
            await store.close()


IGNORED = (
    "extra_float_digits",
    "search_path",
    "jit",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
    "random_page_cost",
    "enable_seqscan",
    "plan_cache_mode",
    "deadlock_timeout",
)


async def put_one(store: PostgreSQLStore, name: str) -> None:
    async with store.transaction() as tx:
        await tx.save(ACCOUNTS, [(name, 1, None)])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def until_open(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
