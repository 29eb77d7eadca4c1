"""Messages at which their process ends, again and again: recognised by what is written down, and parked.

A consumer writes down where it starts, and takes that back when it stops in order. Where it starts again behind the
same number, and two processes were ended there, each message that may be at fault is announced before it is handled,
alone in its process. One that was announced and not finished by so many processes is not handled again. After a few
harmless ones more and more are handled together, so that a false suspicion is soon over; where a process ends then,
the next one begins there, one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from chimera.core.context import Context, Process
from chimera.core.names import start_key, starts_view
from chimera.core.tables import Start
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.journal.failures import ProcessEnded
from chimera.journal.register import Register
from chimera.ports import Checkpoint, Move, Store, ViewStore

SUSPICIOUS = 2
"""Processes that must have been killed at one start: a single one is no message's fault as a rule, and suspicion
is slow."""
SUSPECTS = 5_000
"""Messages behind a checkpoint that may have ended a process: more than any batch holds."""
ONE_BY_ONE = 10
"""Suspects that are handled one at a time, before more are handled together."""

Item = TypeVar("Item")

Ends = Callable[[], Awaitable[Mapping[int, int]]]
"""Tells the last number of each partition, as far as it is known."""


class MessageAt(NamedTuple):
    """A message's partition, its number (or offset) there, its offset in the log where known (else 0), its chain."""

    partition: int
    number: int
    offset: int = 0
    chain: str = ""


At = Callable[[Item], MessageAt]
Work = Callable[[Sequence[Item], Sequence[Move], "ProcessEnded | None"], Awaitable[bool]]
"""Handles messages and moves the checkpoints over them; or, told that processes ended at the only one, parks it."""


class Starts(Protocol):
    """A consumer's starts, as they are stored."""

    async def load(self, source: str, partitions: Sequence[int]) -> dict[int, Start]:
        """The starts in these partitions of a source, by partition; those that never were are left out."""

    async def save(self, starts: Sequence[Start]) -> None:
        """Store these starts, each over the one of its source and partition."""


class StoredStarts:
    """Starts in a service's store."""

    def __init__(self, store: Store, consumer: str) -> None:
        self._consumer = consumer
        self._store = store

    async def load(self, source: str, partitions: Sequence[int]) -> dict[int, Start]:
        table = table_of(Start)
        async with self._store.snapshot(once=True) as session:
            rows = await session.load(table, [(self._consumer, source, partition) for partition in partitions])
        return {start.partition: start for start in map(table.from_row, rows)}

    async def save(self, starts: Sequence[Start]) -> None:
        table = table_of(Start)
        async with self._store.transaction() as session:
            await session.save(table, [table.to_row(start) for start in starts])


class ViewStarts:
    """Starts beside the documents of a view or a copy."""

    def __init__(self, views: ViewStore, consumer: str) -> None:
        self._starts = Register(views, starts_view(consumer), Start, consumer=consumer)

    async def load(self, source: str, partitions: Sequence[int]) -> dict[int, Start]:
        found = await self._starts.get([start_key(source, partition) for partition in partitions])
        return {start.partition: start for start in found.values()}

    async def save(self, starts: Sequence[Start]) -> None:
        await self._starts.put({start_key(start.source, start.partition): start for start in starts})


