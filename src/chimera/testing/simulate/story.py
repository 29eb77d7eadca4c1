"""The story of a failure: who did what when, as far as it has to do with the key that it happened to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chimera.testing.fleets.happenings import Happening
from chimera.testing.plans.words import told
from chimera.testing.simulate.played import Played

MOST_LINES = 60


def story(outcome: Played) -> str:
    """What happened in a run that was played with its notes, in lines. Times are virtual seconds."""
    broken = outcome.broken[0]
    plan = outcome.plan
    processes = ", ".join(f"{count} of {role}" for role, count in plan.processes.items())
    lines = [f"Broken: {broken}"]
    if more := len(outcome.broken) - 1:
        lines.append(f"and {more} more, such as: {outcome.broken[-1]}" if more > 1 else f"and: {outcome.broken[-1]}")
    counts = f"{len(plan.commands)} commands, {len(plan.faults)} faults"
    lines += ["", f"The plan (seed {plan.seed}): {counts}; {processes}."]
    lines += [f"  {each.at:7.3f} s  {each.client} sends {each.command} {each.body}" for each in plan.commands]
    lines += [f"  {each.at:7.3f} s  {told(each)}" for each in plan.faults]
    lines += ["", f"What happened{f' to {broken.key!r}' if broken.key else ''}:"]
    return "\n".join([*lines, *_told(outcome.notes, broken.key)])


def _told(notes: Sequence[Happening], key: str) -> Iterator[str]:
    kept = [note for note in notes if not key or key in note.keys or not note.keys]
    until = next((index for index, note in enumerate(kept, 1) if note.text.startswith("BROKEN")), len(kept))
    kept = kept[:until]
    if len(kept) > MOST_LINES:
        yield f"  (… {len(kept) - MOST_LINES} lines before)"
    width = max((len(note.process) for note in kept[-MOST_LINES:]), default=0)
    for note in kept[-MOST_LINES:]:
        yield f"  {note.at:7.3f} s  {note.process:<{width}}  {note.text}"
