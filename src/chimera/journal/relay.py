"""The relay: the journal's events to the log, in order. What it sends twice after a crash, consumers drop.

What its own process commits is handed over to it; the rest it reads from the journal, and so all after a failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from chimera.core.aio.tasks import finish
from chimera.core.context import Context
from chimera.core.names import RELAY
from chimera.core.tables import Progress
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.journal.checkpoints import again_on_conflict, read_checkpoints
from chimera.messages import Message
from chimera.transaction import Unit


class Relay:
    """Moves the events of some partitions from a service's journal to its events topic.

    Its checkpoint is written at most every `Timing.relayed_s`: it only saves sending again after a restart.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._committed = context.committed
        self._clock = context.clock
        self._look_at = float("-inf")

    async def run(self, partitions: Iterable[int]) -> None:
        """Relay until cancelled. Raises Unavailable when an engine can't be reached."""
        stored = await read_checkpoints(self._store, RELAY, self._context.service.name, partitions)
        at = {partition: checkpoint.number for partition, checkpoint in stored.items()}
        self._committed.keep(at)
        remembered, remember_at = dict(at), self._clock.monotonic() + self._context.timing.relayed_s
        try:
            while True:
                events = await self._next(at)
                if events:
                    await finish(self._relay(events, at), self._context.timing.finish_s)
                if at != remembered and self._clock.monotonic() >= remember_at:
                    await self._remember(at, remembered)
                    remembered, remember_at = dict(at), self._clock.monotonic() + self._context.timing.relayed_s
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
        if events and self._clock.monotonic() < self._look_at:
            return events
        reached = {**at, **{event.partition: event.number for event in events}}
        heads = await self._store.heads()
        for partition, number in reached.items():
            if heads.get(partition, 0) > number:
                events += await self._store.journal(partition, number, self._context.limits.journal_page)
        self._look_at = self._clock.monotonic() + self._store.features.poll_s
        return events

    async def _relay(self, events: Sequence[Message], at: dict[int, int]) -> None:
        """Append events of any partitions in one call."""
        await self._context.log.append(self._context.events_topic, events)
        for event in events:
            at[event.partition] = event.number
        self._context.metrics.relayed(self._context.service.name, len(events))

    async def _remember(self, at: dict[int, int], remembered: dict[int, int]) -> None:
        """Write the checkpoints that have moved: never back, where another relay has come further meanwhile."""
        moved = {partition: number for partition, number in at.items() if number != remembered.get(partition)}
        await again_on_conflict(lambda: self._write(moved), self._clock)

    async def _write(self, moved: Mapping[int, int]) -> None:
        table, source = table_of(Progress), self._context.service.name
        async with self._store.transaction() as session:
            rows = map(table.from_row, await session.load(table, [(RELAY, source, partition) for partition in moved]))
            stored = {row.partition: row.number for row in rows}
            unit = Unit(self._context.service, session)
            for partition, number in moved.items():
                if number > stored.get(partition, 0):
                    unit.put(Progress(RELAY, source, partition, number, 0))
            await unit.flush()
