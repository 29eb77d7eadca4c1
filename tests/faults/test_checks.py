"""What the rig looks at afterwards, and when a run proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from chimera import SettingsError, Unavailable
from chimera.commands.inbox import Outcome
from chimera_faults.checks import Found, check_place
from chimera_faults.ledger import NO_ANSWER, Ledger
from chimera_faults.points import Armed, PointFolder, Trip
from chimera_faults.rig import Rig, Run
from chimera_faults.scenario import Scenario
from chimera_faults.stacks import stack_of
from chimera_faults.workload import Delivery, Place, Tallying


def ledger(tmp_path: Path, **statuses: list[int]) -> Ledger:
    """Commands of one key, in this order, with what was answered to each."""
    kept = Ledger(tmp_path / "ledger.jsonl")
    for label, answers in statuses.items():
        entry = kept.send(Delivery(label, "k", "/", {}))
        for status in answers:
            kept.answer(entry, status, f"id-{label}")
    return kept


def found_at(kept: Ledger, *labels: str, aside: tuple[str, ...] = (), rejected: str = "") -> Found:
    states = {entry.command_id: Outcome("done") for entry in kept.entries.values() if entry.accepted}
    states |= {f"id-{rejected}": Outcome("rejected")} if rejected else {}
    found = Found()
    place = Place("here", ("s/commands",), {"k": labels})
    check_place(found, place, kept.entries, states, {"s/commands": aside})
    return found


def test_all_is_well_when_each_accepted_command_shows_once_and_in_order(tmp_path: Path) -> None:
    assert found_at(ledger(tmp_path, a=[201], b=[503, 201]), "a", "b").everything == []


def test_an_accepted_command_that_does_not_show_is_lost(tmp_path: Path) -> None:
    assert len(found_at(ledger(tmp_path, a=[201], b=[201]), "a").lost) == 1


def test_one_that_is_set_aside_or_refused_is_not(tmp_path: Path) -> None:
    kept = ledger(tmp_path, a=[201], b=[201])
    assert found_at(kept, "a", aside=("b",)).everything == []
    assert found_at(kept, "a", rejected="b").everything == []


def test_one_that_nobody_answered_may_show_or_not_and_at_most_once(tmp_path: Path) -> None:
    kept = ledger(tmp_path, a=[NO_ANSWER])
    assert found_at(kept).everything == []
    assert found_at(kept, "a").everything == []
    assert len(found_at(kept, "a", "a").doubled) == 1


def test_an_effect_that_shows_twice_is_doubled(tmp_path: Path) -> None:
    assert len(found_at(ledger(tmp_path, a=[201]), "a", "a").doubled) == 1


def test_effects_of_a_key_in_another_order_than_they_were_sent_in_are_found(tmp_path: Path) -> None:
    assert len(found_at(ledger(tmp_path, a=[201], b=[201]), "b", "a").out_of_order) == 1


@pytest.mark.parametrize("statuses", [{}, {"a": [409]}])
def test_an_effect_that_nobody_sent_or_that_was_refused_is_found(
    tmp_path: Path, statuses: dict[str, list[int]]
) -> None:
    assert len(found_at(ledger(tmp_path, **statuses), "a").unasked) == 1


def test_what_was_sent_once_and_answered_503_must_not_show(tmp_path: Path) -> None:
    kept = Ledger(tmp_path / "ledger.jsonl")
    kept.answer(kept.send(Delivery("a", "k", "/", {}), kept_none=True), 503)
    assert len(found_at(kept, "a").unasked) == 1


def test_the_ledger_is_in_its_file_before_anything_goes_on(tmp_path: Path) -> None:
    kept = Ledger(tmp_path / "ledger.jsonl")
    entry = kept.send(Delivery("a", "k", "/", {}))
    assert b'"sent","label":"a"' in (tmp_path / "ledger.jsonl").read_bytes()
    kept.answer(entry, 201, "id")
    assert b'"status":201' in (tmp_path / "ledger.jsonl").read_bytes()


async def test_a_run_whose_fault_did_not_fire_is_void(tmp_path: Path) -> None:
    rig = Rig(stack_of("embedded", "t"), Tallying(), tmp_path)
    run = Run(rig, Scenario("s", "", [Armed("", "events.read", "raise")]), "s0")
    assert "raise at events.read" in run.unfired()
    rig.folder.arm([Armed("s0-0", "events.read", "raise")])
    with pytest.raises(Unavailable):
        await Trip(rig.folder, "").pass_by("events.read")
    assert run.unfired() == ""


async def test_a_run_from_outside_is_void_until_something_was_struck(tmp_path: Path) -> None:
    async def nothing(run: Run) -> None: ...

    run = Run(Rig(stack_of("embedded", "t"), Tallying(), tmp_path), Scenario("s", "", strike=nothing), "s0")
    assert run.unfired()
    run.struck("something")
    assert run.unfired() == ""


class Passing:
    """Two processes that pass a point."""

    def __init__(self, folder: Path, *faults: Armed) -> None:
        self.folder = PointFolder(folder)
        self.folder.arm(faults)
        self.trips = [Trip(self.folder, "run tally --write"), Trip(self.folder, "run tally --read")]

    async def by(self, trip: int, times: int = 1) -> int:
        """How many of so many passes were struck."""
        struck = 0
        for _ in range(times):
            try:
                await self.trips[trip].pass_by("commands.read")
            except Unavailable:
                struck += 1
        return struck


async def test_a_fault_strikes_from_its_nth_pass_on_as_often_as_it_says_in_all_processes(tmp_path: Path) -> None:
    passing = Passing(tmp_path, Armed("f", "commands.read", "raise", nth=3, times=2))
    assert [await passing.by(0, 3), await passing.by(1, 9), await passing.by(0, 9)] == [1, 1, 0]
    assert len(passing.folder.fired()) == 2


async def test_a_fault_that_goes_on_ends_when_it_is_no_longer_armed(tmp_path: Path) -> None:
    passing = Passing(tmp_path, Armed("f", "commands.read", "raise", times=0))
    assert await passing.by(0, 5) == 5
    passing.folder.arm([])
    assert await passing.by(0, 5) == 0
    assert len(passing.folder.fired()) == 1


async def test_a_fault_strikes_only_the_processes_that_it_names(tmp_path: Path) -> None:
    passing = Passing(tmp_path, Armed("f", "commands.read", "raise", times=0, where="--read"))
    assert [await passing.by(0), await passing.by(1)] == [0, 1]


def test_only_known_points_can_be_armed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no crash point"):
        PointFolder(tmp_path).arm([Armed("f", "commands.reed", "kill")])
