"""A view is built anew beside the one that serves, compared and flipped; nobody sees less, nothing happens twice."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chimera import (
    ChimeraError,
    DeclarationError,
    Service,
    SettingsError,
    Unavailable,
    generations,
    operations,
    rebuilding,
    rebuilds,
    write_head,
)
from chimera.body import Body
from chimera.comparing import Comparison, compare
from chimera.documents import Documents, Waiting
from chimera.errors import Trimmed
from chimera.fingerprints import fingerprint
from chimera.generations import (
    Building,
    Generation,
    GenerationReads,
    Generations,
    change,
    generation_name,
    read_generations,
)
from chimera.leases import Leases
from chimera.messages import parse_positions
from chimera.ports import Checkpoint, Document, Move, ViewStore
from chimera.rebuilding import ViewKeeper, last_report
from chimera.setaside import kept_views, parked_view, place_of, waiting_view
from chimera.status import parked_counts, service_status
from chimera.testing.broken import WrappedViews
from chimera.write_head import WriteHead
from tests.contract.services import IN_TURN, need_packages, url_of
from tests.support import (
    PARTITIONS,
    Bank,
    Deposit,
    Deposited,
    Engines,
    Fuse,
    FusedViews,
    Thanks,
    Withdraw,
    direct,
    eventually,
    journal_of,
    memory_engines,
    opened,
    recomputed,
    rows,
    running,
    stored,
)

KEYS = [f"k{n}" for n in range(12)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_head, "PAUSES_S", (0.002,))
    monkeypatch.setattr(rebuilding, "LOOK_S", 0.005)
    monkeypatch.setattr(rebuilding, "SETTLE_S", 0.06)
    monkeypatch.setattr(rebuilding, "GRACE_S", 0.1)
    monkeypatch.setattr(rebuilding, "ALONE_S", 0.1)
    monkeypatch.setattr(rebuilding, "MEET_S", 0.05)
    monkeypatch.setattr(generations, "LOOK_S", 0.02)
    monkeypatch.setattr(generations, "VALID_S", 0.03)
    monkeypatch.setattr(rebuilds, "LOOK_S", 0.005)


def changed_bank(factor: int = 2, version: str = "") -> Bank:
    """The bank after a deploy: its balances count deposits differently."""
    bank = Bank()
    key_of, step = bank.balance.steps[Deposited]

    def deposited(balance: Any, event: Deposited) -> None:
        step(balance, event)
        balance.balance += (factor - 1) * event.amount

    bank.balance.steps[Deposited] = (key_of, deposited)
    bank.balance.version = version
    return bank


def head(body: Body, holder: str = "a") -> WriteHead:
    made = WriteHead(body, holder, audit_s=0)
    made._leases._ttl_s = 0.3
    return made


def engines_of(body: Body) -> Engines:
    """For another process on the same engines."""
    return Engines(body.log, body.store, body.views)


async def state_of(body: Body, view: str = "balance") -> Generations:
    return (await read_generations(body.views, [view]))[view]


async def serves(body: Body, number: int, view: str = "balance") -> bool:
    state = await state_of(body, view)
    return state.serving.number == number and state.building is None


async def is_clean(body: Body, *dropped: int) -> bool:
    """The old generations are gone, and nothing is left of them."""
    if (await state_of(body)).retired:
        return False
    names = [generation_name("balance", number) for number in dropped]
    return not any([await body.views.checkpoints(n) or await body.views.scan(n) for n in names])


async def served(body: Body, view: str = "balance") -> dict[str, Any]:
    return await stored(body.views, await body.generations.name(view))


async def is_right(body: Body, bank: Bank) -> bool:
    return await served(body) == recomputed(bank.balance, await journal_of(body.store))


async def deposit(body: Body, *keys: str) -> None:
    await direct(body, *(Deposit(key, 1) for key in keys))


async def ask(body: Body, *, keep_old: bool = False, force: bool = False) -> int:
    return await rebuilds._ask(body, "balance", keep_old=keep_old, force=force)


async def is_filled(body: Body, bank: Bank) -> bool:
    return bool((await state_of(body)).serving.code) and await is_right(body, bank)


@pytest.fixture
async def filled(body: Body, bank: Bank) -> Body:
    """A bank whose view has been served for a while."""
    await deposit(body, *KEYS)
    await direct(body, *(Withdraw(key, 1) for key in KEYS[:3]))
    async with running(head(body).run()):
        await eventually(lambda: is_filled(body, bank))
    return body


# Nobody sees less


class Readers:
    """Readers of every key, who go from one read head to another and remember what they have seen."""

    def __init__(self, *bodies: Body) -> None:
        self._heads = [Documents(body) for body in bodies]
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

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with running(*(self.read(key) for key in KEYS)) as tasks:
            yield
            assert not [task for task in tasks if task.done()], "a reader saw less"


@asynccontextmanager
async def load(body: Body) -> AsyncIterator[None]:
    async def work() -> None:
        while True:
            for key in KEYS:
                await deposit(body, key)
                await asyncio.sleep(0.001)

    async with running(work()):
        yield


async def test_a_rebuild_under_load_shows_no_reader_nothing_or_less_than_before(filled: Body, bank: Bank) -> None:
    other = await opened(Bank().service, engines_of(filled))
    readers = Readers(filled, other)
    async with running(head(filled).run()), load(filled), readers.watching():
        for number in (2, 3):
            before = readers.reads
            assert await ask(filled) == number
            await eventually(lambda number=number: serves(filled, number))
            await eventually(lambda number=number: is_clean(filled, number - 1))
            await eventually(lambda before=before: readers.reads > before + 100)
    found = await last_report(filled, "balance")
    assert found is not None
    assert (found.changed, found.missing, found.new, found.samples) == (0, 0, 0, [])
    assert found.equal + found.in_flight == len(KEYS)
    async with running(head(filled).run()):
        await eventually(lambda: is_right(filled, bank))


async def test_a_read_that_outlives_its_generation_is_read_again(filled: Body) -> None:
    """A process that slept while the view flipped, and the old generation was dropped."""

    async def slow(name: str) -> Any:
        if name == "balance":
            await change(filled.views, "balance", lambda now: Generations(Generation(2, "new"), last=2))
            await filled.views.drop("balance", ["balance"])
            await filled.views.write("balance~2", [Document("balance~2", "k1", b"{}")], [])
            await asyncio.sleep(2 * generations.VALID_S)
        return await filled.views.get(name, ["k1"])

    found = await filled.generations.read("balance", slow)
    assert [document.data for document in found.values()] == [b"{}"]


async def test_while_a_generation_is_ready_no_read_is_from_the_old_one_after_the_flip(
    filled: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "LOOK_S", 60.0)
    monkeypatch.setattr(generations, "VALID_S", 60.0)
    building = Building(Generation(2, "new"), "ready")
    ready = await change(filled.views, "balance", lambda now: msgspec.structs.replace(now, building=building, last=2))

    async def get(name: str) -> str:
        if name == "balance":
            await change(filled.views, "balance", lambda now: ready.flipped(2))
        return name

    reads = GenerationReads(filled.service, filled.views, filled.moved)
    assert await reads.read("balance", get) == "balance~2"
    assert await reads.read("balance", get) == "balance~2"


async def test_a_head_that_sees_the_flip_waits_until_the_new_generation_has_what_the_old_one_has(filled: Body) -> None:
    old = await filled.views.checkpoints("balance")
    at = {place: checkpoint.number for place, checkpoint in old.items()}
    late = max(at)
    await filled.views.write(
        "balance~2", [], [Move(*place, 0, Checkpoint(number - (place == late))) for place, number in at.items()]
    )
    await change(filled.views, "balance", lambda now: Generations(Generation(2, "new"), before=1, last=2))
    documents = Documents(await opened(Bank().service, engines_of(filled)))
    reading = asyncio.ensure_future(documents("balance", "k1"))
    done, _ = await asyncio.wait([reading], timeout=0.05)
    assert not done
    kept = [document._replace(view="balance~2", revision=0) for document in await filled.views.scan("balance")]
    await filled.views.write("balance~2", kept, [Move(*late, at[late] - 1, Checkpoint(at[late]))])
    assert await reading is not None


async def test_who_brings_back_a_position_waits_for_the_generation_that_serves(filled: Body) -> None:
    [outcome] = await direct(filled, Deposit("k1", 1))
    [position] = parse_positions(outcome.positions)
    move = Move("accounts", position.partition, 0, Checkpoint(position.number))
    await filled.views.write("balance~2", [], [move])
    waiting = Waiting(filled, [position], budget=0.02)
    await waiting.reach("balance", {"accounts"})
    assert waiting.behind != []
    await change(filled.views, "balance", lambda now: Generations(Generation(2, "new"), last=2))
    await asyncio.sleep(2 * generations.LOOK_S)
    waiting = Waiting(filled, [position], budget=5.0)
    await waiting.reach("balance", {"accounts"})
    assert waiting.behind == []


async def test_views_that_can_not_be_reached_are_not_taken_for_empty(filled: Body) -> None:
    fuse = Fuse(1)
    dead = await opened(Bank().service, Engines(filled.log, filled.store, FusedViews(filled.views, fuse)))
    with pytest.raises(Unavailable):
        await Documents(dead)("balance", "k1")


@asynccontextmanager
async def real_views(engine: str) -> AsyncIterator[ViewStore]:
    """A real engine's views, in a place of this test's own that is emptied afterwards."""
    need_packages(engine)
    url, question, options = url_of(engine).partition("?")
    place = f"{url.rpartition('/')[0]}/chimera_rebuilding" if engine in ("mongodb", "mysql") else url
    if engine == "postgresql":
        question, options = "?", f"{options}{'&' if options else ''}schema=chimera_rebuilding"
    views = importlib.import_module(f"chimera.adapters.{engine}").open_engine("views", f"{place}{question}{options}")
    try:
        await views.create()
        await forget(views)
        yield views
        await forget(views)
    finally:
        await views.close()


async def forget(views: ViewStore) -> None:
    for name in ("balance", *(f"balance~{number}" for number in range(2, 5)), generations.SETTINGS):
        await views.drop(name, kept_views(name))


@pytest.mark.parametrize("engine", ["mongodb", "mysql", "postgresql", pytest.param("redis", marks=IN_TURN)])
async def test_a_rebuild_under_load_on_a_real_engine_shows_no_reader_less(engine: str) -> None:
    bank, new = Bank(), changed_bank()
    async with real_views(engine) as views:
        body = await opened(bank.service, memory_engines()._replace(views=views))
        other = await opened(Bank().service, engines_of(body))
        await deposit(body, *KEYS)
        async with running(head(body).run()):
            await eventually(lambda: is_filled(body, bank), timeout=60)
            async with load(body), Readers(body, other).watching():
                await ask(body, keep_old=True)
                await eventually(lambda: serves(body, 2), timeout=60)
            found = await last_report(body, "balance")
            assert found is not None
            assert (found.changed, found.missing, found.new) == (0, 0, 0)
            await change(views, "balance", lambda now: now.gone_back().without_kept())
            await eventually(lambda: is_clean(body, 2), timeout=60)
            await eventually(lambda: is_right(body, bank), timeout=60)
        deployed = await opened(new.service, engines_of(body))
        async with running(head(deployed).run()):
            await eventually(lambda: serves(deployed, 3), timeout=60)
            await eventually(lambda: is_clean(deployed, 1), timeout=60)
            await eventually(lambda: is_right(deployed, new), timeout=60)


# A changed view


async def test_a_changed_fold_is_built_by_itself_and_its_changed_rows_are_told(filled: Body) -> None:
    bank = changed_bank()
    await filled.views.write("balance", [Document("balance", "ghost", b'{"account_id":"ghost"}')], [])
    lost = (await filled.views.get("balance", ["k4"]))["k4"]
    await filled.views.write("balance", [lost._replace(data=None)], [])
    body = await opened(bank.service, engines_of(filled))
    async with running(head(body).run()):
        await eventually(lambda: serves(body, 2))
        await eventually(lambda: is_clean(body, 1))
    assert await is_right(body, bank)
    found = await last_report(body, "balance")
    assert found is not None
    assert (found.equal, found.changed, found.missing, found.new, found.in_flight) == (0, 11, 1, 1, 0)
    shown = {(each.kind, each.key): each for each in found.samples}
    assert {kind for kind, _ in shown} == {"changed", "missing", "new"}
    k1 = shown["changed", "k1"]
    assert [msgspec.json.decode(each)["balance"] for each in (k1.old, k1.new)] == [0, 1]
    assert bytes(shown["missing", "ghost"].new) == bytes(shown["new", "k4"].old) == b"null"


async def test_the_same_code_is_not_built_again_when_its_write_head_starts_again(filled: Body, bank: Bank) -> None:
    for again in (bank, Bank()):
        body = await opened(again.service, engines_of(filled))
        async with running(head(body).run()):
            await deposit(body, "k1")
            await eventually(lambda body=body: is_right(body, bank))
    assert (await state_of(filled)).last == 1


async def test_a_version_of_its_own_builds_a_view_whose_code_is_the_same(filled: Body) -> None:
    bank = Bank()
    bank.balance.version = "2"
    body = await opened(bank.service, engines_of(filled))
    async with running(head(body).run()):
        await eventually(lambda: serves(body, 2))
    found = await last_report(body, "balance")
    assert found is not None
    assert (found.equal, found.changed) == (len(KEYS), 0)


async def test_a_generation_that_sets_aside_what_was_folded_before_waits_for_a_person(filled: Body) -> None:
    bank = changed_bank()
    bank.failing_views.add("k3")
    body = await opened(bank.service, engines_of(filled))
    async with running(head(body).run()):
        with pytest.raises(ChimeraError, match=r"set aside events of 1 keys \(0 before\).*k3: ValueError"):
            await rebuilds._watch(body, "balance", await started(body, 2), quiet=True)
        assert (await state_of(body)).serving.number == 1
        await ask(body, force=True)
        await eventually(lambda: serves(body, 2))
    assert await parked_counts(body) == {"balance": 1}


async def started(body: Body, number: int) -> int:
    async def is_started() -> bool:
        return (await state_of(body)).is_building(number)

    await eventually(is_started)
    return number


# Killed, cancelled, doubled


class DyingViews(WrappedViews):
    """Views whose process dies at one of the calls that change something."""

    def __init__(self, views: ViewStore, fuse: Fuse) -> None:
        super().__init__(views)
        self._fuse = fuse

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        return bool(await self._fuse.around(super().write(consumer, documents, moves)))

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        await self._fuse.around(super().drop(consumer, views))


@pytest.mark.parametrize("late", [False, True], ids=["before the write's effect", "after the write's effect"])
async def test_a_worker_that_dies_at_any_of_its_writes_is_followed_by_the_next(bank: Bank, late: bool) -> None:
    at = 0
    while True:
        at += 1
        engines, fuse = memory_engines(), Fuse(at, late=late)
        first = await opened(Bank().service, engines)
        await deposit(first, *KEYS)
        async with running(head(first, "first").run()):
            await eventually(lambda first=first: is_filled(first, bank))
        new = changed_bank()
        dying = await opened(new.service, engines._replace(views=DyingViews(engines.views, fuse)))
        async with running(head(dying, "dying").run()):
            await eventually(lambda fuse=fuse, first=first: _is_over(fuse, first))
        body = await opened(new.service, engines)
        assert await Documents(body)("balance", "k1") is not None
        async with running(head(body, "next").run()):
            await eventually(lambda body=body: serves(body, 2))
            await deposit(body, "k1")
            await eventually(lambda body=body, new=new: is_right(body, new))
            await eventually(lambda body=body: is_clean(body, 1))
        if not fuse.blown.is_set():
            break
    assert at > 8


async def _is_over(fuse: Fuse, body: Body) -> bool:
    return fuse.blown.is_set() or (await serves(body, 2) and await is_clean(body, 1))


async def test_a_cancelled_rebuild_leaves_nothing_and_does_not_begin_again_by_itself(filled: Body, bank: Bank) -> None:
    new = changed_bank()
    body = await opened(new.service, Engines(filled.log, filled.store, Slow(filled.views)))
    before = await stored(filled.views, "balance")
    async with running(head(body).run()):
        await started(body, 2)
        await change(body.views, "balance", lambda now: now.cancelled())
        await eventually(lambda: is_clean(body, 2))
        await asyncio.sleep(3 * rebuilding.ALONE_S)
        state = await state_of(body)
        assert (state.serving.number, state.building, state.last) == (1, None, 2)
        assert await served(body) == before
        await ask(body)
        await eventually(lambda: serves(body, 3))
        await eventually(lambda: is_right(body, new))


class Slow(WrappedViews):
    """Views that take their time to write what is being built."""

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        if consumer == "balance~2":
            await asyncio.sleep(0.05)
        return await super().write(consumer, documents, moves)


async def test_a_rebuild_that_is_asked_for_twice_is_one(filled: Body, bank: Bank) -> None:
    numbers = await asyncio.gather(*(ask(filled) for _ in range(4)))
    assert numbers == [2] * 4
    async with running(head(filled).run()):
        await eventually(lambda: serves(filled, 2))
    assert (await state_of(filled)).last == 2
    assert await is_right(filled, bank)


async def test_several_workers_build_one_generation_each_its_partitions(filled: Body, bank: Bank) -> None:
    second = await opened(Bank().service, engines_of(filled))
    async with running(head(filled, "a").run(), head(second, "b").run()), load(filled):
        await ask(filled)
        await eventually(lambda: serves(filled, 2))
        await eventually(lambda: is_clean(filled, 1))
    async with running(head(filled, "a").run()):
        await eventually(lambda: is_right(filled, bank))


async def test_two_workers_that_both_hold_every_partition_build_what_one_would(filled: Body, bank: Bank) -> None:
    bodies = [filled, await opened(Bank().service, engines_of(filled))]
    keepers = [ViewKeeper(b, b.service.views["balance"], write_head._persist, lambda: True) for b in bodies]
    async with running(*(keeper.run(frozenset(range(PARTITIONS))) for keeper in keepers)):
        await ask(filled)
        await eventually(lambda: serves(filled, 2))
        await eventually(lambda: is_clean(filled, 1))
    assert await is_right(filled, bank)


# The way back


async def test_a_kept_generation_is_kept_up_and_serves_again_at_once(filled: Body, bank: Bank) -> None:
    async with running(head(filled).run()):
        await ask(filled, keep_old=True)
        await eventually(lambda: serves(filled, 2))
        await asyncio.sleep(20 * rebuilding.LOOK_S)
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


async def _is_kept_up(body: Body, bank: Bank, events: Any) -> bool:
    wanted = recomputed(bank.balance, events)
    return await stored(body.views, "balance") == wanted == await stored(body.views, "balance~2")


async def test_gone_back_from_new_code_the_old_documents_stay_until_other_code_runs(filled: Body) -> None:
    before, new = await stored(filled.views, "balance"), changed_bank()
    body = await opened(new.service, engines_of(filled))
    async with running(head(body).run()):
        await started(body, 2)
        await ask(body, keep_old=True)
        await eventually(lambda: serves(body, 2))
        await change(body.views, "balance", lambda now: now.gone_back())
        await deposit(body, "k1")
        await eventually(lambda: _has(body, "balance~2", "k1", 3))
        await asyncio.sleep(3 * rebuilding.ALONE_S)
        assert await served(body) == before
        assert await serves(body, 1)
    mended = changed_bank(3)
    body = await opened(mended.service, engines_of(filled))
    async with running(head(body).run()):
        await eventually(lambda: serves(body, 3))
        await eventually(lambda: is_right(body, mended))


async def _has(body: Body, name: str, key: str, balance: int) -> bool:
    return bool((await stored(body.views, name)).get(key, {}).get("balance") == balance)


# Old and new code at the same time


async def test_during_a_rolling_deploy_the_old_code_keeps_its_generation_until_the_new_one_is_complete(
    filled: Body, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "ALONE_S", 60.0)
    new = changed_bank()
    engines = engines_of(filled)
    deployed = await opened(new.service, engines._replace(views=Held(filled.views)))
    readers = Readers(filled, deployed)
    old = asyncio.ensure_future(head(filled, "old").run())
    async with running(head(deployed, "new").run()), readers.watching():
        await started(deployed, 2)
        await deposit(filled, *KEYS)
        await eventually(lambda: is_right(filled, bank))
        await asyncio.sleep(5 * rebuilding.SETTLE_S)
        state = await state_of(filled)
        assert state.serving.number == 1
        assert state.building is not None
        assert state.building.phase == "building"
        deployed.views.open.set()  # type: ignore[attr-defined]
        await eventually(lambda: serves(deployed, 2))
        await deposit(filled, *KEYS)
        await eventually(lambda: is_right(deployed, new))
        old.cancel()
        await asyncio.wait([old])
        restarted = await opened(Bank().service, engines)
        async with running(head(restarted, "old again").run()):
            await deposit(restarted, *KEYS)
            await eventually(lambda: is_right(deployed, new))
            await asyncio.sleep(20 * rebuilding.LOOK_S)
        assert (await state_of(deployed)).last == 2


class Held(WrappedViews):
    """Views that take nothing of the second generation until they are open."""

    def __init__(self, views: Any) -> None:
        super().__init__(views)
        self.open = asyncio.Event()

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        if consumer == "balance~2":
            await self.open.wait()
        return await super().write(consumer, documents, moves)


async def test_after_a_rollback_the_old_code_takes_the_view_over_again_once_nobody_runs_the_new(
    filled: Body, bank: Bank
) -> None:
    new, engines = changed_bank(), engines_of(filled)
    deployed = await opened(new.service, engines)
    async with running(head(deployed, "new").run()):
        await eventually(lambda: serves(deployed, 2))
    await deposit(filled, *KEYS)
    async with running(head(filled, "old").run()):
        await eventually(lambda: serves(filled, 3))
        await eventually(lambda: is_right(filled, bank))
        await eventually(lambda: _knows(filled, fingerprint(bank.balance)))
    async with running(head(deployed, "new").run()):
        await eventually(lambda: serves(deployed, 4))


async def _knows(body: Body, *codes: str) -> bool:
    return (await state_of(body)).known == codes


async def test_what_nobody_builds_any_more_is_dropped(filled: Body, bank: Bank) -> None:
    await change(filled.views, "balance", lambda now: now.started("somebody else's"))
    async with running(head(filled).run()):
        await eventually(lambda: serves(filled, 1))
        await eventually(lambda: is_clean(filled, 2))
    assert await _knows(filled, fingerprint(bank.balance))


async def test_a_view_whose_first_events_are_gone_goes_on_with_the_new_code(
    filled: Body, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    new = changed_bank()
    body = await opened(new.service, engines_of(filled))

    async def journal(partition: int, after: int, limit: int) -> Any:
        if after == 0:
            raise Trimmed(partition, after)
        return await filled.store.journal(partition, after, limit)

    monkeypatch.setattr(body.owner("accounts"), "journal", journal)
    async with running(head(body).run()):
        await deposit(body, "k9")
        await eventually(lambda: _has(body, "balance", "k9", 3))
    state = await state_of(body)
    assert (state.serving, state.last) == (Generation(1, fingerprint(new.balance)), 1)
    assert "can't be built anew" in caplog.text
    with pytest.raises(ChimeraError, match="has trimmed"):
        await ask(body)


# Nothing else happens


async def test_handlers_of_events_never_run_again_in_a_rebuild(engines: Engines) -> None:
    bank, told = Bank(), list[str]()

    @bank.service.on(Deposited)
    async def tell(event: Deposited, tx: Any) -> None:
        told.append(event.account_id)

    body = await opened(bank.service, engines)

    async def is_told() -> bool:
        thanks = await rows(body.store, Thanks)
        return len(told) == len(KEYS) and sum(each.count for each in thanks.values()) == len(KEYS)

    async with running(head(body).run()):
        await deposit(body, *KEYS)
        await eventually(is_told)
        await eventually(lambda: is_filled(body, bank))
        for number in (2, 3):
            await ask(body)
            await eventually(lambda number=number: serves(body, number))
            await eventually(lambda number=number: is_clean(body, number - 1))
        await deposit(body, "last")
        await eventually(lambda: is_right(body, bank))
        await eventually(lambda: len(told) == len(KEYS) + 1)
    assert sorted(told) == sorted([*KEYS, "last"])
    counts = {key: row.count for key, row in (await rows(body.store, Thanks)).items()}
    assert counts == dict.fromkeys([*KEYS, "last"], 1)


async def test_the_status_names_the_view_as_before_and_shows_what_is_being_built(filled: Body) -> None:
    def lags(status: Any) -> dict[str, int]:
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


async def put(views: Any, name: str, **documents: bytes) -> None:
    assert await views.write(name, [Document(name, key, data) for key, data in documents.items()], [])


async def test_a_comparison_tells_equal_changed_missing_and_new_rows(engines: Engines) -> None:
    await engines.views.create()
    many = {f"e{n:04}": b'{"n":%d}' % n for n in range(1100)}
    await put(engines.views, "v", **many, a=b'{"x":1,"y":2}', b=b'{"x":1}', c=b"{}", zz=b"[1]")
    await put(engines.views, "v~2", **many, a=b'{"y":2,"x":1}', b=b'{"x":2}', d=b'{"long":"%s"}' % (b"x" * 5000))
    await put(engines.views, waiting_view("v~2"), p=b'{"first":7,"end":9}')
    await put(engines.views, parked_view("v~2"), **{place_of("p", 7): msgspec.json.encode(failure())})

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


# Code and its fingerprint


class Doc(msgspec.Struct):
    account_id: str
    count: int = 0


class OtherDoc(msgspec.Struct):
    account_id: str
    count: int = 1


def view_with(step: Any, document: Any = Doc, version: str = "", key: Any = None) -> Any:
    view = Service("accounts").view(document, key="account_id", version=version)
    view.on(Deposited, key=key)(step)
    return view


def plain(document: Any, event: Any) -> None:
    document.count += event.amount if event.amount not in {"a", "b", "c"} else 0


def noted(document: Any, event: Any) -> None:
    # Another comment, and other names of variables, change nothing.
    document.count += event.amount if event.amount not in {"c", "b", "a"} else 0


def other(document: Any, event: Any) -> None:
    document.count -= event.amount


def closed_over(factor: int) -> Any:
    def step(document: Any, event: Any) -> None:
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
        "from tests.test_rebuilding import *\n"
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


async def test_workers_of_each_kind_of_code_share_all_partitions_among_themselves(body: Body) -> None:
    def worker(holder: str, code: str) -> Leases:
        return Leases(body.service, body.store, holder, ttl_s=3.0, clock=lambda: 1000.0, code=code)

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

SETTINGS: Any = SimpleNamespace(services={"accounts": None})


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, filled: Body) -> None:
    @asynccontextmanager
    async def bodies(settings: Any, names: Any) -> AsyncIterator[list[Body]]:
        yield [filled]

    console = rebuilds.Console
    monkeypatch.setattr(operations, "bodies_of", bodies)
    monkeypatch.setattr(rebuilds, "Console", lambda: console(width=300))


@pytest.mark.usefixtures("command_line")
async def test_a_rebuild_from_the_command_line_shows_what_became_of_the_rows(
    filled: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
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
    filled: Body, capsys: pytest.CaptureFixture[str]
) -> None:
    async def steer(way: Any) -> str:
        await rebuilds.steer_rebuild(SETTINGS, "accounts", "balance", way)
        return capsys.readouterr().out

    for way, missing in (("cancel", "not being rebuilt"), ("back", "no other"), ("drop-old", "no other")):
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


@pytest.mark.usefixtures("command_line")
async def test_a_rebuild_that_nobody_works_on_or_that_was_cancelled_is_told(
    filled: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilds, "IDLE_S", 0.02)
    with pytest.raises(ChimeraError, match="chimera run accounts --write"):
        await rebuilds.rebuild_view(SETTINGS, "accounts", "balance")
    monkeypatch.setattr(rebuilds, "IDLE_S", 60.0)
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
    reads = GenerationReads(Service("empty"), memory_engines().views, None)  # type: ignore[arg-type]

    async def get(name: str) -> str:
        return name

    assert asyncio.run(reads.read("borrow.cards.async", get)) == "borrow.cards.async"
