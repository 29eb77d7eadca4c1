"""Changing how a share is borrowed under load: nobody fails, and nobody sees less than before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import msgspec
import pytest

from chimera import Unavailable
from chimera.borrow.copies import CopyKeeper
from chimera.borrow.modes import ModeSetting, read_mode, want_mode
from chimera.borrow.reads import BorrowedReads
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.names import BORROWS, copy_name
from chimera.journal.register import Register
from chimera.parts import Mode
from chimera.ports import Checkpoint, Document, Move
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedViews
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually, running
from chimera.views.documents import Documents
from chimera.views.generations import GenerationReads
from tests.support import QUICK, Bank, Card, Deposit, Engines, Shop, direct, opened, settle

KEYS = [f"k{number}" for number in range(8)]
WAY: tuple[Mode, ...] = ("async", "hybrid", "async", "sync", "hybrid", "sync")


TIMING = msgspec.structs.replace(
    QUICK, switch_look_s=0.1, switch_valid_s=0.15, switch_settle_s=0.2, switch_grace_s=0.6, keep_s=0.01
)


def reads_of(shop: Context, declared: Shop) -> BorrowedReads[Card]:
    """A read head of the shop."""
    return BorrowedReads(shop, declared.cards, Documents(shop, GenerationReads(shop)))


async def put_in_force(shop: Context, declared: Shop, mode: Mode) -> None:
    """Another mode, from one moment to the next."""
    await Register(shop.views, BORROWS, ModeSetting).put({declared.cards.name: ModeSetting(mode, mode)})


class Seen:
    """What one reader of one key has seen."""

    def __init__(self) -> None:
        self.reads = 0
        self.states: set[str] = set()
        self.highest = 0
        self.backwards: list[tuple[int, int]] = []


async def read_on(heads: Sequence[BorrowedReads[Card]], key: str, seen: Seen) -> None:
    for reads in itertools.cycle(heads):
        found = await reads.get(key)
        balance = found.value.balance if found.value else 0
        if balance < seen.highest:
            seen.backwards.append((seen.highest, balance))
        seen.highest = max(seen.highest, balance)
        seen.states.add(found.state)
        seen.reads += 1
        await asyncio.sleep(0.001)


async def write_on(bank: Context, readers: Collection[Seen]) -> None:
    """Write on between reads: who only writes leaves a copy behind for good, and each read waits for it in vain."""
    while True:
        await direct(bank, *(Deposit(key, 1) for key in KEYS))
        await eventually(partial(have_read, readers, sum(each.reads for each in readers) + len(KEYS)))


@pytest.mark.timeout(300)
async def test_all_six_changes_of_mode_under_load_show_no_reader_less_than_any_head_has_shown_it(
    engines: Engines,
) -> None:
    """The heads look at different times, and the reader goes from one to the other."""
    declared = Shop(mode="sync", budget=2.0)
    # the budget is long only because of the load: a setting has settled after 0.4 s all the same
    timing = msgspec.structs.replace(TIMING, switch_settle_s=0.4 - declared.cards.budget)
    bank = await opened(Bank().service, memory_engines()._replace(log=engines.log))
    owners = {"accounts": bank.owners["accounts"]}
    shop = await opened(declared.service, engines, owners=owners, timing=timing)
    first, second = (reads_of(shop, declared) for _ in range(2))
    await direct(bank, *(Deposit(key, 1) for key in KEYS))
    seen = {key: Seen() for key in KEYS}
    async with AsyncExitStack() as stack:
        heads = [WriteHead(bank, "a").run(), WriteHead(shop, "b").run(), first.keep_looking()]
        await stack.enter_async_context(running(*heads, write_on(bank, seen.values())))
        await asyncio.sleep(0.05)
        await stack.enter_async_context(running(second.keep_looking()))
        await stack.enter_async_context(running(*(read_on([first, second], key, seen[key]) for key in KEYS)))
        for mode in WAY:
            await want_mode(shop, declared.cards, mode)
            await eventually(partial(follow, [first, second], mode))
            count = sum(each.reads for each in seen.values())
            await eventually(partial(have_read, seen.values(), count + 40 * len(KEYS)), 60.0)
        assert (await read_mode(shop, declared.cards)).mode == "sync"
    assert [each.backwards for each in seen.values()] == [[]] * len(KEYS)
    assert set.union(*(each.states for each in seen.values())) <= {"fresh", "stale"}
    assert all(each.highest > 1 for each in seen.values())


def follow(heads: Sequence[BorrowedReads[Card]], mode: Mode) -> bool:
    return all(reads.mode == mode for reads in heads)


def have_read(readers: Collection[Seen], more_than: int) -> bool:
    return sum(each.reads for each in readers) > more_than


async def test_a_change_of_mode_does_not_hold_up_reads_beyond_the_budget_when_the_owner_hangs() -> None:
    declared = Shop(mode="sync", budget=0.05)
    bank = await opened(Bank().service, memory_engines())
    hanging = asyncio.Event()
    owner = bank.owners["accounts"]

    class Hanging:
        def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
            async def call(*arguments: object) -> object:
                if hanging.is_set():
                    await asyncio.sleep(3600)
                return await getattr(owner, name)(*arguments)

            return call

    shop = await opened(declared.service, memory_engines(), owners={"accounts": Hanging()}, timing=TIMING)
    reads = reads_of(shop, declared)
    await direct(bank, Deposit("k", 1))
    assert (await reads.get("k")).state == "fresh"
    hanging.set()
    await put_in_force(shop, declared, "hybrid")
    looking = asyncio.ensure_future(reads.look())
    await asyncio.sleep(0)
    await asyncio.wait_for(reads.get("k"), 60.0)
    await asyncio.wait_for(looking, 60.0)
    assert reads.mode == "hybrid"


class Sleeping(Clock):
    """The clock of a process that sleeps now and then, for `slept` seconds by now."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.slept


