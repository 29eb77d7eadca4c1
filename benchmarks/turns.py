"""This checkout measured beside another one: `make bench AGAINST=OTHER WHAT="reads intake" [ARGS="--turns 5"]`.

A ratio moves by several per cent from one run to the next, so single runs before and after a change can't tell 3 %.
Here the two checkouts take turns, each run beside its own peers and limit, and what is compared is the median of the
turns' ratios. The other checkout needs its own .venv (`make .venv/dev`), and .bench and .services, which may be links.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

from benchmarks.goals import LESS_IS_BETTER
from benchmarks.harness import ROOT
from benchmarks.run import GROUPS


class Ratio(NamedTuple):
    """What ours is beside: a subject in a case on an engine."""

    group: str
    case: str
    engine: str
    subject: str


@click.command(help=__doc__)
@click.argument("other", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.argument("groups", nargs=-1, type=click.Choice([*GROUPS]))
@click.option("--engine", default="", help="Only this engine, or stack, as the table names it.")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True)
def main(other: Path, groups: tuple[str, ...], engine: str, turns: int) -> None:
    found: dict[Path, dict[Ratio, list[float]]] = {other: defaultdict(list), ROOT: defaultdict(list)}
    for turn in range(turns):
        for checkout in sorted(found, reverse=bool(turn % 2)):
            for ratio, figure in measured(checkout, groups, engine).items():
                found[checkout][ratio].append(figure)
        print(f"turn {turn + 1} of {turns}", file=sys.stderr, flush=True)
    print("| group | case | engine | beside | other (lowest to highest) | here (lowest to highest) | change |")
    print("|---|---|---|---|--:|--:|--:|")
    for ratio, before in found[other].items():
        if after := found[ROOT].get(ratio):
            change = median(after) / median(before) - 1
            print(f"| {' | '.join(ratio)} | {spread(before)} | {spread(after)} | {change:+.1%} |")


def measured(checkout: Path, groups: tuple[str, ...], engine: str) -> Mapping[Ratio, float]:
    """The ratios of one run in a checkout: how many times as good ours is as each other subject."""
    with tempfile.TemporaryDirectory() as out:
        command = [".venv/bin/python", "-m", "benchmarks.run", *groups, "--engine", engine, "--out", out]
        ran = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        if ran.returncode:
            print(f"{checkout}: {ran.stderr[-2000:]}", file=sys.stderr, flush=True)
        results = Path(out) / "results.json"
        rows = json.loads(results.read_bytes()) if results.exists() else []
    ours = {(row["group"], row["case"], row["engine"]): row["median"] for row in rows if row["subject"] == "chimera"}
    return {
        Ratio(row["group"], row["case"], row["engine"], row["subject"]): (
            row["median"] / mine if row["unit"] in LESS_IS_BETTER else mine / row["median"]
        )
        for row in rows
        if row["subject"] != "chimera" and (mine := ours.get((row["group"], row["case"], row["engine"])))
    }


def spread(figures: list[float]) -> str:
    return f"{median(figures):.3g} ({min(figures):.3g} to {max(figures):.3g})"


if __name__ == "__main__":
    main()
