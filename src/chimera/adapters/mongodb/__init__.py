"""MongoDB behind the port of views."""

from __future__ import annotations

from typing import Literal

from chimera.adapters.mongodb.views import MongoViews, public
from chimera.errors import SettingsError
from chimera.ports import ViewStore

__all__ = ["MongoViews", "open_engine"]


def open_engine(kind: Literal["log", "store", "views"], url: str) -> ViewStore:
    """The views of `mongodb://[user:password@]host:port/database`; options are MongoDB's. Raises SettingsError."""
    if kind != "views":
        raise SettingsError(f"{public(url)}: MongoDB can't be a {kind}; it can keep views")
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise SettingsError(f"{public(url)} is not an address of MongoDB; one looks like mongodb://host:27017/views")
    return MongoViews(url)
