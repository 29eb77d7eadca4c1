"""The checks when the faults are over: everything promised is there, once, in order, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import msgspec

from chimera.commands.inbox import Outcome, read_outcomes
from chimera.core.context import Context
from chimera.core.paging import pages
from chimera.core.tables import Parked
from chimera.journal.consumers import document_consumers
from chimera.testing.kit.balance import every_row, imbalances
from chimera.views.generations import serving_name
from chimera.views.parked import all_parked
from chimera_faults.ledger import LedgerEntry
from chimera_faults.workload import Place, Workload

SETTLED = ("done", "rejected", "parked")


class Found(msgspec.Struct):
    """The findings by kind, in words. All are empty when all is well."""

    lost: list[str] = []
    doubled: list[str] = []
    out_of_order: list[str] = []
    unasked: list[str] = []
    wrong: list[str] = []

    @property
    def everything(self) -> list[str]:
        """All findings, the worst first."""
        kinds = ("lost", "doubled", "out_of_order", "unasked", "wrong")
        return [f"{kind.replace('_', ' ')}: {text}" for kind in kinds for text in getattr(self, kind)]


async def check(workload: Workload, contexts: Mapping[str, Context], entries: Mapping[str, LedgerEntry]) -> Found:
    """Compare what was promised with what is there."""
    found = Found()
    aside = await labels_aside(workload, contexts)
    states = await _states(contexts, [entry.command_id for entry in entries.values() if entry.command_id])
    places = await workload.places(contexts)
    for place in places:
        check_place(found, place, entries, states, aside)
    for entry in entries.values():
        if entry.accepted and _state(states, entry) not in SETTLED:
            found.lost.append(f"{entry.label}: answered {entry.statuses[-1]}, and its state is {_state(states, entry)}")
    keys = {entry.key for entry in entries.values()}
    for name in contexts:
        found.wrong += await imbalances(name, contexts, keys)
    return found


def check_place(
    found: Found,
    place: Place,
    entries: Mapping[str, LedgerEntry],
    states: Mapping[str, Outcome],
    aside: Mapping[str, Collection[str]],
) -> None:
    """Compare one place with the ledger, given what became of commands by id, and the labels set aside by consumer."""
    shown = Counter(label for labels in place.labels.values() for label in labels)
    excused = {label for consumer in place.consumers for label in aside.get(consumer, ())}
    for label, count in shown.items():
        entry = entries.get(label)
        if count > 1:
            found.doubled.append(f"{label}: {count} times in {place.name}")
        if entry is None:
            found.unasked.append(f"{label}: in {place.name}, and nobody sent it")
        elif entry.refused or _state(states, entry) == "rejected":
            found.unasked.append(f"{label}: in {place.name}, and it was refused")
        elif entry.kept_none and entry.statuses[-1:] == [503]:
            found.unasked.append(f"{label}: in {place.name}, and it was answered 503")
    for entry in entries.values():
        if entry.accepted and _state(states, entry) == "done" and not (shown[entry.label] or entry.label in excused):
            found.lost.append(f"{entry.label}: answered {entry.statuses[-1]}, and not in {place.name}")
    for key, labels in place.labels.items():
        promised = [entries[label] for label in labels if label in entries and entries[label].accepted]
        if any(later.sent_at < earlier.sent_at for earlier, later in pairwise(promised)):
            found.out_of_order.append(f"{key} in {place.name}: {', '.join(labels)}")


def _state(states: Mapping[str, Outcome], entry: LedgerEntry) -> str:
    outcome = states.get(entry.command_id)
    return outcome.state if outcome else "unknown"


async def _states(contexts: Mapping[str, Context], command_ids: Sequence[str]) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    for context in contexts.values():
        async with context.store.snapshot() as session:
            for page in pages(command_ids):
                found |= await read_outcomes(session, page)
    return found


async def labels_aside(workload: Workload, contexts: Mapping[str, Context]) -> dict[str, set[str]]:
    """The labels that are set aside, by `service/consumer`; an empty one for what has none."""
    found: dict[str, set[str]] = {}
    for name, context in contexts.items():
        for row in await every_row(context, Parked):
            found.setdefault(f"{name}/{row.consumer}", set()).add(workload.label(row.data))
        for consumer in document_consumers(context.service):
            for failure in await all_parked(context.views, await serving_name(context, consumer)):
                found.setdefault(f"{name}/{consumer}", set()).add(workload.label(failure.message.data))
    return found
