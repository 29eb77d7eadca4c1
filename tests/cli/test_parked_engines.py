"""A try keeps nothing, and a retry keeps the order, on every engine that keeps parked work."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from chimera import Entity
from chimera.commands.handlers import commands_executor, parking_of
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.tables import Handled, Parked
from chimera.run.engines import open_engine
from chimera.testing.memory import MemoryLog
from chimera.upkeep.parked import Wanted, parked_keys, rehearse_key
from chimera.upkeep.status import parked_counts
from tests.adapters.services import IN_TURN, need_packages, url_of
from tests.support import (
    Bank,
    Deposit,
    Engines,
    Withdraw,
    accept,
    all_of,
    balances,
    consume,
    direct,
    journal_of,
    opened,
    project,
)

_names = (f"test_parked_{os.getpid()}_{number}" for number in itertools.count(1))
PAIRS: list[Any] = [("sqlite", "sqlite"), ("postgresql", "postgresql"), ("mysql", "mysql"), ("postgresql", "mongodb")]
PAIRS += [pytest.param(("postgresql", "redis"), marks=IN_TURN)]


async def own(engine: str, folder: Path) -> tuple[str, Callable[[], Awaitable[None]] | None]:
    """The URL of a place of this test's own, and what clears it away."""
    name = next(_names)
    if engine == "sqlite":
        return f"sqlite:///{folder}/{name}.db", None
    need_packages(engine)
    server = url_of(engine)
    if engine == "postgresql":
        return f"{server}{'&' if '?' in server else '?'}schema={name}", lambda: _drop_schema(name)
    if engine == "mysql":
        plain, question, options = server.partition("?")
        return f"{plain.rpartition('/')[0]}/{name}{question}{options}", lambda: _drop_database(name)
    if engine == "mongodb":
        url = urlsplit(server)._replace(path=f"/{name}").geturl()
        return url, lambda: _drop_mongodb(url, name)
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    return f"{server}{'&' if '?' in server else '?'}prefix={prefix}", lambda: _drop_prefix(prefix)


async def _drop_schema(name: str) -> None:
    from tests.adapters.test_postgresql import administer

    await administer(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


async def _drop_database(name: str) -> None:
    from tests.adapters.test_mysql import administer

    await administer(f"DROP DATABASE IF EXISTS {name}")


async def _drop_mongodb(url: str, name: str) -> None:
    from pymongo import AsyncMongoClient

    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(url) as client:
        await client.drop_database(name)


async def _drop_prefix(prefix: str) -> None:
    from chimera.adapters.redis import RedisViews

    sweeper = RedisViews(url_of("redis"), prefix=prefix)
    await sweeper._server.write(("UNLINK", "nothing", *await sweeper._server.read("KEYS", f"{prefix}:*")))
    await sweeper.close()


@pytest.fixture(params=PAIRS, ids="+".join)
async def real(request: pytest.FixtureRequest, bank: Bank, tmp_path: Path) -> AsyncIterator[Context]:
    store, views = [await own(engine, tmp_path) for engine in request.param]
    engines = Engines(MemoryLog(), open_engine("store", store[0]), open_engine("views", views[0]))
    yield await opened(bank.service, engines)
    await engines.close()
    for _, clear in (store, views):
        if clear is not None:
            await clear()


async def kept(context: Context) -> tuple[Any, ...]:
    entities: list[type[Entity]] = [*context.service.entities, Parked, Handled]
    tables = [await all_of(context.store, entity) for entity in entities]
    documents = [await context.views.scan(view) for view in ("balance", "balance.parked")]
    return tables, documents, await context.store.heads(), await journal_of(context.store)


async def test_a_try_keeps_nothing_and_a_retry_keeps_the_order(real: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    bank.failing_views.add("v")
    messages = await accept(real, Deposit("a", 5), Withdraw("a", 3), Withdraw("a", 3), Deposit("a", 1), Deposit("b", 1))
    await consume(real)
    await direct(real, Deposit("v", 1), Deposit("v", 2))
    await project(real, bank.balance)
    assert await parked_counts(real) == {"commands": 4, "balance": 2}
    bank.failing.clear()
    bank.failing_views.clear()
    before = await kept(real)
    found = {key.first.consumer: await rehearse_key(real, key) for key in await parked_keys(real, Wanted())}
    assert [each.result for each in found["commands"]] == ["applied", "applied", "refused", "applied"]
    assert [each.id for each in found["commands"]] == [message.id for message in messages[:4]]
    assert [each.result for each in found["balance"]] == ["applied", "applied"]
    assert await kept(real) == before
    executor, parking = commands_executor(real), parking_of(real, COMMANDS)
    outcomes = await parking.redrive(executor, "a")
    assert [outcome.state for outcome in outcomes] == ["done", "done", "rejected", "done"]
    assert await balances(real) == {"a": 3, "b": 1, "v": 3}
    assert await parking.redrive(executor, "a") == []
    assert await parked_counts(real) == {"balance": 2}
