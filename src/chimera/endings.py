"""Messages at which their process ends, again and again: recognised by what is written down, and set aside.

A consumer writes down where it starts, and takes that back when it stops in order. Where it starts again behind the
same number, and two processes were ended there, each message that may be at fault is announced before it is handled,
alone in its process. One that was announced and not finished by so many processes is not handled again. After a few
harmless ones more and more are handled together, so that a false suspicion is soon over; where a process ends then,
the next one begins there, one at a time.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import msgspec

from chimera.entities import table_of
from chimera.errors import ChimeraError, Unavailable
from chimera.ports import Checkpoint, Document, Move, Store, ViewStore
from chimera.records import Start

SUSPICIOUS = 2
"""How many processes must have been killed at one start: a single one is no message's fault as a rule, and suspicion
is slow."""
SUSPECTS = 5_000
"""How many messages behind a checkpoint may have ended a process: more than any batch holds."""
ONE_BY_ONE = 10
"""How many suspects are handled one at a time, before more are handled together."""

TRIES = 10

Ends = Callable[[], Awaitable[Mapping[int, int]]]


class ProcessEnded(Exception):  # noqa: N818 - what happened
    """Processes ended while they handled a message, `times` of them one after another."""

    def __init__(self, times: int) -> None:
        super().__init__(f"the process ended {times} times while handling it")
        self.times = times


class Process:
    """This process, as it signs what it writes down. `alone` is held while a message is handled alone.

    `suspected`: by consumer, source and partition, up to which number there are suspects, once there were any.
    """

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.alone = asyncio.Lock()
        self.suspected: dict[tuple[str, str, int], int] = {}


class Starts(Protocol):
    """Where a consumer keeps its starts."""

    async def load(self, source: str, partitions: Sequence[int]) -> dict[int, Start]: ...

    async def save(self, starts: Sequence[Start]) -> None: ...


class StoredStarts:
    """Starts in a service's store."""

    def __init__(self, store: Store, consumer: str) -> None:
        self.consumer = consumer
        self._store = store

    async def load(self, source: str, partitions: Sequence[int]) -> dict[int, Start]:
        table = table_of(Start)
        async with self._store.snapshot(once=True) as session:
            rows = await session.load(table, [(self.consumer, source, partition) for partition in partitions])
        return {start.partition: start for start in map(table.from_row, rows)}

    async def save(self, starts: Sequence[Start]) -> None:
        table = table_of(Start)
        async with self._store.transaction() as session:
            await session.save(table, [table.to_row(start) for start in starts])


class ViewStarts:
    """Starts beside the documents of a view or a copy."""

    def __init__(self, views: ViewStore, consumer: str) -> None:
        self.consumer = consumer
        self._views = views

    async def load(self, source: str, partitions: Sequence[int]) -> dict[int, Start]:
        found = await self._views.get(starts_view(self.consumer), [f"{source}/{partition}" for partition in partitions])
        starts = [msgspec.json.decode(document.data or b"", type=Start) for document in found.values()]
        return {start.partition: start for start in starts}

    async def save(self, starts: Sequence[Start]) -> None:
        name = starts_view(self.consumer)
        data = {f"{start.source}/{start.partition}": msgspec.json.encode(start) for start in starts}
        for _ in range(TRIES):
            kept = await self._views.get(name, list(data))
            documents = [Document(name, key, data[key], kept[key].revision if key in kept else 0) for key in data]
            if await self._views.write(self.consumer, documents, []):
                return
        raise Unavailable(f"others write down again and again where {self.consumer} starts")


def starts_view(consumer: str) -> str:
    """The name under which the starts of a view or a copy are kept."""
    return f"{consumer}.starts"


class Watch:
    """One consumer of one source, watched for messages at which the process ends."""

    def __init__(self, process: Process, kept: Starts, limit: int) -> None:
        self._process = process
        self._kept = kept
        self._limit = limit
        self._starts: dict[int, Start] = {}
        self._until: dict[int, int] = {}
        self._hints: dict[int, int] = {}
        self._harmless: Counter[int] = Counter()

    async def begin(self, consumer: str, source: str, at: Mapping[int, Checkpoint], ends: Ends) -> None:
        """Write down the start, and find out in which partitions a process ended where this one starts."""
        kept, me = await self._kept.load(source, list(at)), self._process.name
        suspects: list[int] = []
        for partition, checkpoint in at.items():
            start, last = Start(consumer, source, partition, checkpoint.number, me), kept.get(partition)
            if last is not None and last.number == checkpoint.number:
                was_killed = last.by not in ("", me)
                start.trying, start.killed = last.trying, last.killed + was_killed
                start.ends = last.ends + (last.trying != 0 and was_killed)
                if start.killed >= SUSPICIOUS or start.ends:
                    suspects.append(partition)
            self._starts[partition] = start
            self._hints[partition] = checkpoint.offset
        if self._starts:
            await self._kept.save(list(self._starts.values()))
        if suspects:
            known = await ends()
            for partition in suspects:
                most, place = at[partition].number + SUSPECTS, (consumer, source, partition)
                until = min(known.get(partition, most), most)
                if kept[partition].by == me:  # what came since is not to blame
                    until = min(until, self._process.suspected.get(place, until))
                self._until[partition] = self._process.suspected[place] = until

    async def end(self) -> None:
        """The consumer stops in order: what it was doing is not to blame, and what was counted before stays."""
        with suppress(ChimeraError):
            for source in {start.source for start in self._starts.values()}:
                kept = await self._kept.load(source, list(self._starts))
                own = [start for start in kept.values() if start.by == self._process.name]
                if own:
                    await self._kept.save([msgspec.structs.replace(each, by="") for each in own])

    def careful(self, moves: Iterable[Move]) -> list[Move]:
        """Those moves over messages that may have ended a process; none from before its start, where it went back."""
        return [move for move in moves if self._is_suspect(move)]

    def _is_suspect(self, move: Move) -> bool:
        until = self._until.get(move.partition, 0)
        return move.before < until and move.before >= self._starts[move.partition].number

    def up_to(self, move: Move, number: int, offset: int = 0) -> Move:
        """The part of a move that leads up to a message; without its offset it hints where this consumer started."""
        if number == move.after.number:
            return move
        return move._replace(after=Checkpoint(number, offset or self._hints[move.partition]))

    def together(self, partition: int) -> int:
        """How many of a partition's suspects are handled together next: about as many as were harmless so far."""
        return max(1, self._harmless[partition] - ONE_BY_ONE)

    @asynccontextmanager
    async def alone(self, move: Move, count: int = 1) -> AsyncIterator[ProcessEnded | None]:
        """Announce the messages that a move leads over, so many, and handle them inside.

        Gives why it is not to be handled, where it is only one.
        """
        async with self._process.alone:
            start = self._starts[move.partition]
            trying = move.after.number if count == 1 else 0
            ends = start.ends if trying and start.trying == trying else 0
            announced = msgspec.structs.replace(start, number=move.before, trying=trying, ends=ends)
            if announced != start:
                await self._kept.save([announced])
                self._starts[move.partition] = announced
            yield ProcessEnded(ends) if ends >= self._limit else None
            self._harmless[move.partition] += count


@asynccontextmanager
async def watching(
    process: Process, kept: Starts, limit: int, consumer: str, source: str, at: Mapping[int, Checkpoint], ends: Ends
) -> AsyncIterator[Watch]:
    """Watch a consumer that starts behind these checkpoints; `ends` tells the last numbers as far as known."""
    watch = Watch(process, kept, limit)
    await watch.begin(consumer, source, at, ends)
    try:
        yield watch
    finally:
        await watch.end()
