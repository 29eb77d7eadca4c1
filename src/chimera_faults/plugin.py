"""The pytest plugin: the fixture `struck`, for authors of engines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

QUICK = ("worker-killed-in-commit", "relay-killed", "view-writer-killed", "confirm-lost", "lease-holder-killed")


@pytest.fixture
def struck() -> Callable[..., Awaitable[None]]:
    """Strikes a fleet of real processes on engines of your own, and fails where anything was lost or done twice.

    `await struck(log="mine://localhost/{tag}", scenarios=(…), seed="1")`: `log`, `store` and `views` are URLs in which
    `{tag}`, another one in each run, and `{service}` are filled in; embedded engines where there is none. What was made
    there is the test's to take away. `scenarios`: names as `python -m chimera_faults --list` has them, or all with ().
    """

    async def strike(
        *, log: str = "", store: str = "", views: str = "", scenarios: Sequence[str] = QUICK, seed: str = "1"
    ) -> None:
        __tracebackhide__ = True
        from chimera_faults.campaign import CampaignPlan, run_scenarios
        from chimera_faults.report import table
        from chimera_faults.scenario import OWN
        from chimera_faults.scenarios import SCENARIOS
        from chimera_faults.workload import Tallying

        known = {scenario.name: scenario for scenario in SCENARIOS}
        for name in scenarios:
            if name not in known or not known[name].strikes(OWN):
                pytest.fail(f"no scenario {name!r} strikes engines of any kind; see: python -m chimera_faults --list")
        own = {kind: url for kind, url in (("log", log), ("store", store), ("views", views)) if url}
        plan = CampaignPlan((OWN,), tuple(scenarios), seed, quick=False, keep=None, workload=Tallying(), own=own)
        told: list[str] = []
        results = await run_scenarios(plan, lambda line: told.append(str(line)))
        if not all(result.is_well for result in results):
            pytest.fail("\n".join([table(results), *told]), pytrace=False)

    return strike
