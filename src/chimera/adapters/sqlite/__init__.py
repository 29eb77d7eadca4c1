"""SQLite behind the three ports: a file or a few, and no server. Several processes may use the same files."""

from __future__ import annotations

from typing import Literal

from chimera.adapters.rows import wanted_prefix
from chimera.adapters.sqlite.log import SQLiteLog
from chimera.adapters.sqlite.store import SQLiteStore
from chimera.adapters.sqlite.views import SQLiteViews
from chimera.errors import SettingsError
from chimera.ports import Log, Store, ViewStore

__all__ = ["SQLiteLog", "SQLiteStore", "SQLiteViews", "open_engine"]


def open_engine(kind: Literal["log", "store", "views"], url: str) -> Log | Store | ViewStore:
    """The engine of a URL: `sqlite:///relative/path` or `sqlite:////absolute/path`; for a log, a directory.

    `?tables=chimera_` behind a store's renames the tables of Chimera's own that an earlier release has made.
    Nothing is opened before the engine's `create`, which also makes missing directories. Raises SettingsError.
    """
    scheme, slashes, rest = url.partition(":///")
    path, _, query = rest.partition("?tables=")
    if scheme != "sqlite" or not slashes or not path:
        raise SettingsError(f"{url!r} is not an address of SQLite; one looks like sqlite:///data/{kind}.db")
    match kind:
        case "log":
            return SQLiteLog(path)
        case "store":
            return SQLiteStore(path, wanted_prefix({"tables": query} if query else {}, path))
        case "views":
            return SQLiteViews(path)
