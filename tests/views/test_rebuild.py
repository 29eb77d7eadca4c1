"""A view is built anew beside the one that serves, compared and flipped; nobody sees less, nothing happens twice."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import msgspec
import pytest
from rich.console import Console

from chimera import ChimeraError, DeclarationError, Service, SettingsError, Transaction, Unavailable, View
from chimera.cli import rebuilds
from chimera.cli.rebuilds import Way
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.names import generation_name, parked_key, parked_view, waiting_view
from chimera.errors import Trimmed
from chimera.journal.leases import Leases
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Listing, Move, ViewStore
from chimera.reader import Notes
from chimera.run.settings import ServiceSettings, Settings
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedViews
from chimera.testing.engines import memory_engines
from chimera.testing.fuse import Fuse, FusedViews
from chimera.testing.kit.balance import recomputed
from chimera.testing.waiting import eventually, running
from chimera.upkeep.status import parked_counts, service_status
from chimera.views.comparison import Comparison, compare
from chimera.views.documents import Documents, Waiting
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import (
    Building,
    Generation,
    GenerationReads,
    Generations,
    change,
    read_generations,
    serving_name,
)
from chimera.views.rebuild import ViewKeeper, ask_for, last_report
from tests.adapters.services import IN_TURN
from tests.support import (
    PARTITIONS,
    QUICK,
    Balance,
    Bank,
    Deposit,
    Deposited,
    Engines,
    Thanks,
    TurnMeter,
    Withdraw,
    direct,
    journal_of,
    make_context,
    opened,
    positions_of,
    rows,
    stored,
)
from tests.views.real import real_views

KEYS = [f"k{n}" for n in range(12)]


TIMING = msgspec.structs.replace(
    QUICK,
    restart_first_s=0.002,
    restart_longest_s=0.002,
    lease_s=0.3,
    audit_s=0.0,
    switch_look_s=0.02,
    switch_valid_s=0.03,
    switch_settle_s=0.06,
    switch_grace_s=0.1,
    keep_s=0.005,
    meet_s=0.05,
    alone_s=0.1,
    watch_s=0.005,
)


@pytest.fixture
async def context(bank: Bank, engines: Engines) -> Context:
    return await opened(bank.service, engines, timing=TIMING)


def changed_bank(factor: int = 2, version: str = "") -> Bank:
    """The bank after a deploy: its balances count deposits differently."""
    bank = Bank()
    key_of, step = bank.balance.steps[Deposited]

    def deposited(balance: Balance, event: Deposited) -> None:
        step(balance, event)
        balance.balance += (factor - 1) * event.amount

    bank.balance.steps[Deposited] = (key_of, deposited)
    bank.balance.version = version
    return bank


def head(context: Context, holder: str = "a") -> WriteHead:
    return WriteHead(context, holder)


def engines_of(context: Context) -> Engines:
    """For another process on the same engines."""
    return Engines(context.log, context.store, context.views)


async def process_of(bank: Bank, engines: Engines) -> Context:
    """Another process of a bank."""
    return await opened(bank.service, engines, timing=TIMING)


def documents_of(context: Context) -> Documents:
    """What a read head of this process reads."""
    return Documents(context, GenerationReads(context))


async def state_of(context: Context, view: str = "balance") -> Generations:
    return (await read_generations(context.views, [view]))[view]


async def serves(context: Context, number: int, view: str = "balance") -> bool:
    state = await state_of(context, view)
    return state.serving.number == number and state.building is None


async def is_clean(context: Context, *dropped: int) -> bool:
    """The old generations are gone, and nothing is left of them."""
    if (await state_of(context)).retired:
        return False
    names = [generation_name("balance", number) for number in dropped]
    return not any([await context.views.checkpoints(n) or await context.views.scan(n) for n in names])


async def served(context: Context, view: str = "balance") -> dict[str, Any]:
    return await stored(context.views, await serving_name(context, view))


async def is_right(context: Context, bank: Bank) -> bool:
    return await served(context) == recomputed(bank.balance, await journal_of(context.store))


async def deposit(context: Context, *keys: str) -> None:
    await direct(context, *(Deposit(key, 1) for key in keys))


async def ask(context: Context, *, keep_old: bool = False, force: bool = False) -> int:
    return await ask_for(context, "balance", keep_old=keep_old, force=force)


async def is_filled(context: Context, bank: Bank) -> bool:
    return bool((await state_of(context)).serving.code) and await is_right(context, bank)


@pytest.fixture
async def filled(context: Context, bank: Bank) -> Context:
    """A bank whose view has been served for a while."""
    await deposit(context, *KEYS)
    await direct(context, *(Withdraw(key, 1) for key in KEYS[:3]))
    async with running(head(context).run()):
        await eventually(lambda: is_filled(context, bank))
    return context


# Nobody sees less


class Readers:
    """Readers of every key, who go from one read head to another and remember what they have seen."""

    def __init__(self, *contexts: Context) -> None:
        self._heads = [documents_of(context) for context in contexts]
        self.reads = 0

    async def read(self, key: str) -> None:
        seen = 0
        while True:
            for documents in self._heads:
                data = await documents("balance", key)
                assert data is not None, f"{key} has no document"
                events = json.loads(data)["events"]
                assert events >= seen, f"{key} had {seen} events, and then {events}"
                seen, self.reads = events, self.reads + 1
                await asyncio.sleep(0)

    def have_read(self, more_than: int) -> bool:
        return self.reads > more_than

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with running(*(self.read(key) for key in KEYS)) as tasks:
            yield
            assert not [task for task in tasks if task.done()], "a reader saw less"


@asynccontextmanager
async def load(context: Context) -> AsyncIterator[None]:
    async def work() -> None:
        while True:
            for key in KEYS:
                await deposit(context, key)
                await asyncio.sleep(0.001)

    async with running(work()):
        yield


async def test_a_rebuild_under_load_shows_no_reader_nothing_or_less_than_before(filled: Context, bank: Bank) -> None:
    other = await process_of(Bank(), engines_of(filled))
    readers = Readers(filled, other)
    async with running(head(filled).run()), load(filled), readers.watching():
        for number in (2, 3):
            before = readers.reads
            assert await ask(filled) == number
            await eventually(partial(serves, filled, number))
            await eventually(partial(is_clean, filled, number - 1))
            await eventually(partial(readers.have_read, before + 100))
    found = await last_report(filled, "balance")
    assert found is not None
    assert (found.changed, found.missing, found.new, found.samples) == (0, 0, 0, [])
    assert found.equal + found.in_flight == len(KEYS)
    async with running(head(filled).run()):
        await eventually(lambda: is_right(filled, bank))


async def test_a_read_that_outlives_its_generation_is_read_again(filled: Context) -> None:
    """A process that slept while the view flipped, and the old generation was dropped."""

    async def slow(name: str) -> Mapping[str, Document]:
        if name == "balance":
            await change(filled.views, "balance", lambda now: Generations(Generation(2, "new"), last=2))
            await filled.views.drop("balance", ["balance"])
            await filled.views.write("balance~2", [Document("balance~2", "k1", b"{}")], [])
            await asyncio.sleep(2 * TIMING.switch_valid_s)
        return await filled.views.get(name, ["k1"])

    found = await GenerationReads(filled).read("balance", slow)
    assert [document.data for document in found.values()] == [b"{}"]


async def test_while_a_generation_is_ready_no_read_is_from_the_old_one_after_the_flip(
    filled: Context,
) -> None:
    building = Building(Generation(2, "new"), "ready")
    ready = await change(filled.views, "balance", lambda now: msgspec.structs.replace(now, building=building, last=2))

    async def get(name: str) -> str:
        if name == "balance":
            await change(filled.views, "balance", lambda now: ready.flipped(2))
        return name

    timing = msgspec.structs.replace(TIMING, switch_look_s=60.0, switch_valid_s=60.0)
    reads = GenerationReads(replace(filled, timing=timing))
    assert await reads.read("balance", get) == "balance~2"
    assert await reads.read("balance", get) == "balance~2"


async def test_a_head_that_sees_the_flip_waits_until_the_new_generation_has_what_the_old_one_has(
    filled: Context,
) -> None:
    old = await filled.views.checkpoints("balance")
    at = {place: checkpoint.number for place, checkpoint in old.items()}
    late = max(at)
    await filled.views.write(
        "balance~2", [], [Move(*place, 0, Checkpoint(number - (place == late))) for place, number in at.items()]
    )
    await change(filled.views, "balance", lambda now: Generations(Generation(2, "new"), before=1, last=2))
    documents = documents_of(await process_of(Bank(), engines_of(filled)))
    reading = asyncio.ensure_future(documents("balance", "k1"))
    done, _ = await asyncio.wait([reading], timeout=0.05)
    assert not done
    kept = [document._replace(view="balance~2", revision=0) for document in await filled.views.scan("balance")]
    await filled.views.write("balance~2", kept, [Move(*late, at[late] - 1, Checkpoint(at[late]))])
    assert await reading is not None


async def test_who_brings_back_a_position_waits_for_the_generation_that_serves(filled: Context) -> None:
    [outcome] = await direct(filled, Deposit("k1", 1))
    [position] = positions_of(outcome)
    move = Move("accounts", position.partition, 0, Checkpoint(position.number))
    await filled.views.write("balance~2", [], [move])
    reads = GenerationReads(filled)
    waiting = Waiting(filled, Documents(filled, reads), Notes([position]), budget=0.02)
    await waiting.reach("balance", {"accounts"})
    assert waiting.notes.behind != []
    await change(filled.views, "balance", lambda now: Generations(Generation(2, "new"), last=2))
    await asyncio.sleep(2 * TIMING.switch_look_s)
    waiting = Waiting(filled, Documents(filled, reads), Notes([position]), budget=5.0)
    await waiting.reach("balance", {"accounts"})
    assert waiting.notes.behind == []


async def test_views_that_can_not_be_reached_are_not_taken_for_empty(filled: Context) -> None:
    fuse = Fuse(1)
    dead = await process_of(Bank(), Engines(filled.log, filled.store, FusedViews(filled.views, fuse)))
    with pytest.raises(Unavailable):
        await documents_of(dead)("balance", "k1")


@pytest.mark.parametrize("engine", ["mongodb", "mysql", "postgresql", pytest.param("redis", marks=IN_TURN)])
async def test_a_rebuild_under_load_on_a_real_engine_shows_no_reader_less(engine: str) -> None:
    bank, new = Bank(), changed_bank()
    async with real_views(engine, "balance") as views:
        context = await process_of(bank, memory_engines()._replace(views=views))
        other = await process_of(Bank(), engines_of(context))
        await deposit(context, *KEYS)
        async with running(head(context).run()):
            await eventually(lambda: is_filled(context, bank))
            async with load(context), Readers(context, other).watching():
                await ask(context, keep_old=True)
                await eventually(lambda: serves(context, 2))
            found = await last_report(context, "balance")
            assert found is not None
            assert (found.changed, found.missing, found.new) == (0, 0, 0)
            await change(views, "balance", lambda now: now.gone_back().without_kept())
            await eventually(lambda: is_clean(context, 2))
            await eventually(lambda: is_right(context, bank))
        deployed = await process_of(new, engines_of(context))
        async with running(head(deployed).run()):
            await eventually(lambda: serves(deployed, 3))
            await eventually(lambda: is_clean(deployed, 1))
            await eventually(lambda: is_right(deployed, new))


# A changed view


async def test_a_changed_fold_is_built_by_itself_and_its_changed_rows_are_told(filled: Context) -> None:
    bank = changed_bank()
    await filled.views.write("balance", [Document("balance", "ghost", b'{"account_id":"ghost"}')], [])
    lost = (await filled.views.get("balance", ["k4"]))["k4"]
    await filled.views.write("balance", [lost._replace(data=None)], [])
    context = await process_of(bank, engines_of(filled))
    async with running(head(context).run()):
        await eventually(lambda: serves(context, 2))
        await eventually(lambda: is_clean(context, 1))
    assert await is_right(context, bank)
    found = await last_report(context, "balance")
    assert found is not None
    assert (found.equal, found.changed, found.missing, found.new, found.in_flight) == (0, 11, 1, 1, 0)
    shown = {(each.kind, each.key): each for each in found.samples}
    assert {kind for kind, _ in shown} == {"changed", "missing", "new"}
    k1 = shown["changed", "k1"]
    assert [msgspec.json.decode(each)["balance"] for each in (k1.old, k1.new)] == [0, 1]
    assert bytes(shown["missing", "ghost"].new) == bytes(shown["new", "k4"].old) == b"null"


async def test_the_same_code_is_not_built_again_when_its_write_head_starts_again(filled: Context, bank: Bank) -> None:
    for again in (bank, Bank()):
        context = await process_of(again, engines_of(filled))
        async with running(head(context).run()):
            await deposit(context, "k1")
            await eventually(partial(is_right, context, bank))
    assert (await state_of(filled)).last == 1


async def test_a_version_of_its_own_builds_a_view_whose_code_is_the_same(filled: Context) -> None:
    bank = Bank()
    bank.balance.version = "2"
    context = await process_of(bank, engines_of(filled))
    async with running(head(context).run()):
        await eventually(lambda: serves(context, 2))
    found = await last_report(context, "balance")
    assert found is not None
    assert (found.equal, found.changed) == (len(KEYS), 0)


async def test_a_generation_that_sets_aside_what_was_folded_before_waits_for_a_person(filled: Context) -> None:
    bank = changed_bank()
    bank.failing_views.add("k3")
    context = await process_of(bank, engines_of(filled))
    async with running(head(context).run()):
        with pytest.raises(ChimeraError, match=r"set aside events of 1 keys \(0 before\).*k3: ValueError"):
            await rebuilds._watch(context, "balance", await started(context, 2), quiet=True)
        assert (await state_of(context)).serving.number == 1
        await ask(context, force=True)
        await eventually(lambda: serves(context, 2))
    assert await parked_counts(context) == {"balance": 1}


async def started(context: Context, number: int) -> int:
    async def is_started() -> bool:
        return (await state_of(context)).is_building(number)

    await eventually(is_started)
    return number


# Killed, cancelled, doubled


class DyingViews(WrappedViews):
    """Views whose process dies at one of the calls that change something."""

    def __init__(self, views: ViewStore, fuse: Fuse) -> None:
        super().__init__(views)
        self._fuse = fuse

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        return bool(await self._fuse.around(super().write(consumer, documents, moves, listings)))

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        await self._fuse.around(super().drop(consumer, views))


@pytest.mark.parametrize("late", [False, True], ids=["before the write's effect", "after the write's effect"])
async def test_a_worker_that_dies_at_any_of_its_writes_is_followed_by_the_next(bank: Bank, late: bool) -> None:
    at = 0
    while True:
        at += 1
        engines, fuse = memory_engines(), Fuse(at, late=late)
        first = await process_of(Bank(), engines)
        await deposit(first, *KEYS)
        async with running(head(first, "first").run()):
            await eventually(partial(is_filled, first, bank))
        new = changed_bank()
        dying = await process_of(new, engines._replace(views=DyingViews(engines.views, fuse)))
        async with running(head(dying, "dying").run()):
            await eventually(partial(_is_over, fuse, first))
        context = await process_of(new, engines)
        assert await documents_of(context)("balance", "k1") is not None
        async with running(head(context, "next").run()):
            await eventually(partial(serves, context, 2))
            await deposit(context, "k1")
            await eventually(partial(is_right, context, new))
            await eventually(partial(is_clean, context, 1))
        if not fuse.blown.is_set():
            break
    assert at > 8


async def _is_over(fuse: Fuse, context: Context) -> bool:
    return fuse.blown.is_set() or (await serves(context, 2) and await is_clean(context, 1))


async def test_a_cancelled_rebuild_leaves_nothing_and_does_not_begin_again_by_itself(
    filled: Context, bank: Bank
) -> None:
    new = changed_bank()
    context = await process_of(new, Engines(filled.log, filled.store, Slow(filled.views)))
    before = await stored(filled.views, "balance")
    async with running(head(context).run()):
        await started(context, 2)
        await change(context.views, "balance", lambda now: now.cancelled())
        await eventually(lambda: is_clean(context, 2))
        await asyncio.sleep(3 * TIMING.alone_s)
        state = await state_of(context)
        assert (state.serving.number, state.building, state.last) == (1, None, 2)
        assert await served(context) == before
        await ask(context)
        await eventually(lambda: serves(context, 3))
        await eventually(lambda: is_right(context, new))


class Slow(WrappedViews):
    """Views that take their time to write what is being built."""

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        if consumer == "balance~2":
            await asyncio.sleep(0.05)
        return await super().write(consumer, documents, moves, listings)


async def test_a_rebuild_that_is_asked_for_twice_is_one(filled: Context, bank: Bank) -> None:
    numbers = await asyncio.gather(*(ask(filled) for _ in range(4)))
    assert numbers == [2] * 4
    async with running(head(filled).run()):
        await eventually(lambda: serves(filled, 2))
    assert (await state_of(filled)).last == 2
    assert await is_right(filled, bank)


async def test_several_workers_build_one_generation_each_its_partitions(filled: Context, bank: Bank) -> None:
    second = await process_of(Bank(), engines_of(filled))
    async with running(head(filled, "a").run(), head(second, "b").run()), load(filled):
        await ask(filled)
        await eventually(lambda: serves(filled, 2))
        await eventually(lambda: is_clean(filled, 1))
    async with running(head(filled, "a").run()):
        await eventually(lambda: is_right(filled, bank))


async def test_two_workers_that_both_hold_every_partition_build_what_one_would(filled: Context, bank: Bank) -> None:
    contexts = [filled, await process_of(Bank(), engines_of(filled))]
    keepers = [ViewKeeper(each, each.service.views["balance"], Leases(each, "alike")) for each in contexts]
    async with running(*(keeper.run(frozenset(range(PARTITIONS))) for keeper in keepers)):
        await ask(filled)
        await eventually(lambda: serves(filled, 2))
        await eventually(lambda: is_clean(filled, 1))
    assert await is_right(filled, bank)


# The way back


async def test_a_kept_generation_is_kept_up_and_serves_again_at_once(filled: Context, bank: Bank) -> None:
    async with running(head(filled).run()):
        await ask(filled, keep_old=True)
        await eventually(lambda: serves(filled, 2))
        await asyncio.sleep(20 * TIMING.keep_s)
        await deposit(filled, "k1", "new")
        events = await journal_of(filled.store)
        await eventually(lambda: _is_kept_up(filled, bank, events))
        for number in (1, 2, 1):
            await change(filled.views, "balance", lambda now: now.gone_back())
            assert await serves(filled, number)
            assert await is_right(filled, bank)
        await change(filled.views, "balance", lambda now: now.without_kept())
        await eventually(lambda: is_clean(filled, 2))
        assert await is_right(filled, bank)


async def _is_kept_up(context: Context, bank: Bank, events: Sequence[Message]) -> bool:
    wanted = recomputed(bank.balance, events)
    return await stored(context.views, "balance") == wanted == await stored(context.views, "balance~2")


async def test_gone_back_from_new_code_the_old_documents_stay_until_other_code_runs(filled: Context) -> None:
    before, new = await stored(filled.views, "balance"), changed_bank()
    context = await process_of(new, engines_of(filled))
    async with running(head(context).run()):
        await started(context, 2)
        await ask(context, keep_old=True)
        await eventually(lambda: serves(context, 2))
        await change(context.views, "balance", lambda now: now.gone_back())
        await deposit(context, "k1")
        await eventually(lambda: _has(context, "balance~2", "k1", 3))
        await asyncio.sleep(3 * TIMING.alone_s)
        assert await served(context) == before
        assert await serves(context, 1)
    mended = changed_bank(3)
    context = await process_of(mended, engines_of(filled))
    async with running(head(context).run()):
        await eventually(lambda: serves(context, 3))
        await eventually(lambda: is_right(context, mended))


async def _has(context: Context, name: str, key: str, balance: int) -> bool:
    return bool((await stored(context.views, name)).get(key, {}).get("balance") == balance)


# Old and new code at the same time


async def test_during_a_rolling_deploy_the_old_code_keeps_its_generation_until_the_new_one_is_complete(
    filled: Context, bank: Bank
) -> None:
    timing, new, views = msgspec.structs.replace(TIMING, alone_s=60.0), changed_bank(), Held(filled.views)
    filled, engines = replace(filled, timing=timing), engines_of(filled)
    deployed = await opened(new.service, engines._replace(views=views), timing=timing)
    readers = Readers(filled, deployed)
    old = asyncio.ensure_future(head(filled, "old").run())
    async with running(head(deployed, "new").run()), readers.watching():
        await started(deployed, 2)
        await deposit(filled, *KEYS)
        await eventually(lambda: is_right(filled, bank))
        await asyncio.sleep(5 * TIMING.switch_settle_s)
        state = await state_of(filled)
        assert state.serving.number == 1
        assert state.building is not None
        assert state.building.phase == "building"
        views.open.set()
        await eventually(lambda: serves(deployed, 2))
        await deposit(filled, *KEYS)
        await eventually(lambda: is_right(deployed, new))
        old.cancel()
        await asyncio.wait([old])
        restarted = await opened(Bank().service, engines, timing=timing)
        async with running(head(restarted, "old again").run()):
            await deposit(restarted, *KEYS)
            await eventually(lambda: is_right(deployed, new))
            await asyncio.sleep(20 * TIMING.keep_s)
        assert (await state_of(deployed)).last == 2


class Held(WrappedViews):
    """Views that take nothing of the second generation until they are open."""

    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self.open = asyncio.Event()

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        if consumer == "balance~2":
            await self.open.wait()
        return await super().write(consumer, documents, moves, listings)


async def test_after_a_rollback_the_old_code_takes_the_view_over_again_once_nobody_runs_the_new(
    filled: Context, bank: Bank
) -> None:
    new, engines = changed_bank(), engines_of(filled)
    deployed = await process_of(new, engines)
    async with running(head(deployed, "new").run()):
        await eventually(lambda: serves(deployed, 2))
    await deposit(filled, *KEYS)
    async with running(head(filled, "old").run()):
        await eventually(lambda: serves(filled, 3))
        await eventually(lambda: is_right(filled, bank))
        await eventually(lambda: _knows(filled, fingerprint(bank.balance)))
    async with running(head(deployed, "new").run()):
        await eventually(lambda: serves(deployed, 4))


async def _knows(context: Context, *codes: str) -> bool:
    return (await state_of(context)).known == codes


async def test_what_nobody_builds_any_more_is_dropped(filled: Context, bank: Bank) -> None:
    await change(filled.views, "balance", lambda now: now.started("somebody else's"))
    async with running(head(filled).run()):
        await eventually(lambda: serves(filled, 1))
        await eventually(lambda: is_clean(filled, 2))
    assert await _knows(filled, fingerprint(bank.balance))


async def test_a_view_whose_first_events_are_gone_goes_on_with_the_new_code(
    filled: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    new = changed_bank()
    context = await process_of(new, engines_of(filled))

    async def journal(partition: int, after: int, limit: int) -> Sequence[Message]:
        if after == 0:
            raise Trimmed(partition, after)
        return await filled.store.journal(partition, after, limit)

    monkeypatch.setattr(context.owners["accounts"], "journal", journal)
    async with running(head(context).run()):
        await deposit(context, "k9")
        await eventually(lambda: _has(context, "balance", "k9", 3))
    state = await state_of(context)
    assert (state.serving.number, state.serving.code, state.last) == (1, fingerprint(new.balance), 1)
    assert "can't be built anew" in caplog.text
    with pytest.raises(ChimeraError, match="has trimmed"):
        await ask(context)


# Nothing else happens


async def test_handlers_of_events_never_run_again_in_a_rebuild(engines: Engines) -> None:
    bank, told = Bank(), list[str]()

    @bank.service.on(Deposited)
    async def tell(event: Deposited, tx: Transaction) -> None:
        told.append(event.account_id)

    context = await process_of(bank, engines)

    async def is_told() -> bool:
        thanks = await rows(context.store, Thanks)
        return len(told) == len(KEYS) and sum(each.count for each in thanks.values()) == len(KEYS)

    async with running(head(context).run()):
        await deposit(context, *KEYS)
        await eventually(is_told)
        await eventually(lambda: is_filled(context, bank))
        for number in (2, 3):
            await ask(context)
            await eventually(partial(serves, context, number))
            await eventually(partial(is_clean, context, number - 1))
        await deposit(context, "last")
        await eventually(lambda: is_right(context, bank))
        await eventually(lambda: len(told) == len(KEYS) + 1)
    assert sorted(told) == sorted([*KEYS, "last"])
    counts = {key: row.count for key, row in (await rows(context.store, Thanks)).items()}
    assert counts == dict.fromkeys([*KEYS, "last"], 1)


async def test_the_status_names_the_view_as_before_and_shows_what_is_being_built(filled: Context) -> None:
    def lags(status: Mapping[str, Any]) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in status["consumers"]:
            found[row["consumer"]] = found.get(row["consumer"], 0) + row["lag"]
        return found

    await ask(filled)
    shown = lags(await service_status(filled))
    assert (shown["balance"], shown["balance~2"]) == (0, len(await journal_of(filled.store)))
    async with running(head(filled).run()):
        await eventually(lambda: serves(filled, 2))
        await eventually(lambda: is_clean(filled, 1))
    shown = lags(await service_status(filled))
    assert shown["balance"] == 0
    assert "balance~2" not in shown


# Comparing


async def put(views: ViewStore, name: str, **documents: bytes) -> None:
    assert await views.write(name, [Document(name, key, data) for key, data in documents.items()], [])


async def test_a_comparison_tells_equal_changed_missing_and_new_rows(engines: Engines) -> None:
    await engines.views.create()
    many = {f"e{n:04}": b'{"n":%d}' % n for n in range(1100)}
    await put(engines.views, "v", **many, a=b'{"x":1,"y":2}', b=b'{"x":1}', c=b"{}", zz=b"[1]")
    await put(engines.views, "v~2", **many, a=b'{"y":2,"x":1}', b=b'{"x":2}', d=b'{"long":"%s"}' % (b"x" * 5000))
    await put(engines.views, waiting_view("v~2"), p=b'{"first":7,"end":9}')
    await put(engines.views, parked_view("v~2"), **{parked_key("p", 7): msgspec.json.encode(failure())})

    async def meet() -> bool:
        return True

    found = await compare(engines.views, "v", "v~2", Comparison(1, 2), meet)
    assert (found.equal, found.changed, found.missing, found.new, found.in_flight) == (1101, 1, 2, 1, 0)
    assert [(each.kind, each.key) for each in found.samples] == [
        ("changed", "b"),
        ("missing", "c"),
        ("new", "d"),
        ("missing", "zz"),
    ]
    assert len(bytes(found.samples[2].new)) < 3000
    assert (found.aside, found.aside_before, found.causes) == (1, 0, ["p: broken"])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found


def failure() -> dict[str, Any]:
    message = dict.fromkeys(("id", "source", "type", "key", "time"), "") | {"data": "", "partition": 0, "number": 1}
    times = dict.fromkeys(("first_at", "last_at"), "2026-01-02T03:04:05Z")
    return {"message": message, "cause": "broken", "tries": 1, **times}


async def test_what_is_in_flight_is_neither_changed_nor_lost(engines: Engines) -> None:
    """A row that one generation gets later than the other is equal in the end; one that never rests is told as such."""
    await engines.views.create()
    await put(engines.views, "v", late=b"1", busy=b"1", same=b"1")
    await put(engines.views, "v~2", busy=b"0", same=b"1")
    turns = iter(range(2, 100))

    async def meet() -> bool:
        turn = next(turns)
        if turn == 2:
            await put(engines.views, "v~2", late=b"1")
        [busy] = (await engines.views.get("v", ["busy"])).values()
        await engines.views.write("v", [busy._replace(data=b"%d" % turn)], [])
        return True

    found = await compare(engines.views, "v", "v~2", Comparison(1, 2), meet)
    assert (found.equal, found.changed, found.missing, found.new, found.in_flight) == (2, 0, 0, 0, 1)


async def test_a_row_that_waits_for_a_generation_that_is_late_is_in_flight(engines: Engines) -> None:
    await engines.views.create()
    await put(engines.views, "v", late=b"1", later=b"1")
    await put(engines.views, "v~2", late=b"0", later=b"0")
    turns = iter(range(100))

    async def meet() -> bool:
        if next(turns) == 3:
            [late] = (await engines.views.get("v~2", ["late"])).values()
            await engines.views.write("v~2", [late._replace(data=b"1")], [])
        return False

    found = await compare(engines.views, "v", "v~2", Comparison(1, 2), meet)
    assert (found.equal, found.changed, found.in_flight) == (1, 0, 1)


async def test_others_go_on_while_a_large_view_is_compared() -> None:
    views = TurnMeter(memory_engines().views)
    same = {f"k{n:05}": b'{"n":1}' for n in range(20_000)}
    await put(views, "v", **same)
    await put(views, "v~2", **{key: b'{"n":2}' if n % 2 else data for n, (key, data) in enumerate(same.items())})

    async def meet() -> bool:
        return True

    async with views.watching():
        found = await compare(views, "v", "v~2", Comparison(1, 2), meet)
    assert (found.equal, found.changed) == (10_000, 10_000)
    assert views.most <= 4_000


# Code and its fingerprint


class Doc(msgspec.Struct):
    account_id: str
    count: int = 0


class OtherDoc(msgspec.Struct):
    account_id: str
    count: int = 1


class Counted(Protocol):
    """A document of the views here."""

    count: int


Step = Callable[[Any, Deposited], None]


def view_with(
    step: Step,
    document: type[msgspec.Struct] = Doc,
    version: str = "",
    key: Callable[[Deposited], str] | None = None,
) -> View[Any]:
    view = Service("accounts").view(document, key="account_id", version=version)
    view.on(Deposited, key=key)(step)
    return view


def plain(document: Counted, event: Deposited) -> None:
    document.count += event.amount if event.account_id not in {"a", "b", "c"} else 0


def noted(document: Counted, event: Deposited) -> None:
    # Another comment, and other names of variables, change nothing.
    document.count += event.amount if event.account_id not in {"c", "b", "a"} else 0


def other(document: Counted, event: Deposited) -> None:
    document.count -= event.amount


def closed_over(factor: int) -> Step:
    def step(document: Counted, event: Deposited) -> None:
        document.count += factor * event.amount

    return step


def test_a_fingerprint_is_the_codes_whatever_its_comments_and_however_often_it_ran() -> None:
    first = fingerprint(view_with(plain))
    for _ in range(2000):
        plain(Doc("a"), Deposited("a", 1))
    assert fingerprint(view_with(plain)) == fingerprint(view_with(noted)) == first
    assert fingerprint(view_with(closed_over(2))) == fingerprint(view_with(closed_over(2)))


def test_a_fingerprint_tells_what_differs() -> None:
    views = [
        view_with(plain),
        view_with(other),
        view_with(plain, version="2"),
        view_with(plain, OtherDoc),
        view_with(plain, key=lambda event: event.account_id),
        view_with(plain, key=lambda event: event.account_id[:1]),
        view_with(closed_over(2)),
        view_with(closed_over(3)),
        changed_bank().balance,
        Bank().balance,
    ]
    assert len({fingerprint(view) for view in views}) == len(views)


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "from tests.views.test_rebuild import *\n"
        "print(fingerprint(view_with(plain)), fingerprint(Bank().balance), fingerprint(changed_bank().balance))"
    )
    here = [fingerprint(view_with(plain)), fingerprint(Bank().balance), fingerprint(changed_bank().balance)]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "src:."}
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        found = ran.stdout.split()
        if seed == "1":
            there = found
        assert found == there
    # pytest compiles asserts differently, but the functions here have none
    assert here == there


def test_a_views_name_leaves_room_for_its_generations() -> None:
    with pytest.raises(DeclarationError, match="must not hold ~"):
        Service("accounts").view(Doc, key="account_id", name="doc~2")


class Still(Clock):
    """A clock that stands still."""

    def time(self) -> float:
        return 1000.0


async def test_workers_of_each_kind_of_code_share_all_partitions_among_themselves(context: Context) -> None:
    still = replace(context, clock=Still(), timing=msgspec.structs.replace(TIMING, lease_s=3.0))

    def worker(holder: str, code: str) -> Leases:
        return Leases(still, holder, code=code)

    a, b, c = worker("a", "old"), worker("b", "new"), worker("c", "new")
    await a.renew()
    assert (a.all_alike, a.held_alike) == (True, a.held)
    for _ in range(3):
        for each in (a, b, c):
            await each.renew()
    everything = frozenset(range(PARTITIONS))
    assert not any(each.all_alike for each in (a, b, c))
    assert (a.held_alike, b.held_alike | c.held_alike, b.held_alike & c.held_alike) == (
        everything,
        everything,
        frozenset(),
    )
    assert a.held | b.held | c.held == everything
    assert await a.codes() == {"old", "new"}
    await a.give_back()
    await b.renew()
    assert (b.all_alike, b.held_alike) == (True, b.held)


# From the command line

SETTINGS = Settings(services={"accounts": ServiceSettings(app="")})


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, filled: Context) -> None:
    work_on(monkeypatch, filled)


def work_on(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    """Let the command line work on this, on wide paper."""

    @asynccontextmanager
    async def contexts(settings: Settings, names: Collection[str], *, used: bool) -> AsyncIterator[list[Context]]:
        yield [context]

    monkeypatch.setattr(rebuilds, "opened", contexts)
    monkeypatch.setattr(rebuilds, "Console", partial(Console, width=300))


@pytest.mark.usefixtures("command_line")
async def test_a_rebuild_from_the_command_line_shows_what_became_of_the_rows(
    filled: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    [k7] = (await filled.views.get("balance", ["k7"])).values()
    await filled.views.write("balance", [k7._replace(data=b'{"account_id":"[bold]k7","balance":70}')], [])
    async with running(head(filled).run()):
        await rebuilds.rebuild_view(SETTINGS, "accounts", "balance", keep_old=True)
        shown = capsys.readouterr().out
        assert "accounts balance: generation 1 to 2" in shown
        assert '{"account_id":"[bold]k7","balance":70}' in shown
        await rebuilds.rebuild_view(SETTINGS, "accounts", "balance", as_json=True)
        found = json.loads(capsys.readouterr().out)
    assert (found["old_generation"], found["new_generation"], found["equal"]) == (2, 3, len(KEYS))
    assert await is_right(filled, bank)


@pytest.mark.usefixtures("command_line")
async def test_back_cancel_and_drop_old_say_what_they_did_or_what_is_missing(
    filled: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    async def steer(way: Way) -> str:
        await rebuilds.steer_rebuild(SETTINGS, "accounts", "balance", way)
        return capsys.readouterr().out

    ways: list[tuple[Way, str]] = [("cancel", "not being rebuilt"), ("back", "no other"), ("drop-old", "no other")]
    for way, missing in ways:
        with pytest.raises(ChimeraError, match=missing):
            await steer(way)
    async with running(head(filled).run()):
        await ask(filled, keep_old=True)
        await eventually(lambda: serves(filled, 2))
    assert "is as it was before; it serves generation 1" in await steer("back")
    await ask(filled)
    with pytest.raises(ChimeraError, match="--cancel"):
        await steer("back")
    assert "is not rebuilt any more; it serves generation 1" in await steer("cancel")
    assert "has dropped the other; it serves generation 1" in await steer("drop-old")
    state = await state_of(filled)
    assert (state.kept, state.building, sorted(state.retired)) == (None, None, [2, 3])


async def test_a_rebuild_that_nobody_works_on_or_that_was_cancelled_is_told(
    filled: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_on(monkeypatch, replace(filled, timing=msgspec.structs.replace(TIMING, idle_s=0.02)))
    with pytest.raises(ChimeraError, match="chimera run accounts --write"):
        await rebuilds.rebuild_view(SETTINGS, "accounts", "balance")
    work_on(monkeypatch, replace(filled, timing=msgspec.structs.replace(TIMING, idle_s=60.0)))
    watching = asyncio.ensure_future(rebuilds.rebuild_view(SETTINGS, "accounts", "balance"))
    await asyncio.sleep(0.02)
    await change(filled.views, "balance", lambda now: now.cancelled())
    with pytest.raises(ChimeraError, match="was cancelled"):
        await watching
    await change(filled.views, "balance", lambda now: now.started("other"))
    with pytest.raises(ChimeraError, match="being rebuilt with other code"):
        await ask(filled)
    with pytest.raises(SettingsError, match="its views: balance, total"):
        await rebuilds.rebuild_view(SETTINGS, "accounts", "nothing")


def test_a_follower_without_views_reads_by_the_name_it_is_given() -> None:
    reads = GenerationReads(make_context(Service("empty"), memory_engines()))

    async def get(name: str) -> str:
        return name

    assert asyncio.run(reads.read("borrow.cards.async", get)) == "borrow.cards.async"
