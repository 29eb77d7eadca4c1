"""Long work in short turns of the event loop, so that nobody waits for all of it."""

from __future__ import annotations

import asyncio

TURN_BYTES = 256 << 10
ITEM_BYTES = 256
"""What an item costs besides its bytes, as if it were so many of them."""


class Turns:
    """Counts the work that is done, and lets the others go on whenever it has come to a turn: a few milliseconds."""

    def __init__(self, turn_bytes: int = TURN_BYTES) -> None:
        self._turn_bytes = turn_bytes
        self._done = 0

    async def after(self, size: int = 0, *, items: int = 1) -> None:
        """So many items of `size` bytes in all were handled."""
        self._done += size + items * ITEM_BYTES
        if self._done >= self._turn_bytes:
            self._done = 0
            await asyncio.sleep(0)
