"""The last known good values of borrowed data, in this process, for the time when their owner does not answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from chimera.core.clock import Clock
from chimera.messages import Position
from chimera.ports import LastKnown

LIMIT = 50_000
AT = b"@"
"""What a value begins with that is remembered with its position, on a line before it; JSON begins with nothing else."""
TTL_S = 24 * 3600.0


def with_position(document: bytes, position: Position | None) -> bytes:
    """A document as it is remembered: with the position that it is of, where the owner told it."""
    return document if position is None else b"".join((AT, str(position).encode(), b"\n", document))


def parted(data: bytes) -> tuple[bytes, Position | None]:
    """A document and its position, as `with_position` put them together. Raises ValueError."""
    if not data.startswith(AT):
        return data, None
    position, _, document = data[len(AT) :].partition(b"\n")
    return document, Position.parse(position.decode())


class MemoryLastKnown:
    """The most recently used values, in this process."""

    wait_s = 0.0

    def __init__(self, clock: Clock, *, limit: int = LIMIT, ttl_s: float = TTL_S) -> None:
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._limit = limit
        self._ttl_s = ttl_s

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, LastKnown]:
        now = self._clock.monotonic()
        found: dict[str, LastKnown] = {}
        for key in keys:
            if key in self._values:
                data, at = self._values[key]
                if now - at < self._ttl_s:
                    self._values.move_to_end(key)
                    found[key] = LastKnown(data, now - at)
        return found

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        now = self._clock.monotonic()
        for key, data in values.items():
            self._values.pop(key, None)
            if data is not None:
                self._values[key] = (data, now)
        while len(self._values) > self._limit:
            self._values.popitem(last=False)

    async def close(self) -> None: ...
