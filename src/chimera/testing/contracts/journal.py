"""The contract of the port `Store`: the journal and its numbers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from functools import partial

import hypothesis
import hypothesis.strategies as st
import pytest

from chimera.errors import Trimmed
from chimera.messages import chained, follows
from chimera.ports import PAGE_BYTES, Store, Tip, WriteSession
from chimera.testing.contracts.bank import (
    PARTITIONS,
    TABLES,
    Undo,
    churn,
    committed,
    emit,
    emit_all,
    emitted,
    numbers,
    trimmed,
)
from chimera.testing.contracts.suite import MEBIBYTE, NAMES, EngineSuite, event, quick


def _numbers(tips: Mapping[int, Tip]) -> dict[int, int]:
    return {partition: tip.number for partition, tip in tips.items()}


async def _emit_slowly(tx: WriteSession, key: str) -> None:
    await emit(tx, 1, key)
    await asyncio.sleep(0.001)
    await emit(tx, 1, key)


class JournalGuarantees(EngineSuite):
    """The part of `StoreContract` about the journal: numbers, pages, trimming."""

    async def test_numbers_count_from_one_in_each_partition(self, engine: Store) -> None:
        """`hold` says what they follow; several partitions are held at once."""
        await engine.create(TABLES, PARTITIONS)
        async with engine.transaction() as tx:
            assert _numbers(await tx.hold([3, 0])) == {3: 0, 0: 0}
            await tx.append([event(3, 1), event(3, 2), event(0, 1)])
        async with engine.transaction() as tx:
            assert _numbers(await tx.hold({3})) == {3: 2}
            await tx.append([event(3, 3)])
        assert dict(await engine.heads()) == {0: 1, 1: 0, 2: 0, 3: 3}

    async def test_a_chain_goes_through_all_events_of_a_partition(self, engine: Store) -> None:
        """From a digest that no other partition has, over transactions and trims; it is known at every event."""
        await engine.create(TABLES, PARTITIONS)
        begun = dict(await engine.chain(dict.fromkeys(range(PARTITIONS), 0)))
        assert begun.keys() == set(range(PARTITIONS))
        await emitted(engine, 2, "a", "b")
        await emitted(engine, 2, "c")
        events = await engine.journal(2, 0, 10)
        assert list(chained(begun[2], events)) == list(events)
        assert [dict(await engine.chain({2: number, 1: 0})) for number in range(4)] == [
            {2: chain, 1: begun[1]} for chain in (begun[2], *(each.chain for each in events))
        ]
        assert dict(await engine.chain({2: 4, 1: 1, 77: 0})) == {}
        await trimmed(engine, 2, 2)
        assert [dict(await engine.chain({2: number})) for number in (1, 2)] == [{}, {2: events[1].chain}]
        await trimmed(engine, 2, 3)
        async with engine.transaction() as tx:
            assert dict(await tx.hold([2])) == {2: Tip(3, events[2].chain)}
        await emitted(engine, 2, "d")
        [last] = await engine.journal(2, 3, 1)
        assert follows(last, events[2].chain)

    async def test_a_head_that_was_held_by_another_is_seen_as_that_one_left_it(self, engine: Store) -> None:
        """The chain too: whoever waited goes on from what was committed while it waited."""
        await engine.create(TABLES, PARTITIONS)
        await asyncio.gather(*(committed(engine, partial(_emit_slowly, key=f"k{n}")) for n in range(8)))
        events = await engine.journal(1, 0, 100)
        assert all(follows(after, before.chain) for before, after in itertools.pairwise(events))
        assert len(events) == 16

    async def test_events_come_back_unchanged_in_order_and_in_pages(self, engine: Store) -> None:
        """With any key; a page begins after the number asked for and has `limit` events at most."""
        await engine.create(TABLES, PARTITIONS)
        events = [event(2, number, name, b'{"\xc3\xbc":1}') for number, name in enumerate(NAMES, 1)]
        async with engine.transaction() as tx:
            await tx.hold([2])
            await tx.append(events)
        assert list(await engine.journal(2, 0, 100)) == events
        assert list(await engine.journal(2, 3, 2)) == events[3:5]
        assert list(await engine.journal(2, len(events), 100)) == []
        assert list(await engine.journal(1, 0, 100)) == []

    async def test_what_was_trimmed_is_gone_and_the_rest_goes_on_where_it_was(self, engine: Store) -> None:
        """From `journal`, `history` and `oldest`; other partitions and the heads stay."""
        await engine.create(TABLES, PARTITIONS)
        assert dict(await engine.oldest()) == dict.fromkeys(range(PARTITIONS), 1)
        await emitted(engine, 2, *"abcdefgh")
        await emitted(engine, 1, "a")
        await trimmed(engine, 2, 5)
        assert dict(await engine.oldest()) == {0: 1, 1: 1, 2: 6, 3: 1}
        assert dict(await engine.heads()) == {0: 0, 1: 1, 2: 8, 3: 0}
        assert [message.number for message in await engine.journal(2, 5, 100)] == [6, 7, 8]
        assert [message.number for message in await engine.journal(1, 0, 100)] == [1]
        await emitted(engine, 2, "i")
        assert [message.number for message in await engine.journal(2, 8, 100)] == [9]
        async with engine.snapshot() as session:
            assert [message.number for message in await session.history(2, "f")] == [6]
            assert list(await session.history(2, "a")) == []

    async def test_the_journal_never_answers_from_further_on_than_asked(self, engine: Store) -> None:
        """It raises Trimmed instead, also when all events are gone."""
        await engine.create(TABLES, PARTITIONS)
        await emitted(engine, 2, *"abcdefgh")
        await trimmed(engine, 2, 5)
        for after in (0, 1, 4):
            with pytest.raises(Trimmed):
                await engine.journal(2, after, 100)
        await trimmed(engine, 2, 8)
        with pytest.raises(Trimmed):
            await engine.journal(2, 7, 100)
        assert list(await engine.journal(2, 8, 100)) == []
        assert list(await engine.journal(0, 0, 100)) == []

    async def test_trimming_is_part_of_its_transaction(self, engine: Store) -> None:
        """Undone, it has trimmed nothing."""
        await engine.create(TABLES, PARTITIONS)
        await emitted(engine, 0, *"abc")

        async def trim_and_undo(tx: WriteSession) -> None:
            await tx.trim(0, 2)
            raise Undo

        with pytest.raises(Undo):
            await committed(engine, trim_and_undo)
        assert await numbers(engine, 0) == [1, 2, 3]

    async def test_a_journal_trimmed_to_its_end_counts_on(self, engine: Store) -> None:
        """Also when it is trimmed beyond its end: no number comes again."""
        await engine.create(TABLES, PARTITIONS)
        await emitted(engine, 0, "a", "b")
        await trimmed(engine, 0, 2)
        assert (await engine.heads())[0] == 2
        assert (await engine.oldest())[0] == 3
        await trimmed(engine, 0, 100)
        await trimmed(engine, 3, 100)
        await emitted(engine, 0, "c")
        await emitted(engine, 3, "d")
        assert [message.number for message in await engine.journal(0, 2, 10)] == [3]
        assert [message.number for message in await engine.journal(3, 0, 10)] == [1]

    async def test_a_page_of_large_events_ends_early_and_the_next_goes_on(self, engine: Store) -> None:
        """With the event that brings the page's data to `PAGE_BYTES`."""
        await engine.create(TABLES, PARTITIONS)
        count = 2 * PAGE_BYTES // len(MEBIBYTE) + 1
        for number in range(1, count + 1):
            async with engine.transaction() as tx:
                await tx.hold([2])
                await tx.append([event(2, number, data=MEBIBYTE)])
        at = 0
        while page := await engine.journal(2, at, 100):
            assert [message.number for message in page] == list(range(at + 1, at + 1 + len(page)))
            assert sum(len(message.data) for message in page[:-1]) < PAGE_BYTES
            assert at + len(page) == count or sum(len(message.data) for message in page) >= PAGE_BYTES
            at += len(page)
        assert at == count
        assert len(await engine.journal(2, 0, 3)) == 3

    async def test_trimming_while_events_are_appended_and_read_loses_none_that_is_left(self, engine: Store) -> None:
        """Every page read meanwhile is without a hole."""
        await engine.create(TABLES, PARTITIONS)
        writing = asyncio.gather(*(churn(engine, writer) for writer in range(4)))
        gone = dict.fromkeys(range(PARTITIONS), 0)
        while not writing.done():
            for partition, after in gone.items():
                page = [message.number for message in await engine.journal(partition, after, 3)]
                assert page == list(range(after + 1, after + 1 + len(page)))
                if len(page) == 3:
                    await trimmed(engine, partition, page[1])
                    gone[partition] = page[1]
            await asyncio.sleep(0)
        heads = await engine.heads()
        assert sum(heads.values()) == sum(await writing)
        for partition, after in gone.items():
            found = [message.number for message in await engine.journal(partition, after, 1000)]
            assert found == list(range(after + 1, heads[partition] + 1))

    async def test_the_types_of_the_events_that_are_there_are_counted(self, engine: Store) -> None:
        """Those that were trimmed are not."""
        await engine.create(TABLES, PARTITIONS)
        assert dict(await engine.types()) == {}
        await emitted(engine, 1, "a", "b", "a")
        await emitted(engine, 2, "a")
        counted = dict(await engine.types())
        assert list(counted.values()) == [4]
        await trimmed(engine, 1, 2)
        assert dict(await engine.types()) == dict.fromkeys(counted, 2)

    async def test_a_snapshot_has_the_heads_of_its_moment(self, engine: Store) -> None:
        """Those that belong to the rows that it reads, whatever is committed meanwhile."""
        await engine.create(TABLES, PARTITIONS)
        await emitted(engine, 1, "a")
        async with engine.snapshot() as session:
            assert dict(await session.heads()) == {0: 0, 1: 1, 2: 0, 3: 0}
            await emitted(engine, 1, "b")
            assert dict(await session.heads()) == {0: 0, 1: 1, 2: 0, 3: 0}
        async with engine.snapshot(once=True) as session:
            assert dict(await session.heads()) == {0: 0, 1: 2, 2: 0, 3: 0}

    async def test_history_is_the_events_of_one_key_in_order(self, engine: Store) -> None:
        """Of one partition, from the beginning or after a number."""
        await engine.create(TABLES, PARTITIONS)
        for keys in (("a", "b", "a"), ("b",), ("a",)):
            await emitted(engine, 1, *keys)
        await emitted(engine, 2, "a")
        async with engine.snapshot() as session:
            assert [message.number for message in await session.history(1, "a")] == [1, 3, 5]
            assert [message.number for message in await session.history(1, "a", 1)] == [3, 5]
            assert list(await session.history(1, "nobody")) == []

    async def test_numbers_are_gapless_and_none_is_visible_before_its_predecessor(self, engine: Store) -> None:
        """Eight writers at once, a third of whose transactions roll back; read again and again meanwhile."""
        await engine.create(TABLES, PARTITIONS)
        writers = asyncio.gather(*(churn(engine, writer) for writer in range(8)))
        while not writers.done():
            for partition in range(PARTITIONS):
                seen = await numbers(engine, partition)
                assert seen == list(range(1, len(seen) + 1))
                assert (await engine.heads())[partition] >= len(seen)
            await asyncio.sleep(0)
        found = [await numbers(engine, partition) for partition in range(PARTITIONS)]
        assert [seen == list(range(1, len(seen) + 1)) for seen in found] == [True] * PARTITIONS
        assert sum(map(len, found)) == sum(await writers)
        assert dict(await engine.heads()) == dict(enumerate(map(len, found)))

    @quick
    @hypothesis.given(
        st.lists(st.tuples(st.booleans(), st.dictionaries(st.integers(0, 3), st.integers(1, 3))), max_size=8)
    )
    async def test_any_mix_of_commits_and_rollbacks_keeps_the_journal_gapless(
        self, engine: Store, steps: list[tuple[bool, dict[int, int]]]
    ) -> None:
        """Transactions of any size, over any partitions, all at once."""
        await engine.create(TABLES, PARTITIONS)
        expected = dict(await engine.heads())

        async def run(commits: bool, counts: dict[int, int]) -> None:
            try:
                await committed(engine, lambda tx: emit_all(tx, counts, undo=not commits))
            except Undo:
                return
            for partition, count in counts.items():
                expected[partition] += count

        await asyncio.gather(*(run(*step) for step in steps))
        assert dict(await engine.heads()) == expected
        for partition in range(PARTITIONS):
            assert await numbers(engine, partition) == list(range(1, expected[partition] + 1))
