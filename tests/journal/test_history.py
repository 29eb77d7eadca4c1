"""A consumer that stands on another history than its owner's takes nothing of it, and says so (invariant 10)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest

from chimera import Service
from chimera.core.keys.seals import Seals
from chimera.core.metrics import Metrics
from chimera.core.timing import Limits, Timing
from chimera.errors import Unavailable
from chimera.journal.feed import Feed
from chimera.journal.history import divergences
from chimera.messages import Message, chained
from chimera.ports import Checkpoint, Log
from chimera.testing.contracts.suite import event
from chimera.testing.memory import MemoryLog, MemoryOwner, MemoryStore, MemoryViews
from tests.support import Engines, make_context

SOURCE, TOPIC = "contract", "contract.events"
TIMING = Timing(heads_s=0.001, heads_kept_s=0.0, refetch_s=0.001, heads_quiet_s=0.001)


class Owner(MemoryOwner):
    """An owner whose store can be put back to an earlier moment, and go on from there."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, {})
        self.store = store
        self.down = False

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        if self.down:
            raise Unavailable("the owner is down")
        return await super().chain(at)

    async def emit(self, *keys: str) -> Sequence[Message]:
        async with self.store.transaction() as session:
            tip = (await session.hold([0]))[0]
            events = chained(tip.chain, [event(0, n, key) for n, key in enumerate(keys, tip.number + 1)])
            await session.append(events)
        return events


async def owner_with(*keys: str) -> Owner:
    store = MemoryStore()
    await store.create([], 1)
    owner = Owner(store)
    await owner.emit(*keys)
    return owner


async def log_of(*events: Message) -> Log:
    log = MemoryLog()
    await log.create(TOPIC, 1)
    await log.append(TOPIC, events)
    return log


@asynccontextmanager
async def feeding(
    log: Log, owner: Owner, at: Checkpoint, metrics: Metrics | None = None, seals: Seals | None = None
) -> AsyncIterator[Feed]:
    context = make_context(
        Service("sales"),
        Engines(log, MemoryStore(), MemoryViews()),
        owners={SOURCE: owner},
        timing=TIMING,
        limits=Limits(events_page=7, journal_page=7),
        metrics=metrics or Metrics(),
        seals=seals or Seals(),
    )
    feed = Feed(context, SOURCE, {0: at}, "totals")
    try:
        yield feed
    finally:
        await feed.close()


async def taken(feed: Feed, turns: int = 30) -> list[str]:
    """The keys of what it gives in so many turns."""
    keys: list[str] = []
    for _ in range(turns):
        async with asyncio.timeout(60):
            keys += [message.key for message in (await feed.next()).messages]
    return keys


def at_the_end_of(events: Sequence[Message]) -> Checkpoint:
    return Checkpoint(events[-1].number, 0, events[-1].chain)


async def put_back(*lost: str) -> tuple[Owner, Checkpoint, Sequence[Message]]:
    """An owner without its last events, with a checkpoint that has seen them, and with the log of all."""
    owner = await owner_with("a", "b")
    before = owner.store.state
    events = [*await owner.store.journal(0, 0, 10), *await owner.emit(*lost)]
    owner.store.state = before
    return owner, at_the_end_of(events), events


async def test_an_owner_that_ends_before_the_checkpoint_is_noticed_without_a_new_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner, at, events = await put_back("c", "d")
    metrics = Metrics()
    async with feeding(await log_of(*events), owner, at, metrics) as feed:
        assert await taken(feed) == []
        assert b'chimera_diverged{consumer="totals",service="sales",source="contract"} 1.0' in metrics.exposition()
        [told] = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert told == (
        "sales: totals stands at contract/0@4, but contract ends at 2: its journal was put back or made anew, "
        "and nothing is taken from it until that is mended; type: chimera recover contract"
    )


@pytest.mark.parametrize("new", [["x"], ["x", "y"], ["x", "y", "z"]], ids=len)
async def test_an_owner_that_goes_on_elsewhere_is_noticed_however_far_it_is(new: list[str]) -> None:
    """Before, at and behind the checkpoint; from the log and from the journal."""
    owner, at, events = await put_back("c", "d")
    others = await owner.emit(*new)
    for log in (await log_of(*events, *others), await log_of()):
        async with feeding(log, owner, at) as feed:
            assert await taken(feed) == []


