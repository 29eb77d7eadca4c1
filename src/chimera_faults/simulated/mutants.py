"""The rig's mistakes in the simulator: each has to be found within so many seeds, and its control in none."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from chimera.core.context import Context
from chimera.testing.fleets.world import World
from chimera.testing.plans.draw import draw_plan
from chimera.testing.simulate.run import play
from chimera.testing.simulate.sweep import COLLECT, collecting
from chimera_faults.patching import Mistake, Patching
from chimera_faults.simulated.fleet import IN_THE_END, INVARIANTS, fleet
from chimera_faults.simulated.reading import SIMULATED


class Hunt(NamedTuple):
    """What came of a hunt for a mistake: after how many seeds it was found (0: it was not), by which promise.

    `made`: in how many of the runs it was made; `failed`: how its own code failed, if it did.
    """

    mistake: str
    control: bool
    tried: int
    found: int
    finding: str
    made: int
    failed: str

    def __str__(self) -> str:
        state = "well " if self.is_well else "WRONG"
        if self.control:
            return f"{state} {self.mistake}, control: {self.failed or self.finding or f'clean in {self.tried} seeds'}"
        found = f"found after {self.found} seeds" if self.found else f"not found in {self.tried}"
        return f"{state} {self.mistake}: {found}, made in {self.made}; {self.failed or self.finding[:120]}"

    @property
    def is_well(self) -> bool:
        """The mistake was made and found, or the control was not."""
        if self.failed:
            return False
        return self.found == 0 and self.made == 0 if self.control else self.found > 0 and self.made > 0


def hunt(name: str, seeds: Iterable[int], *, control: bool = False) -> Hunt:
    """Run seeds until a mistake is found. Only a run in which it was made counts."""
    mistake, made, failures = SIMULATED[name], [0], list[str]()

    def wrong() -> bool:
        made[0] += not control
        return not control

    patching = Patching(wrong, failures.append)
    if mistake.patch:
        mistake.patch(patching)
    tried = runs_made = 0
    whole = fleet()
    prepare = partial(_wrap, mistake=mistake, patching=patching)
    try:
        with collecting() as collect:
            for tried, seed in enumerate(seeds, 1):
                before = made[0]
                plan = draw_plan(whole, seed)
                outcome = play(whole, plan, INVARIANTS, IN_THE_END, collect=False, prepare=prepare)
                runs_made += made[0] > before
                if failures or (outcome.broken and (control or made[0] > before)):
                    finding = str(outcome.broken[0]) if outcome.broken else ""
                    return Hunt(name, control, tried, tried, finding, runs_made, "; ".join(failures[:1]))
                if tried % COLLECT == 0:
                    collect()
    finally:
        patching.undo()
    return Hunt(name, control, tried, 0, "", runs_made, "")


def hunt_all(names: Sequence[str], seeds: int, controls: int, *, workers: int) -> Iterator[Hunt]:
    """Hunt for mistakes in so many seeds, and for each one's control, in so many processes."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        hunts = [
            pool.submit(hunt, name, range(1, count + 1), control=control)
            for name in names
            for control, count in ((False, seeds), (True, controls))
        ]
        yield from (each.result() for each in hunts)


def _wrap(world: World, mistake: Mistake, patching: Patching) -> None:
    def wrapped(context: Context) -> Context:
        store = mistake.store(context.store, patching.wrong) if mistake.store else context.store
        views = mistake.views(context.views, patching.wrong) if mistake.views else context.views
        return replace(context, store=store, views=views)

    world.wrapped = wrapped
