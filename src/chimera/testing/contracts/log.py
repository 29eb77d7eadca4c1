"""The contract of the port `Log`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import hypothesis
import hypothesis.strategies as st
import pytest

from chimera.errors import SettingsError, Unavailable
from chimera.messages import Message
from chimera.ports import PAGE_BYTES, Log, Record
from chimera.testing.contracts.suite import MEBIBYTE, NAMES, EngineSuite, event, quick

TOPIC = "contract.events"
PARTITIONS = 4
ALL = dict.fromkeys(range(PARTITIONS), 0)


class LogContract(EngineSuite):
    """Every guarantee of `Log`. A subclass provides the fixture `engine`, and `reopen` if it is durable or shared."""

    async def test_creating_a_topic_twice_changes_nothing(self, engine: Log) -> None:
        """Its records are as they were."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(0, 1)])
        await engine.create(TOPIC, PARTITIONS)
        assert _messages(await self.take(engine, 1)) == [event(0, 1)]

    async def test_a_topic_may_have_more_partitions_than_are_needed_but_not_fewer(self, engine: Log) -> None:
        """Who needs fewer uses the first ones, and what is in it stays; who needs more is refused in one line."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(0, 1)])
        await engine.create(TOPIC, PARTITIONS - 1)
        assert list(await engine.ends(TOPIC)) == list(range(PARTITIONS))
        assert _messages(await self.take(engine, 1)) == [event(0, 1)]
        with pytest.raises(
            SettingsError, match=rf"has {PARTITIONS} partitions, and {PARTITIONS + 1} are needed"
        ) as told:
            await engine.create(TOPIC, PARTITIONS + 1)
        assert "\n" not in str(told.value)

    async def test_what_is_appended_is_read_unchanged(self, engine: Log) -> None:
        """Every field of a message, under any key; also one without a number, as commands are."""
        await engine.create(TOPIC, PARTITIONS)
        messages = [event(0, number, key, b'{"name":"\\u00e9\xf0\x9f\xa6\x81"}') for number, key in enumerate(NAMES, 1)]
        messages.append(Message("c0ffee", "shop", "shop.Buy", "k", "2024-05-01T12:00:00Z", b"null", 0))
        await engine.append(TOPIC, messages)
        assert _messages(await self.take(engine, len(messages))) == messages

    async def test_records_of_a_partition_come_in_the_order_they_were_appended(self, engine: Log) -> None:
        """Over many appends."""
        await engine.create(TOPIC, PARTITIONS)
        messages = [event(number % PARTITIONS, number) for number in range(1, 201)]
        for start in range(0, 200, 7):
            await engine.append(TOPIC, messages[start : start + 7])
        records = await self.take(engine, 200)
        for partition in range(PARTITIONS):
            appended = [message for message in messages if message.partition == partition]
            assert _messages(_of(records, partition)) == appended

    async def test_offsets_grow_from_one_or_later(self, engine: Log) -> None:
        """Each partition has its own; they need not be without a hole."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(number % 2, number) for number in range(1, 21)])
        records = await self.take(engine, 20)
        for partition in range(2):
            offsets = [record.offset for record in _of(records, partition)]
            assert offsets == sorted(set(offsets))
            assert offsets[0] >= 1

    async def test_reading_goes_on_after_an_offset(self, engine: Log) -> None:
        """With the next record, in each partition by itself."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(0, number) for number in range(1, 11)] + [event(1, 1)])
        records = _of(await self.take(engine, 11), 0)
        rest = await self.take(engine, 6, {0: records[4].offset, 1: 0})
        assert _of(rest, 0) == records[5:]
        assert _messages(_of(rest, 1)) == [event(1, 1)]

    async def test_only_the_partitions_asked_for_are_read(self, engine: Log) -> None:
        """Others may have records too."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(number % PARTITIONS, number) for number in range(20)])
        records = await self.take(engine, 10, {1: 0, 3: 0})
        assert {record.message.partition for record in records} == {1, 3}

    async def test_batches_hold_at_most_the_limit(self, engine: Log) -> None:
        """And no batch is empty."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(number % PARTITIONS, number) for number in range(50)])
        sizes: list[int] = []
        async with asyncio.timeout(self.patience_s), _reading(engine.read(TOPIC, ALL, limit=3)) as batches:
            async for batch in batches:
                sizes.append(len(batch))
                if sum(sizes) >= 50:
                    break
        assert max(sizes) <= 3
        assert min(sizes) >= 1

    async def test_a_waiting_reader_wakes_for_a_new_record(self, engine: Log) -> None:
        """Each time that it waits."""
        await engine.create(TOPIC, PARTITIONS)
        waiting = asyncio.create_task(self.take(engine, 2))
        await _turns()
        await engine.append(TOPIC, [event(2, 1)])
        await _turns()
        await engine.append(TOPIC, [event(2, 2)])
        assert _messages(await waiting) == [event(2, 1), event(2, 2)]

    async def test_every_reader_gets_every_record(self, engine: Log) -> None:
        """Readers do not share them: there are no groups."""
        await engine.create(TOPIC, PARTITIONS)
        readers = [asyncio.create_task(self.take(engine, 30)) for _ in range(3)]
        await engine.append(TOPIC, [event(0, number) for number in range(1, 31)])
        for records in await asyncio.gather(*readers):
            assert _messages(records) == [event(0, number) for number in range(1, 31)]

    async def test_a_reader_that_stops_leaves_others_reading(self, engine: Log) -> None:
        """It is cancelled while it waits."""
        await engine.create(TOPIC, PARTITIONS)
        stopped, going = (asyncio.create_task(self.take(engine, 1)) for _ in range(2))
        await _turns()
        stopped.cancel()
        await asyncio.wait([stopped])
        await engine.append(TOPIC, [event(0, 1)])
        assert _messages(await going) == [event(0, 1)]

    async def test_concurrent_appends_lose_nothing_and_keep_each_callers_order(self, engine: Log) -> None:
        """Ten callers, who share a partition."""
        await engine.create(TOPIC, PARTITIONS)

        async def append(caller: int) -> None:
            for number in range(1, 11):
                pair = [event(0, number, f"{caller}"), event(caller % PARTITIONS, number, f"x{caller}")]
                await engine.append(TOPIC, pair)

        reading = asyncio.create_task(self.take(engine, 200))
        await asyncio.gather(*(append(caller) for caller in range(10)))
        messages = _messages(await reading)
        for key in [f"{caller}" for caller in range(10)] + [f"x{caller}" for caller in range(10)]:
            assert [message.number for message in messages if message.key == key] == list(range(1, 11))

    async def test_what_was_confirmed_is_there_once_and_complete(self, engine: Log) -> None:
        """And its offset is in `ends` at once."""
        await engine.create(TOPIC, PARTITIONS)
        for number in range(1, 21):
            await engine.append(TOPIC, [event(0, number)])
            assert (await engine.ends(TOPIC))[0] >= number
        await engine.append(TOPIC, [event(0, 21)])
        messages = _messages(await self.take_until(engine, event(0, 21)))
        assert messages == [event(0, number) for number in range(1, 22)]

    async def test_ends_are_the_newest_offsets_and_zero_for_an_empty_partition(self, engine: Log) -> None:
        """Of all partitions of the topic."""
        await engine.create(TOPIC, PARTITIONS)
        assert dict(await engine.ends(TOPIC)) == ALL
        await engine.append(TOPIC, [event(1, 1), event(1, 2), event(3, 1)])
        records = await self.take(engine, 3)
        newest = {1: _of(records, 1)[-1].offset, 3: _of(records, 3)[-1].offset}
        assert dict(await engine.ends(TOPIC)) == {**ALL, **newest}

    async def test_what_was_trimmed_is_gone_and_offsets_and_ends_go_on(self, engine: Log) -> None:
        """Nothing is gone where only the engine's own retention trims."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(number % 2, number) for number in range(1, 21)])
        records = await self.take(engine, 20)
        ends = dict(await engine.ends(TOPIC))
        await engine.trim(TOPIC, {0: _of(records, 0)[3].offset, 1: _of(records, 1)[-1].offset})
        assert dict(await engine.ends(TOPIC)) == ends
        gone = 4 if engine.features.trims else 0
        left = await self.take(engine, 10 - gone, {0: 0})
        assert left == _of(records, 0)[gone:]
        if gone:
            assert await self.take(engine, 6, {0: _of(records, 0)[1].offset}) == left
        assert await self.take(engine, 2, {0: left[-3].offset}) == left[-2:]
        await engine.append(TOPIC, [event(1, 99)])
        assert _messages(await self.take(engine, 1, {1: ends[1]})) == [event(1, 99)]
        assert (await engine.ends(TOPIC))[1] > ends[1]

    async def test_trimming_to_the_end_keeps_the_end(self, engine: Log) -> None:
        """Offsets go on after it, also where no record is left."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.trim(TOPIC, {0: 0})
        await engine.append(TOPIC, [event(0, number) for number in range(1, 6)])
        end = (await engine.ends(TOPIC))[0]
        for _ in range(2):
            await engine.trim(TOPIC, {0: end})
            assert (await engine.ends(TOPIC))[0] == end
        await engine.append(TOPIC, [event(0, 6)])
        [record] = await self.take(engine, 1, {0: end})
        assert record.offset > end
        assert record.message == event(0, 6)

    async def test_an_unknown_topic_is_unavailable(self, engine: Log) -> None:
        """`ends` raises it where `create` was never called."""
        with pytest.raises(Unavailable):
            await engine.ends("contract.unknown")

    async def test_topics_are_apart(self, engine: Log) -> None:
        """Records of one are not read from another."""
        for topic, number in ((TOPIC, 1), ("contract.other", 2)):
            await engine.create(topic, PARTITIONS)
            await engine.append(topic, [event(0, number)])
        assert _messages(await self.take(engine, 1, topic=TOPIC)) == [event(0, 1)]
        assert _messages(await self.take(engine, 1, topic="contract.other")) == [event(0, 2)]

    async def test_appending_nothing_changes_nothing(self, engine: Log) -> None:
        """Nor does it fail."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [])
        assert dict(await engine.ends(TOPIC)) == ALL

    async def test_a_mebibyte_of_data_passes(self, engine: Log) -> None:
        """As one message."""
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(0, 1, data=MEBIBYTE)])
        assert _messages(await self.take(engine, 1)) == [event(0, 1, data=MEBIBYTE)]

    async def test_a_batch_of_large_records_is_bounded(self, engine: Log) -> None:
        """By a few `PAGE_BYTES`, however many records `limit` lets in."""
        await engine.create(TOPIC, PARTITIONS)
        count, taken = 6 * PAGE_BYTES // len(MEBIBYTE), 0
        for start in range(0, count, 6):
            await engine.append(TOPIC, [event(at % 2, at, data=MEBIBYTE) for at in range(start + 1, start + 7)])
        async with asyncio.timeout(self.patience_s), _reading(engine.read(TOPIC, ALL)) as batches:
            async for batch in batches:
                assert sum(len(record.message.data) for record in batch) <= 4 * PAGE_BYTES
                if (taken := taken + len(batch)) == count:
                    break

    async def test_closing_the_log_ends_its_readers(self, engine: Log) -> None:
        """Without an error, while they wait."""
        await engine.create(TOPIC, PARTITIONS)
        reading = asyncio.create_task(_read_to_the_end(engine))
        await _turns()
        await engine.close()
        async with asyncio.timeout(self.patience_s):
            assert await reading == []

    @quick
    @hypothesis.given(st.lists(st.lists(st.integers(0, PARTITIONS - 1), max_size=6), max_size=12), st.integers(1, 9))
    async def test_any_mix_of_appends_is_read_back_in_order(
        self, engine: Log, calls: list[list[int]], limit: int
    ) -> None:
        """Calls of any size, over any partitions, read with any limit."""
        topic = f"contract.mix-{next(_fresh)}"
        await engine.create(topic, PARTITIONS)
        numbers = itertools.count(1)
        messages = [[event(partition, next(numbers)) for partition in call] for call in calls]
        for call in messages:
            await engine.append(topic, call)
        appended = [message for call in messages for message in call]
        records = await self.take(engine, len(appended), topic=topic, limit=limit)
        for partition in range(PARTITIONS):
            expected = [message for message in appended if message.partition == partition]
            assert _messages(_of(records, partition)) == expected

    async def test_records_outlive_their_engine(self, engine: Log, reopen: Callable[[], Log]) -> None:
        """For engines that are durable: with their offsets, and appends go on behind them."""
        if not engine.features.durable:
            pytest.skip("the engine does not promise durability")
        await engine.create(TOPIC, PARTITIONS)
        await engine.append(TOPIC, [event(0, number) for number in range(1, 6)])
        before = await self.take(engine, 5)
        await engine.close()
        again = reopen()
        await again.create(TOPIC, PARTITIONS)
        await again.append(TOPIC, [event(0, 6)])
        after = await self.take(again, 6)
        await again.close()
        assert after[:5] == before
        assert after[5].message == event(0, 6)

    async def test_one_engine_reads_what_another_appends(self, engine: Log, reopen: Callable[[], Log]) -> None:
        """For engines that are shared: both append at once, one reads."""
        if not engine.features.shared:
            pytest.skip("the engine can't be shared")
        other = reopen()
        for each in (engine, other):
            await each.create(TOPIC, PARTITIONS)
        waiting = asyncio.create_task(self.take(engine, 20))
        await _turns()
        for number in range(1, 11):
            await asyncio.gather(other.append(TOPIC, [event(0, number)]), engine.append(TOPIC, [event(1, number)]))
        records = await waiting
        assert dict(await other.ends(TOPIC)) == dict(await engine.ends(TOPIC))
        await other.close()
        for partition in (0, 1):
            assert [record.message.number for record in _of(records, partition)] == list(range(1, 11))

    async def take(
        self, log: Log, count: int, after: Mapping[int, int] = ALL, *, topic: str = TOPIC, limit: int = 500
    ) -> list[Record]:
        """The next `count` records; fails when they do not come."""
        records: list[Record] = []
        async with asyncio.timeout(self.patience_s), _reading(log.read(topic, after, limit)) as batches:
            while len(records) < count:
                records += await anext(batches)
        return records

    async def take_until(self, log: Log, last: Message) -> list[Record]:
        """All records up to this message; fails when it does not come."""
        records: list[Record] = []
        async with asyncio.timeout(self.patience_s), _reading(log.read(TOPIC, ALL)) as batches:
            while last not in _messages(records):
                records += await anext(batches)
        return records


_fresh = itertools.count()


@asynccontextmanager
async def _reading(batches: AsyncIterator[Sequence[Record]]) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
    """Stops the reader at the end, if it is one that can be stopped."""
    try:
        yield batches
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


async def _read_to_the_end(log: Log) -> list[Record]:
    return [record async for batch in log.read(TOPIC, ALL) for record in batch]


async def _turns() -> None:
    """Let other tasks come to where they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def _of(records: Iterable[Record], partition: int) -> list[Record]:
    return [record for record in records if record.message.partition == partition]


def _messages(records: Sequence[Record]) -> list[Message]:
    return [record.message for record in records]
