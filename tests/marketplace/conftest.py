"""The marketplace's tests run on every engine that can be a service's source of truth."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import asyncpg
import msgspec
import pytest

from chimera import Event, Service, Transaction
from chimera.engines import open_engine
from chimera.entities import table_of
from chimera.folding import Folder
from chimera.ports import Store, WriteSession
from chimera.service import Fold
from chimera.transaction import Unit
from marketplace.gig_page.model import Gig
from marketplace.orders.model import Order
from marketplace.top_clients.model import Client
from marketplace.user_page.model import User
from tests.contract.services import url_of

ENGINES = ("sqlite", "postgresql", "mysql")
ENTITIES = (Order, Gig, Client, User)
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


class HandlersTransaction(Transaction):
    """A transaction that any service's handlers may use: keeps the events, and reads everything from the engine."""

    def __init__(self, session: WriteSession) -> None:
        service = Service("tests")
        for entity in ENTITIES:
            service.entity(entity)
        super().__init__(Unit(service, session), "command", "2025-05-04T23:59:00Z")
        self.emitted: list[Event] = []

    async def load(self, entity: type, *key: Any) -> Any:
        await self._flush()
        self._unit.rows.clear()
        return await super().load(entity, *key)

    def emit(self, event: Event) -> None:
        self.emitted.append(event)

    def new_id(self) -> str:
        return "made-1"


class _RolledBackError(Exception):
    """Ends a test's transaction."""


@pytest.fixture
async def tx(store: Store) -> AsyncIterator[HandlersTransaction]:
    await store.create([table_of(entity) for entity in ENTITIES], partitions=1)
    with suppress(_RolledBackError):
        async with store.transaction() as session:
            yield HandlersTransaction(session)
            raise _RolledBackError


def _folded(view: Fold[Any], key: str, *events: Event) -> Any:
    folder, document = Folder(view), None
    for event in events:
        step = folder.steps.get(event.wire_type())
        if step is None:
            continue
        decoded = step.decoder.decode(msgspec.json.encode(event))
        if key in folder.keys(step, decoded):
            document = folder.apply(step, document, key, decoded)
    return document


@pytest.fixture(scope="session")
def folded() -> Callable[..., Any]:
    """The document of one key after these events, each through the wire format."""
    return _folded
