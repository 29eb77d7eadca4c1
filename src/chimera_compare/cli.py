"""`chimera compare`, `chimera advise` and `chimera trace`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from chimera.cli.main import run, settings_of
from chimera.cli.typed import placed


@click.command()
@click.argument("service")
@click.argument("share")
@click.option("--keys", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Pages that there are.")
@click.option(
    "--known",
    type=float,
    multiple=True,
    default=(0.3,),
    show_default=True,
    help="The share of keys that the owner has a document for; may be repeated.",
)
@click.option("--reads", type=click.FloatRange(1, 5000), default=200, show_default=True, help="Pages a second.")
@click.option("--writes", type=click.FloatRange(0.1, 1000), default=20, show_default=True, help="Changes a second.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=10, show_default=True, help="How long each run is.")
@click.option("--owner-latency", default="5ms", show_default=True, help="How far away the owner is, such as 5ms.")
@click.option(
    "--trouble",
    type=click.Choice(["slow", "failing", "down", "garbage", "none"]),
    default="none",
    show_default=True,
    help="What the owner is in the middle of the run.",
)
@click.option("--trouble-share", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="For which part.")
@click.option("--deadline", help="After which a page counts as not answered; without it five times the budget.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same load.")
@click.option("--out", type=click.Path(path_type=Path), help="The picture's folder; without it: comparison.")
@click.option("--json", is_flag=True, help="Print the rows for programs; no picture unless --out is given.")
@click.pass_obj
def compare(config: str, /, service: str, share: str, **options: Any) -> None:
    """Measure the three modes of a borrow, and a monolith, under one load on this machine."""
    from chimera_compare.command import run_comparison

    run(run_comparison(settings_of(config), service, share, **options))


@click.command()
@click.argument("service")
@click.argument("share", required=False)
@click.option("--url", help="Where the service answers; without it as the settings say.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=10, show_default=True, help="How long to watch.")
@click.option("--fresh", is_flag=True, help="Reads must show what the owner has at that moment.")
@click.pass_obj
def advise(config: str, service: str, share: str | None, url: str | None, seconds: float, fresh: bool) -> None:
    """Say which mode fits what a running service borrows, from its own metrics, with reasons."""
    from chimera_compare.advise import show_advice

    run(show_advice(settings_of(config), service, share, url=url, seconds=seconds, fresh=fresh))


@click.command("trace")
@click.argument("what", metavar="CORRELATION|COMMAND_ID|POSITION")
@click.option("--last", type=click.IntRange(1), default=100_000, show_default=True, help="Events of each partition.")
@click.option("--all", "everything", is_flag=True, help="Look at all events that are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@placed
@click.pass_obj
def trace_chain(config: str, what: str, last: int, everything: bool, as_json: bool) -> None:
    """Show who did what: a command or an event, what it comes from and what came of it, in all services.

    The status is 1 when nothing is known of it.
    """
    from chimera.cli.operations import show_trace

    settings, found = settings_of(config), list[bool]()

    async def work() -> None:
        found.append(await show_trace(settings, what, None if everything else last, as_json=as_json))

    run(work())
    if not all(found):
        sys.exit(1)
