"""Changing how a share is borrowed under load: nobody fails, and nobody sees less than before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from chimera import Unavailable, copies, modes
from chimera.body import Body
from chimera.borrowing import BorrowedReads
from chimera.copies import CopyKeeper, copy_name
from chimera.documents import Documents
from chimera.modes import read_mode, want_mode
from chimera.ports import Checkpoint, Document, Move
from chimera.service import Mode
from chimera.write_head import WriteHead
from tests.support import Bank, Deposit, Engines, Shop, direct, eventually, memory_engines, opened, running, settle

KEYS = [f"k{number}" for number in range(8)]
WAY: tuple[Mode, ...] = ("async", "hybrid", "async", "sync", "hybrid", "sync")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LOOK_S", 0.01)
    monkeypatch.setattr(copies, "GRACE_S", 0.6)
    monkeypatch.setattr("chimera.borrowing.GRACE_S", 0.1)
    monkeypatch.setattr("chimera.borrowing.LOOK_S", 0.1)
    monkeypatch.setattr(modes, "LATE_S", 0.15)
    monkeypatch.setattr(modes, "SETTLE_S", 0.2)


class Seen:
    """What one reader of one key has seen."""

    def __init__(self) -> None:
        self.reads = 0
        self.states: set[str] = set()
        self.highest = 0
        self.backwards: list[tuple[int, int]] = []


async def read_on(heads: Sequence[BorrowedReads[Any]], key: str, seen: Seen) -> None:
    for reads in itertools.cycle(heads):
        found = await reads.get(key)
        balance = found.value.balance if found.value else 0
        if balance < seen.highest:
            seen.backwards.append((seen.highest, balance))
        seen.highest = max(seen.highest, balance)
        seen.states.add(found.state)
        seen.reads += 1
        await asyncio.sleep(0.001)


async def write_on(bank: Body) -> None:
    while True:
        await direct(bank, *(Deposit(key, 1) for key in KEYS))
        await asyncio.sleep(0.002)


async def test_all_six_changes_of_mode_under_load_show_no_reader_less_than_any_head_has_shown_it(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads look at different times, and the reader goes from one to the other."""
    monkeypatch.setattr(modes, "_settle_s", lambda borrow: 0.4)
    declared = Shop(mode="sync", budget=2.0)
    bank = await opened(Bank().service, memory_engines()._replace(log=engines.log))
    shop = await opened(declared.service, engines, owners={"accounts": bank.owner("accounts")})
    first, second = (BorrowedReads[Any](shop, declared.cards, Documents(shop)) for _ in range(2))
    await direct(bank, *(Deposit(key, 1) for key in KEYS))
    seen = {key: Seen() for key in KEYS}
    async with AsyncExitStack() as stack:
        heads = [WriteHead(bank, "a").run(), WriteHead(shop, "b").run(), first.keep_looking(), write_on(bank)]
        await stack.enter_async_context(running(*heads))
        await asyncio.sleep(0.05)
        await stack.enter_async_context(running(second.keep_looking()))
        await stack.enter_async_context(running(*(read_on([first, second], key, seen[key]) for key in KEYS)))
        for mode in WAY:
            await want_mode(shop, declared.cards, mode)
            await eventually(lambda mode=mode: first.mode == second.mode == mode)
            count = sum(each.reads for each in seen.values())
            await eventually(lambda count=count: sum(each.reads for each in seen.values()) > count + 40 * len(KEYS))
        assert (await read_mode(shop, declared.cards)).mode == "sync"
    assert [each.backwards for each in seen.values()] == [[]] * len(KEYS)
    assert set.union(*(each.states for each in seen.values())) <= {"fresh", "stale"}
    assert all(each.highest > 1 for each in seen.values())


async def test_a_change_of_mode_does_not_hold_up_reads_beyond_the_budget_when_the_owner_hangs() -> None:
    declared = Shop(mode="sync", budget=0.05)
    bank = await opened(Bank().service, memory_engines())
    hanging = asyncio.Event()
    owner = bank.owner("accounts")

    class Hanging:
        def __getattr__(self, name: str) -> Any:
            async def call(*arguments: Any) -> Any:
                if hanging.is_set():
                    await asyncio.sleep(3600)
                return await getattr(owner, name)(*arguments)

            return call

    shop = await opened(declared.service, memory_engines(), owners={"accounts": Hanging()})  # type: ignore[dict-item]
    reads: BorrowedReads[Any] = BorrowedReads(shop, declared.cards, Documents(shop))
    await direct(bank, Deposit("k", 1))
    assert (await reads.get("k")).state == "fresh"
    hanging.set()
    await modes._keep(shop, declared.cards, modes.ModeSetting("hybrid", "hybrid"), 0)
    looking = asyncio.ensure_future(reads.look())
    await asyncio.sleep(0)
    await asyncio.wait_for(reads.get("k"), 1.0)
    await asyncio.wait_for(looking, 1.0)
    assert reads.mode == "hybrid"


