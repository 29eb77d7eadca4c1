"""Chimera's own fleet in the simulator: nothing is broken, seeds repeat, mistakes are found, controls are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chimera.testing.plans.plan import KINDS
from chimera.testing.simulate import simulate
from chimera_faults.simulated.campaign import Runs, run_some, total
from chimera_faults.simulated.fleet import IN_THE_END, INVARIANTS, fleet
from chimera_faults.simulated.mutants import Hunt, hunt
from chimera_faults.simulated.reading import SIMULATED
from chimera_faults.simulated.report import hunts_page, page, summary

pytestmark = pytest.mark.slow

SEEDS, BLOCK = 300, 50
MUTANT_SEEDS = 200
RARE = {
    "lost-copies-believed",
    "failed-commit-confirmed",
    "failed-batch-skipped",
    "left-for-ever",
    "phantoms-not-noticed",
}
"""Mistakes that are seldom made: they are hunted by `make simulate ARGS=--mutants`, within a thousand seeds."""
PLANS = sorted((Path(__file__).parent / "plans").glob("*.json"))


def digests_of(seeds: range, hash_seed: str) -> dict[int, str]:
    """The digests of seeds in another process."""
    command = [sys.executable, "-m", "chimera_faults.simulated", "--digests", "--workers", "1"]
    command += ["--seed", str(seeds.start), "--seeds", str(len(seeds))]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {int(seed): digest for seed, digest in json.loads(ran.stdout).items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(1, SEEDS, BLOCK))
def test_nothing_is_broken_and_every_seed_repeats_in_another_process(first: int) -> None:
    seeds = range(first, first + BLOCK)
    runs = run_some(seeds)
    assert runs.broken == {}
    assert runs.commands > 10 * BLOCK
    assert runs.reads > runs.commands
    rare = {"upgraded"}  # the fleet has one build
    assert {kind for kind in KINDS if not runs.struck[kind]} <= rare | {
        "retried",
        "killed at a call",
        "restored",
        "unanswered",
    }
    assert digests_of(seeds, "4242") == runs.digests


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in SIMULATED if name not in RARE])
def test_a_mistake_is_found_and_the_same_code_without_it_is_not(name: str) -> None:
    found = hunt(name, range(1, MUTANT_SEEDS + 1))
    assert found.is_well, str(found)
    control = hunt(name, range(1, max(found.found, 10) + 1), control=True)
    assert control.is_well, str(control)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_what_was_found_once_is_mended(path: Path) -> None:
    simulate(fleet(), invariants=INVARIANTS, in_the_end=IN_THE_END, replay=path, keep=None)


def test_a_campaign_is_told() -> None:
    runs = total([run_some([1, 2]), run_some([3])])
    assert list(runs.digests) == [1, 2, 3]
    assert summary(runs, 2.0).startswith("3 runs of ")
    assert "(1.5 a second)" in summary(runs, 2.0)
    broken = runs._replace(broken={2: "no work is stuck: a"})
    assert "- seed 2: no work is stuck: a" in page(broken, 2.0, "make simulate")
    assert isinstance(runs, Runs)


def test_a_hunt_is_told() -> None:
    found = Hunt("no-dedupe", False, 4, 4, "a command has its effect once: c1", 2, "")
    control = Hunt("no-dedupe", True, 4, 0, "", 0, "")
    assert "| no-dedupe | the inbox is not asked | 4 | a command has its effect once | clean in 4 |" in hunts_page(
        [found, control]
    )
    assert not found._replace(failed="TypeError").is_well
    assert not found._replace(made=0).is_well
    assert not control._replace(found=3).is_well
    assert "not found in 4" in str(found._replace(found=0))
