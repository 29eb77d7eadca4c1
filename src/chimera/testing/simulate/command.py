"""`chimera simulate`: the services of a configuration under faults, from one seed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chimera.cli.main import fail, settings_of
from chimera.errors import ChimeraError, SettingsError

if TYPE_CHECKING:
    from chimera.testing.simulate import Fleet


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="How many runs, one a seed.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first seed.")
@click.option(
    "--invariant", "invariants", multiple=True, metavar="MODULE:FUNCTION", help="What must hold after every commit."
)
@click.option(
    "--in-the-end", multiple=True, metavar="MODULE:FUNCTION", help="What must hold when nothing is under way any more."
)
@click.option(
    "--fleet", "where", metavar="MODULE:FLEET", help="A Fleet of your own, in the place of all services configured."
)
@click.option("--only", multiple=True, metavar="KIND", help="Only faults of this kind; may be repeated.")
@click.option("--replay", type=click.Path(dir_okay=False, path_type=Path), help="A plan that was kept, to play again.")
@click.option(
    "--plans",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("simulations"),
    show_default=True,
    help="Where a plan that breaks something is kept.",
)
@click.pass_obj
def simulate(
    config: str,
    seeds: int,
    seed: int,
    invariants: tuple[str, ...],
    in_the_end: tuple[str, ...],
    where: str | None,
    only: tuple[str, ...],
    replay: Path | None,
    plans: Path,
) -> None:
    """Run all services in one thread on a virtual clock, under faults, and see that what was promised is kept."""
    from rich.console import Console
    from rich.progress import Progress

    from chimera.testing.simulate import KINDS, SimulationFailed, simulate

    if unknown := set(only) - set(KINDS):
        raise click.UsageError(f"there is no fault {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    errors = Console(stderr=True)
    try:
        fleet = _fleet(config, where)
        with Progress(console=errors, transient=True) as progress:
            bar = progress.add_task("simulating", total=1 if replay else seeds)
            report = simulate(
                fleet,
                seeds=range(seed, seed + seeds),
                invariants=[_function(each) for each in invariants],
                in_the_end=[_function(each) for each in in_the_end],
                kinds=[kind for kind in KINDS if not only or kind in only],
                keep=plans,
                replay=replay,
                watch=lambda number, outcome: progress.update(bar, completed=number),
            )
    except SimulationFailed as failed:
        click.echo(str(failed))
        raise click.exceptions.Exit(1) from failed
    except ChimeraError as error:
        fail(error)
    click.echo(f"all is well: {report}")


def _fleet(config: str, where: str | None) -> Fleet:
    from chimera.run.engines import load_service
    from chimera.testing.simulate import Fleet

    if where is None:
        settings = settings_of(config)
        return Fleet(*(load_service(each.app) for each in settings.services.values()))
    found = _function(where)
    made = found() if callable(found) else found
    if not isinstance(made, Fleet):
        raise SettingsError(f"--fleet {where} is a {type(made).__name__}, not a Fleet")
    return made


def _function(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"{where!r} must look like module:name: {error}") from error
    return found
