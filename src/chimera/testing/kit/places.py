"""Places for the rows of tests on a server: made once, emptied after each test, and taken away when Python ends."""

from __future__ import annotations

import asyncio
import atexit
import logging
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

from chimera.core.clock import Clock
from chimera.entities import Table, table_of
from chimera.journal.checkpoints import again_on_conflict
from chimera.ports import Store
from chimera.run.engines import open_engine
from chimera.service import Service

logger = logging.getLogger("chimera")

_SCHEMA = re.compile(r"[?&]schema=([^&]+)")
_FEW = 3
"""Connections of a store, where its URL does not say: each costs a test as much as all that it commits."""
_NEAR = ("127.0.0.1", "::1", "localhost")
_MOST = 32
"""Places that are kept for later tests."""
_TABLES = {
    "postgresql": "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()",
    "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
}
_OWN, _STAYS = "chimera_", re.compile(r"chimera_guards|chimera_\w+_version")


class _Shape(NamedTuple):
    """The tables that a place has, and for whom."""

    template: str
    service: str
    partitions: int
    tables: tuple[Table, ...]


class Places:
    """The schemas or databases of this process's tests that nobody works in, by their shape."""

    def __init__(self) -> None:
        self._free: dict[_Shape, list[str]] = {}

    @asynccontextmanager
    async def store(self, template: str, service: Service) -> AsyncIterator[Store]:
        """An empty store of a service, in a place whose URL has `{test}` in it."""
        tables = tuple(table_of(entity) for entity in service.entities)
        shape = _Shape(template, service.name, service.partitions, tables)
        url = self._free[shape].pop() if self._free.get(shape) else _new(template, service.name)
        store = open_engine("store", url)
        try:
            yield store
        finally:
            if _can_be_emptied(service) and self._has_room(shape) and await _emptied(store, shape):
                self._free.setdefault(shape, []).append(url)
            else:
                await _take_away(store, url)
            await store.close()

    async def take_away(self) -> None:
        """Take away all that nobody works in."""
        free, self._free = self._free, {}
        for url in [url for urls in free.values() for url in urls]:
            store = open_engine("store", url)
            try:
                await store.create([], 1)
                await _take_away(store, url)
            finally:
                await store.close()

    def _has_room(self, shape: _Shape) -> bool:
        return bool(self._free.get(shape)) or len(self._free) < _MOST


@cache
def places() -> Places:
    """Those of this process."""
    found = Places()
    atexit.register(_at_the_end, found)
    return found


def _at_the_end(found: Places) -> None:
    try:
        asyncio.run(found.take_away())
    except Exception as error:  # noqa: BLE001 - the tests are over, whatever it is
        logger.warning("what tests have made on their server stays there: %r", error)


def _new(template: str, service: str) -> str:
    url = template.replace("{test}", f"t{uuid.uuid4().hex[:10]}").replace("{service}", service)
    place = urlsplit(url)
    wanted = {"pool": f"{_FEW}"}
    if place.scheme == "postgresql" and place.hostname in _NEAR:
        wanted["sslmode"] = "allow"  # nobody listens between; a server that insists is given it
    added = [f"{name}={value}" for name, value in wanted.items() if f"{name}=" not in place.query]
    return place._replace(query="&".join(filter(None, [place.query, *added]))).geturl()


def _can_be_emptied(service: Service) -> bool:
    """Whether all that tests leave behind is rows: neither what SQL of its own made, nor numbers that go on."""
    columns = [column for entity in service.entities for column in table_of(entity).columns]
    return not service.statements and not any(column.sql for column in columns)


async def _emptied(store: Store, shape: _Shape) -> bool:
    """Delete all rows; says whether the place is as it was made."""
    made = {table.name for table in shape.tables}

    async def work() -> bool:
        async with store.transaction() as session:
            names = [name for (name,) in await session.execute(_TABLES[session.dialect])]
            if not all(name in made or name.startswith(_OWN) for name in names):
                return False
            for statement in _deleting([name for name in names if not _STAYS.fullmatch(name)], session.dialect):
                await session.execute(statement)
            return True

    return await again_on_conflict(work, Clock())


def _deleting(tables: Sequence[str], dialect: str) -> list[str]:
    if dialect == "mysql":
        return [f"DELETE FROM `{table}`" for table in tables]  # noqa: S608 - names that the database has told
    every = "; ".join(f'DELETE FROM "{table}"' for table in tables)  # noqa: S608
    return [f"DO $$ BEGIN {every}; END $$"]


async def _take_away(store: Store, url: str) -> None:
    schema, database = _SCHEMA.search(url), urlsplit(url).path.strip("/")
    drop = f'DROP SCHEMA IF EXISTS "{schema[1]}" CASCADE' if schema else f"DROP DATABASE IF EXISTS `{database}`"

    async def work() -> None:
        async with store.transaction() as session:
            await session.execute(drop)

    await again_on_conflict(work, Clock())
