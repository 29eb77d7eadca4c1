"""MySQL and MariaDB keep the contracts, and what the adapter promises beyond them."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import asyncmy
import pytest
from asyncmy.connection import Connection, PreparedStatement
from asyncmy.errors import MySQLError, OperationalError

from chimera.adapters.relational import mysql
from chimera.adapters.relational.mysql import MySQLStore, MySQLViews, open_engine
from chimera.adapters.relational.mysql_server import padded, parts
from chimera.adapters.relational.pool import parse_address
from chimera.entities import Entity, table_of
from chimera.errors import CutShort, OutOfService, SettingsError, Unavailable
from chimera.ports import Document
from chimera.testing.contracts import StoreContract, ViewStoreContract
from chimera.testing.contracts.bank import ACCOUNTS, TABLES, emitted, get, put
from tests.adapters.relational import THING, Opened, RelationalGuarantees, with_options
from tests.adapters.services import url_of


class Awkward(Entity, key=("name", "number")):
    name: str
    number: int
    note: str
    data: bytes | None
    at: datetime | None
    share: float | None
    flag: bool | None


AWKWARD = table_of(Awkward)
NAMES = [
    *(
        "",
        " ",
        "a",
        "a ",
        "'",
        '"',
        "`",
        "\\",
        "\\'",
        '\\"',
        "''",
        "' OR 1=1 -- ",
        "'); DROP TABLE heads; -- ",
        "/*",
        "#",
    ),
    *("%", "%%", "%s", "%(name)s", "%d", "?", "{}", ":a", "@a", ";", "\0", "\0'", "\x1a", "\b\t\r\n", "NULL", "\u2028"),
    *("é", "e\u0301", "😀𝄞", "\\" * 255, "'" * 255, "𝄞" * 255),
]
VALUES: list[tuple[Any, ...]] = [
    (-(2**63), bytes(range(256)), datetime(1, 1, 1, tzinfo=UTC), 5e-324, True),
    (
        2**63 - 1,
        b"'\\\x00\"%s\xff\x80",
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        -1.7976931348623157e308,
        False,
    ),
    (0, b"", datetime(2024, 2, 29, 1, 2, 3, 40, tzinfo=UTC), 0.1, None),
    (1, None, None, None, None),
]
MODES = ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT"]

_databases = (f"test_{os.getpid()}_{number}" for number in itertools.count(1))


async def administer(*statements: str) -> list[tuple[Any, ...]]:
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
    await administer(f"DROP DATABASE IF EXISTS {database}")


class TestMySQLStore(RelationalGuarantees, StoreContract):
    adapter = mysql
    typed = ("SELECT json_value(tags, '$[1]') FROM contract_everything WHERE flag AND moment > %s", ("b",))
    unsettling = "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'"

    async def hang_up(self, engine: Any) -> None:
        for connection in engine._database.pool.opened:
            with suppress(MySQLError):
                await administer(f"KILL {connection.thread_id()}")

    async def test_the_server_ends_what_takes_longer_than_its_limit(self, url: str) -> None:
        """Before a handler's limit does, so that it is known for the statement's failure, and nobody else's."""
        store = self.open(with_options(url, "timeout=1"))
        await store.create([], 1)
        with pytest.raises(CutShort, match="max_statement_time"):
            async with store.transaction() as session, asyncio.timeout(8):
                await session.execute("SELECT SLEEP(20)")
        assert await store.heads() == {0: 0}
        await store.close()

    def impatient(self, url: str) -> MySQLStore:
        return MySQLStore(url, wait_s=0.05, lock_s=1)


class TestMySQLViews(Opened, ViewStoreContract):
    adapter = mysql
    kind = "views"


@pytest.mark.parametrize("kind", ["store", "views"])
async def test_a_database_that_is_not_there_is_made(url: str, kind: Any) -> None:
    database = database_of(url)
    await administer(f"DROP DATABASE {database}")
    engine = open_engine(kind, url)
    if isinstance(engine, MySQLStore):
        await engine.create(TABLES, 2)
    else:
        assert isinstance(engine, MySQLViews)
        await engine.create()
    [(collation,)] = await administer(
        f"SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = '{database}'"
    )
    assert collation in ("utf8mb4_nopad_bin", "utf8mb4_0900_bin")
    await engine.close()


