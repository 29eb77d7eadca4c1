"""The command line of the rig."""

from __future__ import annotations

import asyncio
import importlib
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from chimera.errors import ChimeraError
from chimera_faults.campaign import CampaignPlan, end_in_order_on_sigterm, run_mutants, run_scenarios
from chimera_faults.mistakes import MISTAKES
from chimera_faults.points import POINTS
from chimera_faults.report import mutants_page, page, summary, table
from chimera_faults.rig import BOUND_S
from chimera_faults.scenario import EMBEDDED, EVERY_STACK, OWN
from chimera_faults.scenarios import SCENARIOS
from chimera_faults.workload import Tallying, Workload


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--stack", "stacks", multiple=True, type=click.Choice(EVERY_STACK), help="May be repeated; else all.")
@click.option("--log", default="", help="Your own engine as log, by its URL, with {tag} in it.")
@click.option("--store", default="", help="Your own store; {tag} and {service} are filled in.")
@click.option("--views", default="", help="Your own view store.")
@click.option("--quick", is_flag=True, help="The embedded stack only, and no scenario that takes long.")
@click.option("--long", "long", is_flag=True, help="Also the scenarios that take many minutes.")
@click.option("--scenario", "names", multiple=True, help="Only these; may be repeated.")
@click.option("--mutants", is_flag=True, help="Check that deliberate bugs are caught.")
@click.option("--mutant", "mutant_names", multiple=True, help="Only these; may be repeated.")
@click.option("--fleets", type=click.IntRange(1, 8), default=3, show_default=True, help="How many run at once.")
@click.option("--seed", default="1", show_default=True, help="The same seed sends the same commands.")
@click.option("--workload", "where", help="Your own services: module:attribute of a Workload.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Also write the page of a run, such as docs/results/faults.md."
)
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for ledgers and logs, which stay there.")
@click.option("--list", "listing", is_flag=True, help="List scenarios, crash points and mutants.")
def main(
    stacks: Sequence[str],
    log: str,
    store: str,
    views: str,
    quick: bool,
    long: bool,
    names: Sequence[str],
    mutants: bool,
    mutant_names: Sequence[str],
    fleets: int,
    seed: str,
    where: str | None,
    out: Path | None,
    keep: Path | None,
    listing: bool,
) -> None:
    """Break a running fleet on purpose, and count what was lost, doubled or out of order."""
    if listing:
        _list()
        return
    if unknown := set(names) - {scenario.name for scenario in SCENARIOS}:
        raise click.UsageError(f"there is no scenario {', '.join(sorted(unknown))}; see --list")
    if unknown := set(mutant_names) - set(MISTAKES):
        raise click.UsageError(f"there is no mutant {', '.join(sorted(unknown))}; see --list")
    own = {kind: url for kind, url in (("log", log), ("store", store), ("views", views)) if url}
    chosen = (OWN,) if own else (EMBEDDED,) if quick else tuple(stacks) or EVERY_STACK
    end_in_order_on_sigterm()
    plan = CampaignPlan(chosen, tuple(names), seed, quick, keep, _workload(where), fleets, long, own)
    try:
        if mutants or mutant_names:
            sys.exit(_mutants(plan, mutant_names or tuple(MISTAKES), out))
        began = time.monotonic()
        results = asyncio.run(run_scenarios(plan, click.echo))
        seconds = time.monotonic() - began
    except ChimeraError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{table(results)}\n{summary(results)}")
    if out is not None:
        out.write_text(
            page(
                results,
                seed=seed,
                again=_again(),
                bound_s=BOUND_S,
                seconds=seconds,
                scenarios=SCENARIOS,
            )
        )
    sys.exit(0 if all(result.is_well for result in results) else 1)


def _mutants(plan: CampaignPlan, names: Sequence[str], out: Path | None) -> int:
    """Run them; the exit status."""
    began = time.monotonic()
    caught = asyncio.run(run_mutants(plan, names, click.echo))
    seconds = time.monotonic() - began
    all_caught = all(each.state == ("clean" if each.control else "caught") for each in caught)
    of = f"{len(names)} caught, and their controls clean"
    click.echo(f"{'all' if all_caught else 'not all'} of {of}, in {seconds:.0f} s")
    if out is not None:
        out.write_text(mutants_page(caught, seed=plan.seed, again=_again(), seconds=seconds))
    return 0 if all_caught else 1


def _again() -> str:
    return f"python -m chimera_faults {shlex.join(sys.argv[1:])}"


def _workload(where: str | None) -> Workload:
    if where is None:
        return Tallying()
    module, _, name = where.partition(":")
    try:
        sys.path.insert(0, str(Path.cwd()))
        return cast("Workload", getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise click.UsageError(f"--workload {where!r} must look like module:attribute: {error}") from error


def _list() -> None:
    for scenario in SCENARIOS:
        click.echo(f"scenario  {scenario.name:<36} {scenario.what}")
    for name, what in POINTS.items():
        click.echo(f"point     {name:<36} {what}")
    for name, mutant in MISTAKES.items():
        click.echo(f"mutant    {name:<36} {mutant.what}")
