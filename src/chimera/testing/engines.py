"""Engines for tests: in memory, or in files of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.ports import Log, Store, ViewStore
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews


class OpenEngines(NamedTuple):
    """A service's engines, open."""

    log: Log
    store: Store
    views: ViewStore

    async def close(self) -> None:
        """Close all of them."""
        for engine in self:
            await engine.close()


def memory_engines() -> OpenEngines:
    """Engines whose data are in this process."""
    return OpenEngines(MemoryLog(), MemoryStore(), MemoryViews())


def sqlite_engines(folder: Path) -> OpenEngines:
    """SQLite's engines, with their files in a folder."""
    return OpenEngines(SQLiteLog(folder / "log"), SQLiteStore(folder / "store.db"), SQLiteViews(folder / "views.db"))
