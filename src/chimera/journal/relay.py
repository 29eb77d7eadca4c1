"""The relay: the journal's events to the log, in order. What it sends twice after a crash, consumers drop.

What its own process commits is handed over to it; the rest it reads from the journal, and so all after a failure.
What the log can't carry stays in the journal: consumers see the hole, and fetch it from there. It is written down among
the parked messages, as the relay's, without its data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from chimera.core.aio.pace import GROWTH
from chimera.core.aio.tasks import finish
from chimera.core.context import Context
from chimera.core.names import RELAY, kept_key
from chimera.core.tables import Parked, Progress
from chimera.entities import table_of
from chimera.errors import ChimeraError, Trimmed
from chimera.journal.apart import Apart, may_be_its_own
from chimera.journal.checkpoints import again_on_conflict, read_checkpoints
from chimera.journal.failures import cause_of, traceback_of
from chimera.messages import MAX_KEY, Message
from chimera.ports import wakes

logger = logging.getLogger("chimera")


class WentBack(Exception):  # noqa: N818 - what happened
    """The journal does not go on after what was sent: it was put back to an earlier moment."""


class Relay:
    """Moves the events of some partitions from a service's journal to its events topic.

    Its checkpoint is written at most every `Timing.relayed_s`: it only saves sending again after a restart.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self._seal = context.seals.of(context.service.name)
        self._committed = context.committed
        self._clock = context.clock
        self._look_at = float("-inf")
        self._poll_s = self._pause_s = self._store.features.poll_s
        self._longest_s = context.timing.quiet_s if wakes(self._store) else self._poll_s
        self._sent: dict[int, str] = {}

    async def run(self, partitions: Iterable[int]) -> None:
        """Relay until cancelled. Raises Unavailable when an engine can't be reached.

        A journal that was put back is sent from where its own checkpoint is, put back with it.
        """
        while True:
            try:
                await self._run(partitions)
            except WentBack:
                self._context.sent.doubt()
                name = self._context.service.name
                logger.warning("%s: its journal was put back, and is sent from there on", name)

    async def _run(self, partitions: Iterable[int]) -> None:
        await self._context.sent.wait()  # what is sent now would hide that the log ends with what the journal lost
        at = await self._start(partitions)
        self._sent.clear()
        self._committed.keep(at)
        remembered, remember_at = dict(at), self._clock.monotonic() + self._context.timing.relayed_s
        try:
            while True:
                heard = self._committed.times
                events = await self._next(at)
                if events:
                    await finish(self._relay(events, at), self._context.timing.finish_s)
                if at != remembered and self._clock.monotonic() >= remember_at:
                    await self._remember(at, remembered)
                    remembered, remember_at = dict(at), self._clock.monotonic() + self._context.timing.relayed_s
                if events:
                    self._pause_s = self._poll_s
                elif self._committed.times == heard:
                    left = remember_at - self._clock.monotonic() if at != remembered else self._longest_s
                    await self._pause(max(left, 0.0))
        except WentBack:
            remembered = dict(at)
            raise
        finally:
            self._committed.keep(())
            if at != remembered:
                with suppress(ChimeraError):
                    await self._remember(at, remembered)

    async def _start(self, partitions: Iterable[int]) -> dict[int, int]:
        """Where to go on: its checkpoints, but not beyond the end of a journal that was put back without them."""
        stored = await read_checkpoints(self._store, RELAY, self._context.service.name, partitions)
        heads = await self._store.heads()
        return {partition: min(each.number, heads.get(partition, 0)) for partition, each in stored.items()}

    async def _pause(self, longest_s: float) -> None:
        """Wait for a commit: longer and longer where those of other processes are told, else for a moment."""
        woken = await self._committed.wait(min(self._pause_s, longest_s))
        self._pause_s = self._poll_s if woken else min(self._pause_s * GROWTH, self._longest_s)

    async def _next(self, at: Mapping[int, int]) -> list[Message]:
        """The events after these numbers: those handed over, and now and then a page of what others have committed.

        Raises WentBack where the journal has other events than were sent.
        """
        events = self._committed.take(at)
        if events and self._clock.monotonic() < self._look_at:
            return events
        reached = {**at, **{event.partition: event.number for event in events}}
        heads = await self._store.heads()
        for partition, number in reached.items():
            if (head := heads.get(partition, 0)) > number:
                page = await self._store.journal(partition, number, self._context.limits.journal_page)
                sent = self._sent.get(partition) if number == at[partition] else None
                if page and sent and not self._seal.may_follow(page[0], sent):
                    raise WentBack
                events += page
            elif head < number:
                raise WentBack
        self._look_at = self._clock.monotonic() + self._store.features.poll_s
        return events

    async def _relay(self, events: Sequence[Message], at: dict[int, int]) -> None:
        """Append events of any partitions in one call; where that fails, apart, without those that can't be carried."""
        try:
            await self._send(events, at)
            return
        except Exception as error:
            if not may_be_its_own(error):
                raise
            failed = error

        async def send(part: Sequence[Message]) -> bool:
            await self._send(part, at)
            return True

        async def leave_it(event: Message, why: Exception, tries: int) -> bool:
            await self._leave(event, why, tries)
            at[event.partition], self._sent[event.partition] = event.number, event.chain
            return True

        await Apart(self._context, send, leave_it, self._answers).run(events, failed)

    async def _send(self, events: Sequence[Message], at: dict[int, int]) -> None:
        await self._context.log.append(self._context.events_topic, events)
        for event in events:
            at[event.partition], self._sent[event.partition] = event.number, event.chain
        self._context.metrics.relayed(self._context.service.name, len(events))

    async def _leave(self, event: Message, error: Exception, tries: int) -> None:
        name = self._context.service.name
        await leave(self._context, event, error, tries)
        self._context.metrics.left(name)
        logger.error(
            "%s: the log can't carry %s (%s of key %r, %d bytes): %s; it stays in the journal, where consumers fetch "
            "it; see: chimera parked list %s --consumer relay",
            name,
            event.id,
            event.type,
            event.key,
            len(event.data),
            cause_of(error),
            name,
        )

    async def _answers(self) -> None:
        """Ask the log for its ends, which shows that it is there."""
        await self._context.log.ends(self._context.events_topic)

    async def _remember(self, at: dict[int, int], remembered: dict[int, int]) -> None:
        """Write the checkpoints that have moved: never back, where another relay has come further meanwhile."""
        moved = {partition: number for partition, number in at.items() if number != remembered.get(partition)}
        await again_on_conflict(lambda: self._write(moved), self._clock)

    async def _write(self, moved: Mapping[int, int]) -> None:
        table, source = table_of(Progress), self._context.service.name
        async with self._store.transaction() as session:
            rows = map(table.from_row, await session.load(table, [(RELAY, source, partition) for partition in moved]))
            stored = {row.partition: row.number for row in rows}
            unit = self._context.unit(session)
            for partition, number in moved.items():
                if number > stored.get(partition, 0):
                    unit.put(Progress(RELAY, source, partition, number, 0))
            await unit.flush()


