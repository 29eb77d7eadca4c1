"""What is committed in a schema of PostgreSQL is told to other processes, which ask for nothing meanwhile."""

from __future__ import annotations

import asyncio
import sys

import asyncpg  # type: ignore[import-untyped]  # it ships no types

from chimera.adapters.relational.postgresql import PostgreSQLStore, PostgreSQLViews
from chimera.ports import Document, wakes
from chimera.testing.contracts.suite import event
from chimera.testing.waiting import eventually
from tests.adapters.services import url_of
from tests.adapters.test_postgresql import url  # noqa: F401 - a fixture

OTHER = """
import asyncio, sys
from chimera.adapters.relational.postgresql import PostgreSQLStore, PostgreSQLViews
from chimera.ports import Document
from chimera.testing.contracts.suite import event
async def main():
    store, views = PostgreSQLStore(sys.argv[1]), PostgreSQLViews(sys.argv[1])
    await store.create([], 1)
    await views.create()
    store.listen(lambda: None)
    if sys.argv[2] == "store":
        async with store.transaction() as session:
            tip = (await session.hold([0]))[0]
            await session.append([event(0, tip.number + 1)])
    else:
        await views.write("c", [Document("v", sys.argv[2], b"{}")], [])
    await store.close()
    await views.close()
asyncio.run(main())
"""


async def other_process(url: str, what: str) -> None:  # noqa: F811
    assert await (await asyncio.create_subprocess_exec(sys.executable, "-c", OTHER, url, what)).wait() == 0


async def quiet(heard: list[str]) -> None:
    """Until what was under way has been heard."""
    while True:
        heard.clear()
        await asyncio.sleep(0.1)
        if not heard:
            return


async def test_a_commit_of_another_process_is_told(url: str) -> None:  # noqa: F811
    store, views, heard = PostgreSQLStore(url), PostgreSQLViews(url), list[str]()
    await store.create([], 1)
    await views.create()
    assert wakes(store)
    assert wakes(views)
    store.listen(lambda: heard.append("store"))
    await eventually(lambda: heard)
    await quiet(heard)
    await other_process(url, "store")
    await eventually(lambda: heard)
    views.listen(lambda: heard.append("views"))
    await quiet(heard)
    await other_process(url, "k")
    await eventually(lambda: "views" in heard)
    await store.close()
    await views.close()


async def test_who_commits_nothing_tells_nobody(url: str) -> None:  # noqa: F811
    stores, heard = [PostgreSQLStore(url), PostgreSQLStore(url)], list[str]()
    for store in stores:
        await store.create([], 1)
    stores[0].listen(lambda: heard.append("first"))
    stores[1].listen(lambda: heard.append("second"))
    await quiet(heard)
    async with stores[0].transaction() as session:
        await session.hold([0])
    assert heard == []
    async with stores[0].transaction() as session:
        await session.append([event(0, 1)])
    await eventually(lambda: heard)
    assert heard == ["second"]
    for store in stores:
        await store.close()


async def test_who_lost_the_connection_hears_when_it_is_back(url: str) -> None:  # noqa: F811
    store, heard = PostgreSQLStore(url), list[str]()
    await store.create([], 1)
    store.listen(lambda: heard.append("store"))
    await eventually(lambda: heard)
    await quiet(heard)
    connection = await asyncpg.connect(url_of("postgresql"))
    ended = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_notify%' AND pid <> $1",
        connection.get_server_pid(),
    )
    await connection.close()
    assert ended or heard == []
    async with store.transaction() as session:
        await session.append([event(0, 1)])
    await quiet(heard)
    await other_process(url, "store")
    await eventually(lambda: heard)
    await store.close()


async def test_a_document_that_was_not_written_is_not_told(url: str) -> None:  # noqa: F811
    views, others, heard = PostgreSQLViews(url), PostgreSQLViews(url), list[str]()
    for each in (views, others):
        await each.create()
    views.listen(lambda: heard.append("views"))
    await quiet(heard)
    assert await others.write("c", [Document("v", "k", b"{}", revision=7)], []) == 0
    assert heard == []
    assert await others.write("c", [Document("v", "k", b"{}")], [])
    await eventually(lambda: heard)
    assert heard == ["views"]
    await views.close()
    await others.close()
