"""The commits of this process: they wake who waits, and its relay need not read their events from the journal again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chimera.core.aio.signals import Signal
from chimera.messages import Message


class HandOver(Signal):
    """Notified after each commit of this process; hands the events that were committed to its relay.

    Only those of the partitions asked for, at most `most` of each (as many as the relay takes from the journal at once)
    and `most_bytes` of data of all together: the journal has them all.
    """

    def __init__(self, *, most: int = 500, most_bytes: int = 16 << 20) -> None:
        super().__init__()
        self._most = most
        self._most_bytes = most_bytes
        self._events: dict[int, dict[int, Message]] = {}
        self._bytes = 0

    def keep(self, partitions: Iterable[int]) -> None:
        """Hold the events of these partitions from now on, and forget all others; none for no partitions."""
        self._events, self._bytes = {partition: {} for partition in partitions}, 0

    def give(self, events: Iterable[Message]) -> None:
        """Take events that are committed now, as far as they are asked for and there is room."""
        for event in events:
            held = self._events.get(event.partition)
            if held is not None and len(held) < self._most and self._bytes + len(event.data) <= self._most_bytes:
                held[event.number] = event
                self._bytes += len(event.data)

    def take(self, at: Mapping[int, int]) -> list[Message]:
        """The events that follow these numbers, by partition, without a hole. What is before them is forgotten."""
        taken: list[Message] = []
        for partition, number in at.items():
            held = self._events.get(partition)
            if not held:
                continue
            while event := held.pop(number + 1, None):
                number += 1
                taken.append(event)
                self._bytes -= len(event.data)
            for passed in [each for each in held if each <= number]:
                self._bytes -= len(held.pop(passed).data)
        return taken
