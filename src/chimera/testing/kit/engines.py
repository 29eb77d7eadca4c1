"""The engines of a test: in memory, or those of a variable, in a place of their own that is taken away at the end."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from chimera.adapters.sqlite import SQLiteStore
from chimera.ports import Log, Store
from chimera.run.engines import open_engine
from chimera.service import Service
from chimera.testing.engines import OpenEngines
from chimera.testing.memory import MemoryStore, MemoryViews

STORE = "CHIMERA_TEST_STORE"
"""The variable that names the store of each service in tests, such as `postgresql://…/db?schema={test}-{service}`."""
_SCHEMA = re.compile(r"[?&]schema=([^&]+)")


@asynccontextmanager
async def engines_of(service: Service, log: Log) -> AsyncIterator[OpenEngines]:
    """A service's engines: its store in memory, in SQLite where the service has SQL of its own, or as `STORE` says."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(_store(service))
        views = MemoryViews()
        stack.push_async_callback(views.close)
        yield OpenEngines(log, store, views)


@asynccontextmanager
async def _store(service: Service) -> AsyncIterator[Store]:
    named = os.environ.get(STORE, "")
    if not named and not service.statements:
        yield MemoryStore()
        return
    with tempfile.TemporaryDirectory(prefix="chimera-test-") as folder:
        if not named:
            store: Store = SQLiteStore(Path(folder) / f"{service.name}.db")
        else:
            test = f"t{uuid.uuid4().hex[:10]}"
            named = named.replace("{test}", test).replace("{service}", service.name).replace("{state}", folder)
            store = open_engine("store", named)
        try:
            yield store
        finally:
            await _take_away(store, named)
            await store.close()


async def _take_away(store: Store, url: str) -> None:
    schema = _SCHEMA.search(url)
    if schema is not None:
        async with store.transaction() as session:
            await session.execute(f'DROP SCHEMA IF EXISTS "{schema[1]}" CASCADE')
