"""Chimera measured beside its peers and the machine's limit: `make bench`, or `make bench WHAT=reads`.

One core is kept for what is measured; load, engines and everything else run on the others. Every figure is the median
of runs that take turns with the other subjects'. A part that is run takes the place of its rows in results.json.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click

from benchmarks import load, report
from benchmarks.engines import engines_on_other_cores
from benchmarks.harness import OTHERS, Bench

GROUPS = {
    "footprint": "benchmarks.footprint.measure",
    "reads": "benchmarks.reads.measure",
    "intake": "benchmarks.intake.measure",
    "write-head": "benchmarks.write_head.measure",
    "projection": "benchmarks.projection.measure",
    "end-to-end": "benchmarks.end_to_end.measure",
    "growth": "benchmarks.growth.measure",
    "lists": "benchmarks.growth.pages",
    "kit": "benchmarks.kit.measure",
    "costs": "benchmarks.costs.measure",
}
RESULTS = Path(__file__).parent.parent / "docs" / "results" / "benchmarks"


@click.command(help=__doc__)
@click.argument("groups", nargs=-1, type=click.Choice([*GROUPS]))
@click.option("--quick", is_flag=True, help="See that everything works: one short run each, figures of no worth.")
@click.option("--engine", default="", help="Only this engine, or stack, as the table names it.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where results.json and the picture go.")
def main(groups: tuple[str, ...], quick: bool, engine: str, out: Path | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    load.install()
    os.sched_setaffinity(0, OTHERS)
    bench = Bench(runs=1, seconds=1.0, scale=0.02, engine=engine) if quick else Bench(engine=engine)
    with nullcontext() if quick else engines_on_other_cores():
        for group in groups or GROUPS:
            began = time.monotonic()
            with bench.surviving(group):
                importlib.import_module(GROUPS[group]).measure(bench)
            print(f"{group}: {time.monotonic() - began:.0f} s\n", flush=True)
    if bench.rows and (out or not quick):
        report.write(out or RESULTS, bench.rows)
    print(report.page(bench.rows))
    for failure in bench.failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if bench.failures else 0)


if __name__ == "__main__":
    main()
