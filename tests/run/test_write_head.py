"""The write head as a whole: effects exactly once, whatever ends it and wherever (invariant 3)."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera import Entity, Unavailable, View
from chimera.core.context import Context
from chimera.core.tables import Handled
from chimera.journal.leases import Leases
from chimera.messages import Message
from chimera.ports import Log, Record, WriteSession
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedLog, WrappedStore
from chimera.testing.engines import memory_engines, sqlite_engines
from chimera.testing.fuse import Fuse
from chimera.testing.kit.balance import recomputed
from chimera.testing.waiting import eventually, running
from tests.support import (
    AT_ONCE,
    PARTITIONS,
    QUICK,
    Bank,
    Deposit,
    Engines,
    Ledger,
    Open,
    Thanks,
    Withdraw,
    accept,
    balances,
    journal_of,
    make_context,
    message_of,
    opened,
    parked_of,
    rows,
    stored,
)

KEYS = [f"k{n}" for n in range(5)]


TIMING = msgspec.structs.replace(
    QUICK, restart_first_s=0.001, restart_longest_s=0.001, collect_s=0.0, redrive_s=0.005, keep_s=0.005
)


def hurried(context: Context, lease_s: float) -> Context:
    return replace(context, timing=msgspec.structs.replace(TIMING, lease_s=lease_s))


def head(context: Context, holder: str = "a", lease_s: float = 0.3) -> WriteHead:
    return WriteHead(hurried(context, lease_s), holder)


def commands() -> list[Message]:
    """Three deposits of 10 and a withdrawal for each key, one refusal, and an id that comes twice."""
    found = [message_of(Deposit(key, 10), f"d{turn}-{key}") for turn in range(3) for key in KEYS]
    found += [message_of(Withdraw(key, 1), f"w-{key}") for key in KEYS]
    return [*found, message_of(Withdraw(KEYS[0], 10_000), "too-much"), found[0], found[-1]]


EXPECTED = dict.fromkeys(KEYS, 29)


async def is_done(context: Context, bank: Bank) -> bool:
    return (
        await balances(context) == EXPECTED
        and len(await rows(context.store, Handled)) == len(KEYS) * 4 + 1
        and await parked_of(context) == []
        and (await counts(context, Thanks)) == dict.fromkeys(KEYS, 3)
        and (await counts(context, Ledger)) == dict.fromkeys(KEYS, 4)
        and all([await stored(context.views, v.name) == recomputed(v, await events(context)) for v in _views(bank)])
        and len(await events(context)) >= len(KEYS) * 4
    )


def _views(bank: Bank) -> list[View[Any]]:
    return [bank.balance, bank.total]


async def events(context: Context) -> list[Message]:
    return await journal_of(context.store, context.service.partitions)


async def counts(context: Context, entity: type[Entity]) -> dict[str, int]:
    return {key: row.count for key, row in (await rows(context.store, entity)).items()}


async def until_done(context: Context, bank: Bank) -> None:
    await eventually(lambda: is_done(context, bank))


async def check(context: Context) -> None:
    """Everything happened once; what was refused left nothing."""
    own = [event for event in await events(context) if not event.type.startswith("accounts.share.")]
    assert len(own) == len(KEYS) * 4
    assert (await stored(context.views, "total"))["all"] == {"name": "all", "total": 29 * 5, "events": 20}


async def test_what_is_put_into_the_log_comes_out_in_the_views(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines)
    async with running(head(context).run()):
        await accept(context, *commands())
        await eventually(lambda: is_done(context, bank))
    await check(context)


class Believed(Leases):
    """Leases of a worker that believes to hold every partition."""

    async def keep(self) -> None:
        self._hold(frozenset(range(PARTITIONS)))
        await asyncio.sleep(60)


async def test_two_write_heads_that_both_hold_every_lease_have_every_effect_once(
    bank: Bank, engines: Engines, tmp_path: Path
) -> None:
    second = sqlite_engines(tmp_path) if engines.store.features.durable else engines
    contexts = [await opened(bank.service, engines), await opened(bank.service, second)]
    heads = [head(context, name) for context, name in zip(contexts, "ab", strict=True)]
    for context, name, each in zip(contexts, "ab", heads, strict=True):
        each._leases = Believed(hurried(context, lease_s=60.0), name)
    async with running(*(each.run() for each in heads)):
        for message in commands():
            await accept(contexts[0], message)
        await eventually(lambda: is_done(contexts[0], bank))
        await asyncio.sleep(0.02)
    await check(contexts[0])
    if second is not engines:
        await second.close()


async def run_until_done_or_dead(context: Context, bank: Bank, fuse: Fuse, healthy: Context) -> None:
    async with running(head(context).run()):
        await eventually(lambda: _ended(fuse, healthy, bank))


async def _ended(fuse: Fuse, healthy: Context, bank: Bank) -> bool:
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
        await run_until_done_or_dead(make_context(bank.service, fuse.wrap(engines)), bank, fuse, healthy)
        async with running(head(healthy, "a").run()):
            await until_done(healthy, bank)
        await check(healthy)
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
        async with running(head(make_context(bank.service, fuse.wrap(engines))).run()):
            await until_done(healthy, bank)
        await check(healthy)
        if not fuse.blown.is_set():
            break
    assert fuse.calls > 40


async def test_a_failing_key_is_retried_by_itself_and_settles_when_it_can(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines, retry=AT_ONCE._replace(tries=10_000, longest_s=0.001))
    bank.failing["k1"] = ValueError("as told")
    async with running(head(context).run()):
        await accept(context, *commands())
        await eventually(lambda: _others_done(context))
        assert [row.key for row in await parked_of(context)] == ["k1"] * 4
        bank.failing.clear()
        await eventually(lambda: is_done(context, bank))
    await check(context)


async def _others_done(context: Context) -> bool:
    return await balances(context) == {key: 29 for key in KEYS if key != "k1"}


class Lossy(WrappedLog):
    """Loses, doubles and delays what is appended to the topic of events."""

    def __init__(self, log: Log) -> None:
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
    context = await opened(bank.service, engines._replace(log=Lossy(engines.log)))
    async with running(head(context).run()):
        for message in commands():
            await accept(context, message)
        await eventually(lambda: is_done(context, bank))
    await check(context)


async def test_commands_in_a_log_that_was_made_anew_are_handled_and_those_it_repeats_are_not(
    bank: Bank, engines: Engines
) -> None:
    before = await opened(bank.service, engines)
    async with running(head(before).run()):
        await accept(before, *commands())
        await eventually(lambda: is_done(before, bank))
    context = await opened(bank.service, engines._replace(log=memory_engines().log))
    now = context.clock.stamp()  # older ones than the inbox remembers are told, and taken for done
    again = [commands()[0], message_of(Deposit(KEYS[0], 1), "new")]
    await accept(context, *(msgspec.structs.replace(each, time=now) for each in again))
    async with running(head(context).run()):
        await eventually(lambda: _has(context, KEYS[0], EXPECTED[KEYS[0]] + 1))
    assert await balances(context) == {**EXPECTED, KEYS[0]: EXPECTED[KEYS[0]] + 1}


async def _has(context: Context, key: str, balance: int) -> bool:
    return (await balances(context))[key] == balance


async def test_a_worker_that_stops_gives_back_what_it_holds_and_another_goes_on(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines)
    async with running(head(context, "a", lease_s=60.0).run()):
        await accept(context, *commands()[:7])
        await eventually(lambda: _handled(context, 7))
    async with running(head(context, "b", lease_s=0.05).run()):
        await accept(context, *commands()[7:])
        await eventually(lambda: is_done(context, bank))
    await check(context)


async def _handled(context: Context, count: int) -> bool:
    return len(await rows(context.store, Handled)) == count


async def test_workers_that_come_and_go_while_commands_arrive_do_everything_once(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines)
    everything = commands()

    async def come_and_go(holder: str, stays: float) -> None:
        while True:
            working = asyncio.ensure_future(head(make_context(bank.service, engines), holder, lease_s=0.03).run())
            try:
                await asyncio.sleep(stays)
            finally:
                working.cancel()
                await asyncio.wait([working])

    async with running(come_and_go("b", 0.031), come_and_go("c", 0.047), head(context, "a", lease_s=0.03).run()):
        for message in everything:
            await accept(context, message)
            await asyncio.sleep(0.003)
        await eventually(lambda: is_done(context, bank))
    await check(context)


class Dead(WrappedStore):
    """A store that is gone from some moment on."""

    dead = False

    def transaction(self) -> AbstractAsyncContextManager[WriteSession]:
        if self.dead:
            raise Unavailable("the store is gone")
        return super().transaction()


@pytest.mark.parametrize("what", ["store"])
async def test_a_write_head_can_be_stopped_while_its_store_is_gone(bank: Bank, what: str) -> None:
    engines = memory_engines()
    store = Dead(engines.store)
    context = await opened(bank.service, engines._replace(store=store))
    working = asyncio.ensure_future(head(context).run())
    await accept(context, *commands())
    await eventually(lambda: _relayed(context))
    store.dead = True
    await asyncio.sleep(0.01)
    working.cancel()
    done, _ = await asyncio.wait([working], timeout=60.0)
    assert done, "it does not stop"


async def _relayed(context: Context) -> bool:
    return sum((await context.log.ends("accounts.events")).values()) > 5


class Ending(WrappedLog):
    """A log whose reading ends without an error, as when it is closed. Counts how often commands are read."""

    asked = 0

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        if topic.endswith(".commands"):
            self.asked += 1
            if self.asked > 1000:
                await asyncio.sleep(math.inf)
        return
        yield []


async def test_a_log_whose_reading_ends_does_not_make_the_loop_spin(bank: Bank) -> None:
    engines = memory_engines()
    log = Ending(engines.log)
    context = await opened(bank.service, engines._replace(log=log))
    async with running(head(context).run()):
        await asyncio.sleep(0.05)
    assert 0 < log.asked < 200


async def test_an_open_account_is_refused_the_second_time(bank: Bank, engines: Engines) -> None:
    context = await opened(bank.service, engines)
    async with running(head(context).run()):
        [first, second] = await accept(context, Open("a"), Open("a"))
        await eventually(lambda: _handled(context, 2))
    inbox = await rows(context.store, Handled)
    assert (inbox[first.id].state, inbox[second.id].state) == ("done", "rejected")
