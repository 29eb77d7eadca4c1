"""Engines of one's own under the rig: by a fixture, and by the command line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from chimera_faults.campaign import CampaignPlan
from chimera_faults.scenario import EVERY_STACK, OWN
from chimera_faults.stacks import stack_of
from chimera_faults.workload import Tallying

Struck = Callable[..., Awaitable[None]]


def names_in(folder: Path) -> set[str]:
    return {each.name.partition("-")[2] for each in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_store_of_ones_own_is_struck(struck: Struck, tmp_path: Path) -> None:
    await struck(store=f"sqlite:///{tmp_path}/{{tag}}-{{service}}.db", scenarios=("worker-killed-in-commit",))
    assert names_in(tmp_path) >= {"tally.db", "board.db"}


async def test_what_strikes_known_engines_only_is_not_for_ones_own(struck: Struck) -> None:
    with pytest.raises(pytest.fail.Exception, match="no scenario 'owner-put-back' strikes engines of any kind"):
        await struck(scenarios=("owner-put-back",))


def test_own_engines_take_the_places_that_they_are_for() -> None:
    plan = CampaignPlan((OWN,), (), "1", quick=True, keep=None, workload=Tallying(), own={"log": "mine://a/{tag}"})
    urls = stack_of(OWN, "f1", plan.own).urls
    assert (urls["log"], urls["store"]) == ("mine://a/f1", "sqlite:///{state}/{service}.db")
    names = {scenario.name for scenario in plan.scenarios(OWN)}
    assert {"worker-killed-in-commit", "relay-killed"} <= names
    for stack in EVERY_STACK:
        every = {scenario.name for scenario in plan._replace(own={}).scenarios(stack)}
        assert names <= every
