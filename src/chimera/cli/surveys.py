"""What a survey of an owner's history found, and the proof that it is whole, as an operator reads it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from chimera.messages import Message
from chimera.parts import Borrow
from chimera.upkeep.drift.copy_audit import audit_copy
from chimera.upkeep.recovery.mend import HandledLost
from chimera.upkeep.recovery.proof import Proof, prove_all
from chimera.upkeep.recovery.survey import Survey
from chimera.upkeep.recovery.witnesses import Witness

SHOWN = 20
"""Lost events that are listed of a partition."""


def print_survey(console: Console, found: Survey) -> None:
    """Print what was lost, who stands on it, and what becomes of each."""
    service = found.owner.service.name
    stuck = {each.partition for each in found.diverged}
    for fork in [each for each in found.forks.values() if each.is_new or each.partition in stuck]:
        say(
            console,
            f"{service}/{fork.partition}: the journal ends at {found.heads[fork.partition]}; its log has "
            f"{events_of(len(fork.lost))} after {fork.common} that the journal does not have (any more):",
        )
        _print_events(console, fork.lost)
    table = table_of("consumer", "kind", "stands at", "what becomes of it")
    for each in found.diverged:
        at = f"{service}/{each.partition}@{each.at.number}"
        table.add_row(escape(each.title), each.consumer.kind, at, escape(_fate(each, found.handled)))
    if found.diverged:
        console.print(table)
    for handled in found.handled:
        _print_handled(console, handled, found.parked.get(handled.witness.title, 0))


def _fate(witness: Witness, handled: Sequence[HandledLost]) -> str:
    if witness.consumer.kind == "view":
        return "built anew from the journal"
    if witness.consumer.kind == "copy":
        return "dropped, and filled from its owner's documents"
    known = next(each for each in handled if each.witness == witness)
    return "held until you say what to keep" if known.common else "held: the log does not tell where it parted"


def _print_handled(console: Console, handled: HandledLost, parked: int) -> None:
    witness, title = handled.witness, handled.witness.title
    place = f"{witness.consumer.source}/{witness.partition}"
    if handled.common is None:
        say(
            console,
            f"{title} stands at {place}@{witness.at.number}, and the log does not have all that was lost: find out "
            f"where {witness.consumer.source} was put back, then type: --common {witness.partition}@NUMBER "
            f"--keep {title}=all",
        )
        return
    say(console, f"{title} has handled {events_of(len(handled.events))} that {witness.consumer.source} lost:")
    _print_events(console, handled.events)
    say(
        console,
        f"  --keep {title}=all: what it did stays, and the same events are not handled again when they come again\n"
        f"  --keep {title}=none: what it did is yours to undo; whatever comes is handled\n"
        f"  --keep {title}={place}@…,…: those stay, the others are yours to undo",
    )
    if parked:
        say(console, f"  {parked} of its messages are parked; see: chimera parked list --consumer {witness.name}")


def _print_events(console: Console, events: Sequence[Message]) -> None:
    for event in events[:SHOWN]:
        say(console, f"  {event.position} {event.type} of {event.key!r}, {event.time}")
    if len(events) > SHOWN:
        say(console, f"  and {len(events) - SHOWN:,} more")


async def print_proof(console: Console, found: Survey) -> bool:
    """Compute the chains again, compare the copies, and print that; says whether all that was computed is whole."""
    owner, service = found.owner, found.owner.service.name
    proofs = await prove_all(owner, sorted(found.heads))
    for proof in proofs:
        say(console, _proved(service, proof))
    standing = [each for each in found.witnesses if not each.why]
    titles = dict.fromkeys(each.title for each in standing)
    say(console, f"{len(standing)} checkpoints of {', '.join(titles) or 'nobody'} stand on it")
    copies = {
        (each.context.service.name, each.consumer.name): each for each in standing if each.consumer.kind == "copy"
    }
    for each in copies.values():
        await _print_audit(console, each)
    for each in found.diverged:
        say(console, f"{each.title} {each.why}: it takes nothing from there until that is decided")
    return not any(proof.broken for proof in proofs)


async def _print_audit(console: Console, witness: Witness) -> None:
    context, borrow = witness.context, witness.consumer.declared
    report = await audit_copy(context, borrow, repair=False) if isinstance(borrow, Borrow) else None
    if report is not None:
        differs = f"differs in {report.found} keys; type: chimera audit {context.service.name}"
        said = differs if report.found else "is what its owner has"
        say(console, f"the copy of {report.share} in {context.service.name}, {report.checked} keys, {said}")


def _proved(service: str, proof: Proof) -> str:
    place = f"{service}/{proof.partition}"
    if proof.broken:
        return (
            f"{place}: the event at {proof.broken} is not the one that was chained: somebody has changed the journal; "
            "put back a backup, and recover again"
        )
    if proof.last < proof.first:
        return f"{place} is empty"
    unchained = f", {proof.unchained} of them from before there were chains" if proof.unchained else ""
    count = proof.last - proof.first + 1
    return f"{place}: {events_of(count)} up to {proof.last} computed again{unchained}; chain {proof.chain or 'none'}"


def events_of(count: int) -> str:
    """So many events, in words."""
    return "1 event" if count == 1 else f"{count:,} events"


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def table_of(*names: str, title: str | None = None) -> Table:
    """A table with these columns, which cuts nothing off however narrow the terminal is."""
    return Table(*(Column(name, overflow="fold") for name in names), title=title)
