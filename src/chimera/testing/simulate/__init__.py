"""Whole fleets of services in one thread on a virtual clock, under faults, from one seed.

    def nothing_is_oversold(state: State) -> None:
        for item in state.rows(Item):
            assert item.left >= 0, item

    def test_the_shop(simulate):
        simulate(Fleet(shop, stock), seeds=200, invariants=[nothing_is_oversold])

Real code runs: handlers, projections, reactions, borrows, both heads. Only what is below the ports is simulated: time,
chance, engines, the network, and the processes, which are killed between any two awaits.
"""

from chimera.testing.fleets.state import State
from chimera.testing.plans.draw import draw_plan
from chimera.testing.plans.fleet import Fleet
from chimera.testing.plans.plan import KINDS, Fault, Kind, Plan, Sending
from chimera.testing.simulate.played import Played
from chimera.testing.simulate.run import Invariant, play
from chimera.testing.simulate.sweep import Report, SimulationFailed, simulate
from chimera.testing.virtual.loop import SimulationError

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
