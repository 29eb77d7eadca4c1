"""The quick set on the embedded stack: nothing lost, nothing doubled, nothing out of order, and nothing void."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from chimera_faults.campaign import CampaignPlan, Caught, run_mutants, run_scenarios
from chimera_faults.points import POINTS
from chimera_faults.scenario import EMBEDDED, Result
from chimera_faults.workload import Tallying

PLAN = CampaignPlan((EMBEDDED,), (), "1", True, None, Tallying(), 3)
BUG = "failed-append-confirmed"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Ran(NamedTuple):
    results: Mapping[str, Result]
    caught: Caught
    control: Caught


def told(line: str) -> None:
    """Shown by pytest when a test fails."""
    print(line)


@pytest.fixture(scope="module")
def ran() -> Ran:
    """Everything at once: most of the time a fleet waits for its leases, or for what was killed to be there again."""

    async def run() -> Ran:
        results, [caught, control] = await asyncio.gather(run_scenarios(PLAN, told), run_mutants(PLAN, [BUG], told))
        return Ran({result.scenario: result for result in results}, caught, control)

    return asyncio.run(run())


@pytest.mark.parametrize("name", [scenario.name for scenario in PLAN.scenarios(EMBEDDED)])
def test_nothing_is_lost_doubled_or_out_of_order(ran: Ran, name: str) -> None:
    result = ran.results[name]
    if result.skipped:
        pytest.skip(result.skipped)
    assert not result.void
    assert result.findings == []
    assert result.commands
    assert result.fired


def test_every_crash_point_is_reached(ran: Ran) -> None:
    assert {point for result in ran.results.values() for point in result.reached} == set(POINTS)


def test_the_rig_goes_red_for_a_bug(ran: Ran) -> None:
    assert ran.caught.state == "caught"
    assert ran.caught.finding.startswith("lost: ")


def test_the_rig_stays_green_for_the_same_code_without_its_mistake(ran: Ran) -> None:
    assert (ran.control.state, ran.control.finding, ran.control.void) == ("clean", "", "")
