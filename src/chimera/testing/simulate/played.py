"""What came of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from chimera.testing.fleets.happenings import BrokenPromise, Happening
from chimera.testing.plans.plan import Kind, Plan


class Played(NamedTuple):
    """What came of a run. `digest`: of every step; equal for equal runs.

    `notes`: what happened, `trace`: a line for each step, where they were asked for.
    """

    plan: Plan
    broken: Sequence[BrokenPromise]
    digest: str
    steps: int
    virtual_s: float
    struck: Mapping[Kind, int]
    commands: int
    reads: int
    notes: Sequence[Happening] = ()
    trace: Sequence[str] = ()

    @property
    def promises(self) -> set[str]:
        """The promises that were broken."""
        return {each.promise for each in self.broken}
