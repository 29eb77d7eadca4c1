"""Where the consumers of a journal are, under whatever names they keep it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from chimera.core.context import Context
from chimera.core.names import copy_name, generation_name, reaction_consumer
from chimera.core.tables import Progress
from chimera.core.timing import Retention
from chimera.entities import table_of
from chimera.journal.consumers import Consumer, consumers_of
from chimera.ports import Checkpoint, ConsumerAt, Move
from chimera.service import Service
from chimera.testing.engines import memory_engines
from chimera.upkeep.positions import JournalConsumer, checkpoints_of, consumers_at, names_of
from chimera.views.generations import Building, Generation, Generations, change
from tests.support import PARTITIONS, Balance, Bank, Deposited, Engines, Shop, opened


def consumer_of(service: Service, name: str) -> Consumer:
    [found] = [consumer for consumer in consumers_of(service) if consumer.name == name]
    return found


async def generations(context: Context, state: Generations) -> None:
    await change(context.views, "balance", lambda _: state)


async def views_at(context: Context, name: str, source: str, numbers: Mapping[int, int]) -> None:
    """Put the checkpoints of what keeps documents."""
    moves = [Move(source, partition, 0, Checkpoint(n, n + 1)) for partition, n in numbers.items()]
    assert await context.views.write(name, [], moves)


async def store_at(context: Context, name: str, numbers: Mapping[int, int]) -> None:
    """Put the checkpoints of what keeps its own in the store."""
    async with context.store.transaction() as session:
        rows = [Progress(name, "accounts", partition, n, n + 1) for partition, n in numbers.items()]
        await session.save(table_of(Progress), [table_of(Progress).to_row(row) for row in rows])


async def told(context: Context, source: str, partitions: Sequence[int]) -> list[ConsumerAt]:
    """Where the consumers of a source are, in order."""
    return sorted(await consumers_at(context, source, partitions), key=msgspec.structs.astuple)


KEPT_AND_BUILDING = Generations(
    Generation(2, "new"), building=Building(Generation(4, "newer")), kept=Generation(1, "old"), last=4
)


@pytest.mark.parametrize("name", ["commands", "relay", reaction_consumer("thank", "accounts")])
async def test_what_is_no_view_has_one_name(context: Context, bank: Bank, name: str) -> None:
    await generations(context, KEPT_AND_BUILDING)
    assert await names_of(context, consumer_of(bank.service, name), also_kept=True) == [name]


async def test_a_view_has_the_names_of_its_generations_and_the_one_that_serves_is_the_first(
    context: Context, bank: Bank
) -> None:
    view = consumer_of(bank.service, "balance")
    assert await names_of(context, view, also_kept=True) == ["balance"]
    await generations(context, KEPT_AND_BUILDING)
    assert await names_of(context, view) == ["balance~2", "balance~4"]
    assert await names_of(context, view, also_kept=True) == ["balance~2", "balance~4", "balance"]
    await generations(context, msgspec.structs.replace(KEPT_AND_BUILDING, building=None))
    assert await names_of(context, view) == ["balance~2"]
    assert await names_of(context, consumer_of(bank.service, "total")) == ["total"]


async def test_a_copy_has_the_name_of_its_mode() -> None:
    shop = Shop()
    context = await opened(shop.service, memory_engines())
    name = copy_name("cards", "hybrid")
    assert await names_of(context, consumer_of(shop.service, name), also_kept=True) == [name]


async def test_checkpoints_are_found_in_the_store_or_with_the_documents(context: Context, bank: Bank) -> None:
    reaction = consumer_of(bank.service, reaction_consumer("thank", "accounts"))
    await store_at(context, reaction.name, {1: 7})
    await views_at(context, "balance", "accounts", {2: 9})
    await views_at(context, "total", "another", {2: 9})
    everywhere = range(PARTITIONS)
    found = await checkpoints_of(context, reaction, reaction.name, everywhere)
    assert found == {0: Checkpoint(), 1: Checkpoint(7, 8), 2: Checkpoint(), 3: Checkpoint()}
    assert await checkpoints_of(context, consumer_of(bank.service, "balance"), "balance", everywhere) == {
        2: Checkpoint(9, 10)
    }
    assert await checkpoints_of(context, consumer_of(bank.service, "total"), "total", everywhere) == {}


async def test_every_consumer_of_a_source_is_told_also_one_that_has_not_moved(context: Context, bank: Bank) -> None:
    await generations(context, KEPT_AND_BUILDING)
    for number in (1, 2):
        await views_at(context, generation_name("balance", number), "accounts", {1: 10 + number})
    await store_at(context, reaction_consumer("thank", "accounts"), {1: 7, 2: 8})
    await store_at(context, "relay", {1: 5})
    assert await told(context, "accounts", [0, 1]) == [
        ConsumerAt("accounts balance", 0, 0, 0),
        ConsumerAt("accounts balance", 1, 11, 12),
        ConsumerAt("accounts balance~2", 0, 0, 0),
        ConsumerAt("accounts balance~2", 1, 12, 13),
        ConsumerAt("accounts balance~4", 0, 0, 0),
        ConsumerAt("accounts balance~4", 1, 0, 0),
        ConsumerAt("accounts enter", 0, 0, 0),
        ConsumerAt("accounts enter", 1, 0, 0),
        ConsumerAt("accounts thank", 0, 0, 0),
        ConsumerAt("accounts thank", 1, 7, 8),
        ConsumerAt("accounts total", 0, 0, 0),
        ConsumerAt("accounts total", 1, 0, 0),
    ]


async def test_a_copy_is_told_where_it_is_filled_and_nothing_is_told_of_other_sources(engines: Engines) -> None:
    shop = Shop()
    view = shop.service.view(Balance, key="account_id")

    @view.on(Deposited)
    def deposited(balance: Balance, event: Deposited) -> None: ...

    context = await opened(shop.service, engines)
    await views_at(context, copy_name("cards", "async"), "accounts", {0: 3, 3: 4})
    assert await told(context, "accounts", [0, 1]) == [
        ConsumerAt("shop balance", 0, 0, 0),
        ConsumerAt("shop balance", 1, 0, 0),
        ConsumerAt("shop borrow.cards.async", 0, 3, 4),
    ]
    assert await told(context, "shop", [0, 1]) == []


def test_a_consumer_is_silent_when_it_was_not_heard_of_for_too_long_and_one_of_the_service_itself_never() -> None:
    now, kept = datetime(2026, 1, 10, tzinfo=UTC), Retention(consumer_days=7)
    week = now - timedelta(days=7)
    assert not JournalConsumer("own", 0, 0, 0).is_silent(kept, now)
    assert not JournalConsumer("just", 0, 0, 0, week).is_silent(kept, now)
    assert JournalConsumer("gone", 0, 0, 0, week - timedelta(seconds=1)).is_silent(kept, now)


@pytest.mark.parametrize(("number", "late"), [(0, True), (3, True), (4, False), (9, False)])
def test_a_consumer_is_late_when_the_event_that_it_needs_next_is_gone(number: int, late: bool) -> None:
    assert JournalConsumer("one", 0, number, 0).is_late({0: 5}) is late
    assert not JournalConsumer("one", 1, 0, 0).is_late({0: 5})
