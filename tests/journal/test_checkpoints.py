"""Checkpoints are moved from where they are believed to be, and waited for."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import pytest

from chimera import Unavailable
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.entities import Key, Row, Table
from chimera.errors import Conflict
from chimera.journal.checkpoints import (
    CONFLICT_FIRST_S,
    CONFLICT_LONGEST_S,
    CONFLICT_TRIES,
    Moved,
    Place,
    again_on_conflict,
    move_checkpoints,
    numbers_of,
    reach,
    read_checkpoints,
    settled_checkpoints,
    short_of,
)
from chimera.ports import Checkpoint, Move
from chimera.testing.broken import WrappedSession
from chimera.transaction import Unit
from tests.support import Account, balances

SOURCE = "orders"


def move(partition: int, before: int, after: int) -> Move:
    return Move(SOURCE, partition, before, Checkpoint(after, after + 100))


async def moved(context: Context, *moves: Move, consumer: str = "sales", with_account: str | None = None) -> None:
    """Move checkpoints in the store, in a transaction that may save an account, too."""
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        if with_account is not None:
            unit.put(Account(with_account))
        await move_checkpoints(unit, consumer, moves)
        await unit.flush()


# In the store


async def test_checkpoints_are_at_nothing_until_they_are_moved(context: Context) -> None:
    assert await read_checkpoints(context.store, "sales", SOURCE, [0, 1]) == {0: Checkpoint(), 1: Checkpoint()}
    await moved(context, move(0, 0, 5), move(1, 0, 2))
    await moved(context, move(0, 5, 9))
    at = await read_checkpoints(context.store, "sales", SOURCE, range(3))
    assert at == {0: Checkpoint(9, 109), 1: Checkpoint(2, 102), 2: Checkpoint()}


async def test_a_move_from_elsewhere_is_refused_with_all_that_came_with_it(context: Context) -> None:
    await moved(context, move(0, 0, 5))
    with pytest.raises(Moved, match="sales: orders/0 is at 5, not 4"):
        await moved(context, move(1, 0, 2), move(0, 4, 9), with_account="a")
    at = await read_checkpoints(context.store, "sales", SOURCE, [0, 1])
    assert at == {0: Checkpoint(5, 105), 1: Checkpoint()}
    assert await balances(context) == {}


async def test_checkpoints_of_other_consumers_and_sources_stay_where_they_are(context: Context) -> None:
    await moved(context, move(0, 0, 5))
    await moved(context, move(0, 0, 1), consumer="stock")
    await moved(context, Move("billing", 0, 0, Checkpoint(3)))
    assert await read_checkpoints(context.store, "sales", SOURCE, [0]) == {0: Checkpoint(5, 105)}
    assert await read_checkpoints(context.store, "stock", SOURCE, [0]) == {0: Checkpoint(1, 101)}
    assert await read_checkpoints(context.store, "sales", "billing", [0]) == {0: Checkpoint(3)}


class Unasked(WrappedSession):
    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        pytest.fail("the store was asked")


async def test_without_moves_nothing_is_asked_of_the_store(context: Context) -> None:
    async with context.store.transaction() as session:
        await move_checkpoints(Unit(context.service, Unasked(session)), "sales", [])


async def test_of_many_that_move_from_the_same_place_one_does(context: Context) -> None:
    tries = (moved(context, move(0, 0, number), with_account=str(number)) for number in range(1, 6))
    results = await asyncio.gather(*tries, return_exceptions=True)
    winners = [number for number, result in enumerate(results, 1) if result is None]
    assert len(winners) == 1
    assert all(isinstance(result, Conflict) for result in results if result is not None)
    assert (await read_checkpoints(context.store, "sales", SOURCE, [0]))[0].number == winners[0]
    assert await balances(context) == {str(winners[0]): 0}


# Again


class Patient(Clock):
    """A clock that notes how long somebody wants to sleep, and does not let her."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def random(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Work:
    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.tries = 0

    async def __call__(self) -> str:
        self.tries += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


async def test_a_transaction_that_others_were_in_the_way_of_is_done_again_after_pauses_that_grow() -> None:
    work, clock = Work(*[Conflict("others")] * 7), Patient()
    assert await again_on_conflict(work, clock) == "done"
    assert work.tries == 8
    assert clock.slept == [0.5 * min(CONFLICT_FIRST_S * 2**n, CONFLICT_LONGEST_S) for n in range(7)]


