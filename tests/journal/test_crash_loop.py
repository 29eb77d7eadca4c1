"""A message at which its process ends again and again is parked; who is killed for another reason loses nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chimera.commands.handlers import commands_executor
from chimera.core.context import Context, Process
from chimera.core.tables import Start
from chimera.journal.crash_loop import ONE_BY_ONE, SUSPECTS, MessageAt, Starts, StoredStarts, ViewStarts, Watch
from chimera.journal.failures import ProcessEnded
from chimera.ports import Checkpoint, Move
from chimera.testing.engines import sqlite_engines
from chimera.testing.kit.balance import recomputed
from chimera.testing.waiting import eventually
from chimera.upkeep.parked import Wanted, parked_keys, parked_messages
from chimera.upkeep.status import parked_counts
from chimera.views.generations import serving_name
from tests.mortal import ENDED, ENDS
from tests.support import Bank, Deposit, Engines, accept, balances, journal_of, opened, reaction_of, stored

ROOT = Path(__file__).parents[2]
KEYS = [f"k{number}" for number in range(8)]


@pytest.fixture
async def kept(bank: Bank, tmp_path: Path) -> AsyncIterator[Context]:
    """What the processes share, as this one sees it."""
    engines = sqlite_engines(tmp_path)
    yield await opened(bank.service, engines)
    await engines.close()


@asynccontextmanager
async def process(folder: Path, where: str, what: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.mortal", str(folder), where, what, cwd=ROOT
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def is_settled(context: Context) -> bool:
    """Whether every consumer has passed everything."""
    ends = await context.log.ends(context.commands_topic)
    at = await commands_executor(context).checkpoints(context.commands_topic, ends)
    if any(at[partition].number < end for partition, end in ends.items()):
        return False
    heads = await context.store.heads()
    for reaction in context.service.reactions:
        executor, _ = reaction_of(context, reaction)
        if {p: c.number for p, c in (await executor.checkpoints("accounts", heads)).items()} != heads:
            return False
    for view in context.service.views:
        found = await context.views.checkpoints(await serving_name(context, view))
        if any(found.get(("accounts", p), Checkpoint()).number != number for p, number in heads.items()):
            return False
    return True


PLACES = {"failing": "commands", "failing_reactions": "thank:accounts", "failing_views": "balance"}


@pytest.mark.parametrize("where", PLACES)
async def test_a_message_that_ends_its_process_is_set_aside_and_what_follows_goes_on(
    kept: Context, bank: Bank, tmp_path: Path, where: str
) -> None:
    deposits = [Deposit(key, amount) for amount in (1, 10) for key in (*KEYS[:4], "poison", *KEYS[4:])]
    await accept(kept, *deposits)
    ended = 0
    while True:
        async with process(tmp_path, where, "deadly") as child:
            settling = asyncio.ensure_future(eventually(lambda: is_settled(kept)))
            ending = asyncio.ensure_future(child.wait())
            await asyncio.wait([settling, ending], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await settling
                child.send_signal(signal.SIGTERM)
                assert await ending == 0
                break
            settling.cancel()
            assert ending.result() == ENDED
            ended += 1
            assert ended <= ENDS + 3
    assert ended >= ENDS
    [parked] = await parked_keys(kept, Wanted())
    first, behind = await parked_messages(kept, parked)
    assert (first.consumer, first.message.key, first.tries) == (PLACES[where], "poison", ENDS)
    assert first.cause == f"the process ended {ENDS} times while handling it"
    assert (behind.message.key, behind.tries) == ("poison", 0)
    assert {key: found for key, found in (await balances(kept)).items() if key in KEYS} == dict.fromkeys(KEYS, 11)
    right = recomputed(bank.balance, await journal_of(kept.store))
    found = await stored(kept.views, await serving_name(kept, "balance"))
    assert {key: found[key] for key in KEYS} == {key: right[key] for key in KEYS}


@pytest.mark.parametrize("where", PLACES)
async def test_kills_for_other_reasons_set_nothing_aside(kept: Context, tmp_path: Path, where: str) -> None:
    """Killed again and again while it handles a message, but never so often at the same one; and while it is idle."""
    await accept(kept, *(Deposit(f"slow{number}", 1) for number in range(4)))
    kills = 0
    while not await is_settled(kept):
        async with process(tmp_path, where, "slow") as child:
            await until_begun(tmp_path, child.pid)
        (tmp_path / "go").touch()
        async with process(tmp_path, where, "slow") as child:
            await eventually(lambda: not (tmp_path / "go").exists())
            await until_begun(tmp_path, child.pid, 2, or_settled=kept)
        kills += 2
    assert kills > ENDS
    for _ in range(ENDS + 1):
        async with process(tmp_path, where, "slow") as child:
            await eventually((tmp_path / f"ready-{child.pid}").exists)
    assert await parked_counts(kept) == {}


def begun(folder: Path, pid: int) -> list[Path]:
    """The messages that a process has begun to handle."""
    return list(folder.glob(f"begun-{pid}-*"))


async def until_begun(folder: Path, pid: int, count: int = 1, *, or_settled: Context | None = None) -> None:
    """Wait until a process has begun to handle so many messages, or nothing is left to handle."""

    async def has_begun() -> bool:
        return len(begun(folder, pid)) >= count or (or_settled is not None and await is_settled(or_settled))

    await eventually(has_begun)


class Life:
    """What consecutive processes do with one consumer, without ending any."""

    def __init__(self, kept: Starts, limit: int = 3) -> None:
        self.kept = kept
        self.limit = limit
        self.asked = 0

    async def start(self, number: int, *, process: Process | None = None, end: int | None = None) -> Watch:
        watch = Watch(process or Process(), self.kept, self.limit)

        async def ends() -> Mapping[int, int]:
            self.asked += 1
            return {} if end is None else {1: end}

        await watch.begin("sales", "accounts", {1: Checkpoint(number, 7)}, ends)
        return watch


@pytest.fixture(params=["store", "views"])
async def life(request: pytest.FixtureRequest, context: Context) -> Life:
    return Life(
        StoredStarts(context.store, "sales") if request.param == "store" else ViewStarts(context.views, "sales")
    )


def move(before: int, after: int) -> Move:
    return Move("accounts", 1, before, Checkpoint(after, after))


async def announced(watch: Watch, number: int, before: int | None = None) -> bool:
    """Whether a message is to be handled, once it was announced."""
    async with watch._alone(move(number - 1 if before is None else before, number)) as ended:
        return ended is None


async def test_the_first_start_and_a_start_after_progress_suspect_nothing_and_ask_nobody(life: Life) -> None:
    assert (await life.start(0)).careful([move(0, 5)]) == []
    assert (await life.start(4)).careful([move(4, 5)]) == []
    assert life.asked == 0


async def test_a_third_start_at_the_same_number_suspects_what_there_was_and_no_more(life: Life) -> None:
    await life.start(4)
    assert not (await life.start(4, end=9)).careful([move(4, 5)])
    watch = await life.start(4, end=9)
    assert [bool(watch.careful([move(before, before + 1)])) for before in (4, 8, 9)] == [True, True, False]
    watch = await life.start(4)
    assert watch.careful([move(3 + SUSPECTS, 4 + SUSPECTS)])
    assert not watch.careful([move(4 + SUSPECTS, 5 + SUSPECTS)])


async def test_what_comes_again_because_the_checkpoints_were_deleted_is_not_suspect(life: Life) -> None:
    for _ in range(3):
        watch = await life.start(4, end=9)
    assert await announced(watch, 8)
    assert [bool(watch.careful([move(before, 9)])) for before in (0, 4, 7)] == [False, False, True]


async def test_after_some_harmless_ones_more_and_more_are_handled_together(life: Life) -> None:
    for _ in range(3):
        watch = await life.start(0)
    number, counts = 0, list[int]()
    while number < 1_000:
        counts.append(watch._together(1))
        number += counts[-1]
        async with watch._alone(move(number - counts[-1], number), counts[-1]):
            pass
    assert counts[:ONE_BY_ONE] == [1] * ONE_BY_ONE
    assert len(counts) < ONE_BY_ONE + 15


class Killed(Exception):  # noqa: N818 - what happens
    pass


async def test_where_processes_end_with_several_at_once_the_one_at_fault_is_soon_alone(life: Life) -> None:
    number, fault, kills, is_over = 0, 3_000, 0, False
    while not is_over:
        watch = await life.start(number, end=5_000)
        try:
            while not is_over:
                count = watch._together(1) if watch.careful([move(number, 5_000)]) else 500
                async with watch._alone(move(number, number + count), count) as ended:
                    is_over = ended is not None
                    if number + count >= fault and not is_over:
                        raise Killed
                number += count
        except Killed:
            kills += 1
    assert number == fault
    assert kills <= life.limit + 12


async def test_a_process_that_was_idle_when_it_was_killed_makes_nothing_suspect(life: Life) -> None:
    await life.start(4)
    await life.start(4)
    assert not (await life.start(4, end=4)).careful([move(4, 5)])


async def test_what_came_after_the_kills_is_not_suspect_when_the_work_starts_anew(life: Life) -> None:
    """As after an outage of the database, for which much has been waiting."""
    await life.start(4)
    await life.start(4)
    process = Process()
    assert (await life.start(4, process=process, end=6)).careful([move(4, 5)])
    watch = await life.start(4, process=process, end=400)
    assert [bool(watch.careful([move(before, before + 1)])) for before in (4, 5, 6)] == [True, True, False]


async def test_an_end_in_order_is_nobodys_fault(life: Life) -> None:
    for _ in range(5):
        watch = await life.start(4)
        assert not watch.careful([move(4, 5)])
        await watch.end()


async def test_only_processes_that_ended_at_the_very_same_message_count(life: Life) -> None:
    await life.start(4)
    for number in (5, 5, 6, 5, 5, 5):
        assert await announced(await life.start(4), number, before=4)
    assert not await announced(await life.start(4), 5)


async def test_progress_makes_all_forgotten(life: Life) -> None:
    await life.start(4)
    for _ in range(3):
        assert await announced(await life.start(4), 5)
    watch = await life.start(5)
    assert not watch.careful([move(5, 6)])
    await life.start(4)
    assert await announced(await life.start(4), 5)


async def test_a_process_that_starts_again_by_itself_or_stops_in_order_does_not_count(life: Life) -> None:
    """The work starts anew in the same process when an engine is away, and when its leases change."""
    await life.start(4)
    process = Process()
    for _ in range(5):
        assert await announced(await life.start(4, process=process), 5)
    for _ in range(5):
        watch = await life.start(4)
        assert await announced(watch, 5)
        await watch.end()
    assert await announced(await life.start(4), 5)


async def test_what_was_counted_outlives_a_change_of_leases(life: Life) -> None:
    """A partition that moves on, in order, from a process that had no time to handle the message."""
    await life.start(4)
    for _ in range(3):
        assert await announced(await life.start(4), 5)
        await (await life.start(4)).end()
    watch = await life.start(4)
    assert watch.careful([move(4, 5)])
    assert not await announced(watch, 5)


async def test_one_who_ends_in_order_does_not_speak_for_who_took_over(life: Life) -> None:
    old = await life.start(4)
    await life.start(4)
    await life.start(4)
    await old.end()
    assert (await life.start(4)).careful([move(4, 5)])


async def test_one_message_at_a_time_is_announced_in_a_process(context: Context) -> None:
    """So that whoever is announced when the process ends is at fault."""
    process = Process()
    watches = [await Life(StoredStarts(context.store, name)).start(4, process=process) for name in ("sales", "stock")]
    running: list[int] = []

    async def handle(watch: Watch) -> None:
        async with watch._alone(move(4, 5)):
            running.append(1)
            for _ in range(50):
                await asyncio.sleep(0)
                assert len(running) == 1
            running.clear()

    await asyncio.gather(*map(handle, watches))


async def test_a_healthy_start_writes_once_and_a_batch_nothing(engines: Engines, bank: Bank) -> None:
    context = await opened(bank.service, engines)
    life = Life(StoredStarts(context.store, "sales"))
    saved: list[Sequence[Start]] = []
    save = life.kept.save

    async def counting(starts: Sequence[Start]) -> None:
        saved.append(starts)
        await save(starts)

    life.kept.save = counting  # type: ignore[method-assign]
    watch = await life.start(4)
    for before in range(4, 100):
        assert watch.careful([move(before, before + 1)]) == []
    assert len(saved) == 1


def place_of(item: tuple[int, int]) -> MessageAt:
    return MessageAt(*item)


async def test_suspects_are_worked_on_one_at_a_time_after_what_is_not_suspect_and_their_moves_lead_up_to_each(
    life: Life,
) -> None:
    for _ in range(3):
        watch = await life.start(4, end=6)
    done: list[tuple[Sequence[tuple[int, int]], Sequence[Move]]] = []

    async def work(items: Sequence[tuple[int, int]], moves: Sequence[Move], ended: ProcessEnded | None) -> bool:
        assert ended is None
        done.append((items, moves))
        return True

    other = Move("accounts", 2, 0, Checkpoint(1, 1))
    assert await watch.run([(1, 5), (2, 1), (1, 6)], [move(4, 9), other], place_of, work)
    hint = 7
    assert done == [
        ([(2, 1)], [other]),
        ([(1, 5)], [Move("accounts", 1, 4, Checkpoint(5, hint))]),
        ([(1, 6)], [Move("accounts", 1, 5, Checkpoint(6, hint))]),
        ([], [move(6, 9)]),
    ]


async def test_work_that_says_no_is_not_gone_on_with(life: Life) -> None:
    for _ in range(3):
        watch = await life.start(4, end=6)
    done: list[Sequence[tuple[int, int]]] = []

    async def work(items: Sequence[tuple[int, int]], moves: Sequence[Move], ended: ProcessEnded | None) -> bool:
        done.append(items)
        return False

    assert not await watch.run([(1, 5), (1, 6)], [move(4, 6)], place_of, work)
    assert done == [[(1, 5)]]