class Blind(WrappedViews):
    """Views in which settings can't be read while `is_blind`."""

    is_blind = False

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        if self.is_blind and view == BORROWS:
            raise Unavailable("the setting can't be read")
        return await super().get(view, keys)


async def test_a_head_that_slept_while_the_mode_changed_does_not_take_a_dropped_copy_for_an_absence() -> None:
    declared, clock, engines = Shop(mode="async", budget=1.0), Sleeping(), memory_engines()
    views = Blind(engines.views)
    bank = await opened(Bank().service, memory_engines())
    owners = {"accounts": bank.owners["accounts"]}
    shop = await opened(declared.service, engines._replace(views=views), owners=owners, timing=TIMING, clock=clock)
    reads = reads_of(shop, declared)
    await direct(bank, Deposit("k", 1))
    await settle(reads)
    reads._age.begin("async", clock.monotonic(), {})
    reads._age._heads["async"] = {}  # it was compared before the owner had anything
    assert (await reads.get("k")).state == "absent"

    views.is_blind = True
    clock.slept += TIMING.switch_grace_s
    assert (await reads.get("k")).state == "fresh"
    views.is_blind = False
    await put_in_force(shop, declared, "sync")
    clock.slept += TIMING.switch_valid_s
    assert (await reads.get("k")).state == "fresh"
    assert reads.mode == "sync"


class Lagging:
    """A shop whose copy of its owner's cards moves only when it is told to."""

    def __init__(self, bank: Context, shop: Context, declared: Shop) -> None:
        self.bank, self.shop, self.borrow = bank, shop, declared.cards
        self.reads = reads_of(shop, declared)

    async def deposit(self) -> None:
        await direct(self.bank, Deposit("k", 1))

    async def copy(self) -> None:
        """Let the copy have what the owner has."""
        name = copy_name(self.borrow.name, "async")
        kept = (await self.shop.views.get(name, ["k"])).get("k")
        data = (await self.bank.owners["accounts"].fetch("cards", ["k"])).documents["k"]
        at = await self.shop.views.checkpoints(name)
        moves = [
            Move("accounts", partition, at.get(("accounts", partition), Checkpoint()).number, Checkpoint(number))
            for partition, number in (await self.bank.store.heads()).items()
        ]
        document = Document(name, "k", data, kept.revision if kept else 0)
        assert await self.shop.views.write(name, [document], moves)
        self.shop.moved.notify()

    async def balance(self) -> int:
        return (await self.read())[0]

    async def read(self) -> tuple[int, str]:
        """The balance that the shop has of the key, and what it says of it."""
        found = await self.reads.get("k")
        assert found.value is not None
        return found.value.balance, found.state


async def lagging(mode: Mode, *, budget: float = 5.0) -> Lagging:
    declared = Shop(mode=mode, budget=budget)
    bank = await opened(Bank().service, memory_engines())
    engines = memory_engines()._replace(log=bank.log)
    shop = await opened(declared.service, engines, owners={"accounts": bank.owners["accounts"]}, timing=TIMING)
    found = Lagging(bank, shop, declared)
    await found.deposit()
    await found.copy()
    assert await found.balance() == 1
    return found


async def test_a_read_while_a_mode_changes_waits_until_the_copy_has_what_the_owner_had_then() -> None:
    town = await lagging("async")
    await settle(town.reads)
    await town.deposit()
    assert await town.balance() == 1
    await want_mode(town.shop, town.borrow, "sync")
    await town.reads.look()
    reading = asyncio.ensure_future(town.balance())
    done, _ = await asyncio.wait([reading], timeout=0.05)
    assert not done
    await town.copy()
    assert await reading == 2


async def test_when_the_copy_does_not_get_there_in_time_the_owner_is_asked() -> None:
    town = await lagging("async", budget=0.2)
    await town.deposit()
    assert await town.read() == (2, "fresh")


async def test_a_copy_that_does_not_get_there_is_called_stale_when_the_owner_does_not_answer_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    town = await lagging("async", budget=0.2)
    await town.deposit()

    async def hang(share: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        await asyncio.sleep(3600)
        return {}

    monkeypatch.setattr(town.shop.owners["accounts"], "fetch", hang)
    assert await town.read() == (1, "stale")


async def test_care_ends_only_after_everybody_has_seen_the_mode_and_leaves_the_owners_last_word_as_a_floor() -> None:
    town = await lagging("async", budget=0.5)
    await town.deposit()
    follower = town.reads._follower
    await follower.follow()
    assert follower.is_careful
    await asyncio.sleep(TIMING.switch_settle_s + 0.5)
    await follower.follow()
    assert not follower.is_careful
    await town.deposit()
    reading = asyncio.ensure_future(town.balance())
    done, _ = await asyncio.wait([reading], timeout=0.05)
    assert not done
    await town.copy()
    assert await reading == 3
    await town.deposit()
    assert await town.balance() == 3


async def test_no_mode_flips_before_every_head_has_had_the_time_to_see_that_it_is_wanted() -> None:
    town = await lagging("async", budget=0.1)
    wanted = await want_mode(town.shop, town.borrow, "sync")
    async with running(CopyKeeper(town.shop, town.borrow, frozenset({0, 1})).run()):
        await asyncio.sleep(TIMING.switch_settle_s)
        assert await read_mode(town.shop, town.borrow) == wanted
        await eventually(lambda: _is_in_force(town, "sync"))


async def _is_in_force(town: Lagging, mode: Mode) -> bool:
    return (await read_mode(town.shop, town.borrow)).mode == mode
