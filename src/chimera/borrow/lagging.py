"""What handlers may read beside the source of truth, in any process: views, and what is borrowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chimera.borrow.reads import BorrowedReads
from chimera.core.aio.tasks import stop
from chimera.core.context import Context
from chimera.forms import AnyDocument
from chimera.parts import Borrow, Borrowed, Mode
from chimera.reader import Lagging, Notes
from chimera.views.documents import Documents
from chimera.views.generations import GenerationReads


@asynccontextmanager
async def lagging(context: Context) -> AsyncIterator[Lagging]:
    """The reads of this process's handlers. The mode of a borrow is followed from when it is first read."""
    documents = Documents(context, GenerationReads(context))
    borrows = {name: _FollowedReads(context, borrow, documents) for name, borrow in context.service.borrows.items()}
    try:
        yield Lagging(documents, borrows)
    finally:
        for each in borrows.values():
            await each.close()


class _FollowedReads:
    """A borrow's reads, which look at its mode and the age of its copy as long as somebody has read it."""

    def __init__(self, context: Context, borrow: Borrow[AnyDocument], documents: Documents) -> None:
        self._reads = BorrowedReads(context, borrow, documents)
        self._following: asyncio.Future[None] | None = None

    @property
    def mode(self) -> Mode:
        return self._reads.mode

    async def get(self, key: str, notes: Notes) -> Borrowed[Any]:
        self._follow()
        return await self._reads.get(key, notes)

    async def get_many(self, keys: Sequence[str], notes: Notes) -> dict[str, Borrowed[Any]]:
        self._follow()
        return await self._reads.get_many(keys, notes)

    async def ask(self, keys: Sequence[str]) -> dict[str, Any]:
        return await self._reads.ask(keys)

    async def close(self) -> None:
        """Follow it no longer."""
        if self._following is not None:
            await stop(self._following)

    def _follow(self) -> None:
        if self._following is None or self._following.done():
            self._following = asyncio.ensure_future(self._reads.keep_looking())
