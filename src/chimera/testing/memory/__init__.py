"""In-memory twins of the ports: the same behaviour as a real engine, gone with the process."""

from __future__ import annotations

from typing import Literal

from chimera.errors import SettingsError
from chimera.ports import Log, Store, ViewStore
from chimera.testing.memory.log import MemoryLog
from chimera.testing.memory.owner import MemoryOwner
from chimera.testing.memory.store import Changes, MemoryStore, MemoryWriteSession, StoreState
from chimera.testing.memory.views import MemoryViews, ViewsState

__all__ = [
    "Changes",
    "MemoryLog",
    "MemoryOwner",
    "MemoryStore",
    "MemoryViews",
    "MemoryWriteSession",
    "StoreState",
    "ViewsState",
    "open_engine",
]


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log | Store | ViewStore:
    """A new engine for `memory://name`; the name is only for people. Raises SettingsError for another URL."""
    if not url.startswith("memory://"):
        raise SettingsError(f"{url!r} is not an address in memory; one looks like memory://{kind}")
    match kind:
        case "log":
            return MemoryLog()
        case "store":
            return MemoryStore()
        case "views":
            return MemoryViews()
