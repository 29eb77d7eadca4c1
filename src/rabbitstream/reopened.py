"""A connection for all who ask: opened when it is first needed, and again once it is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from rabbitstream.errors import StreamUnavailable

PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds to wait before the next try, by how often it has failed."""


class Closable(Protocol):
    """A connection, as far as it matters here."""

    @property
    def is_open(self) -> bool:
        """True until it was closed or lost."""

    def close(self) -> None:
        """Close it, without waiting."""


Opened = TypeVar("Opened", bound=Closable)


class Reopened(Generic[Opened]):
    """A connection, opened in the background, so that nobody who gives up takes it from the others.

    After a failure, those who ask are refused at once during a pause that grows.
    """

    def __init__(self, opener: Callable[[], Awaitable[Opened]]) -> None:
        self._opener = opener
        self._opening: asyncio.Task[Opened] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._closed = False

    async def get(self) -> Opened:
        """Raises what opening it raised, and StreamUnavailable once closed."""
        opening = self._opening
        if not self._closed and (opening is None or self._is_stale(opening)):
            self._opening = opening = asyncio.create_task(self._open())
            opening.add_done_callback(_take_exception)
        try:
            if opening is not None:
                return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if not opening or not opening.cancelled():
                raise
        raise StreamUnavailable("the connection was closed")

    def forget_failures(self) -> None:
        """The next try may come at once."""
        self._failures, self._retry_at = 0, 0.0

    async def close(self) -> None:
        """Close it; whoever asks from now on is refused."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            if not self._opening.cancelled() and self._opening.exception() is None:
                self._opening.result().close()

    def _is_stale(self, opening: asyncio.Task[Opened]) -> bool:
        if not opening.done():
            return False
        if opening.cancelled() or opening.exception() is not None:
            return time.monotonic() >= self._retry_at
        return not opening.result().is_open

    async def _open(self) -> Opened:
        try:
            opened = await self._opener()
        except Exception:
            self._retry_at = time.monotonic() + PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
            self._failures += 1
            raise
        self.forget_failures()
        return opened


def _take_exception(task: asyncio.Task[Opened]) -> None:
    """Whoever asked may be gone, so nobody else would retrieve it."""
    if not task.cancelled():
        task.exception()
