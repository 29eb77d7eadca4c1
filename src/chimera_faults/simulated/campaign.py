"""Many seeds of Chimera's own fleet, on every core."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

from chimera.testing.plans.draw import draw_plan
from chimera.testing.plans.plan import KINDS, Kind
from chimera.testing.simulate.run import play
from chimera.testing.simulate.sweep import COLLECT, collecting
from chimera_faults.simulated.fleet import IN_THE_END, INVARIANTS, fleet

CHUNK = 25
"""The seeds that a process runs before it says what came of them."""


class Runs(NamedTuple):
    """What came of some seeds. `broken`: the seeds that broke a promise, each with the first one."""

    digests: dict[int, str]
    broken: dict[int, str]
    processes: int
    virtual_s: float
    steps: int
    commands: int
    reads: int
    struck: Counter[Kind]


def run_some(seeds: Sequence[int], kinds: Collection[Kind] = KINDS) -> Runs:
    """Run seeds in this process."""
    digests: dict[int, str] = {}
    broken: dict[int, str] = {}
    struck: Counter[Kind] = Counter()
    processes, virtual_s, steps, commands, reads = 0, 0.0, 0, 0, 0
    whole = fleet()
    with collecting() as collect:
        for count, seed in enumerate(seeds, 1):
            plan = draw_plan(whole, seed, kinds)
            outcome = play(whole, plan, INVARIANTS, IN_THE_END, collect=False)
            digests[seed] = outcome.digest
            if outcome.broken:
                broken[seed] = str(outcome.broken[0])
            processes += sum(plan.processes.values())
            virtual_s, steps = virtual_s + outcome.virtual_s, steps + outcome.steps
            commands, reads = commands + outcome.commands, reads + outcome.reads
            struck.update(outcome.struck)
            if count % COLLECT == 0:
                collect()
    return Runs(digests, broken, processes, virtual_s, steps, commands, reads, struck)


def run_all(seeds: Iterable[int], kinds: Collection[Kind] = KINDS, *, workers: int = 1) -> Iterator[Runs]:
    """Run seeds in so many processes, a chunk after another; in this one alone where it is one."""
    chunks = list(_chunks(list(seeds)))
    work = partial(run_some, kinds=kinds)
    if workers == 1:
        with collecting():
            yield from map(work, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, chunks)


def total(chunks: Sequence[Runs]) -> Runs:
    """All of them in one."""
    return Runs(
        {seed: digest for chunk in chunks for seed, digest in chunk.digests.items()},
        {seed: text for chunk in chunks for seed, text in chunk.broken.items()},
        sum(chunk.processes for chunk in chunks),
        sum(chunk.virtual_s for chunk in chunks),
        sum(chunk.steps for chunk in chunks),
        sum(chunk.commands for chunk in chunks),
        sum(chunk.reads for chunk in chunks),
        sum((chunk.struck for chunk in chunks), Counter()),
    )


def _chunks(seeds: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(seeds), CHUNK):
        yield seeds[start : start + CHUNK]