async def leave(context: Context, event: Message, error: Exception, tries: int) -> None:
    """Write down that the log can't carry an event, and why. Raises Unavailable."""
    now, table = context.clock.now(), table_of(Parked)
    row = Parked(
        RELAY,
        kept_key(event.key),
        event.partition,
        event.number,
        event.source,
        "parked",
        event.id,
        event.type,
        event.time,
        b"",
        event.traceparent,
        cause_of(error),
        tries,
        now,
        now,
        long_key=event.key if len(event.key) > MAX_KEY else None,
        traceback=traceback_of(error),
        metadata=event.metadata or None,
    )
    async with context.store.transaction() as session:
        await session.save(table, [table.to_row(row)])


async def left_data(context: Context, row: Parked) -> bytes:
    """The data of an event that was left in the journal; empty where it was trimmed meanwhile."""
    try:
        found = await context.store.journal(row.partition, row.number - 1, 1)
    except Trimmed:
        return b""
    return found[0].data if found else b""


async def send_again(context: Context, row: Parked) -> str:
    """Send an event to the log once more, and forget that it was left; why not, where the log refuses it again.

    Consumers that have it drop it. Raises Unavailable.
    """
    try:
        events = await context.store.journal(row.partition, row.number - 1, 1)
        await context.log.append(context.events_topic, events)
    except Trimmed:
        pass  # every known consumer has it
    except Exception as error:
        if not may_be_its_own(error):
            raise
        again = msgspec.structs.replace(row, cause=cause_of(error), tries=row.tries + 1, last_at=context.clock.now())
        async with context.store.transaction() as session:
            await session.save(table_of(Parked), [table_of(Parked).to_row(again)])
        return cause_of(error)
    await forget(context, row)
    return ""


async def forget(context: Context, row: Parked) -> None:
    """Forget that an event was left; it stays in the journal. Raises Unavailable."""
    table = table_of(Parked)
    async with context.store.transaction() as session:
        await session.delete(table, [table.key_of(table.to_row(row))])