async def test_a_head_that_slept_while_the_mode_changed_does_not_take_a_dropped_copy_for_an_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declared = Shop(mode="async", budget=1.0)
    bank = await opened(Bank().service, memory_engines())
    shop = await opened(declared.service, memory_engines(), owners={"accounts": bank.owner("accounts")})
    reads: BorrowedReads[Any] = BorrowedReads(shop, declared.cards, Documents(shop))
    await direct(bank, Deposit("k", 1))
    await settle(reads)
    assert (await reads.get("k")).state == "absent"

    async def broken(keys: Any) -> Any:
        raise Unavailable("the setting can't be read")

    monkeypatch.setattr("chimera.borrowing.GRACE_S", 0.0)
    monkeypatch.setattr(modes, "read_mode", broken)
    assert (await reads.get("k")).state == "fresh"
    monkeypatch.undo()
    await modes._keep(shop, declared.cards, modes.ModeSetting("sync", "sync"), 0)
    await asyncio.sleep(modes.LATE_S)
    assert (await reads.get("k")).state == "fresh"
    assert reads.mode == "sync"


class Lagging:
    """A shop whose copy of its owner's cards moves only when it is told to."""

    def __init__(self, bank: Body, shop: Body, declared: Shop) -> None:
        self.bank, self.shop, self.borrow = bank, shop, declared.cards
        self.reads: BorrowedReads[Any] = BorrowedReads(shop, declared.cards, Documents(shop))

    async def deposit(self) -> None:
        await direct(self.bank, Deposit("k", 1))

    async def copy(self) -> None:
        """Let the copy have what the owner has."""
        name = copy_name(self.borrow, "async")
        kept = (await self.shop.views.get(name, ["k"])).get("k")
        data = (await self.bank.owner("accounts").fetch("cards", ["k"]))["k"]
        at = await self.shop.views.checkpoints(name)
        moves = [
            Move("accounts", partition, at.get(("accounts", partition), Checkpoint()).number, Checkpoint(number))
            for partition, number in (await self.bank.store.heads()).items()
        ]
        document = Document(name, "k", data, kept.revision if kept else 0)
        assert await self.shop.views.write(name, [document], moves)
        self.shop.moved.notify()

    async def balance(self) -> int:
        return int((await self.reads.get("k")).value.balance)


async def lagging(mode: Mode, *, budget: float = 5.0) -> Lagging:
    declared = Shop(mode=mode, budget=budget)
    bank = await opened(Bank().service, memory_engines())
    engines = memory_engines()._replace(log=bank.log)
    shop = await opened(declared.service, engines, owners={"accounts": bank.owner("accounts")})
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
    found = await town.reads.get("k")
    assert (found.value.balance, found.state) == (2, "fresh")


async def test_a_copy_that_does_not_get_there_is_called_stale_when_the_owner_does_not_answer_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    town = await lagging("async", budget=0.2)
    await town.deposit()

    async def hang(share: str, keys: Any) -> Any:
        await asyncio.sleep(3600)

    monkeypatch.setattr(town.shop.owner("accounts"), "fetch", hang)
    found = await town.reads.get("k")
    assert (found.value.balance, found.state) == (1, "stale")


async def test_care_ends_only_after_everybody_has_seen_the_mode_and_leaves_the_owners_last_word_as_a_floor() -> None:
    town = await lagging("async", budget=0.5)
    await town.deposit()
    follower = town.reads._follower
    await follower.follow()
    assert follower.is_careful
    await asyncio.sleep(modes.SETTLE_S + 0.5)
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
        await asyncio.sleep(modes.SETTLE_S)
        assert await read_mode(town.shop, town.borrow) == wanted
        await eventually(lambda: _is_in_force(town, "sync"))


async def _is_in_force(town: Lagging, mode: Mode) -> bool:
    return (await read_mode(town.shop, town.borrow)).mode == mode