async def test_the_last_conflict_is_raised_after_so_many_tries() -> None:
    work = Work(*(Conflict(str(number)) for number in range(1, 50)))
    with pytest.raises(Conflict, match=f"^{CONFLICT_TRIES}$"):
        await again_on_conflict(work, Patient())
    assert work.tries == CONFLICT_TRIES


@pytest.mark.parametrize("error", [Moved("elsewhere"), Unavailable("gone"), ValueError("as told")])
async def test_nothing_else_is_tried_again(error: Exception) -> None:
    work, clock = Work(error), Patient()
    with pytest.raises(type(error)):
        await again_on_conflict(work, clock)
    assert (work.tries, clock.slept) == (1, [])


# In the view store


def test_short_of_a_floor_are_those_places_that_have_not_reached_its_number() -> None:
    at = {(SOURCE, 0): Checkpoint(5, 900), (SOURCE, 1): Checkpoint(7), ("billing", 0): Checkpoint(1)}
    floor = {(SOURCE, 0): 6, (SOURCE, 1): 7, (SOURCE, 2): 1, (SOURCE, 3): 0}
    assert short_of(at, floor) == {(SOURCE, 0): 5, (SOURCE, 2): 0}
    assert short_of(at, {}) == {}
    assert short_of({}, floor) == {(SOURCE, 0): 0, (SOURCE, 1): 0, (SOURCE, 2): 0}


async def projected(context: Context, *moves: Move, consumer: str = "sales") -> None:
    assert await context.views.write(consumer, [], moves)
    context.moved.notify()


async def test_who_waits_for_checkpoints_that_are_there_does_not_wait(context: Context) -> None:
    await projected(context, move(0, 0, 5), move(1, 0, 2))
    started = time.monotonic()
    assert await reach(context, "sales", {(SOURCE, 0): 5, (SOURCE, 1): 1}, 60.0) == {}
    assert await reach(context, "sales", {}, 60.0) == {}
    assert time.monotonic() - started < 50.0


async def test_who_waits_goes_on_as_soon_as_the_last_one_is_there(context: Context) -> None:
    await projected(context, move(0, 0, 5))
    waiting = asyncio.ensure_future(reach(context, "sales", {(SOURCE, 0): 6, (SOURCE, 1): 2}, 60.0))
    await asyncio.sleep(0.02)
    await projected(context, move(1, 0, 2))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await projected(context, move(0, 5, 6))
    assert await asyncio.wait_for(waiting, 50.0) == {}


async def test_what_another_process_moves_is_seen_without_being_told(context: Context) -> None:
    waiting = asyncio.ensure_future(reach(context, "sales", {(SOURCE, 0): 5}, 60.0))
    await asyncio.sleep(0.02)
    assert await context.views.write("sales", [], [move(0, 0, 5)])
    assert await asyncio.wait_for(waiting, 50.0) == {}


async def test_who_waited_long_enough_is_told_how_far_they_are(context: Context) -> None:
    await projected(context, move(0, 0, 5), move(1, 0, 2))
    started = time.monotonic()
    behind = await reach(context, "sales", {(SOURCE, 0): 6, (SOURCE, 1): 2, (SOURCE, 7): 1}, 0.05)
    assert behind == {(SOURCE, 0): 5, (SOURCE, 7): 0}
    assert 0.04 < time.monotonic() - started < 50.0


@pytest.mark.parametrize("within_s", [0.0, -1.0])
async def test_they_are_looked_at_once_also_where_there_is_no_time_left(context: Context, within_s: float) -> None:
    looks: list[int] = []

    async def look() -> Mapping[Place, Checkpoint]:
        looks.append(1)
        return {(SOURCE, 0): Checkpoint(5)}

    assert await reach(context, "sales", {(SOURCE, 0): 5}, within_s, look) == {}
    assert await reach(context, "sales", {(SOURCE, 0): 6}, within_s, look) == {(SOURCE, 0): 5}
    assert len(looks) == 2


async def test_settled_checkpoints_are_the_numbers_by_place(context: Context) -> None:
    assert await settled_checkpoints(context.views, "sales") == {}
    await projected(context, move(0, 0, 5), Move("billing", 1, 0, Checkpoint(2, 40)))
    await projected(context, move(0, 0, 9), consumer="stock")
    assert numbers_of(await settled_checkpoints(context.views, "sales")) == {(SOURCE, 0): 5, ("billing", 1): 2}