async def test_what_is_put_back_while_a_feed_runs_is_noticed() -> None:
    owner = await owner_with("a")
    log = await log_of(*await owner.store.journal(0, 0, 10))
    async with feeding(log, owner, Checkpoint()) as feed:
        assert await taken(feed) == ["a"]
        before = owner.store.state
        await log.append(TOPIC, await owner.emit("b", "c"))
        assert await taken(feed) == ["b", "c"]
        owner.store.state = before
        others = await owner.emit("x", "y", "z")
        await log.append(TOPIC, others)
        assert await taken(feed) == []


async def test_it_goes_on_once_the_owner_has_its_history_again() -> None:
    owner, at, events = await put_back("c", "d")
    missing, log = owner.store.state, await log_of(*events)
    async with feeding(log, owner, at) as feed:
        assert await taken(feed) == []
        owner.store.state = missing
        await owner.emit("c", "d", "e")
        assert await taken(feed) == ["e"]


async def test_a_record_that_does_not_fit_is_passed_over_where_the_owner_has_another() -> None:
    owner = await owner_with("a")
    [first] = await owner.store.journal(0, 0, 10)
    forged = chained("0" * 32, [event(0, 2, "forged"), event(0, 3, "forged")])
    log = await log_of(first, *forged)
    await log.append(TOPIC, await owner.emit("b", "c"))
    async with feeding(log, owner, at_the_end_of([first])) as feed:
        assert await taken(feed) == ["b", "c"]


async def test_a_record_in_the_midst_that_has_no_chain_is_passed_over() -> None:
    owner = await owner_with("a", "b", "c")
    first, second, third = await owner.store.journal(0, 0, 10)
    forged = msgspec.structs.replace(event(0, 2, "forged"), chain="")
    async with feeding(await log_of(first, forged, second, third), owner, Checkpoint()) as feed:
        assert await taken(feed) == ["a", "b", "c"]


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("joined", [False, True])
async def test_a_record_right_behind_the_owners_is_passed_over(at: int, count: int, joined: bool) -> None:
    """With its next number and any chain, in the midst of what is read at once and at its end."""
    owner = await owner_with("a", "b", "c")
    events = await owner.store.journal(0, 0, 10)
    begun = events[at - 1].chain[::-1] if joined else "junk"
    forged = chained(begun, [event(0, at + n, "forged") for n in range(1, count + 1)])
    async with feeding(await log_of(*events[:at], *forged, *events[at:]), owner, Checkpoint()) as feed:
        assert await taken(feed) == ["a", "b", "c"]
        await feed.close()
    assert not feed.is_diverged


async def test_events_without_a_chain_are_the_owners_to_give() -> None:
    """As an older release of it writes them, before, between and after those that have one."""
    owner = await owner_with("a")
    events = [*await owner.store.journal(0, 0, 10)]
    async with owner.store.transaction() as session:
        await session.append([msgspec.structs.replace(event(0, 2, "old"), chain="")])
    events += [*await owner.store.journal(0, 1, 10), *await owner.emit("new")]
    for log in (await log_of(*events), await log_of()):
        for after in range(3):
            at = Checkpoint(after, 0, events[after - 1].chain if after else "")
            async with feeding(log, owner, at) as feed:
                assert await taken(feed) == ["a", "old", "new"][after:]


async def test_an_owner_that_can_not_be_asked_is_believed_where_its_events_fit() -> None:
    owner = await owner_with("a", "b")
    events = await owner.store.journal(0, 0, 10)
    owner.down = True
    async with feeding(await log_of(*events), owner, at_the_end_of(events[:1])) as feed:
        assert await taken(feed) == ["b"]


async def test_only_the_partitions_that_diverged_are_told() -> None:
    owner, at, _ = await put_back("c", "d")
    heads = await owner.heads()
    assert await divergences(SOURCE, owner, heads, {0: Checkpoint(2, 0, ""), 1: Checkpoint(7)}) == {}
    assert (await divergences(SOURCE, owner, heads, {0: at})).keys() == {0}
