"""The names of Chimera's own tables: prefixed in a new store, as they were in one of before, and moved when told to."""

from __future__ import annotations

import sqlite3
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chimera import SettingsError
from chimera.adapters.sqlite import SQLiteStore, open_engine
from chimera.ports import Checkpoint, Document, Move, Store, ViewStore
from chimera.testing.contracts.bank import PARTITIONS, TABLES, emitted, get, numbers, put
from tests.adapters.services import need_packages, unused, url_of

BARE = ("heads", "journal")
OF_VIEWS = ("documents", "checkpoints", "revisions")
FIXTURE = Path(__file__).parents[1] / "upgrade" / "written.tar.gz"


class Place(NamedTuple):
    """A database of a test's own. `rename` undoes what a store of before has not had."""

    url: str
    store: Callable[[str], Store]
    views: Callable[[str], ViewStore] | None
    run: Callable[..., Awaitable[Any]]
    option: str

    async def tables(self) -> set[str]:
        """The names of all tables."""
        return {name for (name,) in await self.run("tables")}


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    name = unused("own_tables")
    if request.param == "sqlite":

        async def on_sqlite(*statements: str) -> Any:
            if statements == ("tables",):
                statements = ("SELECT name FROM sqlite_master WHERE type = 'table'",)
            connection = sqlite3.connect(tmp_path / "store.db")
            rows = [connection.execute(each).fetchall() for each in statements][-1]
            connection.commit()
            connection.close()
            return rows

        def open_sqlite(url: str) -> Any:
            return open_engine("store", url)

        yield Place(f"sqlite:///{tmp_path / 'store.db'}", open_sqlite, None, on_sqlite, "?tables=chimera_")
    elif request.param == "postgresql":
        need_packages("postgresql")
        import asyncpg  # type: ignore[import-untyped]  # it ships no types

        from chimera.adapters.relational.postgresql import PostgreSQLStore, PostgreSQLViews

        async def on_postgresql(*statements: str) -> Any:
            connection = await asyncpg.connect(url_of("postgresql"), server_settings={"search_path": name})
            if statements == ("tables",):
                statements = (f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{name}'",)
            rows = [await connection.fetch(each) for each in statements][-1]
            await connection.close()
            return list(map(tuple, rows))

        await on_postgresql(f"CREATE SCHEMA {name}")
        url = f"{url_of('postgresql')}?schema={name}"
        yield Place(url, PostgreSQLStore, PostgreSQLViews, on_postgresql, "&tables=chimera_")
        await on_postgresql(f"DROP SCHEMA {name} CASCADE")
    else:
        need_packages("mysql")
        from chimera.adapters.relational.mysql import MySQLStore, MySQLViews
        from tests.adapters.test_mysql import administer

        async def on_mysql(*statements: str) -> Any:
            if statements == ("tables",):
                statements = (f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{name}'",)
            return await administer(f"USE {name}", *statements)

        await administer(f"CREATE DATABASE {name}")
        url = f"{url_of('mysql').rpartition('/')[0]}/{name}"
        yield Place(url, MySQLStore, MySQLViews, on_mysql, "?tables=chimera_")
        await administer(f"DROP DATABASE {name}")


def bare_names(tables: tuple[str, ...]) -> list[str]:
    """The SQL that makes a store as an earlier release has made it."""
    called = {"checkpoints": "chimera_view_checkpoints"}
    return [f"ALTER TABLE {called.get(table, f'chimera_{table}')} RENAME TO {table}" for table in tables]


async def opened(place: Place, option: str = "") -> Store:
    store = place.store(place.url + option)
    await store.create(TABLES, PARTITIONS)
    return store


async def goes_on(store: Store, number: int) -> None:
    """One more event is in the journal, and one more row."""
    assert (await store.heads())[0] == number
    await put(store, ("a", number, None))
    await emitted(store, 0, "a")
    assert await numbers(store, 0) == list(range(1, number + 2))
    assert (await store.heads())[0] == number + 1
    assert await get(store, "a") == ("a", number, None)
    assert sum((await store.types()).values()) == number + 1
    assert (await store.oldest())[0] == 1
    await store.close()


async def test_a_new_store_has_names_of_its_own_and_leaves_others_alone(place: Place) -> None:
    await place.run("CREATE TABLE journal (id int)", "CREATE TABLE documents (id int)")
    await goes_on(await opened(place), 0)
    await goes_on(await opened(place), 1)
    assert {"chimera_heads", "chimera_journal", "journal", "documents"} <= await place.tables()
    assert await place.run("SELECT * FROM journal") == []


async def test_a_store_of_before_stays_as_it_is_until_it_is_told_to_move(place: Place) -> None:
    await goes_on(await opened(place), 0)
    await place.run(*bare_names(BARE))
    await goes_on(await opened(place), 1)
    assert {"heads", "journal"} <= (before := await place.tables())
    assert not {"chimera_heads", "chimera_journal"} & before
    await goes_on(await opened(place, place.option), 2)
    assert await place.tables() == {"chimera_" + name if name in BARE else name for name in before}
    await goes_on(await opened(place, place.option), 3)
    await goes_on(await opened(place), 4)


async def test_views_of_before_stay_as_they_are_until_they_are_told_to_move(place: Place) -> None:
    if place.views is None:
        return  # views of SQLite are a file of their own
    for number, option in enumerate(("", "", place.option, "")):
        views = place.views(place.url + option)
        await views.create()
        move = Move("shop", 0, number, Checkpoint(number + 1))
        held = (await views.get("sales", ["a"])).get("a", Document("sales", "a", None))
        assert await views.write("sales", [held._replace(data=b"%d" % number)], [move]) > held.revision
        assert [each.data for each in await views.scan("sales")] == [b"%d" % number]
        assert (await views.checkpoints("sales"))["shop", 0].number == number + 1
        await views.close()
        if number == 0:
            await place.run(*bare_names(OF_VIEWS))
        assert ("documents" in await place.tables()) is (number < 2)
    views = place.views(place.url)
    await views.create()
    await views.drop("sales", ["sales"])
    assert await views.scan("sales") == []
    await views.close()


async def test_a_store_and_its_views_may_share_a_schema(place: Place) -> None:
    if place.views is None:
        return
    views = place.views(place.url)
    await views.create()
    await goes_on(await opened(place), 0)
    assert await views.write("sales", [Document("sales", "a", b"1")], [Move("shop", 0, 0, Checkpoint(1))])
    await views.close()


async def test_data_of_the_build_before_move(tmp_path: Path) -> None:
    with tarfile.open(FIXTURE) as written:
        written.extractall(tmp_path, filter="data")
    path = tmp_path / "shop.db"
    for prefix, name in ((None, "journal"), ("chimera_", "chimera_journal"), (None, "chimera_journal")):
        store = SQLiteStore(path, prefix)
        await store.create([], 4)
        heads = await store.heads()
        assert sum(heads.values()) > 0
        for partition, head in heads.items():
            assert len(await store.journal(partition, 0, 10_000)) == head
        await store.close()
        assert _has(path, name)


def _has(path: Path, table: str) -> bool:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    connection.close()
    return bool(found)


def test_another_prefix_is_refused_with_what_to_type() -> None:
    with pytest.raises(SettingsError, match="tables=mine_ is not known; tables=chimera_ renames"):
        open_engine("store", "sqlite:///a.db?tables=mine_")
