"""Copies of what is borrowed, and how the mode changes while it is being read."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import msgspec
import pytest

from chimera import Unavailable
from chimera.borrow import copies
from chimera.borrow.ahead import read_marks
from chimera.borrow.bootstrap import Bootstrap
from chimera.borrow.copies import CopyKeeper, caught_up, copy_projection
from chimera.borrow.modes import ModeSetting, change_mode, flip, read_mode, want_mode
from chimera.borrow.reads import BorrowedReads
from chimera.core.context import Context
from chimera.core.names import all_of, copy_name
from chimera.core.timing import Timing
from chimera.journal.checkpoints import numbers_of
from chimera.messages import Message
from chimera.parts import Mode
from chimera.ports import BucketDigest, Checkpoint, ConsumerAt, Entry, Epoch, Fetched, Move
from chimera.testing.engines import memory_engines
from chimera.testing.fuse import Fuse, FusedViews
from chimera.testing.waiting import eventually, running
from chimera.upkeep.drift.share_audit import complete
from chimera.views.documents import Documents
from chimera.views.generations import GenerationReads
from chimera.views.parked import all_parked
from chimera.views.projector import Projector
from tests.support import (
    QUICK,
    Bank,
    Card,
    Close,
    Deposit,
    Engines,
    NoOwner,
    Shop,
    balances,
    direct,
    journal_of,
    opened,
    stored,
)

MODES: tuple[Mode, ...] = ("sync", "async", "hybrid")
ALL = frozenset({0, 1})


TIMING = msgspec.structs.replace(
    QUICK,
    switch_look_s=0.002,
    switch_settle_s=0.01,
    switch_grace_s=0.02,
    keep_s=0.002,
    meet_s=0.02,
    bootstrap_s=0.005,
)


class OwnerOf:
    """A context as an owner, that can be taken away."""

    def __init__(self, context: Context) -> None:
        self._owner = context.owners[context.service.name]
        self.down = False
        self.cut = 0
        self.asked: list[str] = []

    def _check(self) -> None:
        if self.down:
            raise Unavailable("the owner is down")

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        self._check()
        return await self._owner.fetch(share, keys)

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        self._check()
        return await self._owner.digests(share, partition)

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        self._check()
        self.asked.append("entries")
        return await self._owner.entries(share, partition, buckets)

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        """Without its first `cut` events, as if they had been removed."""
        self._check()
        self.asked.append("journal")
        return await self._owner.journal(partition, max(after, self.cut), limit)

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        self._check()
        return await self._owner.chain(at)

    async def epochs(self) -> Sequence[Epoch]:
        return await self._owner.epochs()

    async def heads(self) -> Mapping[int, int]:
        self._check()
        return await self._owner.heads()

    async def report(self, consumers: Sequence[ConsumerAt]) -> None: ...

    async def close(self) -> None: ...


class Town:
    """A bank and a shop that borrows from it, on the same log."""

    def __init__(self, bank: Context, shop: Context, owner: OwnerOf, declared: Shop) -> None:
        self.bank, self.shop, self.owner = bank, shop, owner
        self.borrow = declared.cards
        self.reads = reads_of(shop, declared)

    async def deposit(self, *keys: str) -> None:
        """Change the accounts, and relay what happened."""
        before = await self.bank.store.heads()
        await direct(self.bank, *(Deposit(key, 1) for key in keys))
        await self.relay(before)

    async def relay(self, after: Mapping[int, int]) -> None:
        for partition, number in after.items():
            await self.bank.log.append("accounts.events", await self.bank.store.journal(partition, number, 1000))

    async def is_complete(self, mode: Mode) -> bool:
        kept = await self.shop.views.scan(copy_name(self.borrow.name, mode), limit=10_000)
        if mode == "hybrid":
            return {d.key for d in kept} == set(await balances(self.bank))
        found = {d.key: msgspec.json.decode(d.data or b"", type=Card).balance for d in kept}
        return found == await balances(self.bank)

    async def is_dropped(self, mode: Mode) -> bool:
        name = copy_name(self.borrow.name, mode)
        return not await self.shop.views.checkpoints(name) and not await self.shop.views.scan(name)

    async def in_force(self) -> Mode:
        return (await read_mode(self.shop, self.borrow)).mode


def reads_of(shop: Context, declared: Shop) -> BorrowedReads[Card]:
    """A read head of the shop."""
    return BorrowedReads(shop, declared.cards, Documents(shop, GenerationReads(shop)))


async def make_town(
    mode: Mode,
    engines: Engines | None = None,
    *,
    accounts: int = 20,
    max_age: float = 5.0,
    timing: Timing = TIMING,
) -> Town:
    declared, theirs = Shop(mode=mode, max_age=max_age), engines or memory_engines()
    bank = await opened(Bank().service, memory_engines()._replace(log=theirs.log))
    owner = OwnerOf(bank)
    shop = await opened(declared.service, theirs, owners={"accounts": owner}, timing=timing)
    town = Town(bank, shop, owner, declared)
    await town.deposit(*(f"k{n}" for n in range(accounts)))
    return town


@asynccontextmanager
async def kept(town: Town, *held: frozenset[int]) -> AsyncIterator[None]:
    keepers = [CopyKeeper(town.shop, town.borrow, each).run() for each in held or [ALL]]
    async with running(*keepers, town.reads.keep_looking()):
        yield


@pytest.mark.parametrize("mode", ["async", "hybrid"])
async def test_a_copy_is_filled_and_follows_its_owner(engines: Engines, mode: Mode) -> None:
    town = await make_town(mode, engines)
    async with kept(town):
        await eventually(lambda: town.is_complete(mode))
        await town.deposit("k1", "new")
        await eventually(lambda: town.is_complete(mode))
        before = await town.bank.store.heads()
        await direct(town.bank, Close("k2"))
        await town.relay(before)
        await eventually(lambda: town.is_complete(mode))
    assert await town.shop.views.get(copy_name(town.borrow.name, mode), ["k2"]) == {}


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(MODES, 2)))
async def test_the_mode_changes_while_it_is_read_and_no_read_is_without_a_value(
    engines: Engines, before: Mode, after: Mode
) -> None:
    town = await make_town(before, engines)
    seen: set[str] = set()
    done = asyncio.Event()

    async def read() -> None:
        while not done.is_set():
            found = await town.reads.get("k7")
            seen.add(found.state)
            assert found.value is not None
            assert found.value.account_id == "k7"
            await asyncio.sleep(0)

    async with kept(town):
        if before != "sync":
            await eventually(lambda: town.is_complete(before))
        reading = asyncio.ensure_future(read())
        await want_mode(town.shop, town.borrow, after)
        await eventually(lambda: town.reads.mode == after)
        assert await town.in_force() == after
        await town.deposit("k7", "k8")
        if after != "sync":
            await eventually(lambda: town.is_complete(after))
        for mode in ("async", "hybrid"):
            if mode != after:
                await eventually(partial(town.is_dropped, mode))
        done.set()
        await reading
    assert seen <= {"fresh", "stale"}


async def test_the_new_mode_is_in_force_only_when_its_copy_has_everything() -> None:
    town = await make_town("sync")
    town.owner.down = True
    async with kept(town):
        await want_mode(town.shop, town.borrow, "async")
        await eventually(lambda: town.is_complete("async"))
        assert await read_mode(town.shop, town.borrow) == ModeSetting("sync", "async")
        town.owner.down = False
        await eventually(lambda: _is(town, "async"))


async def _is(town: Town, mode: Mode) -> bool:
    return await town.in_force() == mode


async def test_sync_is_in_force_soon_even_without_anybody_who_keeps_copies() -> None:
    town = await make_town("async")
    assert await change_mode(town.shop, town.borrow, "sync") == ModeSetting("sync", "sync")


async def test_the_choice_lasts_over_a_restart(engines: Engines) -> None:
    town = await make_town("sync", engines)
    async with kept(town):
        await want_mode(town.shop, town.borrow, "hybrid")
        await eventually(lambda: _is(town, "hybrid"))
    declared = Shop(mode="sync")
    again = await opened(declared.service, engines, owners={"accounts": NoOwner()}, timing=TIMING)
    assert (await read_mode(again, declared.cards)).mode == "hybrid"
    reads = reads_of(again, declared)
    await reads.look()
    assert reads.mode == "hybrid"


async def test_what_was_set_from_outside_is_in_force_unless_it_was_changed_since() -> None:
    town = await make_town("sync")
    town.shop = replace(town.shop, modes={"cards": "hybrid"})
    assert await town.in_force() == "hybrid"
    await change_mode(town.shop, town.borrow, "sync")
    assert await town.in_force() == "sync"


async def test_a_change_of_mind_before_the_flip_wins() -> None:
    town = await make_town("sync")
    town.owner.down = True
    async with kept(town):
        await want_mode(town.shop, town.borrow, "async")
        await eventually(lambda: town.is_complete("async"))
        await want_mode(town.shop, town.borrow, "sync")
        town.owner.down = False
        await eventually(lambda: town.is_dropped("async"))
    assert await town.in_force() == "sync"


async def test_a_flip_that_comes_late_changes_nothing() -> None:
    town = await make_town("sync")
    seen = await want_mode(town.shop, town.borrow, "async")
    await want_mode(town.shop, town.borrow, "sync")
    assert await flip(town.shop, town.borrow, seen) == ModeSetting("sync", "sync")
    assert await read_mode(town.shop, town.borrow) == ModeSetting("sync", "sync")


async def test_two_workers_fill_one_copy_and_flip_it_once() -> None:
    town = await make_town("sync")
    async with kept(town, frozenset({0}), frozenset({1})):
        for mode in ("async", "hybrid", "async"):
            await want_mode(town.shop, town.borrow, mode)
            await eventually(partial(_is, town, mode))
            await eventually(partial(town.is_complete, mode))


async def test_concurrent_wishes_end_in_one_of_them() -> None:
    town = await make_town("sync")
    await asyncio.gather(*(want_mode(town.shop, town.borrow, mode) for mode in ("async", "hybrid", "async")))
    assert (await read_mode(town.shop, town.borrow)).wanted in ("async", "hybrid")


async def test_a_copy_whose_checkpoint_was_deleted_is_filled_again() -> None:
    town = await make_town("async")
    async with kept(town):
        await eventually(lambda: town.is_complete("async"))
        name = copy_name(town.borrow.name, "async")
        await town.shop.views.drop(name, [name])
        await eventually(lambda: town.is_complete("async"))


async def test_a_reader_follows_a_changed_mode_though_the_copy_that_it_reads_never_catches_up() -> None:
    town = await make_town("async", max_age=60.0)
    async with running(town.reads.keep_looking()):
        await asyncio.sleep(0.01)
        assert town.reads.mode == "async"
        await want_mode(town.shop, town.borrow, "sync")
        await eventually(lambda: town.reads.mode == "sync", timeout=30.0)


async def test_a_copy_that_lags_a_little_all_the_time_is_as_old_as_it_lags() -> None:
    """Each comparison goes on where the last one stopped, however long the copy takes."""
    town = await make_town("async", max_age=60.0)
    age = town.reads._age
    heads = await town.bank.store.heads()
    for _ in range(3):
        await asyncio.wait_for(age.watch("async"), 60.0)
        assert age.seconds("async", "a") is None
    moves = [Move("accounts", p, 0, Checkpoint(n)) for p, n in heads.items() if n]
    await town.shop.views.write(copy_name(town.borrow.name, "async"), [], moves)
    await town.deposit("more")
    await age.watch("async")
    assert age.seconds("async", "a") is not None


async def test_a_keeper_ends_when_it_is_cancelled_whatever_became_of_its_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fill(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(copies, "_fill", fill)
    town = await make_town("async", timing=msgspec.structs.replace(TIMING, keep_s=60.0))
    keeping = asyncio.ensure_future(CopyKeeper(town.shop, town.borrow, ALL).run())
    await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert keeping.cancelled()


async def test_a_copy_holds_what_the_owner_held_and_nothing_else(engines: Engines) -> None:
    town = await make_town("async", engines, accounts=5)
    async with kept(town):
        await eventually(lambda: town.is_complete("async"))
    assert set(await stored(town.shop.views, copy_name(town.borrow.name, "async"))) == {f"k{n}" for n in range(5)}
    assert len(await journal_of(town.bank.store)) == 10


async def look_through(bank: Context) -> None:
    for share in bank.service.shares.values():
        await complete(bank, share, range(bank.service.partitions))


def filling_of(shop: Context, town: Town, mode: Mode) -> Bootstrap:
    projection = copy_projection(town.borrow, mode)
    return Bootstrap(shop, town.borrow, projection.name, Projector(shop, projection))


async def make_full_town(mode: Mode, engines: Engines, *, accounts: int = 20) -> Town:
    """Its owner knows what it has shared, and one account was closed again."""
    town = await make_town(mode, engines, accounts=accounts)
    before = await town.bank.store.heads()
    await direct(town.bank, Close("k3"))
    await town.relay(before)
    await look_through(town.bank)
    return town


@pytest.mark.parametrize("mode", ["async", "hybrid"])
async def test_a_copy_is_filled_from_what_its_owner_has_though_the_journal_was_cut(
    engines: Engines, mode: Mode
) -> None:
    town = await make_full_town(mode, engines)
    town.owner.cut = 5
    town.shop = replace(town.shop, log=memory_engines().log)
    await town.shop.log.create("accounts.events", town.bank.service.partitions)
    async with kept(town):
        await eventually(lambda: town.is_complete(mode))
        await eventually(lambda: caught_up(town.shop, town.borrow, mode))
        await direct(town.bank, Deposit("k1", 1), Deposit("new", 1))
        await eventually(lambda: town.is_complete(mode))


async def test_the_events_after_a_filling_are_applied_once_and_those_before_it_never(engines: Engines) -> None:
    town = await make_full_town("async", engines)
    heads, ends = await town.bank.store.heads(), await town.shop.log.ends("accounts.events")
    await filling_of(town.shop, town, "async").fill(range(4))
    at = await town.shop.views.checkpoints(copy_name(town.borrow.name, "async"))
    chain = await town.bank.store.chain(heads)
    assert at == {("accounts", p): Checkpoint(heads[p], ends[p], chain[p]) for p in heads if heads[p]}
    assert await town.is_complete("async")
    await town.deposit("k1", "later")
    async with kept(town):
        await eventually(lambda: town.is_complete("async"))
    assert "journal" not in town.owner.asked


async def test_a_document_newer_than_the_head_that_was_noted_ends_as_its_events_say(engines: Engines) -> None:
    """Keys change, appear and go away while the copy is filled."""
    town = await make_full_town("async", engines)
    entries, before = town.owner.entries, await town.bank.store.heads()

    async def changing(share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        await direct(town.bank, Deposit("k1", 1), Deposit(f"new-{len(town.owner.asked)}", 1), Close("k5"))
        return await entries(share, partition, buckets)

    town.owner.entries = changing  # type: ignore[method-assign]
    await filling_of(town.shop, town, "async").fill(range(4))
    town.owner.entries = entries  # type: ignore[method-assign]
    await town.relay(before)
    async with kept(town):
        await eventually(lambda: caught_up(town.shop, town.borrow, "async"))
        assert await town.is_complete("async")


@pytest.mark.parametrize("late", [False, True])
async def test_a_filling_that_is_cut_off_anywhere_is_made_good_by_the_next(engines: Engines, late: bool) -> None:
    town = await make_full_town("async", engines, accounts=12)
    name = copy_name(town.borrow.name, "async")
    at = 0
    while True:
        at += 1
        fuse = Fuse(at, late=late)
        dying = await opened(
            Shop(mode="async").service,
            engines._replace(views=FusedViews(engines.views, fuse)),
            owners={"accounts": town.owner},
            timing=TIMING,
        )
        await filling_of(dying, town, "async").fill(range(4))
        await town.deposit("k1")
        before = await town.bank.store.heads()
        await direct(town.bank, Close(f"k{at % 12}") if at % 2 else Deposit(f"k{at % 12}", 1))
        await town.relay(before)
        async with kept(town):
            await eventually(lambda: caught_up(town.shop, town.borrow, "async"))
            assert await town.is_complete("async")
        await town.shop.views.drop(name, [name])
        if not fuse.blown.is_set():
            break
    assert at > 10


async def test_a_copy_that_is_dropped_while_it_is_filled_is_filled_again(engines: Engines) -> None:
    town = await make_full_town("async", engines)
    name, fetch = copy_name(town.borrow.name, "async"), town.owner.fetch
    filling = filling_of(town.shop, town, "async")

    async def dropped(share: str, keys: Sequence[str]) -> Fetched:
        if await stored(town.shop.views, name):
            town.owner.fetch = fetch  # type: ignore[method-assign]
            await town.shop.views.drop(name, all_of(name))
        return await fetch(share, keys)

    town.owner.fetch = dropped  # type: ignore[method-assign]
    await filling.fill(range(4))
    assert len(await town.shop.views.checkpoints(name)) < 4
    await filling.fill(range(4))
    assert await town.is_complete("async")
    marks = (await read_marks(town.shop.views, name, "accounts", range(4))).values()
    assert all(mark.ahead.filled for mark in marks)


async def test_a_copy_says_how_far_what_it_was_filled_with_is_ahead_of_its_checkpoint(engines: Engines) -> None:
    town = await make_full_town("async", engines)
    name, heads, before = copy_name(town.borrow.name, "async"), town.owner.heads, await town.bank.store.heads()
    await direct(town.bank, *(Deposit(f"k{number}", 1) for number in range(8)))
    town.owner.heads = lambda: _answer(before)  # type: ignore[method-assign]
    await filling_of(town.shop, town, "async").fill(range(4))
    town.owner.heads = heads  # type: ignore[method-assign]
    marks = await read_marks(town.shop.views, name, "accounts", range(4))
    assert {partition: mark.ahead.through for partition, mark in marks.items()} == await town.bank.store.heads()
    assert numbers_of(await town.shop.views.checkpoints(name)) == {("accounts", p): n for p, n in before.items()}


async def _answer(heads: Mapping[int, int]) -> Mapping[int, int]:
    return heads


async def test_two_workers_that_fill_the_same_partitions_leave_what_one_would(engines: Engines) -> None:
    town = await make_full_town("async", engines)
    await asyncio.gather(*(filling_of(town.shop, town, "async").fill(range(4)) for _ in range(3)))
    assert await town.is_complete("async")


async def test_one_who_fills_too_late_changes_nothing(engines: Engines) -> None:
    """Its owner's documents are old by the time that it writes them."""
    town = await make_full_town("async", engines)
    fetch, fetched = town.owner.fetch, asyncio.Event()
    go_on = asyncio.Event()

    async def slow(share: str, keys: Sequence[str]) -> Fetched:
        found = await fetch(share, keys)
        fetched.set()
        await go_on.wait()
        return found

    town.owner.fetch = slow  # type: ignore[method-assign]
    late = asyncio.ensure_future(filling_of(town.shop, town, "async").fill(range(4)))
    await fetched.wait()
    town.owner.fetch = fetch  # type: ignore[method-assign]
    await town.deposit(*(f"k{n}" for n in range(20)))
    await filling_of(town.shop, town, "async").fill(range(4))
    go_on.set()
    await late
    assert await town.is_complete("async")


