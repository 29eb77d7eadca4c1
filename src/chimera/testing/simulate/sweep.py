"""Many seeds: until one breaks a promise, which is then told by the smallest plan that breaks it."""

from __future__ import annotations

import gc
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from chimera.testing.plans import plan as plans
from chimera.testing.plans.draw import draw_plan, possible_kinds
from chimera.testing.plans.fleet import Fleet
from chimera.testing.plans.plan import KINDS, Kind, Plan
from chimera.testing.simulate.played import Played
from chimera.testing.simulate.run import Invariant, play
from chimera.testing.simulate.shrink import shrink
from chimera.testing.simulate.story import story
from chimera.testing.virtual.loop import Unraised

PLANS = Path("simulations")
"""The folder in which plans that broke something are kept, unless another one is given."""
COLLECT = 40
"""Garbage is collected after so many runs."""


class SimulationFailed(AssertionError):  # noqa: N818 - what happened
    """A promise or an invariant was broken. `plan` is the smallest plan found that breaks it, kept in `path`."""

    def __init__(self, text: str, plan: Plan, path: Path | None = None) -> None:
        super().__init__(text)
        self.plan = plan
        self.path = path


class Report(NamedTuple):
    """What many runs were: how often each kind of fault has struck, and which never did though it could have."""

    runs: int
    virtual_s: float
    steps: int
    commands: int
    reads: int
    struck: Counter[Kind]
    never: Sequence[Kind]

    def __str__(self) -> str:
        struck = ", ".join(f"{kind} {count}" for kind, count in self.struck.most_common())
        never = f"; never struck: {', '.join(self.never)}" if self.never else ""
        return (
            f"{self.runs} runs, {self.virtual_s / 3600:.2f} virtual hours, {self.commands} commands, "
            f"{self.reads} reads, {self.steps} steps; faults: {struck or 'none'}{never}"
        )


def simulate(
    fleet: Fleet,
    *,
    seeds: int | Iterable[int] = 100,
    invariants: Collection[Invariant] = (),
    in_the_end: Collection[Invariant] = (),
    kinds: Collection[Kind] = KINDS,
    keep: Path | None = PLANS,
    replay: Path | None = None,
    watch: Callable[[int, Played], None] = lambda number, outcome: None,
) -> Report:
    """Run a fleet under faults, once for each seed, and see that Chimera's promises and yours are kept.

    `seeds`: how many, from 1, or which. `invariants` are looked at after every commit, `in_the_end` when nothing is
    under way any more; each takes a `State`. `kinds`: the faults that may strike. `replay`: a plan that was kept, to
    run instead. `watch` is called after each run, with its number and what came of it.

    Raises SimulationFailed with the story of the smallest plan that breaks the same promise; the plan is kept in the
    folder `keep`. Raises it also when two runs of one plan differ.
    """
    playing = partial(play, fleet, invariants=invariants, in_the_end=in_the_end, collect=False)
    chosen = range(1, seeds + 1) if isinstance(seeds, int) else seeds
    drawn = [plans.load(replay)] if replay else (draw_plan(fleet, seed, kinds) for seed in chosen)
    runs, virtual_s, steps, commands, reads = 0, 0.0, 0, 0, 0
    struck: Counter[Kind] = Counter()
    with collecting() as collect:
        for plan in drawn:
            outcome = playing(plan)
            runs, virtual_s, steps = runs + 1, virtual_s + outcome.virtual_s, steps + outcome.steps
            commands, reads = commands + outcome.commands, reads + outcome.reads
            struck.update(outcome.struck)
            watch(runs, outcome)
            if outcome.broken:
                raise _failed(outcome, playing, keep, shrinks=replay is None)
            if runs % COLLECT == 0:
                collect()
    never = [kind for kind in possible_kinds(fleet, kinds) if not struck[kind]]
    return Report(runs, virtual_s, steps, commands, reads, struck, never)


def differs(first: Sequence[str], second: Sequence[str]) -> str:
    """Where two traces of one plan part, in words."""
    for number, (one, other) in enumerate(zip(first, second, strict=False), 1):
        if one != other:
            return f"step {number} was {one!r}, and then {other!r}"
    return f"one had {len(first)} steps, the other {len(second)}"


@contextmanager
def collecting() -> Iterator[Callable[[], object]]:
    """Garbage is collected by nobody but the function given, in this block: never within a run.

    What is there before the first of such blocks is not looked through again within it.
    """

    def collect() -> None:
        with Unraised():
            gc.collect()

    if gc.get_freeze_count() and not gc.isenabled():
        yield collect
        collect()
        return
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield collect
    finally:
        collect()
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _failed(outcome: Played, playing: Callable[..., Played], keep: Path | None, *, shrinks: bool) -> SimulationFailed:
    first, second = playing(outcome.plan, trace=True), playing(outcome.plan, trace=True)
    if first.digest != second.digest:
        return SimulationFailed(
            f"two runs of the plan of seed {outcome.plan.seed} differ: {differs(first.trace, second.trace)}. "
            "Something in the services depends on what a seed does not decide, such as datetime.now(), or a set's "
            "order; a handler takes the time from tx.now and ids from tx.new_id().",
            outcome.plan,
        )
    smallest = shrink(outcome, playing) if shrinks else outcome
    plan = msgspec.structs.replace(smallest.plan, commit=_commit())
    path = None
    if keep is not None and shrinks:
        path = keep / f"{'-'.join(smallest.broken[0].promise.split())}-{outcome.plan.seed}.json"
        plans.save(plan, path)
    told = story(playing(plan, notes=True))
    again = (
        f"\n\nIt was shrunk from seed {outcome.plan.seed}. Again, with the same invariants: --replay {path}"
        if path
        else ""
    )
    return SimulationFailed(told + again, plan, path)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)  # noqa: S603
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
