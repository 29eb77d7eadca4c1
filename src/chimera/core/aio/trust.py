"""Whether something may be relied on: who relies on it waits while it is in doubt."""

from __future__ import annotations

import asyncio

from chimera.core.aio.signals import A_DAY_S, Signal


class Trust:
    """Something that is trusted until somebody doubts it, and again once it was looked at."""

    def __init__(self) -> None:
        self._is_trusted = asyncio.Event()
        self._is_trusted.set()
        self._doubts = Signal()

    def doubt(self) -> None:
        """It has to be looked at before it is relied on."""
        self._is_trusted.clear()
        self._doubts.notify()

    def restore(self) -> None:
        """It was looked at."""
        self._is_trusted.set()

    async def wait(self) -> None:
        """Wait until it is trusted."""
        await self._is_trusted.wait()

    async def wait_for_doubt(self) -> None:
        """Wait until it is doubted."""
        while self._is_trusted.is_set():
            await self._doubts.wait(A_DAY_S)
