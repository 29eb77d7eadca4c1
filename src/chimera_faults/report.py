"""The report of a run, as a table for a terminal and as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chimera_faults.campaign import Caught
from chimera_faults.mistakes import MISTAKES
from chimera_faults.points import POINTS
from chimera_faults.scenario import Result, Scenario

HEADINGS = ("scenario", "stack", "sent", "fired", "lost", "doubled", "out of order", "other", "seconds")
FINDING = 100

PAGE = """\
# Nothing lost: the fault rig

`make faults` breaks real fleets on purpose and counts what was lost, doubled or out of order. Commands go over HTTP to
processes that `chimera up --processes --workers 2` started; a ledger outside of them holds what was sent and what was
answered. When the faults are over it waits until nothing is under way, and checks:

- each command that was answered 2xx shows exactly once in every place where its effect belongs (the state, the journal,
  a reaction's state and events, four views in two services), or was `rejected` with its reason, or is set aside;
- nothing shows that nobody sent, that was refused, or that was sent once and answered 503 by a log that was down;
- in every place the commands of a key stand in the order in which they were sent;
- no journal has a hole, every view is what its events fold to, every copy is what its owner has now;
- no consumer is behind, nothing is still being tried, nothing is set aside that should not be.

A run in which a fault did not provably strike is `void`: each writes a synced line before it takes effect. *Seconds* is
the time from the end of the faults until nothing was under way any more; it has to be under {bound:.0f}.

```bash
make faults                                    # every stack; needs make services; writes this page
make faults QUICK=1                            # the embedded stack only, without what takes long
make faults ARGS=--long                        # also what takes many minutes
{again}   # what is below
python -m chimera_faults --scenario relay-killed --stack embedded --keep /tmp/kept
python -m chimera_faults --mutants --out docs/results/mutants.md   # deliberate bugs: each has to be caught
python -m chimera_faults --list
```

The exit status is not 0 when anything was lost, doubled, out of order or otherwise wrong, or when a run was void.

## Results

Seed {seed}, in {minutes:.0f} minutes. {summary}

{results}

{notes}## Scenarios

{scenarios}

## Crash points

An engine whose address begins with `faulty:`, such as `faulty:sqlite:///data/orders.db`, has these; nothing else in
Chimera knows of them. `FAULTS` names a folder, and its `armed.json` says what strikes, also while processes run:
`[{{"name": "a", "point": "commands.commit.after", "action": "kill", "nth": 3}}]`. Actions: `kill` (SIGKILL, with
`seconds` that much later), `raise` (at a point that ends in `after`: a lost reply), `delay`, `pause` (SIGSTOP), and for
logs `drop`, `repeat` and `refuse` (as too large); `clock` sets a process's wall clock forward. What struck is in the
folder's `fired.jsonl`.

{points}

## Deliberate bugs

A rig that finds nothing may be blind: [each of these bugs](mutants.md) has a scenario that has to catch it.

## Your own services

Give the rig a `Workload` (see `chimera_faults.workload`): where your chimera.toml is, a command by number, the
label in a message's data, and the places where effects show.

```bash
python -m chimera_faults --workload shop.faults:workload --stack embedded
```

Scenarios that name the rig's own services, `tally` and `board`, strike those; the crash points strike any.
"""


def table(results: Sequence[Result]) -> str:
    """Scenario by stack, aligned."""
    rows = [HEADINGS, *(row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def page(
    results: Sequence[Result],
    *,
    seed: str,
    again: str,
    bound_s: float,
    seconds: float,
    scenarios: Sequence[Scenario],
) -> str:
    """The page of a run that took so many `seconds`; `again` is the command that repeats it."""
    findings = [f"- {each.scenario} on {each.stack}: {text}" for each in results for text in _said(each)]
    return PAGE.format(
        seed=seed,
        again=again.ljust(46),
        bound=bound_s,
        minutes=seconds / 60,
        summary=summary(results),
        results=columns(HEADINGS, [row(result) for result in results]),
        notes="\n".join(findings) + "\n\n" if findings else "",
        scenarios=columns(("scenario", "what strikes"), [(each.name, each.what) for each in scenarios]),
        points=columns(("point", "where"), list(POINTS.items())),
    )


MUTANTS_PAGE = """\
# Deliberate bugs, and what catches them

A rig that finds nothing may be blind. So each of these bugs breaks one promise of Chimera's own code or of an engine;
[the fault rig](faults.md) runs it against the scenario that has to catch it, on an embedded fleet of its own. The
faulty engines put it in place, in the started processes only. A bug is **caught** when something was lost, doubled,
out of order or otherwise wrong; **missed** when all was well; and the run is **void** when no process has made the
mistake, when its own code failed, or when the scenario's fault did not strike. Each has a **control**: the same code,
which does not make the mistake; it is clean when nothing was found. The exit status is not 0 unless all bugs are caught
and all controls clean.

```bash
{again}
```

Seed {seed}. {caught} of {count} caught, {clean} of {controls} controls clean, in {seconds:.0f} seconds.

{rows}
"""


def mutants_page(caught: Sequence[Caught], *, seed: str, again: str, seconds: float) -> str:
    """The page of a run of mutants; `again` is the command that repeats it."""
    headings = ("bug", "what it is", "scenario", "", "the worst that it found", "seconds")
    rows = [
        (
            f"{each.mutant}, control" if each.control else each.mutant,
            MISTAKES[each.mutant].what,
            each.scenario,
            each.state,
            (each.void or each.finding or "nothing")[:FINDING].replace("|", "\\|"),
            f"{each.seconds:.0f}",
        )
        for each in caught
    ]
    states = Counter(each.state for each in caught)
    controls = sum(each.control for each in caught)
    return MUTANTS_PAGE.format(
        seed=seed,
        again=again,
        seconds=seconds,
        caught=states["caught"],
        count=len(caught) - controls,
        clean=states["clean"],
        controls=controls,
        rows=columns(headings, rows),
    )


def summary(results: Sequence[Result]) -> str:
    """A run in one sentence."""
    ran = [result for result in results if not result.skipped]
    return (
        f"{len(ran)} runs, {sum(each.commands for each in ran)} commands, {sum(each.fired for each in ran)} faults: "
        f"{sum(each.lost for each in ran)} lost, {sum(each.doubled for each in ran)} doubled, "
        f"{sum(each.out_of_order for each in ran)} out of order, {sum(each.other for each in ran)} otherwise wrong, "
        f"{sum(bool(each.void) for each in ran)} void, {len(results) - len(ran)} skipped."
    )


def row(result: Result) -> tuple[str, ...]:
    """A result as a row of the table."""
    if result.skipped:
        return (result.scenario, result.stack, *["-"] * 6, "skipped")
    counts = (result.commands, result.fired, result.lost, result.doubled, result.out_of_order, result.other)
    return (result.scenario, result.stack, *map(str, counts), "void" if result.void else f"{result.seconds:.1f}")


def _said(result: Result) -> list[str]:
    return [text for text in (result.skipped, result.void, *result.notes, *result.findings) if text]


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
