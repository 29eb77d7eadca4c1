"""What this process commits: it wakes those who wait for it, and its relay need not read it from the journal again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chimera.messages import Message
from chimera.signals import Signal

MOST = 500
"""Events kept of a partition: as many as the relay takes from the journal at once."""
MOST_BYTES = 16 << 20
"""Bytes of data kept of all partitions together."""


class Commits(Signal):
    """Notified after each commit. It keeps the events that were committed here until they are taken.

    Only those of the partitions asked for, and no more than MOST of each and MOST_BYTES: the journal has them all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: dict[int, dict[int, Message]] = {}
        self._bytes = 0

    def keep(self, partitions: Iterable[int]) -> None:
        """Keep the events of these partitions from now on; none for no partitions."""
        self._events, self._bytes = {partition: {} for partition in partitions}, 0

    def give(self, events: Iterable[Message]) -> None:
        """These events are committed now."""
        for event in events:
            kept = self._events.get(event.partition)
            if kept is not None and len(kept) < MOST and self._bytes + len(event.data) <= MOST_BYTES:
                kept[event.number] = event
                self._bytes += len(event.data)

    def take(self, at: Mapping[int, int]) -> list[Message]:
        """Those that follow these numbers, by partition, without a hole. What is before them is forgotten."""
        taken: list[Message] = []
        for partition, number in at.items():
            kept = self._events.get(partition)
            if not kept:
                continue
            while event := kept.pop(number + 1, None):
                number += 1
                taken.append(event)
                self._bytes -= len(event.data)
            for passed in [each for each in kept if each <= number]:
                self._bytes -= len(kept.pop(passed).data)
        return taken
