"""A soak: what it takes for flat, what it spares, and a short one on the embedded stack."""

from __future__ import annotations

import asyncio
import os
import signal
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from chimera_faults import points
from chimera_faults.campaign import CampaignPlan, fleet
from chimera_faults.ledger import NO_ANSWER, Ledger
from chimera_faults.points import Armed, PointFolder, Trip
from chimera_faults.scenario import EMBEDDED, Scenario
from chimera_faults.scenarios import SCENARIOS, scenario_named
from chimera_faults.soak import held, is_well, page, report
from chimera_faults.soak_curves import BOUND_MIB_PER_H, Curve, growth, medians, slope_of, verdict
from chimera_faults.soak_run import END_ANY, SLOW_AND_WANTED, Soaked, one_head, soak, strikes_on
from chimera_faults.workload import Delivery, Tallying

HALF_S = 300


def curve(*mib: float) -> Curve:
    """What a process held, second by second."""
    made = Curve(1)
    for second, each in enumerate(mib):
        made.seconds.append(second)
        made.mib.append(each)
    return made


def judged(made: Curve) -> str:
    slope = growth(made, HALF_S, 2 * HALF_S)
    return verdict(slope, HALF_S) if slope else "ended"


def noise(random: Random) -> float:
    """A process that takes memory and gives it back, now and then a lot."""
    return random.gauss(0.0, 0.5) + (20.0 if random.random() < 0.02 else 0.0)


def test_the_slope_of_a_line_is_found_in_spite_of_outliers() -> None:
    points_of_line = [(x, 3.0 * x + (500.0 if x % 7 == 0 else 0.0)) for x in range(1, 40)]
    assert slope_of(points_of_line).middle == pytest.approx(3.0)


def test_the_interval_holds_the_slope_in_about_95_of_100_cases() -> None:
    random, held_it = Random(1), 0
    for _ in range(200):
        slope = slope_of([(float(x), 0.1 * x + random.gauss(0.0, 1.0)) for x in range(30)])
        held_it += slope.low <= 0.1 <= slope.high
    assert 180 <= held_it < 200


def test_a_stretch_counts_with_its_median() -> None:
    assert medians([(0, 1.0), (1, 9.0), (2, 2.0), (10, 5.0), (11, 5.0), (12, 5.0)], 2) == [(3.0, 2.0), (9.0, 5.0)]


def test_a_process_that_takes_memory_and_gives_it_back_is_flat() -> None:
    random = Random(1)
    assert judged(curve(*(100.0 + noise(random) for _ in range(2 * HALF_S + 1)))) == "flat"


def test_a_process_whose_caches_fill_up_early_is_flat() -> None:
    assert judged(curve(*(100.0 - 40.0 * 0.98**second for second in range(2 * HALF_S + 1)))) == "flat"


@pytest.mark.parametrize("share", [0.2, 0.36, 0.5, 0.7])
def test_one_step_on_a_slope_that_is_allowed_is_no_growth(share: float) -> None:
    random, step, per_second = Random(1), HALF_S * (1 + share), 0.75 * BOUND_MIB_PER_H / 3600
    held_by = [
        100.0 + per_second * second + (3.0 if second > step else 0.0) + random.gauss(0.0, 0.2)
        for second in range(2 * HALF_S + 1)
    ]
    assert judged(curve(*held_by)) == "flat"


def test_a_hundred_small_steps_are() -> None:
    random, steps = Random(1), sorted(Random(2).sample(range(2 * HALF_S), 100))
    held_by = [100.0 + random.gauss(0.0, 0.2) + 0.08 * bisect(steps, second) for second in range(2 * HALF_S + 1)]
    assert judged(curve(*held_by)) == "grows"


def test_a_process_that_grows_faster_than_the_bound_is_found() -> None:
    random = Random(1)
    per_second = 3 * BOUND_MIB_PER_H / 3600
    assert judged(curve(*(100.0 + per_second * each + noise(random) for each in range(2 * HALF_S + 1)))) == "grows"


def test_a_process_that_ended_in_the_second_half_is_not_judged_by_what_it_was() -> None:
    assert judged(curve(*(100.0 for _ in range(2 * HALF_S - 30)))) == "ended"


