"""Every event once and in order, whatever the log does (invariant 2)."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import Service, Unavailable
from chimera.core.context import Context
from chimera.core.metrics import Metrics
from chimera.core.timing import Limits, Timing
from chimera.journal.feed import Batch, Feed
from chimera.messages import Message
from chimera.ports import Checkpoint, Log, Owner, Record
from chimera.testing.broken import DelayingLog, DoublingLog, DroppingLog, HastyLog, WrappedLog
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from tests.support import TIME, Engines, NoOwner, make_context

TOPIC, SOURCE = "orders.events", "orders"
TIMING = Timing(heads_s=0.001, heads_kept_s=0.0, refetch_s=0.001)
LIMITS = Limits(events_page=7, journal_page=7)


def event(partition: int, number: int) -> Message:
    return Message(f"{SOURCE}/{partition}@{number}", SOURCE, "orders.Placed", "k", TIME, b"{}", partition, number)


class Journal(NoOwner):
    """An owner with events, that can be made to fail."""

    def __init__(self, counts: Mapping[int, int], failures: Sequence[bool] = ()) -> None:
        super().__init__()
        self.counts = dict(counts)
        self.failures = list(failures)
        self.down = False
        self.asked = 0
        self.heads_asked = 0
        self.hang = False

    def _fail(self) -> None:
        if self.down or (self.failures and self.failures.pop()):
            raise Unavailable("the owner is down")

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        self.asked += 1
        self._fail()
        return [event(partition, n) for n in range(after + 1, min(after + limit, self.counts[partition]) + 1)]

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        self._fail()
        return {}

    async def heads(self) -> Mapping[int, int]:
        self.heads_asked += 1
        if self.hang:
            await asyncio.sleep(3600)
        self._fail()
        return dict(self.counts)


def consuming(
    log: Log, owner: Owner, *, timing: Timing = TIMING, limits: Limits = LIMITS, metrics: Metrics | None = None
) -> Context:
    """A service that consumes what the owner has put into the log."""
    engines = Engines(log, MemoryStore(), MemoryViews())
    return make_context(
        Service("sales"), engines, owners={SOURCE: owner}, timing=timing, limits=limits, metrics=metrics or Metrics()
    )


@asynccontextmanager
async def feeding(log: Log, owner: Journal, at: Mapping[int, Checkpoint] | None = None) -> AsyncIterator[Feed]:
    checkpoints = {partition: Checkpoint() for partition in owner.counts} | dict(at or {})
    feed = Feed(consuming(log, owner), SOURCE, checkpoints)
    try:
        yield feed
    finally:
        await feed.close()


class Consumer:
    """Takes batches as a projector does, and checks that each fits onto the one before."""

    def __init__(self, at: Mapping[int, Checkpoint]) -> None:
        self.at = dict(at)
        self.seen: dict[int, list[int]] = {partition: [] for partition in at}

    def take(self, batch: Batch) -> None:
        for message in batch.messages:
            self.seen[message.partition].append(message.number)
        for move in batch.moves:
            assert move.before == self.at[move.partition].number
            assert move.after.number == self.seen[move.partition][-1]
            self.at[move.partition] = move.after
        assert {m.partition for m in batch.messages} == {m.partition for m in batch.moves}


async def drain(feed: Feed, consumer: Consumer, counts: Mapping[int, int], timeout: float = 60.0) -> None:  # noqa: ASYNC109
    async with asyncio.timeout(timeout):
        while any(consumer.at[partition].number < count for partition, count in counts.items()):
            consumer.take(await feed.next())


def expected(counts: Mapping[int, int]) -> dict[int, list[int]]:
    return {partition: list(range(1, count + 1)) for partition, count in counts.items()}


async def log_with(*events: Message, partitions: int = 2) -> Log:
    log = MemoryLog()
    await log.create(TOPIC, partitions)
    await log.append(TOPIC, events)
    return log


async def consumed(log: Log, owner: Journal) -> Consumer:
    async with feeding(log, owner) as feed:
        consumer = Consumer(dict.fromkeys(owner.counts, Checkpoint()))
        await drain(feed, consumer, owner.counts)
    return consumer


deliveries = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 12)), max_size=40)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    delivered=deliveries,
    counts=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    failures=st.lists(st.booleans(), max_size=12),
    chunk=st.integers(1, 9),
    start=st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_every_event_comes_once_and_in_order_whatever_the_log_drops_doubles_or_reorders(
    delivered: list[tuple[int, int]], counts: tuple[int, int], failures: list[bool], chunk: int, start: tuple[int, int]
) -> None:
    """The log holds any selection of the events, in any order, any number of times; the owner fails now and then."""

    async def check() -> None:
        owner = Journal(dict(enumerate(counts)), failures)
        log = await log_with()
        at = {p: Checkpoint(min(start[p], counts[p])) for p in owner.counts}
        consumer = Consumer(at)
        records = [event(p, n) for p, n in delivered if n <= counts[p]]

        async def fill() -> None:
            for index in range(0, len(records), chunk):
                await log.append(TOPIC, records[index : index + chunk])
                await asyncio.sleep(0)

        filling = asyncio.ensure_future(fill())
        async with feeding(log, owner, at) as feed:
            await drain(feed, consumer, owner.counts)
        await filling
        assert consumer.seen == {p: list(range(at[p].number + 1, counts[p] + 1)) for p in owner.counts}

    asyncio.run(check())


@pytest.mark.parametrize("hostile", [DroppingLog, DoublingLog, DelayingLog, HastyLog])
async def test_a_log_that_breaks_its_promise_costs_nothing(hostile: Callable[[Log], WrappedLog]) -> None:
    log, chance = hostile(MemoryLog()), random.Random(7)
    await log.create(TOPIC, 2)
    counts = {0: 0, 1: 0}
    for _ in range(60):
        page = []
        for _ in range(chance.randint(1, 5)):
            partition = chance.randint(0, 1)
            counts[partition] += 1
            page.append(event(partition, counts[partition]))
        await log.append(TOPIC, page)
    consumer = await consumed(log, Journal(counts))
    assert consumer.seen == expected(counts)


async def test_a_log_without_fault_needs_nothing_from_the_owners_journal() -> None:
    owner = Journal({0: 30, 1: 30})
    consumer = await consumed(await log_with(*(event(p, n) for n in range(1, 31) for p in (0, 1))), owner)
    assert consumer.seen == expected(owner.counts)
    assert owner.asked == 0


async def test_a_lost_tail_is_noticed_by_comparing_with_the_owners_heads() -> None:
    owner = Journal({0: 5, 1: 0})
    consumer = await consumed(await log_with(event(0, 1), event(0, 2)), owner)
    assert consumer.seen == expected(owner.counts)


async def test_while_the_owner_is_away_a_partition_with_a_hole_waits_and_the_others_go_on() -> None:
    owner = Journal({0: 3, 1: 0})
    owner.down = True
    log = await log_with(event(0, 1), event(0, 3))
    async with feeding(log, owner) as feed:
        consumer = Consumer({0: Checkpoint(), 1: Checkpoint()})
        await drain(feed, consumer, {0: 1})
        owner.counts[1] = 2
        await log.append(TOPIC, [event(1, 1), event(1, 2)])
        await drain(feed, consumer, {1: 2})
        assert consumer.seen == {0: [1], 1: [1, 2]}
        owner.down = False
        await drain(feed, consumer, {0: 3})
    assert consumer.seen == {0: [1, 2, 3], 1: [1, 2]}


async def test_an_owner_that_hangs_does_not_hold_up_what_the_log_has() -> None:
    owner = Journal({0: 100, 1: 0})
    owner.hang = True
    log = await log_with(*(event(0, n) for n in range(1, 51)))
    async with feeding(log, owner) as feed:
        consumer = Consumer({0: Checkpoint(), 1: Checkpoint()})
        await drain(feed, consumer, {0: 50})
        await log.append(TOPIC, [event(0, n) for n in range(51, 101)])
        await drain(feed, consumer, {0: 100})
    assert consumer.seen == expected(owner.counts)


async def test_the_owner_is_not_pestered_while_it_is_away() -> None:
    owner = Journal({0: 3})
    owner.down = True
    log = await log_with(event(0, 3), partitions=1)
    timing = msgspec.structs.replace(TIMING, heads_s=60.0, refetch_s=60.0)
    feed = Feed(consuming(log, owner, timing=timing), SOURCE, {0: Checkpoint()})
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            while True:
                await feed.next()
    await feed.close()
    assert owner.asked == 1
    assert owner.heads_asked <= 2


async def test_a_checkpoint_that_somebody_else_moved_on_is_taken_over() -> None:
    owner = Journal({0: 20})
    log = await log_with(*(event(0, n) for n in range(1, 21)), partitions=1)
    async with feeding(log, owner) as feed:
        first = await feed.next()
        feed.reset({0: Checkpoint(first.moves[0].after.number + 5, first.moves[0].after.number + 5)})
        consumer = Consumer({0: Checkpoint(first.moves[0].after.number + 5)})
        await drain(feed, consumer, owner.counts)
    assert consumer.seen[0] == list(range(first.moves[0].after.number + 6, 21))


async def test_after_its_checkpoint_was_deleted_everything_comes_again_from_the_log_though_the_owner_is_away() -> None:
    owner = Journal({0: 20})
    log = await log_with(*(event(0, n) for n in range(1, 21)), partitions=1)
    async with feeding(log, owner) as feed:
        consumer = Consumer({0: Checkpoint()})
        await drain(feed, consumer, owner.counts)
        owner.down = True
        feed.reset({0: Checkpoint()})
        again = Consumer({0: Checkpoint()})
        await drain(feed, again, owner.counts)
    assert again.seen == expected(owner.counts)


async def test_an_offset_that_the_log_no_longer_has_costs_only_a_look_at_the_journal() -> None:
    owner = Journal({0: 20})
    log = await log_with(partitions=1)
    async with feeding(log, owner, {0: Checkpoint(5, 5000)}) as feed:
        consumer = Consumer({0: Checkpoint(5)})
        await drain(feed, consumer, owner.counts)
    assert consumer.seen[0] == list(range(6, 21))


async def test_a_journal_that_answers_with_a_hole_is_not_believed() -> None:
    owner = Journal({0: 10})
    honest, lying = owner.journal, [True]

    async def journal(partition: int, after: int, limit: int) -> Sequence[Message]:
        page = await honest(partition, after, limit)
        return page[1:] if lying and lying.pop() else page

    owner.journal = journal  # type: ignore[method-assign]
    consumer = await consumed(await log_with(event(0, 10), partitions=1), owner)
    assert consumer.seen == expected(owner.counts)


async def test_events_of_other_partitions_are_left_to_others() -> None:
    owner = Journal({0: 3, 1: 3})
    log = await log_with(*(event(p, n) for n in (1, 2, 3) for p in (0, 1)))
    feed = Feed(consuming(log, owner), SOURCE, {1: Checkpoint()})
    consumer = Consumer({1: Checkpoint()})
    await drain(feed, consumer, {1: 3})
    await feed.close()
    assert consumer.seen == {1: [1, 2, 3]}
    assert feed.partitions == [1]


async def test_a_log_that_can_not_be_read_is_told_and_read_again() -> None:
    class Moody(WrappedLog):
        fails = True

        async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
            if self.fails:
                raise Unavailable("no broker")
            async for batch in super().read(topic, after, limit):
                yield batch

    owner = Journal({0: 3})
    log = Moody(await log_with(*(event(0, n) for n in (1, 2, 3)), partitions=1))
    async with feeding(log, owner) as feed:
        with pytest.raises(Unavailable):
            await feed.next()
        log.fails = False
        consumer = Consumer({0: Checkpoint()})
        await drain(feed, consumer, owner.counts)
    assert consumer.seen == expected(owner.counts)


async def test_closing_a_feed_never_raises_what_its_reader_raised() -> None:
    class Broken(WrappedLog):
        async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
            yield [Record(1, event(0, 1))]
            raise OSError("disk gone")

    owner = Journal({0: 1})
    feed = Feed(consuming(Broken(await log_with()), owner), SOURCE, {0: Checkpoint()})
    await feed.next()
    feed._reading = asyncio.ensure_future(anext(feed._records))  # type: ignore[arg-type]
    await asyncio.sleep(0.001)
    await feed.close()


async def test_a_hint_from_a_log_that_was_made_anew_is_not_believed() -> None:
    owner = NoOwner()
    log = await log_with(*(event(0, n) for n in range(4, 7)))
    feed = Feed(consuming(log, owner), SOURCE, {0: Checkpoint(3, 900)})
    assert [message.number for message in (await feed.next()).messages] == [4, 5, 6]
    await feed.close()


EVENTS = 10_000


class Repairs(Metrics):
    """Counts what was asked of a journal."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0

    def repaired(self, service: str, source: str, count: int) -> None:
        super().repaired(service, source, count)
        self.fetched += count


