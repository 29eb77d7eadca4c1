"""Deliberate bugs: what counts as caught, and that the page says what came of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera.adapters.sqlite import SQLiteStore
from chimera_faults import mutants
from chimera_faults.campaign import Caught
from chimera_faults.mutants import MUTANTS, changed_store, has_run
from chimera_faults.points import FOLDER
from chimera_faults.report import mutants_page
from chimera_faults.scenario import EMBEDDED
from chimera_faults.scenarios import SCENARIOS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The rig's folder, as a process that has just started knows it."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    mutants._note.cache_clear()
    yield tmp_path
    mutants._note.cache_clear()


async def test_a_mutant_has_run_once_a_process_came_to_its_code(tmp_path: Path, folder: Path) -> None:
    store = changed_store(SQLiteStore(tmp_path / "store.db"), {"FAULTS_MUTANT": "numbers-before-commit"})
    try:
        await store.create([], 1)
        assert not has_run(folder)
        async with store.transaction():
            pass
        assert has_run(folder)
    finally:
        await store.close()


def test_a_patch_has_run_once_it_was_called(folder: Path) -> None:
    class Patched:
        def answer(self) -> int:
            return 1

    mutants._replace(Patched, "answer", lambda self: 2)
    assert not has_run(folder)
    assert Patched().answer() == 2
    assert has_run(folder)


@pytest.mark.parametrize(
    ("finding", "void", "state"),
    [("lost: a", "", "caught"), ("", "", "MISSED"), ("", "did not fire", "void"), ("lost: a", "never run", "void")],
)
def test_a_mutant_is_caught_only_when_its_code_ran_and_something_was_found(finding: str, void: str, state: str) -> None:
    assert Caught("no-dedupe", "s", finding, void, 1.0).state == state


def test_the_page_names_each_mutant_its_scenario_and_what_was_found() -> None:
    caught = Caught("no-dedupe", "read-head-killed-before-201", "doubled: a | b", "", 7.4)
    written = mutants_page([caught], seed="5", again="python -m it --mutants", seconds=7.0)
    assert (
        "| no-dedupe | the inbox is not asked | read-head-killed-before-201 | caught | doubled: a \\| b | 7 |"
        in written
    )
    assert "Seed 5. 1 of 1 caught, in 7 seconds." in written
    assert "python -m it --mutants" in written


def test_every_mutant_has_a_scenario_of_the_embedded_stack() -> None:
    known = {scenario.name for scenario in SCENARIOS if EMBEDDED in scenario.stacks}
    assert {mutant.scenario for mutant in MUTANTS.values()} <= known
