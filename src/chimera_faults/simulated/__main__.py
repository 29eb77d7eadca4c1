"""`make simulate`: Chimera's own fleet from many seeds, and the mistakes that have to be found."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click

from chimera.testing.simulate import KINDS, Kind, SimulationFailed, simulate
from chimera_faults.simulated.campaign import Runs, run_all, total
from chimera_faults.simulated.fleet import IN_THE_END, INVARIANTS, fleet
from chimera_faults.simulated.mutants import Hunt, hunt_all
from chimera_faults.simulated.reading import SIMULATED
from chimera_faults.simulated.report import hunts_page, page, summary

MUTANT_SEEDS, CONTROL_SEEDS = 1000, 200


@click.command()
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@click.option("--only", multiple=True, metavar="KIND", help="Only faults of this kind; may be repeated.")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("--digests", is_flag=True, help="Print the digest of each seed as JSON, and nothing else.")
@click.option(
    "--mutants", is_flag=True, help=f"Find each deliberate mistake within {MUTANT_SEEDS} seeds, and no control."
)
@click.option("--mutant", "names", multiple=True, type=click.Choice([*SIMULATED]), help="Find this one.")
@click.option("--replay", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Play a plan again.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a page about it.")
def main(
    seed: int,
    seeds: int,
    only: tuple[str, ...],
    workers: int,
    digests: bool,
    mutants: bool,
    names: tuple[str, ...],
    replay: Path | None,
    out: Path | None,
) -> None:
    """Simulate Chimera's own fleet of three services."""
    if unknown := set(only) - set(KINDS):
        raise click.UsageError(f"there is no fault {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    kinds: list[Kind] = [kind for kind in KINDS if not only or kind in only]
    if mutants or names:
        sys.exit(_hunt(names or tuple(SIMULATED), workers, out))
    if replay is not None:
        sys.exit(_tell([seed], replay))
    began, chunks = time.monotonic(), list[Runs]()
    for chunk in run_all(range(seed, seed + seeds), kinds, workers=workers):
        chunks.append(chunk)
        for each, text in chunk.broken.items():
            click.echo(f"seed {each}: {text}", err=digests)
        if not digests and len(chunks) % 40 == 0:
            click.echo(summary(total(chunks), time.monotonic() - began), err=True)
    found, seconds = total(chunks), time.monotonic() - began
    if digests:
        click.echo(json.dumps(found.digests))
        return
    click.echo(summary(found, seconds))
    if out is not None:
        out.write_text(page(found, seconds, f"python -m chimera_faults.simulated {' '.join(sys.argv[1:])}"))
    if found.broken:
        sys.exit(_tell([min(found.broken)], None, kinds))


def _tell(seeds: list[int], replay: Path | None, kinds: list[Kind] | None = None) -> int:
    """Tell the story of the smallest plan; the exit status."""
    try:
        report = simulate(
            fleet(), seeds=seeds, invariants=INVARIANTS, in_the_end=IN_THE_END, kinds=kinds or KINDS, replay=replay
        )
    except SimulationFailed as failed:
        click.echo(str(failed))
        return 1
    click.echo(f"all is well: {report}")
    return 0


def _hunt(names: tuple[str, ...], workers: int, out: Path | None) -> int:
    hunts: list[Hunt] = []
    for found in hunt_all(names, MUTANT_SEEDS, CONTROL_SEEDS, workers=workers):
        hunts.append(found)
        click.echo(str(found))
    if out is not None:
        out.write_text(hunts_page(hunts))
    return 0 if all(each.is_well for each in hunts) else 1


if __name__ == "__main__":
    main()