class Watch:
    """One consumer of one source, watched for messages at which the process ends."""

    def __init__(self, process: Process, stored: Starts, limit: int) -> None:
        self._process = process
        self._stored = stored
        self._limit = limit
        self._starts: dict[int, Start] = {}
        self._until: dict[int, int] = {}
        self._hints: dict[int, int] = {}
        self._harmless: Counter[int] = Counter()

    async def begin(self, consumer: str, source: str, at: Mapping[int, Checkpoint], ends: Ends) -> None:
        """Write down the start, and find out in which partitions a process ended where this one starts."""
        stored, me = await self._stored.load(source, list(at)), self._process.name
        suspects: list[int] = []
        for partition, checkpoint in at.items():
            start, last = Start(consumer, source, partition, checkpoint.number, me), stored.get(partition)
            if last is not None and last.number == checkpoint.number:
                was_killed = last.by not in ("", me)
                start.trying, start.killed = last.trying, last.killed + was_killed
                start.ends = last.ends + (last.trying != 0 and was_killed)
                if start.killed >= SUSPICIOUS or start.ends:
                    suspects.append(partition)
            self._starts[partition] = start
            self._hints[partition] = checkpoint.offset
        if self._starts:
            await self._stored.save(list(self._starts.values()))
        if suspects:
            known = await ends()
            for partition in suspects:
                most, place = at[partition].number + SUSPECTS, (consumer, source, partition)
                until = min(known.get(partition, most), most)
                if stored[partition].by == me:  # what came since is not to blame
                    until = min(until, self._process.suspected.get(place, until))
                self._until[partition] = self._process.suspected[place] = until

    async def end(self) -> None:
        """The consumer stops in order: what it was doing is not to blame, and what was counted before stays."""
        with suppress(ChimeraError):
            for source in dict.fromkeys(start.source for start in self._starts.values()):
                stored = await self._stored.load(source, list(self._starts))
                own = [start for start in stored.values() if start.by == self._process.name]
                if own:
                    await self._stored.save([msgspec.structs.replace(each, by="") for each in own])

    def careful(self, moves: Iterable[Move]) -> list[Move]:
        """The moves over messages that may have ended a process; none from before its start, where it went back."""
        return [move for move in moves if self._is_suspect(move)]

    def _is_suspect(self, move: Move) -> bool:
        until = self._until.get(move.partition, 0)
        return move.before < until and move.before >= self._starts[move.partition].number

    async def run(self, items: Sequence[Item], moves: Sequence[Move], at: At[Item], work: Work[Item]) -> bool:
        """Do a work on messages that lead over these moves; those that may have ended a process apart from the others.

        `at` tells where a message is. False, with nothing more done, as soon as the work says so.
        """
        careful = self.careful(moves)
        apart = {move.partition for move in careful}
        rest = [move for move in moves if move.partition not in apart]
        if rest and not await work([item for item in items if at(item).partition not in apart], rest, None):
            return False
        for move in careful:
            if not await self._run_apart(
                [item for item in items if at(item).partition == move.partition], move, at, work
            ):
                return False
        return True

    async def _run_apart(self, left: Sequence[Item], move: Move, at: At[Item], work: Work[Item]) -> bool:
        while left:
            count = self._together(move.partition)
            part, left = left[:count], left[count:]
            step = self._up_to(move, at(part[-1]))
            async with self._alone(step, len(part)) as ended:
                if not await work(part, [step], ended):
                    return False
            move = move._replace(before=step.after.number)
        return move.before == move.after.number or await work([], [move], None)

    def _up_to(self, move: Move, place: MessageAt) -> Move:
        """The part of a move that leads up to a message; without its offset it hints where this consumer started."""
        if place.number == move.after.number:
            return move
        return move._replace(after=Checkpoint(place.number, place.offset or self._hints[move.partition], place.chain))

    def _together(self, partition: int) -> int:
        """The number of a partition's suspects to handle together next: about as many as were harmless so far."""
        return max(1, self._harmless[partition] - ONE_BY_ONE)

    @asynccontextmanager
    async def _alone(self, move: Move, count: int = 1) -> AsyncIterator[ProcessEnded | None]:
        """Announce the messages that a move leads over, so many, and handle them inside.

        Gives why it is not to be handled, where it is only one.
        """
        async with self._process.alone:
            start = self._starts[move.partition]
            trying = move.after.number if count == 1 else 0
            ends = start.ends if trying and start.trying == trying else 0
            announced = msgspec.structs.replace(start, number=move.before, trying=trying, ends=ends)
            if announced != start:
                await self._stored.save([announced])
                self._starts[move.partition] = announced
            yield ProcessEnded(ends) if ends >= self._limit else None
            self._harmless[move.partition] += count


@asynccontextmanager
async def watching(
    context: Context, consumer: str, source: str, at: Mapping[int, Checkpoint], ends: Ends, *, in_views: bool = False
) -> AsyncIterator[Watch]:
    """Watch a consumer, with its checkpoints in the store or in the view store, that starts behind these.

    `ends` tells the last numbers of the source's partitions as far as they are known.
    """
    stored = ViewStarts(context.views, consumer) if in_views else StoredStarts(context.store, consumer)
    watch = Watch(context.process, stored, context.retry.ends)
    await watch.begin(consumer, source, at, ends)
    try:
        yield watch
    finally:
        await watch.end()
