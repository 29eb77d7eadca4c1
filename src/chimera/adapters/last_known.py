"""The common part of servers that store last known values: patience, and the time at a value's front."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from chimera.ports import LastKnown

logger = logging.getLogger("chimera")

Answer = TypeVar("Answer")

TTL_S = 24 * 3600.0
WAIT_S = 0.005
PAUSE_S = 1.0
GIVE_UP_S = 1.0


class Patience:
    """Asks a server that is allowed to fail: waits a few milliseconds at most, and never raises.

    While an answer is late, and for a pause (`pause_s`) after a failure, the server is not asked at all.
    """

    def __init__(self, name: str, *, wait_s: float = WAIT_S, pause_s: float = PAUSE_S) -> None:
        self._name = name
        self._wait_s = wait_s
        self._pause_s = pause_s
        self._late: set[asyncio.Task[object]] = set()
        self._paused_until = 0.0

    async def ask(self, work: Callable[[], Awaitable[Answer]], otherwise: Answer) -> Answer:
        """The answer of `work`, or `otherwise` when it is late. Late work goes on by itself, for a second at most."""
        if self._late or time.monotonic() < self._paused_until:
            return otherwise
        asked = asyncio.ensure_future(self._work(work, otherwise))
        done, _ = await asyncio.wait([asked], timeout=self._wait_s)
        if done:
            return asked.result()
        self._late.add(asked)
        asked.add_done_callback(self._late.discard)
        return otherwise

    async def close(self) -> None:
        """Stop what is late."""
        for task in self._late:
            task.cancel()
        if self._late:
            await asyncio.wait(self._late)

    async def _work(self, work: Callable[[], Awaitable[Answer]], otherwise: Answer) -> Answer:
        try:
            async with asyncio.timeout(GIVE_UP_S):
                return await work()
        except Exception as error:  # noqa: BLE001 - whatever a client raises, a cache is never a cause of failure
            logger.warning("%s is not used for %g s: %s", self._name, self._pause_s, str(error) or type(error).__name__)
            self._paused_until = time.monotonic() + self._pause_s
            return otherwise


def with_time(data: bytes) -> bytes:
    """A value with the time at its front, for servers that do not tell a value's age."""
    return b"%d %b" % (time.time() * 1000, data)


def known_at(value: bytes) -> LastKnown:
    """A value that `with_time` made, with its age: never negative, whatever the clocks of two machines say."""
    at, _, data = value.partition(b" ")
    return LastKnown(data, max(0.0, time.time() - int(at) / 1000))
