"""Deliberate bugs: what counts as caught, and that the page says what came of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chimera.adapters.sqlite import SQLiteStore
from chimera_faults import mutants
from chimera_faults.campaign import Caught
from chimera_faults.mistakes import MISTAKES
from chimera_faults.mutants import Mutant, changed_store, void_because
from chimera_faults.patching import Patching
from chimera_faults.points import FOLDER
from chimera_faults.report import mutants_page
from chimera_faults.scenarios import SCENARIOS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The rig's folder, as a process that has just started knows it."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    mutants._note_made.cache_clear()
    yield tmp_path
    mutants._note_made.cache_clear()


async def run_a_transaction_that_rolls_back(path: Path, mutant: Mutant) -> int:
    """The number of the first event after it."""
    store = changed_store(SQLiteStore(path), mutant.environment())
    try:
        await store.create([], 1)
        with suppress(KeyError):
            async with store.transaction() as session:
                await session.hold([0])
                raise KeyError
        async with store.transaction() as session:
            return (await session.hold([0]))[0].number + 1
    finally:
        await store.close()


async def test_a_mutant_says_when_its_mistake_is_made(tmp_path: Path, folder: Path) -> None:
    assert void_because(folder, control=False) == "no process has made the mistake"
    assert await run_a_transaction_that_rolls_back(tmp_path / "store.db", Mutant("numbers-before-commit")) == 2
    assert not void_because(folder, control=False)


async def test_a_control_runs_the_same_code_and_makes_no_mistake(tmp_path: Path, folder: Path) -> None:
    control = Mutant("numbers-before-commit", control=True)
    assert await run_a_transaction_that_rolls_back(tmp_path / "store.db", control) == 1
    assert not void_because(folder, control=True)


def test_a_mutant_whose_own_code_fails_proves_nothing(folder: Path) -> None:
    class Patched:
        def answer(self, what: str) -> str:
            return what

    def answer(self: Patched) -> str:  # as it was called once
        return "wrong"

    patching = Patching(lambda: True, mutants._failed)
    patching.replace(Patched, "answer", answer)
    with pytest.raises(TypeError):
        Patched().answer("right")
    assert "TypeError" in void_because(folder, control=False)
    patching.undo()
    assert Patched().answer("right") == "right"


@pytest.mark.parametrize(
    ("finding", "void", "state"),
    [("lost: a", "", "caught"), ("", "", "MISSED"), ("", "did not fire", "void"), ("lost: a", "never made", "void")],
)
def test_a_mutant_is_caught_only_when_it_was_made_and_something_was_found(finding: str, void: str, state: str) -> None:
    assert Caught("no-dedupe", "s", finding, void, 1.0).state == state


@pytest.mark.parametrize(
    ("finding", "void", "state"), [("lost: a", "", "FOUND"), ("", "", "clean"), ("", "it fails", "void")]
)
def test_a_control_is_clean_only_when_nothing_was_found(finding: str, void: str, state: str) -> None:
    assert Caught("no-dedupe", "s", finding, void, 1.0, control=True).state == state


def test_the_page_names_each_mutant_its_scenario_and_what_was_found() -> None:
    caught = Caught("no-dedupe", "read-head-killed-before-201", "doubled: a | b", "", 7.4)
    written = mutants_page([caught], seed="5", again="python -m it --mutants", seconds=7.0)
    assert (
        "| no-dedupe | the inbox is not asked | read-head-killed-before-201 | caught | doubled: a \\| b | 7 |"
        in written
    )
    assert "Seed 5. 1 of 1 caught, 0 of 0 controls clean, in 7 seconds." in written
    assert "python -m it --mutants" in written


def test_every_mutant_has_a_scenario() -> None:
    known = {scenario.name for scenario in SCENARIOS}
    assert {mutant.scenario for mutant in MISTAKES.values()} <= known
