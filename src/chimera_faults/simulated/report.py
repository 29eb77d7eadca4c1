"""What a campaign of simulations is told as."""

from __future__ import annotations

from collections.abc import Sequence

from chimera.testing.simulate import KINDS
from chimera_faults.simulated.campaign import Runs
from chimera_faults.simulated.mutants import Hunt
from chimera_faults.simulated.reading import SIMULATED

PAGE = """\
# Simulated fleets

```bash
{again}
```

{summary}

| fault | struck |
|---|--:|
{struck}

A fault counts when it met somebody: a call that it refused, a message that it lost, a process that it killed.
{broken}"""

HUNTS = """\
# Deliberate mistakes in simulated fleets

Each mistake has to be found within the seeds tried, and its control, the same code that does not make it, in none of
them. Only a run in which the mistake was made counts.

```bash
python -m chimera_faults.simulated --mutants
```

| mistake | what it is | found after | by | control |
|---|---|--:|---|---|
{rows}
"""


def summary(found: Runs, seconds: float) -> str:
    """A campaign in a sentence."""
    runs = len(found.digests)
    return (
        f"{runs} runs of {found.processes / runs:.1f} processes in {seconds:.0f} s ({runs / seconds:.1f} a second): "
        f"{found.virtual_s / 3600:.1f} virtual hours, {found.commands} commands, {found.reads} reads, "
        f"{found.steps} steps, {sum(found.struck.values())} faults struck; {len(found.broken)} runs broke a promise."
    )


def page(found: Runs, seconds: float, again: str) -> str:
    """The page of a campaign; `again` is the command that repeats it."""
    struck = "\n".join(f"| {kind} | {found.struck[kind]} |" for kind in KINDS)
    broken = "".join(f"\n- seed {seed}: {text}" for seed, text in found.broken.items())
    return PAGE.format(again=again, summary=summary(found, seconds), struck=struck, broken=broken)


def hunts_page(hunts: Sequence[Hunt]) -> str:
    """The page of a hunt for every mistake."""
    controls = {each.mistake: each for each in hunts if each.control}
    rows = [
        f"| {each.mistake} | {SIMULATED[each.mistake].what} | {each.found or f'not in {each.tried}'} "
        f"| {(each.failed or each.finding.partition(':')[0])} | {_clean(controls.get(each.mistake))} |"
        for each in hunts
        if not each.control
    ]
    return HUNTS.format(rows="\n".join(rows))


def _clean(control: Hunt | None) -> str:
    if control is None:
        return ""
    return f"clean in {control.tried}" if control.is_well else f"FOUND: {control.failed or control.finding}"
