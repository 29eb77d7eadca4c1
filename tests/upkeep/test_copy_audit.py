"""Copies are compared with what their owner emitted: all that differs is found and mended, and nothing else is said."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from chimera import Command, Unavailable
from chimera.borrow.copies import copy_projection
from chimera.core.context import Context
from chimera.core.names import copy_name
from chimera.core.timing import Limits
from chimera.journal.feed import Batch
from chimera.messages import partition_of
from chimera.parts import Mode
from chimera.ports import Checkpoint, Document, Entry, Fetched, Move
from chimera.share.owner import OwnStore
from chimera.testing.engines import memory_engines, sqlite_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.drift.audits import AuditReport
from chimera.upkeep.drift.copy_audit import audit_copy, keep_auditing, last_audit
from chimera.upkeep.drift.share_audit import complete
from chimera.views.projector import Projector
from tests.support import PARTITIONS, QUICK, Bank, Card, Close, Deposit, Engines, Shop, TurnMeter, direct, opened

MODES: tuple[Mode, ...] = ("async", "hybrid")


class Owner(OwnStore):
    """The bank's own store, where something else may happen before an answer."""

    def __init__(self, context: Context) -> None:
        super().__init__(context.service, context.store, context.clock)
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.down = False

    async def _meanwhile(self, what: str) -> None:
        if self.down:
            raise Unavailable("the owner is down")
        if what in self.before:
            await self.before[what]()

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        await self._meanwhile("fetch")
        return await super().fetch(share, keys)

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        await self._meanwhile("entries")
        return await super().entries(share, partition, buckets)

    async def heads(self) -> Mapping[int, int]:
        await self._meanwhile("heads")
        return await super().heads()


Step = tuple[str | int, ...]
"""What is done, and to what: a key, or a partition and how many events at most."""


class Town:
    """A bank, and a shop whose copy moves when it is told to."""

    def __init__(self, bank: Context, shop: Context, owner: Owner, declared: Shop) -> None:
        self.bank, self.shop, self.owner, self.borrow = bank, shop, owner, declared.cards
        self.mode = declared.cards.mode
        self.name = copy_name(self.borrow.name, self.mode)
        self.projection = copy_projection(self.borrow, self.mode)
        self.projector = Projector(shop, self.projection)

    async def change(self, *commands: Command) -> None:
        for outcome in await direct(self.bank, *commands):
            assert outcome.state == "done"

    async def project(self, partition: int, limit: int = 1000) -> None:
        """Apply the partition's next events to the copy."""
        at = (await self.projector.checkpoints("accounts", [partition]))[partition].number
        if page := await self.bank.store.journal(partition, at, limit):
            move = Move("accounts", partition, at, Checkpoint(page[-1].number))
            assert await self.projector.apply(Batch(page, [move]))

    async def follow(self) -> None:
        for partition in range(PARTITIONS):
            await self.project(partition, 1_000_000)

    async def truth(self) -> dict[str, bytes]:
        """The copy as it has to be, once it has followed."""
        found: dict[str, bytes] = {}
        for partition in range(PARTITIONS):
            entries = await OwnStore.entries(self.owner, "cards", partition, range(64))
            found |= (await OwnStore.fetch(self.owner, "cards", list(entries))).documents
        return found if self.mode == "async" else dict.fromkeys(found, b"true")

    async def copy(self) -> dict[str, bytes | None]:
        return {each.key: each.data for each in await self.shop.views.scan(self.name, limit=100_000)}

    async def put(self, **documents: bytes | None) -> None:
        """Change the copy behind its back."""
        kept = await self.shop.views.get(self.name, list(documents))
        changed = [
            Document(self.name, key, data, kept[key].revision if key in kept else 0)
            for key, data in documents.items()
            if data is not None or key in kept
        ]
        assert await self.shop.views.write(self.name, changed, [])

    async def take(self, step: Step) -> bool:
        """Do one step; says whether it has corrupted a key."""
        match step:
            case "deposit", str(key):
                await self.change(Deposit(key, 1))
            case "close", str(key):
                await self.change(Close(key))
            case "project", int(partition), int(limit):
                await self.project(partition, limit)
            case str(what), str(key):
                return await self.corrupt(what, key)
            case _:
                raise AssertionError(f"no step: {step}")
        return False

    async def corrupt(self, what: str, key: str) -> bool:
        """Change, remove or invent a key, if it is one to which that can be done."""
        there = key in await self.copy()
        if what == "remove" and there:
            await self.put(**{key: None})
        elif (what == "change" and there and self.mode == "async") or (what == "invent" and not there):
            await self.put(**{key: other(key) if self.mode == "async" else b"true"})
        else:
            return False
        return True

    async def audit(self, held: Collection[int] | None = None, *, repair: bool = True) -> AuditReport:
        report = await audit_copy(self.shop, self.borrow, held, repair=repair)
        assert report is not None
        return report

    def counted(self, what: str, kind: str = "") -> float:
        labels = (f'kind="{kind}",' if kind else "") + 'service="shop",share="cards"'
        line = f"chimera_drift_{what}_total{{{labels}}} "
        texts = self.shop.metrics.exposition().decode().splitlines()
        return sum(float(text.removeprefix(line)) for text in texts if text.startswith(line))


