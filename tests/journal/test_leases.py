"""Partitions are shared among the workers that live."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from chimera import Unavailable
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.tables import Lease
from chimera.entities import table_of
from chimera.journal.leases import FORGET_S, Leases, partitions_of
from chimera.ports import Store
from chimera.testing.fuse import Fuse
from tests.support import QUICK, Bank, Engines, make_context, opened

TIMING = msgspec.structs.replace(QUICK, lease_s=3.0)


class Standing(Clock):
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def time(self) -> float:
        return self.at


@pytest.fixture
def bank() -> Bank:
    return Bank(partitions=8)


def workers(context: Context, clock: Standing, *names: str) -> list[Leases]:
    own = replace(context, clock=clock, timing=TIMING)
    return [Leases(own, name) for name in names]


async def rounds(leases: list[Leases], count: int = 4) -> None:
    for _ in range(count):
        for each in leases:
            await each.renew()


def sizes(leases: list[Leases]) -> list[int]:
    held = [partition for each in leases for partition in each.held]
    assert len(held) == len(set(held)), "a partition has two holders"
    return sorted(len(each.held) for each in leases)


async def test_one_worker_holds_everything_at_once(context: Context) -> None:
    [only] = workers(context, Standing(), "a")
    await only.renew()
    assert only.held == frozenset(range(8))


async def test_partitions_are_split_evenly_among_the_workers_as_they_come(context: Context) -> None:
    clock = Standing()
    a, b, c = workers(context, clock, "a", "b", "c")
    await rounds([a])
    await rounds([a, b])
    assert sizes([a, b]) == [4, 4]
    await rounds([a, b, c])
    assert sizes([a, b, c]) == [2, 3, 3]


async def test_no_worker_goes_without_a_partition_while_there_are_enough(context: Context) -> None:
    five = workers(context, Standing(), "a", "b", "c", "d", "e")
    for _ in range(3):
        await rounds(five)
    assert sizes(five) == [1, 1, 2, 2, 2]


async def test_no_partition_has_two_holders_at_any_moment_while_the_workers_keep_up(context: Context) -> None:
    leases = workers(context, Standing(), "a", "b", "c")
    for turn in range(12):
        await leases[turn % 3].renew()
        sizes(leases)


async def test_a_worker_that_died_is_replaced_when_its_leases_expire_and_not_before(context: Context) -> None:
    clock = Standing()
    a, b = workers(context, clock, "a", "b")
    await rounds([a, b])
    clock.at += 2.9
    await b.renew()
    assert len(b.held) == 4
    clock.at += 0.2
    await b.renew()
    assert b.held == frozenset(range(8))


async def test_a_worker_that_comes_back_late_takes_nothing_from_who_replaced_it(context: Context) -> None:
    clock = Standing()
    a, b = workers(context, clock, "a", "b")
    await rounds([a, b])
    clock.at += 10
    await b.renew()
    await a.renew()
    assert b.held == frozenset(range(8))
    assert a.held == frozenset()
    await rounds([a, b])
    assert sizes([a, b]) == [4, 4]


async def test_what_is_given_back_is_taken_over_at_once(context: Context) -> None:
    clock = Standing()
    a, b = workers(context, clock, "a", "b")
    await rounds([a, b])
    await a.give_back()
    assert a.held == frozenset()
    await b.renew()
    assert b.held == frozenset(range(8))


async def test_who_works_on_partitions_is_told_when_they_change(context: Context) -> None:
    clock = Standing()
    a, b = workers(context, clock, "a", "b")
    changes: list[frozenset[int]] = []
    a.changed.notify = lambda: changes.append(a.held)  # type: ignore[method-assign]
    await rounds([a])
    await rounds([a, b])
    assert [len(held) for held in changes] == [8, 4]


async def test_a_renewal_that_fails_leaves_the_leases_as_they_were(bank: Bank, engines: Engines) -> None:
    await opened(bank.service, engines)
    clock, fuse = Standing(), Fuse(3, once=True)
    [a] = workers(make_context(bank.service, fuse.wrap(engines)), clock, "a")
    [b] = workers(make_context(bank.service, engines), clock, "b")
    with pytest.raises(Unavailable):
        await a.renew()
    assert a.held == frozenset()
    await b.renew()
    assert b.held == frozenset(range(8))


async def test_more_workers_than_partitions_do_no_harm(engines: Engines) -> None:
    context = await opened(Bank(partitions=2).service, engines)
    leases = workers(context, Standing(), "a", "b", "c")
    await rounds(leases)
    assert sizes(leases) == [0, 1, 1]


async def test_a_worker_that_died_while_its_clock_was_far_ahead_is_not_taken_for_alive(context: Context) -> None:
    right, ahead = Standing(), Standing()
    ahead.at += 600
    [dead] = workers(context, ahead, "dead")
    await dead.renew()
    [a] = workers(context, right, "a")
    await a.renew()
    assert a.held == frozenset(range(8))


async def test_clocks_may_be_some_seconds_apart(context: Context) -> None:
    right, ahead = Standing(), Standing()
    ahead.at += 2
    [a], [b] = workers(context, right, "a"), workers(context, ahead, "b")
    await rounds([a, b])
    assert sizes([a, b]) == [4, 4]


async def test_a_worker_that_is_dead_for_long_leaves_nothing_behind(context: Context) -> None:
    clock = Standing()
    dead, alive = workers(context, clock, "dead", "alive")
    await dead.renew()
    clock.at += FORGET_S + 10
    await alive.renew()
    table = table_of(Lease)
    async with context.store.snapshot() as session:
        kept = [table.from_row(row) for row in await session.find(table, {})]
    assert {lease.holder for lease in kept} == {"alive"}


# A worker that is alone, where it is told what others commit


class Telling:
    """A store that tells its listener of commits, as an engine with several processes does."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def listen(self, heard: Callable[[], None]) -> None: ...


class Moving(Standing):
    """A clock whose two times move together."""

    def monotonic(self) -> float:
        return self.at


async def test_a_worker_that_is_alone_renews_for_long_and_shares_once_another_comes(context: Context) -> None:
    clock = Moving()
    own = replace(context, clock=clock, timing=TIMING, store=cast("Store", Telling(context.store)))
    old, new = Leases(own, "old"), Leases(own, "new")
    await old.renew()
    assert await old.renew(40.0)
    clock.at += 30.0
    await new.renew()
    assert not new.held
    assert not await old.renew(40.0)
    await rounds([new, old])
    assert sizes([new, old]) == [4, 4]


async def test_who_has_died_with_a_long_lease_is_followed_as_soon_as_any_other(context: Context) -> None:
    clock = Moving()
    own = replace(context, clock=clock, timing=TIMING, store=cast("Store", Telling(context.store)))
    await Leases(own, "dead").renew(40.0)
    clock.at += 10.0
    new = Leases(own, "new")
    await new.renew()
    assert not new.held
    for _ in range(3):
        clock.at += TIMING.lease_s / 3
        await new.renew()
    assert new.held == frozenset(range(8))


async def test_partitions_that_only_the_topic_has_belong_to_nobody(bank: Bank, engines: Engines) -> None:
    await engines.log.create("accounts.events", 12)
    context = await opened(bank.service, engines)
    assert await partitions_of(context, "accounts", frozenset(range(8))) == list(range(8))
