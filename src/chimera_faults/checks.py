"""The checks when the faults are over: everything promised is there, once, in order, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from chimera.borrow.modes import read_mode
from chimera.commands.inbox import Outcome, read_outcomes
from chimera.core.context import Context
from chimera.core.names import copy_name
from chimera.core.paging import pages
from chimera.core.tables import Parked, SharedKey
from chimera.folds import Folder, View
from chimera.journal.consumers import document_consumers
from chimera.messages import Message
from chimera.service import Borrow
from chimera.share.changes import shared_documents
from chimera.transaction import Reads
from chimera.upkeep.status import service_status
from chimera.views.generations import serving_name
from chimera.views.parked import all_parked
from chimera_faults.ledger import LedgerEntry
from chimera_faults.workload import Place, Workload, every_row, journal_of

SETTLED = ("done", "rejected", "parked")
UNSETTLED = ("retrying",)


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


async def pending(contexts: Mapping[str, Context]) -> list[str]:
    """The work still under way, in words: empty when every consumer has applied everything and nothing is retried."""
    found: list[str] = []
    for name, context in contexts.items():
        status = await service_status(context)
        late: Counter[str] = Counter()
        for row in status["consumers"]:
            if row["lag"] is None:
                found.append(f"{name}/{row['consumer']} does not know the heads of {row['source']}")
            elif row["lag"]:
                late[row["consumer"]] += row["lag"]
        found += [f"{name}/{consumer} is {lag} behind" for consumer, lag in late.items()]
        retried = [row for row in await every_row(context, Parked) if row.state in UNSETTLED]
        found += [f"{name}/{row.consumer} tries {row.id} again" for row in retried]
    return found


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
    for name, context in contexts.items():
        await _check_body(found, name, context, contexts, keys)
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


async def _check_body(
    found: Found, name: str, context: Context, contexts: Mapping[str, Context], keys: Collection[str]
) -> None:
    """The journal has no hole; views and copies are what the sources of truth say that they must be."""
    heads = await context.store.heads()
    numbers: dict[int, list[int]] = {}
    for message in await journal_of(context):
        numbers.setdefault(message.partition, []).append(message.number)
    for partition, taken in numbers.items():
        if taken != list(range(taken[0], heads[partition] + 1)):
            found.wrong.append(f"the journal of {name} has a hole in partition {partition}")
    for view in context.service.views.values():
        journals = [message for source in sorted(view.sources) for message in await journal_of(contexts[source])]
        kept = await serving_name(context, view.name)
        parked = {(failure.message.source, failure.message.id) for failure in await all_parked(context.views, kept)}
        wanted = recomputed(view, [each for each in journals if (each.source, each.id) not in parked])
        found.wrong += _differences(f"{name}/{view.name}", await _stored(context, kept), wanted)
    for borrow in context.service.borrows.values():
        setting = await read_mode(context, borrow)
        if setting.mode == "async" and borrow.owner in contexts:
            copied = await _stored(context, copy_name(borrow.name, setting.mode))
            wanted = await _shared(contexts[borrow.owner], borrow, {*copied, *keys})
            found.wrong += _differences(f"{name}'s copy of {borrow.name}", copied, wanted)


def recomputed(view: View[Any], events: Sequence[Message]) -> dict[str, Any]:
    """A view as it has to be: every event folded once, a partition after the other."""
    folder = Folder(view)
    documents: dict[str, Any] = {}
    for message in events:
        if step := folder.steps.get(message.type):
            event = step.decoder.decode(message.data)
            for key in folder.keys(step, event):
                documents[key] = folder.apply(step, documents.get(key), key, event)
    return {key: msgspec.to_builtins(document) for key, document in documents.items() if document is not None}


async def _shared(owner: Context, borrow: Borrow[Any], known: Collection[str]) -> dict[str, Any]:
    """The owner's current documents: of the keys that are known, and of those that it ever emitted."""
    keys = {row.key for row in await every_row(owner, SharedKey) if row.share == borrow.share} | set(known)
    found: dict[str, Any] = {}
    async with owner.store.snapshot() as session:
        for page in pages(sorted(keys)):
            documents = await shared_documents(owner.service.shares[borrow.share], Reads(owner.service, session), page)
            found |= {key: msgspec.json.decode(data) for key, data in documents.items()}
    return found


async def _stored(context: Context, view: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    after = ""
    while page := await context.views.scan(view, after):
        found |= {document.key: msgspec.json.decode(document.data or b"null") for document in page}
        after = page[-1].key
    return found


def _differences(name: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*stored, *wanted}):
        if stored.get(key) != wanted.get(key):
            yield f"{name}: {key} is {stored.get(key)}, and must be {wanted.get(key)}"
