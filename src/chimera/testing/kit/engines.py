"""The engines of a test: in memory, or those of a variable, in a place of their own that is taken away at the end."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from chimera.adapters.sqlite import SQLiteStore
from chimera.core.clock import Clock
from chimera.journal.checkpoints import again_on_conflict
from chimera.ports import Log, Store
from chimera.run.engines import open_engine
from chimera.service import Service
from chimera.testing.engines import OpenEngines
from chimera.testing.memory import MemoryStore, MemoryViews

STORE = "CHIMERA_TEST_STORE"
"""The variable that names the store of each service in tests: `postgresql://…/db?schema={test}-{service}`,
`mysql://…/{test}-{service}`, `sqlite:///{state}/{service}.db`."""
_PLACE = re.compile(r"\{(?:test|service|state)\}")
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
    test = f"t{uuid.uuid4().hex[:10]}"
    with tempfile.TemporaryDirectory(prefix="chimera-test-") as folder:
        if not named:
            store: Store = SQLiteStore(Path(folder) / f"{service.name}.db")
        else:
            places = {"{test}": test, "{service}": service.name, "{state}": folder}
            named = _PLACE.sub(lambda found: places[found[0]], named)
            store = open_engine("store", named)
        try:
            yield store
        finally:
            await _take_away(store, named, test)
            await store.close()


async def _take_away(store: Store, url: str, test: str) -> None:
    """Drop the schema or the database that has this test's name in its own; any other is somebody's."""
    schema, database = _SCHEMA.search(url), urlsplit(url).path.strip("/")
    if schema is not None and test in schema[1]:
        drop = f'DROP SCHEMA IF EXISTS "{schema[1]}" CASCADE'
    elif url.startswith(("mysql", "mariadb")) and test in database:
        drop = f"DROP DATABASE IF EXISTS `{database}`"
    else:
        return

    async def work() -> None:
        async with store.transaction() as session:
            await session.execute(drop)

    await again_on_conflict(work, Clock())