async def make_town(mode: Mode, engines: Engines | None = None, *, accounts: int = 20) -> Town:
    declared = Shop(mode=mode)
    bank = await opened(Bank().service, engines or memory_engines())
    await complete(bank, bank.service.shares["cards"], range(PARTITIONS))
    owner = Owner(bank)
    theirs = memory_engines() if engines is None else engines._replace(store=memory_engines().store)
    town = Town(bank, await opened(declared.service, theirs, owners={"accounts": owner}), owner, declared)
    await town.change(*(Deposit(f"k{n}", 1) for n in range(accounts)))
    await town.follow()
    return town


def figures(report: AuditReport) -> tuple[int, int, int, int, int]:
    return report.changed, report.missing, report.invented, report.repaired, report.in_flight


def other(key: str) -> bytes:
    return msgspec.json.encode(Card(key, 1_000_000))


@pytest.mark.parametrize("mode", MODES)
async def test_an_untouched_copy_has_no_drift(engines: Engines, mode: Mode) -> None:
    town = await make_town(mode, engines)
    await town.change(Close("k3"), Deposit("k4", 1))
    await town.follow()
    report = await town.audit()
    assert (report.checked, figures(report)) == (19, (0, 0, 0, 0, 0))
    assert (report.service, report.share, report.mode, report.keys) == ("shop", "cards", mode, [])


