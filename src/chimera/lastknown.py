"""The last known good values of borrowed data, for the time when their owner does not answer.

Whatever keeps them is a comfort, never a cause of failure: one that is down or slow answers nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

logger = logging.getLogger("chimera")

Answer = TypeVar("Answer")

LIMIT = 50_000
TTL_S = 24 * 3600.0
WAIT_S = 0.005
PAUSE_S = 1.0
GIVE_UP_S = 1.0


class Known(NamedTuple):
    """A value as the owner last gave it, and how long ago."""

    data: bytes
    age_s: float


class LastKnownStore(Protocol):
    """Values by key, kept for a while, perhaps forgotten sooner. No method raises, or waits for more than `wait_s`."""

    wait_s: float
    """The most seconds that an answer takes."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Known]:
        """The values known among these keys; what can't be had in time is left out."""

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        """Remember good values; None forgets a key. What can't be put in time may be put later, or never."""

    async def close(self) -> None: ...


class MemoryLastKnown:
    """The most recently used values, in this process."""

    wait_s = 0.0

    def __init__(self, *, limit: int = LIMIT, ttl_s: float = TTL_S) -> None:
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._limit = limit
        self._ttl_s = ttl_s

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Known]:
        now = time.monotonic()
        found: dict[str, Known] = {}
        for key in keys:
            if key in self._values:
                data, at = self._values[key]
                if now - at < self._ttl_s:
                    self._values.move_to_end(key)
                    found[key] = Known(data, now - at)
        return found

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        now = time.monotonic()
        for key, data in values.items():
            self._values.pop(key, None)
            if data is not None:
                self._values[key] = (data, now)
        while len(self._values) > self._limit:
            self._values.popitem(last=False)

    async def close(self) -> None: ...


class Patience:
    """Asks a server that is allowed to fail: waits a few milliseconds at most, and never raises.

    While an answer is late, and for a pause after a failure, the server is not asked at all.
    """

    def __init__(self, name: str, *, wait_s: float = WAIT_S) -> None:
        self._name = name
        self._wait_s = wait_s
        self._late: set[asyncio.Task[object]] = set()
        self._paused_until = 0.0

    async def ask(self, work: Callable[[], Awaitable[Answer]], otherwise: Answer) -> Answer:
        """What `work` answers, or `otherwise`. Late work goes on by itself, for a second at most."""
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
            logger.warning("%s is not used for %g s: %s", self._name, PAUSE_S, str(error) or type(error).__name__)
            self._paused_until = time.monotonic() + PAUSE_S
            return otherwise


def with_time(data: bytes) -> bytes:
    """A value with the time at its front, for servers that do not tell a value's age."""
    return b"%d %b" % (time.time() * 1000, data)


def known_at(value: bytes) -> Known:
    """What `with_time` made. An age is never negative, whatever the clocks of two machines say."""
    at, _, data = value.partition(b" ")
    return Known(data, max(0.0, time.time() - int(at) / 1000))
