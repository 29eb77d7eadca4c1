"""Partitions are shared among the workers that live."""

import pytest

from chimera import Unavailable
from chimera.body import Body
from chimera.entities import table_of
from chimera.leases import FORGET_S, Leases
from chimera.records import Lease
from tests.support import Bank, Engines, Fuse, make_body, opened


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bank() -> Bank:
    return Bank(partitions=8)


def workers(body: Body, clock: Clock, *names: str) -> list[Leases]:
    return [Leases(body.service, body.store, name, ttl_s=3.0, clock=clock) for name in names]


async def rounds(leases: list[Leases], count: int = 4) -> None:
    for _ in range(count):
        for each in leases:
            await each.renew()


def sizes(leases: list[Leases]) -> list[int]:
    held = [partition for each in leases for partition in each.held]
    assert len(held) == len(set(held)), "a partition has two holders"
    return sorted(len(each.held) for each in leases)


async def test_one_worker_holds_everything_at_once(body: Body) -> None:
    [only] = workers(body, Clock(), "a")
    await only.renew()
    assert only.held == frozenset(range(8))


async def test_partitions_are_split_evenly_among_the_workers_as_they_come(body: Body) -> None:
    clock = Clock()
    a, b, c = workers(body, clock, "a", "b", "c")
    await rounds([a])
    await rounds([a, b])
    assert sizes([a, b]) == [4, 4]
    await rounds([a, b, c])
    assert sizes([a, b, c]) == [2, 3, 3]


async def test_no_worker_goes_without_a_partition_while_there_are_enough(body: Body) -> None:
    five = workers(body, Clock(), "a", "b", "c", "d", "e")
    for _ in range(3):
        await rounds(five)
    assert sizes(five) == [1, 1, 2, 2, 2]


async def test_no_partition_has_two_holders_at_any_moment_while_the_workers_keep_up(body: Body) -> None:
    leases = workers(body, Clock(), "a", "b", "c")
    for turn in range(12):
        await leases[turn % 3].renew()
        sizes(leases)


async def test_a_worker_that_died_is_replaced_when_its_leases_expire_and_not_before(body: Body) -> None:
    clock = Clock()
    a, b = workers(body, clock, "a", "b")
    await rounds([a, b])
    clock.now += 2.9
    await b.renew()
    assert len(b.held) == 4
    clock.now += 0.2
    await b.renew()
    assert b.held == frozenset(range(8))


async def test_a_worker_that_comes_back_late_takes_nothing_from_who_replaced_it(body: Body) -> None:
    clock = Clock()
    a, b = workers(body, clock, "a", "b")
    await rounds([a, b])
    clock.now += 10
    await b.renew()
    await a.renew()
    assert b.held == frozenset(range(8))
    assert a.held == frozenset()
    await rounds([a, b])
    assert sizes([a, b]) == [4, 4]


async def test_what_is_given_back_is_taken_over_at_once(body: Body) -> None:
    clock = Clock()
    a, b = workers(body, clock, "a", "b")
    await rounds([a, b])
    await a.give_back()
    assert a.held == frozenset()
    await b.renew()
    assert b.held == frozenset(range(8))


async def test_who_works_on_partitions_is_told_when_they_change(body: Body) -> None:
    clock = Clock()
    a, b = workers(body, clock, "a", "b")
    changes: list[frozenset[int]] = []
    a.changed.notify = lambda: changes.append(a.held)  # type: ignore[method-assign]
    await rounds([a])
    await rounds([a, b])
    assert [len(held) for held in changes] == [8, 4]


async def test_a_renewal_that_fails_leaves_the_leases_as_they_were(bank: Bank, engines: Engines) -> None:
    await opened(bank.service, engines)
    clock, fuse = Clock(), Fuse(3, once=True)
    [a] = workers(make_body(bank.service, fuse.wrap(engines)), clock, "a")
    [b] = workers(make_body(bank.service, engines), clock, "b")
    with pytest.raises(Unavailable):
        await a.renew()
    assert a.held == frozenset()
    await b.renew()
    assert b.held == frozenset(range(8))


async def test_more_workers_than_partitions_do_no_harm(engines: Engines) -> None:
    body = await opened(Bank(partitions=2).service, engines)
    leases = workers(body, Clock(), "a", "b", "c")
    await rounds(leases)
    assert sizes(leases) == [0, 1, 1]


async def test_a_worker_that_died_while_its_clock_was_far_ahead_is_not_taken_for_alive(body: Body) -> None:
    right, ahead = Clock(), Clock()
    ahead.now += 600
    [dead] = workers(body, ahead, "dead")
    await dead.renew()
    [a] = workers(body, right, "a")
    await a.renew()
    assert a.held == frozenset(range(8))


async def test_clocks_may_be_some_seconds_apart(body: Body) -> None:
    right, ahead = Clock(), Clock()
    ahead.now += 2
    [a], [b] = workers(body, right, "a"), workers(body, ahead, "b")
    await rounds([a, b])
    assert sizes([a, b]) == [4, 4]


async def test_a_worker_that_is_dead_for_long_leaves_nothing_behind(body: Body) -> None:
    clock = Clock()
    dead, alive = workers(body, clock, "dead", "alive")
    await dead.renew()
    clock.now += FORGET_S + 10
    await alive.renew()
    table = table_of(Lease)
    async with body.store.snapshot() as session:
        kept = [table.from_row(row) for row in await session.find(table, {})]
    assert {lease.holder for lease in kept} == {"alive"}
