"""What the lists of the blog must be, and the engines that they are kept by."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from chimera import View
from chimera.core.context import Context
from chimera.core.names import counts_view
from chimera.ports import WITHIN
from chimera.views.generations import read_generations
from chimera.views.lists.entries import Place, ViewEntries
from tests.adapters.services import IN_TURN
from tests.views.blog import Write

REAL = ["mongodb", "mysql", "postgresql", pytest.param("redis", marks=IN_TURN)]
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def write(key: str, author: str = "ann", **fields: Any) -> Write:
    return Write(key, author, **fields)


async def places_of(context: Context, name: str = "article") -> list[tuple[bytes, bytes]]:
    """The entries that the lists of a generation must have, by its documents as they are."""
    view = context.service.views["article"]
    documents = await context.views.scan(name, limit=10_000)
    return sorted(place for each in documents for place in places(view, each.key, each.data))


def places(view: View[Any], key: str, data: bytes | None) -> set[Place]:
    entries = ViewEntries(view)
    return entries.places(key, data, entries.digests)


async def is_listed(context: Context, name: str = "article") -> bool:
    """True when the lists of a generation, and their counts, are exactly what its documents say."""
    wanted = await places_of(context, name)
    counts: dict[str, int] = {}
    for document in await context.views.scan(counts_view(name), limit=10_000):
        within = document.key.partition("/")[0]
        counts[within] = counts.get(within, 0) + int(document.data or b"")
    filters = {within for within, _ in wanted} | {bytes.fromhex(each) for each in counts}
    kept = [(each[:WITHIN], each[WITHIN:]) for each in await context.views.listed(name, b"", limit=100_000)]
    counted = {each.hex(): sum(within == each for within, _ in wanted) for each in filters}
    return kept == wanted and {each: n for each, n in counts.items() if n} == {
        each: n for each, n in counted.items() if n
    }


async def serves(context: Context, number: int) -> bool:
    state = (await read_generations(context.views, ["article"]))["article"]
    return state.serving.number == number and state.building is None and not state.retired
