"""Views on a real engine, for one test at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from chimera.core.names import GENERATIONS, all_of, generation_name
from chimera.ports import ViewStore
from chimera.run.engines import open_engine
from tests.adapters.services import need_packages, url_of

GENERATIONS_TRIED = range(1, 5)


@asynccontextmanager
async def real_views(engine: str, view: str) -> AsyncIterator[ViewStore]:
    """A real engine's views, in a place of this process of the tests, with none of this view before and afterwards."""
    need_packages(engine)
    views: ViewStore = open_engine("views", _place_of(engine))
    try:
        await views.create()
        await _forget(views, view)
        yield views
        await _forget(views, view)
    finally:
        await views.close()


def _place_of(engine: str) -> str:
    name = f"chimera_views_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    url, _, options = url_of(engine).partition("?")
    settings: Sequence[str] = [options] if options else []
    if engine in ("mongodb", "mysql"):
        url = f"{url.rpartition('/')[0]}/{name}"
    elif engine == "postgresql":
        settings = [*settings, f"schema={name}"]
    return "?".join([url, "&".join(settings)] if settings else [url])


async def _forget(views: ViewStore, view: str) -> None:
    for name in (*(generation_name(view, number) for number in GENERATIONS_TRIED), GENERATIONS):
        await views.drop(name, all_of(name))
