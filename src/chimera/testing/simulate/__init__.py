"""Whole fleets of services in one thread on a virtual clock, under faults, from one seed.

    def nothing_is_oversold(state: State) -> None:
        for item in state.rows(Item):
            assert item.left >= 0, item

    def test_the_shop(simulate):
        simulate(Fleet(shop, stock), seeds=200, invariants=[nothing_is_oversold])

Real code runs: handlers, projections, reactions, borrows, both heads. Only what is below the ports is simulated: time,
chance, engines, the network, and the processes, which are killed between any two awaits.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chimera.testing.fleets.state import State
    from chimera.testing.plans.draw import draw_plan
    from chimera.testing.plans.fleet import Fleet
    from chimera.testing.plans.plan import KINDS, Fault, Kind, Plan, Sending
    from chimera.testing.simulate.played import Played
    from chimera.testing.simulate.run import Invariant, play
    from chimera.testing.simulate.sweep import Report, SimulationFailed, simulate
    from chimera.testing.virtual.loop import SimulationError

_HOMES = {
    "KINDS": "plans.plan",
    "Fault": "plans.plan",
    "Fleet": "plans.fleet",
    "Invariant": "simulate.run",
    "Kind": "plans.plan",
    "Plan": "plans.plan",
    "Played": "simulate.played",
    "Report": "simulate.sweep",
    "Sending": "plans.plan",
    "SimulationError": "virtual.loop",
    "SimulationFailed": "simulate.sweep",
    "State": "fleets.state",
    "draw_plan": "plans.draw",
    "play": "simulate.run",
    "simulate": "simulate.sweep",
}
"""Loaded when they are asked for: pytest loads this package for its plugin in every project that has Chimera."""

__all__ = [
    "KINDS",
    "Fault",
    "Fleet",
    "Invariant",
    "Kind",
    "Plan",
    "Played",
    "Report",
    "Sending",
    "SimulationError",
    "SimulationFailed",
    "State",
    "draw_plan",
    "play",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"chimera.testing.{_HOMES[name]}"), name)
