"""The relay: journal rows to the log, in order. What it sends twice after a crash, consumers drop."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from chimera.errors import ChimeraError
from chimera.execution import read_checkpoints
from chimera.metrics import Metrics
from chimera.ports import Log, Store
from chimera.records import Progress
from chimera.service import Service
from chimera.signals import Signal
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
        self, service: Service, store: Store, log: Log, topic: str, *, committed: Signal, metrics: Metrics
    ) -> None:
        self._service = service
        self._store = store
        self._log = log
        self._topic = topic
        self._committed = committed
        self._metrics = metrics

    async def run(self, partitions: Iterable[int]) -> None:
        """Relay until cancelled. Raises Unavailable when an engine can't be reached."""
        stored = await read_checkpoints(self._store, CONSUMER, self._service.name, partitions)
        at = {partition: checkpoint.number for partition, checkpoint in stored.items()}
        remembered, remember_at = dict(at), time.monotonic() + REMEMBER_S
        try:
            while True:
                heads = await self._store.heads()
                ahead = [partition for partition, number in at.items() if heads.get(partition, 0) > number]
                if ahead:
                    await finish(self._relay(ahead, at))
                if at != remembered and time.monotonic() >= remember_at:
                    await self._remember(at, remembered)
                    remembered, remember_at = dict(at), time.monotonic() + REMEMBER_S
                if not ahead:
                    await self._committed.wait(self._store.features.poll_s)
        finally:
            if at != remembered:
                with suppress(ChimeraError):
                    await self._remember(at, remembered)

    async def _relay(self, partitions: Iterable[int], at: dict[int, int]) -> None:
        """Append the next page of each of these partitions, in one call."""
        events = [
            event for partition in partitions for event in await self._store.journal(partition, at[partition], PAGE)
        ]
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
