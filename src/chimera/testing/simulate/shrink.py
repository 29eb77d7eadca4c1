"""Shrinking: from a plan that breaks a promise to a small one that breaks the same.

Delta debugging (A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002) on commands and
faults, then simpler processes and times. A smaller plan runs in another order; so each is tried with a few seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from chimera.testing.plans.plan import Fault, Plan, Sending
from chimera.testing.simulate.played import Played

Item = TypeVar("Item")
Play = Callable[[Plan], Played]

TRIES = 4
"""The seeds that each smaller plan is tried with."""
MOST_RUNS = 600


def shrink(found: Played, play: Play) -> Played:
    """A smaller plan's outcome that breaks the first promise that `found` breaks; else `found` itself."""
    return _Shrinking(found, play).run()


class _Shrinking:
    def __init__(self, found: Played, play: Play) -> None:
        self._promise = found.broken[0].promise
        self._play = play
        self._runs = 0
        self.best = found

    def run(self) -> Played:
        while True:
            before = self.best.plan
            self._drop("faults", self.best.plan.faults)
            self._drop("commands", self.best.plan.commands)
            for simpler in _simpler(self.best.plan):
                self._try(simpler(self.best.plan))
            for index in range(len(self.best.plan.faults)):
                self._shorten(index)
            if self.best.plan == before or self._runs >= MOST_RUNS:
                return self.best

    def _drop(self, field: str, items: Sequence[Fault] | Sequence[Sending]) -> None:
        size = len(items)
        while size:
            start = 0
            while start < len(items):
                left = [*items[:start], *items[start + size :]]
                if self._try(msgspec.structs.replace(self.best.plan, **{field: left})):
                    items = left
                else:
                    start += size
            size //= 2

    def _shorten(self, index: int) -> None:
        fault = self.best.plan.faults[index]
        for shorter in (0.1, fault.for_s / 4, fault.for_s / 2):
            if shorter < fault.for_s:
                faults = [*self.best.plan.faults]
                faults[index] = msgspec.structs.replace(fault, for_s=round(shorter, 3))
                if self._try(msgspec.structs.replace(self.best.plan, faults=faults)):
                    return

    def _try(self, plan: Plan) -> bool:
        """Whether a plan breaks the same promise: then it is the best so far."""
        if plan == self.best.plan:
            return False
        for offset in range(TRIES):
            if self._runs >= MOST_RUNS:
                return False
            self._runs += 1
            outcome = self._play(msgspec.structs.replace(plan, seed=plan.seed + offset))
            if self._promise in outcome.promises:
                self.best = outcome
                return True
        return False


def _simpler(plan: Plan) -> Iterator[Callable[[Plan], Plan]]:
    """Ways to make a plan plainer."""
    for role in plan.processes:
        yield partial(_with_one, role)
    yield lambda plan: msgspec.structs.replace(plan, shuffle=False)
    yield lambda plan: msgspec.structs.replace(plan, delayed=0.05, latency_s=0.001)
    yield lambda plan: msgspec.structs.replace(plan, network_s=0.001)
    yield lambda plan: msgspec.structs.replace(plan, until_s=round(plan.until_s / 2, 3))


def _with_one(role: str, plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, processes={**plan.processes, role: 1})
