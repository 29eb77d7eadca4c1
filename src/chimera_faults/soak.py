"""A fleet under steady load and random faults for a stated time: nothing lost, and no memory that grows."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from chimera.errors import ChimeraError
from chimera_compare.report import DPI, check_drawing
from chimera_faults.campaign import CampaignPlan, end_in_order_on_sigterm, fleet, said
from chimera_faults.mistakes import KEEPING, MISTAKES
from chimera_faults.mutants import Mutant
from chimera_faults.report import HEADINGS, columns, row
from chimera_faults.scenario import EMBEDDED, EVERY_STACK
from chimera_faults.soak_curves import BOUND_MIB_PER_H, EVERY_S, JUDGED_S, STRETCHES, Slope, growth, verdict
from chimera_faults.soak_run import DEADLY_SHARE, PER_KEY, Soaked, soak
from chimera_faults.workload import Tallying

SHARES = (0.1, 0.5, 1.0)
AROUND = 0.02
"""What is held at a moment is the median of this share of the time either side."""
MEMORY = (
    "process",
    *(f"MiB at {share:.0%}" for share in SHARES),
    "MiB/h in the second half",
    "95 % interval",
    "verdict",
    "others like it",
    "their most, MiB",
)
NO_CURVE = "ended"


class Held(NamedTuple):
    """A spared process: what it held, how much it grew in the second half, and what that says."""

    kind: str
    mib: Sequence[float | None]
    slope: Slope | None
    verdict: str
    others: int
    others_most: float


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True, help="How long memory is seen.")
@click.option("--stack", type=click.Choice(EVERY_STACK), default=EMBEDDED, show_default=True)
@click.option("--seed", default="1", show_default=True, help="The same seed chooses the same faults.")
@click.option("--rate", type=click.FloatRange(1), default=50.0, show_default=True, help="Commands a second.")
@click.option("--mutant", type=click.Choice((*KEEPING, *MISTAKES)), help="A deliberate bug, which has to be found.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Also write a page, such as docs/results/soak.md, and a picture."
)
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the ledger and logs, which stay there.")
def main(
    minutes: float, stack: str, seed: str, rate: float, mutant: str | None, out: Path | None, keep: Path | None
) -> None:
    """Load a fleet, strike it at random, and see that nothing is lost and that no process's memory grows."""
    end_in_order_on_sigterm()
    before = os.getloadavg()[0]
    try:
        if out is not None:
            check_drawing()
        soaked = asyncio.run(
            _run(
                CampaignPlan((stack,), (), seed, False, keep, Tallying()),
                minutes,
                rate,
                Mutant(mutant) if mutant else None,
            )
        )
    except ChimeraError as error:
        raise click.ClickException(str(error)) from error
    for line in report(soaked):
        click.echo(line)
    if out is not None:
        again, drawn = f"python -m chimera_faults.soak {shlex.join(sys.argv[1:])}", out.with_suffix(".png")
        out.write_text(
            page(soaked, again=again, seed=seed, rate=rate, load=(before, os.getloadavg()[0]), name=drawn.name)
        )
        drawn.write_bytes(picture(soaked))
    sys.exit(0 if is_well(soaked) else 1)


async def _run(plan: CampaignPlan, minutes: float, rate: float, mutant: Mutant | None) -> Soaked:
    async with fleet(plan, plan.stacks[0], mutant=mutant) as rig:
        return await soak(rig, seconds=60 * minutes, rate=rate, say=click.echo)


def held(soaked: Soaked) -> list[Held]:
    """The memory that each spared process held, and the driver."""
    found = []
    whole, half = soaked.seconds, soaked.seconds / 2
    for pid in (*soaked.spared, os.getpid()):
        curve = soaked.curves.by_pid[pid]
        slope = growth(curve, half, whole)
        others = [
            each
            for each in soaked.curves.by_pid.values()
            if each.kind == curve.kind and each.pid not in (*soaked.spared, os.getpid())
        ]
        found.append(
            Held(
                curve.kind,
                [curve.at(share * whole, max(AROUND * whole, EVERY_S)) for share in SHARES],
                slope,
                verdict(slope, whole - half) if slope else NO_CURVE,
                len(others),
                max((max(each.mib) for each in others), default=0.0),
            )
        )
    return found


def is_well(soaked: Soaked) -> bool:
    """True when nothing was lost, no spared process has ended, and none grows."""
    return soaked.result.is_well and not any(each.verdict in ("grows", NO_CURVE) for each in held(soaked))


def report(soaked: Soaked) -> list[str]:
    """For a terminal."""
    return [said(soaked.result), "", *_memory(soaked).splitlines()]


def _memory(soaked: Soaked) -> str:
    return columns(MEMORY, [_row(each) for each in held(soaked)])


def _row(each: Held) -> list[str]:
    slope = each.slope
    return [
        each.kind,
        *("-" if mib is None else f"{mib:.1f}" for mib in each.mib),
        f"{slope.middle:+.1f}" if slope else "-",
        f"{slope.low:+.1f} to {slope.high:+.1f}" if slope else "-",
        each.verdict,
        str(each.others),
        f"{each.others_most:.1f}" if each.others else "-",
    ]


