"""Each broken double is caught by its port's contract, at the test that states the broken guarantee."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from chimera.testing.broken import (
    CarelessViews,
    DelayingLog,
    DoublingLog,
    DroppingLog,
    FoldingLists,
    ForgetfulViews,
    ForgettingStore,
    HastyLog,
    HolesStore,
    LooseLists,
    RemainingLists,
    RepeatingLists,
    RepeatingStore,
    SilentStore,
    StubbornViews,
    UnorderedStore,
    WrappedLog,
    WrappedStore,
    WrappedViews,
)
from chimera.testing.contracts import LogContract, StoreContract, ViewStoreContract
from chimera.testing.contracts.bank import ACCOUNTS
from chimera.testing.contracts.suite import Suite
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from tests.testing.broken_lists import LosingLists, PartialLists

CASES: list[tuple[Callable[[], Any], type[Suite], str]] = [
    (lambda: DroppingLog(MemoryLog()), LogContract, "test_what_was_confirmed_is_there_once_and_complete"),
    (lambda: DoublingLog(MemoryLog()), LogContract, "test_what_was_confirmed_is_there_once_and_complete"),
    (lambda: DelayingLog(MemoryLog()), LogContract, "test_records_of_a_partition_come_in_the_order_they_were_appended"),
    (lambda: HastyLog(MemoryLog()), LogContract, "test_what_was_confirmed_is_there_once_and_complete"),
    (
        lambda: ForgettingStore(MemoryStore(), ACCOUNTS.name),
        StoreContract,
        "test_saving_replaces_the_row_of_the_same_key",
    ),
    (lambda: HolesStore(MemoryStore()), StoreContract, "test_a_rolled_back_transaction_leaves_nothing"),
    (
        lambda: SilentStore(MemoryStore()),
        StoreContract,
        "test_the_journal_never_answers_from_further_on_than_asked",
    ),
    (
        lambda: UnorderedStore(MemoryStore()),
        StoreContract,
        "test_numbers_are_gapless_and_none_is_visible_before_its_predecessor",
    ),
    (lambda: RepeatingStore(MemoryStore()), StoreContract, "test_a_page_of_rows_is_in_one_order_on_every_engine"),
    (lambda: ForgetfulViews(MemoryViews()), ViewStoreContract, "test_documents_and_checkpoints_move_together"),
    (lambda: StubbornViews(MemoryViews()), ViewStoreContract, "test_a_checkpoint_that_has_moved_changes_nothing"),
    (lambda: CarelessViews(MemoryViews()), ViewStoreContract, "test_a_document_that_has_changed_changes_nothing"),
    (lambda: LooseLists(MemoryViews()), ViewStoreContract, "test_lists_documents_and_checkpoints_move_together"),
    (
        lambda: LooseLists(MemoryViews()),
        ViewStoreContract,
        "test_of_several_writers_only_the_winners_entries_are_there",
    ),
    (
        lambda: FoldingLists(MemoryViews()),
        ViewStoreContract,
        "test_a_list_is_in_the_order_of_the_bytes_of_its_places",
    ),
    (
        lambda: RepeatingLists(MemoryViews()),
        ViewStoreContract,
        "test_pages_of_a_list_go_on_after_a_place_and_miss_nothing",
    ),
    (
        lambda: LosingLists(MemoryViews()),
        ViewStoreContract,
        "test_pages_of_a_list_go_on_after_a_place_and_miss_nothing",
    ),
    (lambda: PartialLists(MemoryViews()), ViewStoreContract, "test_all_lists_of_a_view_are_read_in_one_order"),
    (lambda: RemainingLists(MemoryViews()), ViewStoreContract, "test_dropping_a_view_deletes_its_lists_only"),
]


@pytest.mark.parametrize(("make", "suite", "expected"), CASES)
async def test_the_contract_notices_a_broken_promise(
    make: Callable[[], Any], suite: type[Suite], expected: str
) -> None:
    assert expected in await failing(make, suite)


@pytest.mark.parametrize(
    ("make", "suite"),
    [
        (lambda: WrappedLog(MemoryLog()), LogContract),
        (lambda: WrappedStore(MemoryStore()), StoreContract),
        (lambda: WrappedViews(MemoryViews()), ViewStoreContract),
    ],
)
async def test_a_wrapper_that_breaks_nothing_passes(make: Callable[[], Any], suite: type[Suite]) -> None:
    assert await failing(make, suite) == []


async def failing(make: Callable[[], Any], suite: type[Suite]) -> list[str]:
    """The names of the suite's tests, those that need only an engine, that fail with a new engine each."""
    contract = suite()
    contract.patience_s = 0.05
    failed: list[str] = []
    for name, test in inspect.getmembers(contract, inspect.iscoroutinefunction):
        if name.startswith("test_") and list(inspect.signature(test).parameters) == ["engine"]:
            engine = make()
            try:
                await test(engine)
            except (Exception, pytest.fail.Exception):  # noqa: BLE001 - however a test fails, it fails
                failed.append(name)
            await engine.close()
    return failed