async def test_who_may_not_make_a_database_is_told_what_to_do_in_a_line(url: str) -> None:
    user, place = database_of(url), url.rpartition("@")[2]
    await administer(f"CREATE USER {user} IDENTIFIED BY 'hunter2'")
    store = MySQLStore(f"mysql://{user}:hunter2@{place}")
    try:
        for there in (True, False):
            if not there:
                await administer(f"DROP DATABASE {user}")
            with pytest.raises(SettingsError) as refused:
                await store.create([], 1)
            told = str(refused.value)
            assert f"CREATE DATABASE IF NOT EXISTS `{user}` CHARACTER SET utf8mb4 COLLATE utf8mb4_" in told
            assert "hunter2" not in told
            assert "\n" not in told
        for statement in told.partition("run: ")[2].split("; "):
            await administer(statement)
        await store.create([], 1)
    finally:
        await administer(f"DROP USER {user}")
        await store.close()


async def test_a_key_longer_than_a_column_can_hold_is_refused_and_nothing_is_kept(url: str) -> None:
    store = MySQLStore(url)
    await put(store, ("k" * 255, 1, None))
    for rows in ([("a", 1, None), ("k" * 256, 1, None)], [("k" * 300, 1, None)]):
        with pytest.raises(ValueError, match="text in keys holds at most 255 characters on MySQL"):
            await put(store, *rows)
    with pytest.raises(ValueError, match="text in keys holds at most 255 characters on MySQL"):
        await emitted(store, 0, "a", "k" * 300)
    async with store.snapshot() as session:
        assert await session.find(ACCOUNTS, {}) == [("k" * 255, 1, None)]
        assert await session.load(ACCOUNTS, [("k" * 300,)]) == []
    assert (await store.heads())[0] == 0
    await store.close()


async def test_a_create_that_was_interrupted_is_taken_up_again(url: str) -> None:
    database = database_of(url)
    store, views = MySQLStore(url), MySQLViews(url)
    await store.create(TABLES, 2)
    await administer(f"DELETE FROM {database}.chimera_store_version", f"DROP TABLE {database}.chimera_heads")
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


async def test_no_two_processes_give_the_same_revision(url: str) -> None:
    engines = [MySQLViews(url, revisions=3) for _ in range(3)]
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