def picture(soaked: Soaked) -> bytes:
    """Every process's curve as PNG: a chart for each kind, the spared one thick."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(curve.kind for curve in soaked.curves.by_pid.values()))
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    wide = -(-len(kinds) // 2)
    for index, kind in enumerate(kinds):
        axes = figure.add_subplot(2, wide, index + 1)
        shown = [curve for curve in soaked.curves.by_pid.values() if curve.kind == kind]
        for curve in shown:
            thick = curve.pid in (*soaked.spared, os.getpid())
            minutes = [second / 60 for second in curve.seconds]
            axes.plot(minutes, curve.mib, color="#4e79a7" if thick else "#9c9c9c", linewidth=1.6 if thick else 0.7)
        axes.axvline(soaked.seconds / 60, color="#e15759", linewidth=0.7, linestyle=":")
        axes.set_title(kind, fontsize=10)
        axes.set_ylim(0, 1.2 * max(max(curve.mib) for curve in shown))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("MiB", fontsize=9)
    figure.supxlabel("minutes", fontsize=9)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    return drawn.getvalue()


def page(soaked: Soaked, *, again: str, seed: str, rate: float, load: Sequence[float], name: str) -> str:
    """The page of a soak: `again` is the command that repeats it, `load` the machine's before and at the end.

    `name` is the picture's file.
    """
    missed = "".join(f"- {text}\n" for text in soaked.missed)
    return PAGE.format(
        again=again,
        picture=name,
        seed=seed,
        rate=rate,
        minutes=soaked.seconds / 60,
        deadly=DEADLY_SHARE,
        per_key=PER_KEY,
        commands=soaked.result.commands,
        check_s=soaked.check_s,
        ledger=columns(HEADINGS, [row(soaked.result)]),
        findings="".join(f"\n- {text}" for text in soaked.result.findings[:20]) + "\n",
        memory=_memory(soaked),
        bound=BOUND_MIB_PER_H,
        smallest=BOUND_MIB_PER_H * (1 << 20) / rate / 3600,
        judged=JUDGED_S,
        stretches=STRETCHES,
        cores=os.cpu_count(),
        before=load[0],
        after=load[1],
        strikes=columns(("strike", "times it struck"), [(name, str(n)) for name, n in sorted(soaked.struck.items())]),
        missed=f"\nWhat was armed and did not come to pass in its time:\n\n{missed}" if missed else "",
    )


PAGE = """\
# Soak: hours of faults, and a flat memory curve

```bash
make soak MINUTES=10 STACK=embedded SEED=1     # writes this page and its picture
{again}   # what is below
python -m chimera_faults.soak --mutant transactions-kept   # a deliberate leak: exit status 1
```

A fleet, started by `chimera up --processes --workers 2`, gets commands at a steady rate, while one fault after the
other strikes it: the strikes of [the fault rig](faults.md) in a random order that the seed decides, and SIGKILL,
SIGTERM and SIGSTOP to any head. At the end it has to come to rest, and everything is checked as after a scenario:
nothing lost, doubled, out of order or otherwise wrong.

Meanwhile the memory of every process is sampled once a second: what is resident, without pages of files that it has
mapped, such as SQLite's, which the kernel takes back when it needs them (`/proc`). What is new in a process grows
until its caches are full, so one head of each kind, the gateway and the driver are **spared**: for the whole time
nothing ends them, though everything else strikes them, and their neighbours are killed all the time. Once that time is
over, the load and the strikes go on for another {deadly:.0%} of it, and may end every process, several times.

Every key gets {per_key} commands and then no more, so that no document and no row grows. The ledger is a file, of which
the driver keeps only what is under way. The check afterwards is work in proportion to the commands: {check_s:.0f}
seconds for these {commands:,}.

## What is flat

Growth is the slope of the second half of the time, by Theil and Sen: the median of the slopes between all pairs of
points, which outliers don't move, with Sen's interval (P. K. Sen, *Estimates of the regression coefficient based on
Kendall's tau*, Journal of the American Statistical Association 63, 1968). What a process holds depends on what it held
before: the points are the medians of {stretches} stretches of that half, and the interval is wider by what K. H. Hamed
and A. R. Rao found for such series (*A modified Mann-Kendall trend test for autocorrelated data*, Journal of Hydrology
204, 1998). So one step, when something takes more memory than ever before, is no growth; a hundred small ones are.

A process **grows** when the lower end of the interval is above **{bound:.0f} MiB an hour**: a head asks for 128 MiB
and may have 512 (`chimera deploy kubernetes`), so at that slope it would last for a day. At {rate:g} commands a second
that is {smallest:.0f} bytes for each command. What grows by less shows in a longer soak only. A second half of less
than {judged:.0f} seconds is not judged. The exit status is not 0 when something was lost, doubled, out of order or
otherwise wrong, when a process grows, or when a spared one has ended.

## Results

Seed {seed}, {rate:g} commands a second for {minutes:.1f} minutes. The machine has {cores} cores; its load average was
{before:.1f} at the start and {after:.1f} at the end.

{ledger}
{findings}
{memory}

*Others like it* are processes of the same kind that were killed and started again.

![Memory of every process over time]({picture})

Blue are the spared ones, grey the others; right of the dotted line every process may be ended.

## What struck

{strikes}
{missed}"""


if __name__ == "__main__":
    main()
