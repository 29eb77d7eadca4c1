"""Whole fleets of services in one thread on a virtual clock, under faults, from one seed.

    def nothing_is_oversold(state: State) -> None:
        for item in state.rows(Item):
            assert item.left >= 0, item

    def test_the_shop(simulate):
        simulate(Fleet(shop, stock), seeds=200, invariants=[nothing_is_oversold])

Real code runs: handlers, projections, reactions, borrows, both heads. Only what is below the ports is simulated: time,
chance, engines, the network, and the processes, which are killed between any two awaits.
"""

from chimera.testing.simulate.draw import draw_plan
from chimera.testing.simulate.fleet import Fleet
from chimera.testing.simulate.loop import SimulationError
from chimera.testing.simulate.plan import KINDS, Fault, Kind, Plan, Sending
from chimera.testing.simulate.run import Invariant, Outcome, play
from chimera.testing.simulate.state import State
from chimera.testing.simulate.sweep import Report, SimulationFailed, simulate

__all__ = [
    "KINDS",
    "Fault",
    "Fleet",
    "Invariant",
    "Kind",
    "Outcome",
    "Plan",
    "Report",
    "Sending",
    "SimulationError",
    "SimulationFailed",
    "State",
    "draw_plan",
    "play",
    "simulate",
]
