"""The relay: the journal's events to the log, in order. What it sends twice after a crash, consumers drop.

What its own process commits is handed over to it; the rest it reads from the journal, and so all after a failure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from chimera.commits import Commits
from chimera.errors import ChimeraError
from chimera.execution import read_checkpoints
from chimera.messages import Message
from chimera.metrics import Metrics
from chimera.ports import Log, Store
from chimera.records import Progress
from chimera.service import Service
from chimera.tasks import finish
from chimera.transaction import Unit

CONSUMER = "relay"
PAGE = 500
REMEMBER_S = 1.0


class Relay:
    """Moves the events of some partitions from a service's journal to its events topic.

    Its checkpoint is written at most once a second: it only saves sending again after a restart.
    """

    def __init__(
        self, service: Service, store: Store, log: Log, topic: str, *, committed: Commits, metrics: Metrics
    ) -> None:
        self._service = service
        self._store = store
        self._log = log
        self._topic = topic
        self._committed = committed
        self._metrics = metrics
        self._look_at = 0.0

    async def run(self, partitions: Iterable[int]) -> None:
        """Relay until cancelled. Raises Unavailable when an engine can't be reached."""
        stored = await read_checkpoints(self._store, CONSUMER, self._service.name, partitions)
        at = {partition: checkpoint.number for partition, checkpoint in stored.items()}
        self._committed.keep(at)
        remembered, remember_at = dict(at), time.monotonic() + REMEMBER_S
        try:
            while True:
                events = await self._next(at)
                if events:
                    await finish(self._relay(events, at))
                if at != remembered and time.monotonic() >= remember_at:
                    await self._remember(at, remembered)
                    remembered, remember_at = dict(at), time.monotonic() + REMEMBER_S
                if not events:
                    await self._committed.wait(self._store.features.poll_s)
        finally:
            self._committed.keep(())
            if at != remembered:
                with suppress(ChimeraError):
                    await self._remember(at, remembered)

    async def _next(self, at: Mapping[int, int]) -> list[Message]:
        """The events after these numbers: those handed over, and now and then a page of what others have committed."""
        events = self._committed.take(at)
        if events and time.monotonic() < self._look_at:
            return events
        reached = {**at, **{event.partition: event.number for event in events}}
        heads = await self._store.heads()
        for partition, number in reached.items():
            if heads.get(partition, 0) > number:
                events += await self._store.journal(partition, number, PAGE)
        self._look_at = time.monotonic() + self._store.features.poll_s
        return events

    async def _relay(self, events: Sequence[Message], at: dict[int, int]) -> None:
        """Append events of any partitions in one call."""
        await self._log.append(self._topic, events)
        for event in events:
            at[event.partition] = event.number
        self._metrics.relayed(self._service.name, len(events))

    async def _remember(self, at: dict[int, int], remembered: dict[int, int]) -> None:
        async with self._store.transaction() as session:
            unit = Unit(self._service, session)
            for partition, number in at.items():
                if number != remembered.get(partition):
                    unit.put(Progress(CONSUMER, self._service.name, partition, number, 0))
            await unit.flush()