async def test_an_owner_that_can_not_tell_what_it_has_is_replayed_and_asked_again(engines: Engines) -> None:
    town = await make_town("async", engines)
    async with kept(town):
        await eventually(lambda: town.is_complete("async"))
    town = await make_town("async", memory_engines())
    town.owner.cut = 5
    town.shop = replace(town.shop, log=memory_engines().log)
    await town.shop.log.create("accounts.events", town.bank.service.partitions)
    async with kept(town):
        await eventually(lambda: "journal" in town.owner.asked)
        assert not await town.is_complete("async")
        await look_through(town.bank)
        await eventually(lambda: town.is_complete("async"))


async def test_a_document_that_is_not_what_was_declared_is_set_aside_by_a_filling_as_by_a_replay() -> None:
    town = await make_full_town("async", memory_engines())
    fetch = town.owner.fetch

    async def garbage(share: str, keys: Sequence[str]) -> Fetched:
        found = (await fetch(share, keys)).documents
        return Fetched({key: b"{}" if key == "k7" else document for key, document in found.items()})

    town.owner.fetch = garbage  # type: ignore[method-assign]
    await filling_of(town.shop, town, "async").fill(range(4))
    name = copy_name(town.borrow.name, "async")
    assert await town.shop.views.get(name, ["k7"]) == {}
    assert [failure.message.key for failure in await all_parked(town.shop.views, name)] == ["k7"]
