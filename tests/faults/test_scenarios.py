"""The quick set on the embedded stack: nothing lost, nothing doubled, nothing out of order, and nothing void."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from chimera.testing.faults.campaign import Plan, run_mutants, run_scenarios
from chimera.testing.faults.points import POINTS
from chimera.testing.faults.scenario import EMBEDDED, Result
from chimera.testing.faults.workload import Tallying

PLAN = Plan((EMBEDDED,), (), "1", True, None, Tallying(), 4)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def results() -> Mapping[str, Result]:
    found = asyncio.run(run_scenarios(PLAN, lambda line: None))
    return {result.scenario: result for result in found}


@pytest.mark.parametrize("name", [scenario.name for scenario in PLAN.scenarios(EMBEDDED)])
def test_nothing_is_lost_doubled_or_out_of_order(results: Mapping[str, Result], name: str) -> None:
    result = results[name]
    if result.skipped:
        pytest.skip(result.skipped)
    assert not result.void
    assert result.findings == []
    assert result.commands
    assert result.fired


def test_every_crash_point_is_reached(results: Mapping[str, Result]) -> None:
    assert {point for result in results.values() for point in result.reached} == set(POINTS)


def test_the_rig_goes_red_for_a_bug() -> None:
    [caught] = asyncio.run(run_mutants(PLAN, ["failed-append-confirmed"], lambda line: None))
    assert caught.is_caught
    assert caught.finding.startswith("lost: ")