async def test_what_changed_went_missing_or_was_invented_is_found_counted_named_and_repaired(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    town = await make_town("async", engines)
    await town.put(k1=other("k1"), k2=b"not json", k3=None, ghost=other("ghost"))
    report = await town.audit()
    assert figures(report) == (2, 1, 1, 4, 0)
    assert report.keys == ["ghost", "k1", "k2", "k3"]
    assert await town.copy() == await town.truth()
    assert [town.counted("found", kind) for kind in ("changed", "missing", "invented")] == [2, 1, 1]
    assert town.counted("repaired") == 4
    assert "has changed keys: 'k1', 'k2'" in caplog.text
    assert "has invented keys: 'ghost'" in caplog.text
    assert figures(await town.audit()) == (0, 0, 0, 0, 0)


async def test_a_key_that_the_hybrid_set_lacks_or_has_too_much_is_found_and_repaired(engines: Engines) -> None:
    town = await make_town("hybrid", engines)
    await town.put(k3=None, ghost=b"true")
    assert figures(await town.audit()) == (0, 1, 1, 2, 0)
    assert await town.copy() == await town.truth()


async def test_a_thousand_keys_are_all_found_and_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engines = sqlite_engines(tmp_path)
    town = await make_town("async", engines, accounts=3000)
    await town.put(
        **{f"k{n}": other(f"k{n}") for n in range(1000)},
        **{f"k{n}": None for n in range(1000, 2000)},
        **{f"ghost{n}": other(f"ghost{n}") for n in range(1000)},
    )
    report = await town.audit()
    assert figures(report) == (1000, 1000, 1000, 3000, 0)
    assert len(report.keys) == 3000
    assert [town.counted("found", kind) for kind in ("changed", "missing", "invented")] == [1000] * 3
    assert town.counted("repaired") == 3000
    assert await town.copy() == await town.truth()
    lines = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(lines) == 150
    assert all(line.count("'") == 2 * 20 for line in lines)
    await engines.close()


async def test_without_repair_it_only_says_so(engines: Engines) -> None:
    town = await make_town("async", engines)
    await town.put(k1=other("k1"), k2=None)
    before = await town.copy()
    report = await town.audit(repair=False)
    assert (figures(report), report.keys) == ((1, 1, 0, 0, 0), ["k1", "k2"])
    assert await town.copy() == before


async def test_a_change_in_flight_is_no_drift(engines: Engines) -> None:
    town = await make_town("async", engines)
    await town.change(Deposit("k1", 5), Deposit("new", 5), Close("k2"))
    report = await town.audit()
    assert (figures(report), report.keys) == ((0, 0, 0, 0, 3), [])
    await town.follow()
    assert figures(await town.audit()) == (0, 0, 0, 0, 0)


async def test_what_happens_while_it_is_compared_is_no_drift(engines: Engines) -> None:
    """The owner changes, and the copy follows, before each of the owner's answers."""
    town, count = await make_town("async", engines), 0

    async def work() -> None:
        nonlocal count
        count += 1
        await town.change(Deposit(f"k{count % 20}", 1), Deposit(f"new{count}", 1), Close(f"k{count * 7 % 20}"))
        await town.follow()

    town.owner.before = {"entries": work, "fetch": work, "heads": work}
    assert figures(await town.audit())[:4] == (0, 0, 0, 0)
    assert count > 10
    town.owner.before = {}
    assert figures(await town.audit()) == (0, 0, 0, 0, 0)
    assert await town.copy() == await town.truth()


@pytest.mark.parametrize("then", ["deposit", "close"])
async def test_a_key_that_moves_on_while_it_is_repaired_is_left_to_its_events(engines: Engines, then: str) -> None:
    town = await make_town("async", engines)
    await town.put(k1=None, k2=other("k2"))

    async def work() -> None:
        town.owner.before = {}
        await town.change(*(Deposit(k, 1) if then == "deposit" else Close(k) for k in ("k1", "k2")))
        await town.follow()

    fetch = town.owner.fetch

    async def late(share: str, keys: Sequence[str]) -> Fetched:
        found = await fetch(share, keys)
        await town.owner.before["after fetch"]() if "after fetch" in town.owner.before else None
        return found

    town.owner.before = {"after fetch": work}
    town.owner.fetch = late  # type: ignore[method-assign]
    report = await town.audit()
    assert report.keys == ["k1", "k2"]
    assert await town.copy() == await town.truth()
    assert figures(await town.audit()) == (0, 0, 0, 0, 0)


async def test_what_waits_in_parking_is_no_drift(engines: Engines) -> None:
    town = await make_town("async", engines)
    decoder: Any = town.projection._check

    class Strict:
        def decode(self, data: bytes) -> None:
            if decoder.decode(data).account_id == "k1":
                raise ValueError("as told")

    town.projection._check = Strict()  # type: ignore[assignment]
    await town.change(Deposit("k1", 5))
    await town.follow()
    assert figures(await town.audit()) == (0, 0, 0, 0, 1)


async def test_a_change_that_no_event_announced_is_the_owners_matter(engines: Engines) -> None:
    """The copy was filled with it already."""
    town = await make_town("async", engines)
    fetch = town.owner.fetch

    async def changed(share: str, keys: Sequence[str]) -> Fetched:
        found = (await fetch(share, keys)).documents
        return Fetched({**found, **({"k1": other("k1")} if "k1" in keys else {})})

    town.owner.fetch = changed  # type: ignore[method-assign]
    await town.put(k1=other("k1"))
    assert figures(await town.audit()) == (0, 0, 0, 0, 0)


async def test_a_document_that_is_not_as_declared_is_not_put_into_the_copy() -> None:
    town = await make_town("async")
    fetch = town.owner.fetch

    async def garbage(share: str, keys: Sequence[str]) -> Fetched:
        return Fetched({**(await fetch(share, keys)).documents, "k1": b'{"balance":"much"}'})

    town.owner.fetch = garbage  # type: ignore[method-assign]
    await town.put(k1=None, k2=None)
    report = await town.audit()
    assert (figures(report), report.keys) == ((0, 2, 0, 1, 0), ["k1", "k2"])
    assert "k1" not in await town.copy()


async def test_partitions_that_are_not_held_are_left_alone() -> None:
    """The shop has two partitions, so that its first holds two of the bank's four."""
    town = await make_town("async")
    await town.put(**{f"k{n}": other(f"k{n}") for n in range(20)})
    held = [f"k{n}" for n in range(20) if partition_of(f"k{n}", PARTITIONS) in (0, 2)]
    report = await town.audit(held={0})
    assert (report.keys, report.checked) == (sorted(held), len(held))
    assert (await town.audit()).keys == sorted({f"k{n}" for n in range(20)} - set(held))


async def test_more_keys_than_may_be_held_at_once_are_compared_in_parts() -> None:
    town = await make_town("async", accounts=100)
    town.shop = replace(town.shop, limits=Limits(audit_keys=5))
    await town.put(**{f"k{n}": other(f"k{n}") for n in range(50)})
    assert figures(await town.audit()) == (50, 0, 0, 50, 0)


async def test_an_owner_that_does_not_know_yet_what_it_shared_is_not_compared() -> None:
    declared = Shop(mode="async")
    bank = await opened(Bank().service, memory_engines())
    town = Town(
        bank,
        await opened(
            declared.service, memory_engines(), owners={"accounts": OwnStore(bank.service, bank.store, bank.clock)}
        ),
        Owner(bank),
        declared,
    )
    await town.put(ghost=other("ghost"))
    with pytest.raises(Unavailable, match="not looked through"):
        await town.audit()
    assert list(await town.copy()) == ["ghost"]


async def test_a_copy_that_is_ahead_of_its_owner_is_not_emptied() -> None:
    """The owner was set up anew, or went back to a backup."""
    town = await make_town("async")
    declared = Shop(mode="async")
    anew = await opened(Bank().service, memory_engines())
    await complete(anew, anew.service.shares["cards"], range(PARTITIONS))
    shop = await opened(
        declared.service,
        memory_engines()._replace(views=town.shop.views),
        owners={"accounts": OwnStore(anew.service, anew.store, anew.clock)},
    )
    with pytest.raises(Unavailable, match="went back in time"):
        await audit_copy(shop, declared.cards)
    assert len(await town.copy()) == 20


async def test_a_copy_that_is_dropped_while_it_is_compared_has_no_drift() -> None:
    town = await make_town("async")

    await town.put(k1=None)
    scan, scans = town.shop.views.scan, 0

    async def dropping(view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        nonlocal scans
        scans += view == town.name
        if scans == 3:
            await town.shop.views.drop(town.name, [town.name])
        return await scan(view, after, limit)

    town.shop.views.scan = dropping  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="dropped while it was compared"):
        await town.audit()
    assert await town.copy() == {}


async def test_sync_has_nothing_to_compare() -> None:
    shop = Shop(mode="sync")
    assert await audit_copy(await opened(shop.service, memory_engines()), shop.cards) is None


async def test_the_last_figures_are_kept_by_partition(engines: Engines) -> None:
    town = await make_town("async", engines)
    assert await last_audit(town.shop, town.borrow) is None
    await town.put(k1=other("k1"), k2=None)
    await town.audit(held={0})
    await town.audit(held={1})
    found = await last_audit(town.shop, town.borrow)
    assert found is not None
    assert {name: found[name] for name in ("changed", "missing", "invented", "repaired")} == {
        "changed": 1,
        "missing": 1,
        "invented": 0,
        "repaired": 2,
    }
    assert found["checked"] == 20


async def test_it_is_compared_again_and_again_whatever_the_owner_does() -> None:
    town = await make_town("async")
    town.shop = replace(town.shop, timing=msgspec.structs.replace(QUICK, audit_s=0.005))
    town.owner.down = True
    await town.put(k1=None)
    async with running(keep_auditing(town.shop, town.borrow, frozenset({0, 1}))):
        await asyncio.sleep(0.02)
        assert "k1" not in await town.copy()
        town.owner.down = False
        for _ in range(3):
            await eventually(lambda: is_whole(town))
            await town.put(k2=None)
        await eventually(lambda: is_whole(town))


async def is_whole(town: Town) -> bool:
    return await town.copy() == await town.truth()


KEYS = [f"k{n}" for n in range(6)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), st.sampled_from(KEYS)),
        st.tuples(st.just("close"), st.sampled_from(KEYS)),
        st.tuples(st.just("project"), st.integers(0, PARTITIONS - 1), st.integers(1, 3)),
        st.tuples(st.just("change"), st.sampled_from(KEYS)),
        st.tuples(st.just("remove"), st.sampled_from(KEYS)),
        st.tuples(st.just("invent"), st.sampled_from([*KEYS, "ghost1", "ghost2"])),
        st.tuples(st.just("audit")),
    ),
    max_size=40,
)