@pytest.mark.parametrize(
    "in_log", [range(1, EVENTS + 1), range(0), range(EVENTS // 2 + 1, EVENTS + 1), range(1, EVENTS // 2)]
)
async def test_bootstrap_takes_what_the_log_has_and_the_rest_from_the_journal(in_log: range) -> None:
    half = EVENTS // 2
    owner = Journal({0: half, 1: half})
    records = [event(n % 2, (n + 1) // 2) for n in in_log]
    log = await log_with(*records)
    repairs = Repairs()
    timing, limits = Timing(heads_s=0.005, heads_kept_s=0.0), Limits(events_page=500)
    context = consuming(log, owner, timing=timing, limits=limits, metrics=repairs)
    feed = Feed(context, SOURCE, {0: Checkpoint(), 1: Checkpoint()})
    consumer = Consumer({0: Checkpoint(), 1: Checkpoint()})
    await drain(feed, consumer, owner.counts)
    await feed.close()
    assert consumer.seen == expected(owner.counts)
    if len(in_log) == EVENTS:
        assert repairs.fetched == 0
    if not in_log:
        assert repairs.fetched == EVENTS


async def test_a_feed_reads_the_engines_log_as_it_grows(engines: Engines) -> None:
    await engines.log.create(TOPIC, 2)
    owner = Journal({0: 0, 1: 0})
    async with feeding(engines.log, owner) as feed:
        consumer = Consumer({0: Checkpoint(), 1: Checkpoint()})
        for number in range(1, 11):
            owner.counts.update({0: number, 1: number})
            await engines.log.append(TOPIC, [event(p, number) for p in (0, 1) if (number + p) % 3])
            await drain(feed, consumer, owner.counts)
    assert consumer.seen == expected(owner.counts)
