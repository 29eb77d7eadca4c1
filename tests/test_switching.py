"""Changing how a share is borrowed under load: nobody fails, and nobody sees less than before."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from chimera import copies
from chimera.body import Body
from chimera.borrowing import BorrowedReads
from chimera.copies import read_mode, want_mode
from chimera.reader import Documents
from chimera.service import Mode
from chimera.write_head import WriteHead
from tests.support import Bank, Deposit, Engines, Shop, direct, eventually, memory_engines, opened, running

KEYS = [f"k{number}" for number in range(8)]
WAY: tuple[Mode, ...] = ("async", "hybrid", "async", "sync", "hybrid", "sync")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LOOK_S", 0.01)
    monkeypatch.setattr(copies, "GRACE_S", 0.1)
    monkeypatch.setattr("chimera.borrowing.LOOK_S", 0.01)
    monkeypatch.setattr("chimera.borrowing.GRACE_S", 0.1)


class Seen:
    """What one reader of one key has seen."""

    def __init__(self) -> None:
        self.reads = 0
        self.states: set[str] = set()
        self.highest = 0
        self.backwards: list[tuple[int, int]] = []


async def read_on(reads: BorrowedReads[Any], key: str, seen: Seen) -> None:
    while True:
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


async def test_all_six_changes_of_mode_under_load_show_no_reader_less_than_it_has_seen(engines: Engines) -> None:
    declared = Shop(mode="sync", budget=1.0)
    bank = await opened(Bank().service, memory_engines()._replace(log=engines.log))
    shop = await opened(declared.service, engines, owners={"accounts": bank.owner("accounts")})
    reads: BorrowedReads[Any] = BorrowedReads(shop, declared.cards, Documents(shop))
    await direct(bank, *(Deposit(key, 1) for key in KEYS))
    seen = {key: Seen() for key in KEYS}
    async with AsyncExitStack() as stack:
        heads = [WriteHead(bank, "a").run(), WriteHead(shop, "b").run(), reads.keep_looking(), write_on(bank)]
        await stack.enter_async_context(running(*heads))
        await stack.enter_async_context(running(*(read_on(reads, key, seen[key]) for key in KEYS)))
        for mode in WAY:
            await want_mode(shop, declared.cards, mode)
            await eventually(lambda mode=mode: reads.mode == mode)
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
    await copies._keep(shop, declared.cards, copies.ModeSetting("hybrid", "hybrid"), 0)
    looking = asyncio.ensure_future(reads.look())
    await asyncio.sleep(0)
    await asyncio.wait_for(reads.get("k"), 1.0)
    await asyncio.wait_for(looking, 1.0)
    assert reads.mode == "hybrid"


async def test_a_reader_that_slept_while_the_mode_changed_does_not_take_a_dropped_copy_for_an_absence() -> None:
    declared = Shop(mode="async", budget=1.0)
    bank = await opened(Bank().service, memory_engines())
    shop = await opened(declared.service, memory_engines(), owners={"accounts": bank.owner("accounts")})
    reads: BorrowedReads[Any] = BorrowedReads(shop, declared.cards, Documents(shop))
    await direct(bank, Deposit("k", 1))
    await reads.look()
    assert (await reads.get("k")).state == "absent"
    await asyncio.sleep(0.12)
    assert (await reads.get("k")).state == "fresh"