@pytest.mark.parametrize("mode", MODES)
async def test_every_value_is_kept_as_it_is_whatever_the_session_takes_for_sql(
    url: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written as SQL: the driver's own function for that is not even called."""
    store = MySQLStore(url)
    await store.create([AWKWARD], 1)
    monkeypatch.setattr(Connection, "literal", None)
    rows = sorted((name, number, name, *rest) for name in NAMES for number, *rest in VALUES)
    others = [(name, number, f"{note}'\\%s", *rest) for name, number, note, *rest in rows]
    keys = [AWKWARD.key_of(row) for row in rows]
    async with store.transaction() as tx:
        await tx.execute(f"SET SESSION sql_mode = 'STRICT_ALL_TABLES,{mode}'")
        assert await tx.load(AWKWARD, keys) == []
        await tx.save(AWKWARD, rows)
        assert await tx.load(AWKWARD, keys) == rows
        await tx.save(AWKWARD, others)
        assert await tx.find(AWKWARD, {"name": NAMES}) == others
        for at, field in enumerate(AWKWARD.columns):
            wanted = rows[-1][at] if field.name != "note" else others[-1][at]
            assert others[-1] in await tx.find(AWKWARD, {field.name: [wanted]})
        given = [value for row in others for value in row]
        told = await tx.execute(f"SELECT {', '.join(['%s'] * len(given))}, '100%%'", given)
        assert [*told[0]] == [
            value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in given
        ] + ["100%"]
    async with store.transaction() as tx:
        assert await tx.find(AWKWARD, {}) == others
        await tx.delete(AWKWARD, keys[1:])
        assert await tx.find(AWKWARD, {}) == others[:1]
    await store.close()


async def test_large_values_are_kept_as_they_are(url: str) -> None:
    store, views = MySQLStore(url), MySQLViews(url)
    await store.create([AWKWARD], 1)
    await views.create()
    large = [(f"{at}", at, "😀\\'" * 500_000, bytes(range(256)) * 5_000, None, None, None) for at in range(5)]
    async with store.transaction() as tx:
        await tx.save(AWKWARD, large)
    async with store.snapshot() as session:
        assert await session.find(AWKWARD, {}) == large
    assert await views.write("'\\", [Document("%s", name, name.encode()) for name in NAMES], [])
    assert {key: each.data for key, each in (await views.get("%s", NAMES)).items()} == {n: n.encode() for n in NAMES}
    await store.close()
    await views.close()


async def test_a_server_that_keeps_no_more_statements_prepared_is_written_to_all_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prepare(*_: Any) -> PreparedStatement:
        raise OperationalError(1461, "Can't create more than max_prepared_stmt_count statements")

    monkeypatch.setattr(Connection, "prepare", prepare)
    store = MySQLStore(url)
    rows = [(name, 1, name) for name in sorted(NAMES)]
    await put(store, *rows)
    async with store.snapshot() as session:
        assert await session.find(ACCOUNTS, {"nickname": NAMES}) == rows
    await store.close()


@pytest.mark.parametrize("number", [1243, 1615])
async def test_a_server_that_has_lost_a_statement_is_asked_again_on_a_new_connection(
    url: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def execute(*_: Any) -> None:
        monkeypatch.undo()
        raise OperationalError(number, "lost")

    store = MySQLStore(url)
    await put(store, ("a", 1, None))
    monkeypatch.setattr(PreparedStatement, "execute", execute)
    with pytest.raises(Unavailable, match="lost"):
        await put(store, ("a", 2, None))
    monkeypatch.setattr(PreparedStatement, "execute", execute)
    assert await store.journal(0, 0, 10) == []
    assert await get(store, "a") == ("a", 1, None)
    await store.close()


def test_few_statements_serve_any_number_of_rows() -> None:
    def sizes(rows: list[tuple[Any, ...]]) -> list[int]:
        made = list(parts(rows, parameters=20, text=20))
        assert [row for part in made for row in part] == rows
        return [len(part) for part in made]

    assert sizes([]) == []
    assert sizes([(at, None) for at in range(39)]) == [8, 8, 8, 8, 4, 2, 1]
    assert sizes([(at,) * 21 for at in range(3)]) == [1, 1, 1]
    assert sizes([("é" * length, b"") for length in (1, 9, 9, 9, 21, 0, 99)]) == [2, 2, 1, 1, 1]
    assert [len(padded(range(count))) for count in (0, 1, 2, 3, 5, 16, 17)] == [0, 1, 2, 4, 8, 16, 32]
    assert padded("abc") == ["a", "b", "c", "c"]


@pytest.mark.parametrize(
    ("options", "says"), [("colour=red", "unknown option colour"), ("ssl_ca=/no/such/file", "ssl_ca")]
)
def test_a_wrong_option_is_refused_without_the_password(options: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        open_engine("views", f"mysql://me:secret@db/shop?{options}")
    assert "secret" not in str(refused.value)


def database_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


async def test_a_connection_that_was_made_while_the_server_was_read_only_is_not_used_again(url: str) -> None:
    """What is tried on it has not failed: the engine was out of service."""
    store = MySQLStore(url)
    await put(store, ("a", 1, None))
    async with store._database.pool.connection() as connection:
        await store._database.execute(connection, "SET SESSION TRANSACTION READ ONLY")
    with pytest.raises(OutOfService):
        async with store.transaction() as tx:
            await tx.save(ACCOUNTS, [("b", 1, None)])
    async with store.transaction() as tx:
        await tx.save(ACCOUNTS, [("b", 1, None)])
    assert await get(store, "b") == ("b", 1, None)
    await store.close()


async def test_sql_that_writes_where_it_may_only_read_is_the_callers_mistake(url: str) -> None:
    store = MySQLStore(url)
    await put(store, ("a", 1, None))
    with pytest.raises(MySQLError, match="READ ONLY"):
        async with store.snapshot() as session:
            await session.execute("DELETE FROM contract_accounts")
    assert await get(store, "a") == ("a", 1, None)
    await store.close()


async def test_a_session_has_its_own_settings_whatever_the_servers_are(url: str) -> None:
    """Each of those that would change what statements do."""
    wanted = {
        "sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
        "time_zone": "+00:00",
        "tx_isolation": "READ-COMMITTED",
        "autocommit": 1,
        "character_set_client": "utf8mb4",
        "character_set_results": "utf8mb4",
        "completion_type": "NO_CHAIN",
        "sql_safe_updates": 0,
        "sql_auto_is_null": 0,
        "foreign_key_checks": 1,
    }
    store = MySQLStore(url)
    await store.create([THING], 2)
    async with store.snapshot(once=True) as session:
        [found] = await session.execute(f"SELECT {', '.join(f'@@SESSION.{name}' for name in wanted)}")
    assert dict(zip(wanted, found, strict=True)) == wanted
    await store.close()