@pytest.mark.parametrize("mode", MODES)
@hypothesis.settings(max_examples=120, deadline=None, derandomize=True, database=None)
@hypothesis.given(steps=STEPS, between=STEPS)
async def test_whatever_happens_the_copy_ends_equal_and_only_what_was_corrupted_is_reported(
    mode: Mode, steps: list[Step], between: list[Step]
) -> None:
    """`between` happens while audits are under way: one step before each of the owner's answers."""
    town = await make_town(mode, accounts=0)
    corrupted: set[str] = set()
    reported: set[str] = set()
    meanwhile = iter([step for step in between if step[0] in ("deposit", "close", "project")])

    async def take(step: Step) -> None:
        if step[0] == "audit":
            town.owner.before = {"entries": one, "fetch": one, "heads": one}
            reported.update((await town.audit()).keys)
            town.owner.before = {}
        elif await town.take(step):
            corrupted.add(str(step[1]))

    async def one() -> None:
        if step := next(meanwhile, None):
            await take(step)

    for step in steps:
        await take(step)
    await town.follow()
    reported.update((await town.audit()).keys)
    assert reported <= corrupted
    assert await town.copy() == await town.truth()
    assert figures(await town.audit()) == (0, 0, 0, 0, 0)


async def test_others_go_on_while_a_large_copy_is_audited() -> None:
    views = TurnMeter(memory_engines().views)
    shop = Shop(mode="async")
    bank = await opened(Bank().service, memory_engines())
    context = await opened(shop.service, memory_engines()._replace(views=views), owners={"accounts": Owner(bank)})
    for partition in range(PARTITIONS):
        await complete(bank, bank.service.shares["cards"], [partition])
    name = copy_name("cards", "async")
    strangers = [Document(name, f"k{n:05}", b"{}") for n in range(20_000)]
    assert await views.write(name, strangers, [])
    async with views.watching():
        report = await audit_copy(context, shop.cards, repair=False)
    assert report is not None
    assert report.invented == 20_000
    assert views.most <= 4_000
