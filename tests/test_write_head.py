"""The write head as a whole: effects exactly once, whatever ends it and wherever (invariant 3)."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from chimera import Unavailable, copies, write_head
from chimera.body import Body
from chimera.messages import Message
from chimera.ports import Record
from chimera.records import Handled
from chimera.testing.broken import WrappedLog, WrappedStore
from chimera.write_head import WriteHead
from tests.support import (
    PARTITIONS,
    Bank,
    Deposit,
    Engines,
    Fuse,
    Ledger,
    Open,
    Thanks,
    Withdraw,
    accept,
    balances,
    eventually,
    journal_of,
    make_body,
    memory_engines,
    message_of,
    opened,
    parked_of,
    recomputed,
    rows,
    running,
    sqlite_engines,
    stored,
)

KEYS = [f"k{n}" for n in range(5)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_head, "PAUSES_S", (0.001,))
    monkeypatch.setattr(write_head, "COLLECT_S", 0.0)
    monkeypatch.setattr(write_head, "REDRIVE_S", 0.005)
    monkeypatch.setattr(copies, "LOOK_S", 0.005)


def head(body: Body, holder: str = "a", ttl_s: float = 0.3) -> WriteHead:
    made = WriteHead(body, holder)
    made._leases._ttl_s = ttl_s
    return made


def commands() -> list[Message]:
    """Three deposits of 10 and a withdrawal for each key, one refusal, and an id that comes twice."""
    found = [message_of(Deposit(key, 10), f"d{turn}-{key}") for turn in range(3) for key in KEYS]
    found += [message_of(Withdraw(key, 1), f"w-{key}") for key in KEYS]
    return [*found, message_of(Withdraw(KEYS[0], 10_000), "too-much"), found[0], found[-1]]


EXPECTED = dict.fromkeys(KEYS, 29)


async def is_done(body: Body, bank: Bank) -> bool:
    return (
        await balances(body) == EXPECTED
        and len(await rows(body.store, Handled)) == len(KEYS) * 4 + 1
        and await parked_of(body) == []
        and (await counts(body, Thanks)) == dict.fromkeys(KEYS, 3)
        and (await counts(body, Ledger)) == dict.fromkeys(KEYS, 4)
        and all([await stored(body.views, v.name) == recomputed(v, await events(body)) for v in _views(bank)])
        and len(await events(body)) >= len(KEYS) * 4
    )


def _views(bank: Bank) -> list[Any]:
    return [bank.balance, bank.total]


async def events(body: Body) -> list[Message]:
    return await journal_of(body.store, body.service.partitions)


async def counts(body: Body, entity: Any) -> dict[str, int]:
    return {key: row.count for key, row in (await rows(body.store, entity)).items()}


async def check(body: Body, bank: Bank) -> None:
    """Everything happened once; what was refused left nothing."""
    own = [event for event in await events(body) if not event.type.startswith("accounts.share.")]
    assert len(own) == len(KEYS) * 4
    assert (await stored(body.views, "total"))["all"] == {"name": "all", "total": 29 * 5, "events": 20}


async def test_what_is_put_into_the_log_comes_out_in_the_views(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines)
    async with running(head(body).run()):
        await accept(body, *commands())
        await eventually(lambda: is_done(body, bank))
    await check(body, bank)


async def test_two_write_heads_that_both_hold_every_lease_have_every_effect_once(
    bank: Bank, engines: Engines, tmp_path: Path
) -> None:
    second = sqlite_engines(tmp_path) if engines.store.features.durable else engines
    bodies = [await opened(bank.service, engines), await opened(bank.service, second)]
    heads = [head(body, name, ttl_s=60.0) for body, name in zip(bodies, "ab", strict=True)]

    async def believe(leases: Any) -> None:
        leases._hold(frozenset(range(PARTITIONS)))
        await asyncio.sleep(60)

    for each in heads:
        each._leases.keep = lambda leases=each._leases: believe(leases)  # type: ignore[method-assign]
    async with running(*(each.run() for each in heads)):
        for message in commands():
            await accept(bodies[0], message)
        await eventually(lambda: is_done(bodies[0], bank), timeout=20)
        await asyncio.sleep(0.02)
    await check(bodies[0], bank)
    if second is not engines:
        await second.close()


async def run_until_done_or_dead(body: Body, bank: Bank, fuse: Fuse, healthy: Body) -> None:
    async with running(head(body).run()):
        await eventually(lambda: _ended(fuse, healthy, bank), timeout=20)


async def _ended(fuse: Fuse, healthy: Body, bank: Bank) -> bool:
    return fuse.blown.is_set() or await is_done(healthy, bank)


@pytest.mark.parametrize("late", [False, True], ids=["before the call's effect", "after the call's effect"])
async def test_a_process_that_dies_at_any_of_its_calls_leaves_everything_to_be_done_once(late: bool) -> None:
    """Each turn a new pair of processes: the first dies at its n-th call, the second finishes the work."""
    at = turns = 0
    while True:
        turns, at = turns + 1, at + max(1, turns // 5)
        bank, engines = Bank(), memory_engines()
        healthy = await opened(bank.service, engines)
        await accept(healthy, *commands())
        fuse = Fuse(at, late=late)
        await run_until_done_or_dead(make_body(bank.service, fuse.wrap(engines)), bank, fuse, healthy)
        async with running(head(healthy, "a").run()):
            await eventually(lambda body=healthy, bank=bank: is_done(body, bank), timeout=20)
        await check(healthy, bank)
        if not fuse.blown.is_set():
            break
    assert fuse.calls > 40


@pytest.mark.parametrize("late", [False, True], ids=["before the call's effect", "after the call's effect"])
async def test_an_engine_that_fails_once_at_any_call_costs_only_time(late: bool) -> None:
    at = turns = 0
    while True:
        turns, at = turns + 1, at + max(1, turns // 5)
        bank, engines = Bank(), memory_engines()
        healthy = await opened(bank.service, engines)
        await accept(healthy, *commands())
        fuse = Fuse(at, late=late, once=True)
        async with running(head(make_body(bank.service, fuse.wrap(engines))).run()):
            await eventually(lambda body=healthy, bank=bank: is_done(body, bank), timeout=20)
        await check(healthy, bank)
        if not fuse.blown.is_set():
            break
    assert fuse.calls > 40


async def test_a_failing_key_is_retried_by_itself_and_settles_when_it_can(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines)
    body.parking._retry = body.parking._retry._replace(tries=10_000, longest_s=0.001)
    bank.failing["k1"] = ValueError("as told")
    async with running(head(body).run()):
        await accept(body, *commands())
        await eventually(lambda: _others_done(body))
        assert [row.key for row in await parked_of(body)] == ["k1"] * 4
        bank.failing.clear()
        await eventually(lambda: is_done(body, bank))
    await check(body, bank)


async def _others_done(body: Body) -> bool:
    return await balances(body) == {key: 29 for key in KEYS if key != "k1"}


class Lossy(WrappedLog):
    """Loses, doubles and delays what is appended to the topic of events."""

    def __init__(self, log: Any) -> None:
        super().__init__(log)
        self._late: list[Message] = []
        self._turn = 0

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        if topic.endswith(".events"):
            late, self._late, kept = self._late, [], []
            for message in messages:
                self._turn += 1
                kept += [message] * (0, 1, 2, 1, 0)[self._turn % 5]
                if self._turn % 5 == 4:
                    self._late.append(message)
            messages = [*kept, *late]
        await super().append(topic, messages)


async def test_views_are_right_on_a_log_that_loses_doubles_and_reorders_events(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines._replace(log=Lossy(engines.log)))
    async with running(head(body).run()):
        for message in commands():
            await accept(body, message)
        await eventually(lambda: is_done(body, bank))
    await check(body, bank)


async def test_commands_in_a_log_that_was_made_anew_are_handled_and_those_it_repeats_are_not(
    bank: Bank, engines: Engines
) -> None:
    before = await opened(bank.service, engines)
    async with running(head(before).run()):
        await accept(before, *commands())
        await eventually(lambda: is_done(before, bank))
    body = await opened(bank.service, engines._replace(log=memory_engines().log))
    await accept(body, commands()[0], message_of(Deposit(KEYS[0], 1), "new"))
    async with running(head(body).run()):
        await eventually(lambda: _has(body, KEYS[0], EXPECTED[KEYS[0]] + 1))
    assert await balances(body) == {**EXPECTED, KEYS[0]: EXPECTED[KEYS[0]] + 1}


async def _has(body: Body, key: str, balance: int) -> bool:
    return (await balances(body))[key] == balance


async def test_a_worker_that_stops_gives_back_what_it_holds_and_another_goes_on(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines)
    async with running(head(body, "a", ttl_s=60.0).run()):
        await accept(body, *commands()[:7])
        await eventually(lambda: _handled(body, 7))
    async with running(head(body, "b", ttl_s=0.05).run()):
        await accept(body, *commands()[7:])
        await eventually(lambda: is_done(body, bank))
    await check(body, bank)


async def _handled(body: Body, count: int) -> bool:
    return len(await rows(body.store, Handled)) == count


async def test_workers_that_come_and_go_while_commands_arrive_do_everything_once(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines)
    everything = commands()

    async def come_and_go(holder: str, stays: float) -> None:
        while True:
            working = asyncio.ensure_future(head(make_body(bank.service, engines), holder, ttl_s=0.03).run())
            try:
                await asyncio.sleep(stays)
            finally:
                working.cancel()
                await asyncio.wait([working])

    async with running(come_and_go("b", 0.031), come_and_go("c", 0.047), head(body, "a", ttl_s=0.03).run()):
        for message in everything:
            await accept(body, message)
            await asyncio.sleep(0.003)
        await eventually(lambda: is_done(body, bank), timeout=20)
    await check(body, bank)


class Dead(WrappedStore):
    """A store that is gone from some moment on."""

    dead = False

    def transaction(self) -> Any:
        if self.dead:
            raise Unavailable("the store is gone")
        return super().transaction()


@pytest.mark.parametrize("what", ["store"])
async def test_a_write_head_can_be_stopped_while_its_store_is_gone(bank: Bank, what: str) -> None:
    engines = memory_engines()
    store = Dead(engines.store)
    body = await opened(bank.service, engines._replace(store=store))  # type: ignore[arg-type]
    working = asyncio.ensure_future(head(body).run())
    await accept(body, *commands())
    await eventually(lambda: _relayed(body))
    store.dead = True
    await asyncio.sleep(0.01)
    working.cancel()
    done, _ = await asyncio.wait([working], timeout=2.0)
    assert done, "it does not stop"


async def _relayed(body: Body) -> bool:
    return sum((await body.log.ends("accounts.events")).values()) > 5


class Ending(WrappedLog):
    """A log whose reading ends without an error, as when it is closed."""

    ended = False

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        if self.ended:
            return
        async for batch in super().read(topic, after, limit):
            yield batch
            if self.ended:
                return


async def test_a_log_whose_reading_ends_does_not_make_the_loop_spin(bank: Bank) -> None:
    engines = memory_engines()
    log = Ending(engines.log)
    log.ended = True
    body = await opened(bank.service, engines._replace(log=log))  # type: ignore[arg-type]
    asked = 0
    checkpoints = body.commands.checkpoints

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked > 1000:
            await asyncio.sleep(math.inf)
        return await checkpoints(*arguments)

    body.commands.checkpoints = counted  # type: ignore[method-assign]
    async with running(head(body).run()):
        await asyncio.sleep(0.05)
    assert asked < 200


async def test_an_open_account_is_refused_the_second_time(bank: Bank, engines: Engines) -> None:
    body = await opened(bank.service, engines)
    async with running(head(body).run()):
        [first, second] = await accept(body, Open("a"), Open("a"))
        await eventually(lambda: _handled(body, 2))
    inbox = await rows(body.store, Handled)
    assert (inbox[first.id].state, inbox[second.id].state) == ("done", "rejected")
