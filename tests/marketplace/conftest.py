"""The marketplace's tests run on every engine that can be a service's source of truth."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncmy
import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest

from chimera.ports import Store
from chimera.run.engines import open_engine
from chimera.testing.kit.engines import STORE
from tests.adapters.services import url_of

ENGINES = ("sqlite", "postgresql", "mysql")
_databases = (f"market_{os.getpid()}_{number}" for number in itertools.count(1))


async def _on_postgresql(sql: str) -> None:
    connection = await asyncpg.connect(url_of("postgresql"))
    await connection.execute(sql)
    await connection.close()


async def _on_mysql(sql: str) -> None:
    server = urlsplit(url_of("mysql"))
    connection = await asyncmy.connect(
        host=server.hostname, port=server.port, user=server.username, password=server.password, autocommit=True
    )
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
    await connection.ensure_closed()


@pytest.fixture(scope="module", params=ENGINES)
def store_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty store of each engine, one for each module of tests."""
    database = next(_databases)
    match request.param:
        case "sqlite":
            yield f"sqlite:///{tmp_path_factory.mktemp(database)}/store.db"
        case "postgresql":
            server = url_of("postgresql")
            yield f"{server}{'&' if '?' in server else '?'}schema={database}"
            asyncio.run(_on_postgresql(f"DROP SCHEMA IF EXISTS {database} CASCADE"))
        case "mysql":
            # Nothing may rest on the character set that a database happens to have.
            asyncio.run(_on_mysql(f"CREATE DATABASE {database} CHARACTER SET latin1"))
            yield urlsplit(url_of("mysql"))._replace(path=f"/{database}").geturl()
            asyncio.run(_on_mysql(f"DROP DATABASE {database}"))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """The store itself; what tests commit to it stays until the end of the module."""
    store: Store = open_engine("store", store_url)
    yield store
    await store.close()


@pytest.fixture(params=ENGINES)
def on_every_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit's services keep their rows in each engine in turn, each in an empty store of its own."""
    match request.param:
        case "sqlite":
            url = "sqlite:///{state}/{service}.db"
        case "postgresql":
            server = url_of("postgresql")
            url = f"{server}{'&' if '?' in server else '?'}schema={{test}}-{{service}}"
        case "mysql":
            url = urlsplit(url_of("mysql"))._replace(path="/").geturl() + "{test}-{service}"
    monkeypatch.setenv(STORE, url)
