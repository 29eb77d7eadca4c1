"""The contract of the port `Store`: the journal and its numbers."""

from __future__ import annotations

import asyncio

import hypothesis
import hypothesis.strategies as st

from chimera.ports import Store
from chimera.testing.contracts.bank import (
    PARTITIONS,
    TABLES,
    Undo,
    churn,
    committed,
    emit_all,
    emitted,
    numbers,
)
from chimera.testing.contracts.suite import NAMES, EngineSuite, event, quick


class JournalGuarantees(EngineSuite):
    """A part of `StoreContract`."""

    async def test_numbers_count_from_one_in_each_partition(self, engine: Store) -> None:
        await engine.create(TABLES, PARTITIONS)
        async with engine.transaction() as tx:
            assert dict(await tx.reserve({3: 2, 0: 1})) == {3: 1, 0: 1}
            await tx.append([event(3, 1), event(3, 2), event(0, 1)])
        async with engine.transaction() as tx:
            assert dict(await tx.reserve({3: 1})) == {3: 3}
            await tx.append([event(3, 3)])
        assert dict(await engine.heads()) == {0: 1, 1: 0, 2: 0, 3: 3}

    async def test_events_come_back_unchanged_in_order_and_in_pages(self, engine: Store) -> None:
        await engine.create(TABLES, PARTITIONS)
        events = [event(2, number, name, b'{"\xc3\xbc":1}') for number, name in enumerate(NAMES, 1)]
        async with engine.transaction() as tx:
            await tx.reserve({2: len(events)})
            await tx.append(events)
        assert list(await engine.journal(2, 0, 100)) == events
        assert list(await engine.journal(2, 3, 2)) == events[3:5]
        assert list(await engine.journal(2, len(events), 100)) == []
        assert list(await engine.journal(1, 0, 100)) == []

    async def test_history_is_the_events_of_one_key_in_order(self, engine: Store) -> None:
        await engine.create(TABLES, PARTITIONS)
        for keys in (("a", "b", "a"), ("b",), ("a",)):
            await emitted(engine, 1, *keys)
        await emitted(engine, 2, "a")
        async with engine.snapshot() as session:
            assert [message.number for message in await session.history(1, "a")] == [1, 3, 5]
            assert [message.number for message in await session.history(1, "a", 1)] == [3, 5]
            assert list(await session.history(1, "nobody")) == []

    async def test_numbers_are_gapless_and_none_is_visible_before_its_predecessor(self, engine: Store) -> None:
        await engine.create(TABLES, PARTITIONS)
        writers = asyncio.gather(*(churn(engine, writer) for writer in range(8)))
        while not writers.done():
            for partition in range(PARTITIONS):
                seen = await numbers(engine, partition)
                assert seen == list(range(1, len(seen) + 1))
                assert (await engine.heads())[partition] >= len(seen)
            await asyncio.sleep(0)
        kept = [await numbers(engine, partition) for partition in range(PARTITIONS)]
        assert [seen == list(range(1, len(seen) + 1)) for seen in kept] == [True] * PARTITIONS
        assert sum(map(len, kept)) == sum(await writers)
        assert dict(await engine.heads()) == dict(enumerate(map(len, kept)))

    @quick
    @hypothesis.given(
        st.lists(st.tuples(st.booleans(), st.dictionaries(st.integers(0, 3), st.integers(1, 3))), max_size=8)
    )
    async def test_any_mix_of_commits_and_rollbacks_keeps_the_journal_gapless(
        self, engine: Store, steps: list[tuple[bool, dict[int, int]]]
    ) -> None:
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
