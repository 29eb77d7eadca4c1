"""Checkpoints: how far consumers are, moved by compare-and-set with their effects, and waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.tables import Progress
from chimera.core.timing import pause_s
from chimera.entities import table_of
from chimera.errors import Conflict
from chimera.messages import Position
from chimera.ports import Checkpoint, Move, Store, ViewStore
from chimera.transaction import Unit

Result = TypeVar("Result")
Place = tuple[str, int]
"""A source and one of its partitions."""
Look = Callable[[], Awaitable[Mapping[Place, Checkpoint]]]
"""Reads a consumer's checkpoints."""

CONFLICT_TRIES = 10
CONFLICT_FIRST_S = 0.02
CONFLICT_LONGEST_S = 0.64


class Moved(Conflict):
    """The checkpoint is not where this consumer believed: somebody else did the work, or it was reset."""


async def again_on_conflict(work: Callable[[], Awaitable[Result]], clock: Clock) -> Result:
    """Do a transaction, again after a random pause that grows when others were in its way.

    Raises the last Conflict after CONFLICT_TRIES; Moved at once, for to try again does not help then.
    """
    for failures in range(1, CONFLICT_TRIES):
        try:
            return await work()
        except Moved:
            raise
        except Conflict:
            await clock.sleep(clock.random() * pause_s(failures, CONFLICT_FIRST_S, CONFLICT_LONGEST_S))
    return await work()


async def read_checkpoints(
    store: Store, consumer: str, source: str, partitions: Iterable[int]
) -> dict[int, Checkpoint]:
    """The checkpoints that a consumer has in this store, by partition of the source; at 0 where it has none."""
    table, wanted = table_of(Progress), list(partitions)
    async with store.snapshot(once=True) as session:
        rows = await session.load(table, [(consumer, source, partition) for partition in wanted])
    at = {row.partition: row.checkpoint for row in map(table.from_row, rows)}
    return {partition: at.get(partition, Checkpoint()) for partition in wanted}


async def move_checkpoints(unit: Unit, consumer: str, moves: Sequence[Move]) -> None:
    """Move a consumer's checkpoints with what else the unit does. Raises Moved where one is not at `before`."""
    if not moves:
        return
    table = table_of(Progress)
    rows = await unit.session.load(table, [(consumer, move.source, move.partition) for move in moves])
    at = {(row.source, row.partition): row.number for row in map(table.from_row, rows)}
    for move in moves:
        number = at.get((move.source, move.partition), 0)
        if number != move.before:
            raise Moved(f"{consumer}: {move.source}/{move.partition} is at {number}, not {move.before}")
        unit.put(Progress.of(consumer, move.source, move.partition, move.after))


def floor_of(positions: Iterable[Position]) -> dict[Place, int]:
    """The numbers that a consumer must have reached to have all of these positions, by place."""
    floor: dict[Place, int] = {}
    for each in positions:
        place = (each.source, each.partition)
        floor[place] = max(each.number, floor.get(place, 0))
    return floor


def short_of(at: Mapping[Place, Checkpoint], floor: Mapping[Place, int]) -> dict[Place, int]:
    """The numbers of those checkpoints that have not reached the floor, by place."""
    numbers = {place: at.get(place, Checkpoint()).number for place in floor}
    return {place: number for place, number in numbers.items() if number < floor[place]}


async def reach(
    context: Context, consumer: str, floor: Mapping[Place, int], within_s: float, look: Look | None = None
) -> dict[Place, int]:
    """Wait until a consumer's checkpoints in the view store have reached a floor, at most `within_s` seconds.

    They are looked at once at least, by `look` where it is given, then whenever a projection of this process has moved
    and as often as the view store likes to be asked. Returns what `short_of` says at the end: nothing where they have.
    """
    clock, poll_s = context.clock, context.views.features.poll_s
    until = clock.monotonic() + within_s
    while behind := short_of(await (look() if look else context.views.checkpoints(consumer)), floor):
        if (left := until - clock.monotonic()) <= 0:
            return behind
        await context.moved.wait(min(left, poll_s))
    return {}


async def settled_checkpoints(views: ViewStore, consumer: str) -> Mapping[Place, Checkpoint]:
    """A consumer's checkpoints, which cover all that could be seen of its documents.

    A store without transactions shows documents before their checkpoints; the next write, here an empty one, finishes
    what was begun.
    """
    await views.write(consumer, [], [])
    return await views.checkpoints(consumer)


def numbers_of(at: Mapping[Place, Checkpoint]) -> dict[Place, int]:
    """The numbers of checkpoints, by place."""
    return {place: checkpoint.number for place, checkpoint in at.items()}
