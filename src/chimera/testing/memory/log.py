"""A log in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from operator import attrgetter

import msgspec

from chimera.core.aio.signals import Signal
from chimera.core.paging import within_page
from chimera.errors import SettingsError, Unavailable
from chimera.messages import Message
from chimera.ports import (
    Features,
    Record,
)

FEATURES = Features(durable=False, shared=False)
"""The abilities of an engine that is gone with its process."""
_WAIT_S = 60.0


class _Records(msgspec.Struct):
    """A partition of a topic: its messages, the first of which has the offset `trimmed` + 1."""

    messages: list[Message] = []
    trimmed: int = 0

    @property
    def end(self) -> int:
        return self.trimmed + len(self.messages)

    def between(self, after: int, through: int) -> list[Record]:
        start = max(after, self.trimmed)
        found = self.messages[start - self.trimmed : max(0, through - self.trimmed)]
        return [Record(offset, message) for offset, message in enumerate(found, start + 1)]

    def trim(self, through: int) -> None:
        dropped = max(0, min(through, self.end) - self.trimmed)
        del self.messages[:dropped]
        self.trimmed += dropped


class MemoryLog:
    """Lists of messages by topic and partition. `on_append` is told of what was added to a topic."""

    def __init__(
        self,
        *,
        features: Features = FEATURES,
        on_append: Callable[[str, Sequence[Message]], None] = lambda topic, messages: None,
    ) -> None:
        self.features = features
        self._on_append = on_append
        self._topics: dict[str, list[_Records]] = {}
        self._changed: dict[str, Signal] = {}
        self._closed = False

    async def create(self, topic: str, partitions: int) -> None:
        """Raises SettingsError when the topic exists with fewer partitions."""
        stored = self._topics.setdefault(topic, [_Records() for _ in range(partitions)])
        self._changed.setdefault(topic, Signal())
        if len(stored) < partitions:
            raise SettingsError(f"the topic {topic} has {len(stored)} partitions, and {partitions} are needed")

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises ValueError, and adds nothing, when a message's partition is not one of the topic's."""
        stored = self._topic(topic)
        for message in messages:
            if not 0 <= message.partition < len(stored):
                raise ValueError(f"the topic {topic} has {len(stored)} partitions, no number {message.partition}")
        for message in messages:
            stored[message.partition].messages.append(message)
        self._on_append(topic, messages)
        self._changed[topic].notify()

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        stored = self._topic(topic)
        offsets, turns = dict(after), deque(after)
        while not self._closed:
            if batch := _next_batch(stored, offsets, turns, limit):
                turns.rotate(-1)
                yield batch
                await asyncio.sleep(0)
            else:
                await self._changed[topic].wait(_WAIT_S)

    async def ends(self, topic: str) -> Mapping[int, int]:
        return {partition: records.end for partition, records in enumerate(self._topic(topic))}

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        for partition, offset in through.items():
            self._topic(topic)[partition].trim(offset)

    async def close(self) -> None:
        self._closed = True
        for changed in self._changed.values():
            changed.notify()

    def smuggle(self, topic: str, messages: Sequence[Message]) -> None:
        """Add what somebody else writes: nobody is told."""
        for message in messages:
            self._topic(topic)[message.partition].messages.append(message)
        self._changed[topic].notify()

    def remake(self, topic: str) -> None:
        """Empty a topic, as when it was deleted and made anew: its offsets begin again."""
        for records in self._topics[topic]:
            records.messages, records.trimmed = [], 0
        self._changed[topic].notify()

    def moment(self, topic: str) -> Callable[[], None]:
        """What a topic has now; calling it puts the topic back to that: what came since is lost."""
        kept = [(list(records.messages), records.trimmed) for records in self._topics[topic]]

        def put_back() -> None:
            for records, (messages, trimmed) in zip(self._topics[topic], kept, strict=True):
                records.messages, records.trimmed = list(messages), trimmed
            self._changed[topic].notify()

        return put_back

    def _topic(self, topic: str) -> list[_Records]:
        if topic not in self._topics:
            raise Unavailable(f"there is no topic {topic} yet")
        return self._topics[topic]


def _next_batch(stored: Sequence[_Records], offsets: dict[int, int], turns: Sequence[int], limit: int) -> list[Record]:
    """At most `limit` records: every partition gets its part of the batch before any gets more."""
    batch: list[Record] = []
    if all(partition >= len(stored) or stored[partition].end <= offsets[partition] for partition in turns):
        return batch
    for room in (limit // max(1, len(turns)) or 1, limit):
        for partition in turns:
            if partition < len(stored):
                start = max(offsets[partition], stored[partition].trimmed)
                wanted = stored[partition].between(start, start + min(room, limit - len(batch)))
                found = list(within_page(wanted, attrgetter("message.data")))
                batch += found
                offsets[partition] = found[-1].offset if found else offsets[partition]
    return batch