def test_a_short_time_says_nothing() -> None:
    slope = growth(curve(*(float(second) for second in range(61))), 30, 60)
    assert slope
    assert verdict(slope, 30.0) == "too short"


def test_what_the_ledger_forgets_it_reads_from_its_file_again(tmp_path: Path) -> None:
    kept = Ledger(tmp_path / "ledger.jsonl")
    for label, answers in {"a": [201], "b": [NO_ANSWER, 503, 201], "c": []}.items():
        entry = kept.send(Delivery(label, "k", "/", {"amount": 1}, direct=label == "b"), kept_none=label == "c")
        for status in answers:
            kept.answer(entry, status, f"id-{label}" if status == 201 else "")
    before = dict(kept.entries)
    kept.forget(["a", "b"])
    assert list(kept.entries) == ["c"]
    assert kept.send(Delivery("d", "k", "/", {})).sent_at == 3
    kept.recall()
    assert {label: kept.entries[label] for label in before} == before
    assert list(kept.entries) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("is_spared", [True, False])
async def test_a_process_that_is_spared_is_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_spared: bool
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(points, "_kill", lambda: killed.append(os.getpid()))
    folder = PointFolder(tmp_path)
    folder.arm([])
    folder.spare([os.getpid()] if is_spared else [1])
    folder.arm([Armed("f", "commands.read", "kill")])
    await Trip(folder, "").pass_by("commands.read")
    assert bool(killed) is not is_spared
    assert bool(folder.fired()) is not is_spared


def test_what_can_not_be_spared_strikes_only_when_nothing_is() -> None:
    assert {scenario.name for scenario in SCENARIOS} > END_ANY | SLOW_AND_WANTED
    sparing = {each.name for each in strikes_on(EMBEDDED, [1])}
    assert sparing.isdisjoint(END_ANY)
    assert {each.name for each in strikes_on(EMBEDDED, ())} == sparing | END_ANY


def some(stack: str, spared: Sequence[int]) -> list[Scenario]:
    killed = Scenario("a-head-killed", "", strike=one_head(signal.SIGKILL, spared))
    return [scenario_named("append-fails"), scenario_named("worker-killed-before-commit"), killed]


@pytest.fixture(scope="module")
def soaked() -> Soaked:
    async def run() -> Soaked:
        plan = CampaignPlan((EMBEDDED,), (), "1", True, None, Tallying())
        async with fleet(plan, EMBEDDED) as rig:
            return await soak(rig, seconds=5.0, rate=40.0, say=lambda line: None, choose=some)

    return asyncio.run(run())


@pytest.mark.slow
def test_a_short_soak_loses_nothing(soaked: Soaked) -> None:
    assert soaked.result.findings == []
    assert not soaked.result.void
    assert soaked.result.commands > 100
    assert soaked.struck.total() >= 2
    assert is_well(soaked)


@pytest.mark.slow
def test_a_short_soak_tells_the_memory_of_each_kind_of_process_and_of_the_driver(soaked: Soaked) -> None:
    found = held(soaked)
    kinds = ["gateway", "tally read", "tally write", "board read", "board write", "the rig"]
    assert sorted(each.kind for each in found) == sorted(kinds)
    assert {each.verdict for each in found} == {"too short"}
    assert all(mib and mib > 10 for each in found for mib in each.mib)
    told = "\n".join(report(soaked)) + page(soaked, again="", seed="1", rate=40.0, load=(0.0, 0.0), name="it.png")
    assert all(kind in told for kind in kinds)


@pytest.mark.slow
def test_a_soak_is_not_well_when_a_spared_process_has_ended(soaked: Soaked) -> None:
    pid = soaked.spared[-1]
    kept = soaked.curves.by_pid[pid]
    soaked.curves.by_pid[pid] = shorter = Curve(pid)
    shorter.kind, shorter.seconds, shorter.mib = kept.kind, kept.seconds[:2], kept.mib[:2]
    assert not is_well(soaked)
    soaked.curves.by_pid[pid] = kept
