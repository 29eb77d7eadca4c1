"""The engines of a test: in memory, or those of a variable, in a place of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from chimera.ports import Log, Store
from chimera.run.engines import open_engine
from chimera.service import Service
from chimera.testing.engines import OpenEngines
from chimera.testing.kit.places import places
from chimera.testing.memory import MemoryStore, MemoryViews

STORE = "CHIMERA_TEST_STORE"
"""The variable that names the store of each service in tests: `postgresql://…/db?schema={test}-{service}`,
`mysql://…/{test}-{service}`, `sqlite:///{state}/{service}.db`."""
_FILE = "sqlite:///{state}/{service}.db"


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
    elif "{test}" in named:
        async with places().store(named, service) as store:
            yield store
    else:
        with tempfile.TemporaryDirectory(prefix="chimera-test-") as folder:
            url = (named or _FILE).replace("{state}", folder).replace("{service}", service.name)
            store = open_engine("store", url)
            try:
                yield store
            finally:
                await store.close()
