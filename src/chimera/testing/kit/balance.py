"""Whether services are in balance: nothing is under way, and all that is derived is right.

For tests of every kind that have the engines of all services at hand: views are folds of journals, copies are what
their owners have, journals have no holes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from chimera.borrow.modes import read_mode
from chimera.commands.apart.contracts import UPGRADED, can_read, code_of
from chimera.commands.apart.fitting import misfit_of
from chimera.core.context import Context
from chimera.core.names import COMMANDS, copy_name
from chimera.core.paging import pages
from chimera.core.tables import Parked, SharedKey
from chimera.entities import Entity, table_of
from chimera.errors import Trimmed
from chimera.folds import Folder, View
from chimera.forms import write_inside
from chimera.journal.consumers import consumers_of
from chimera.messages import Message
from chimera.parts import Borrow
from chimera.reads import Reads
from chimera.share.changes import shared_documents
from chimera.upkeep.drift.reserved import unlike
from chimera.upkeep.status import consumer_rows
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import read_generations, serving_name
from chimera.views.lists.entries import ViewEntries
from chimera.views.lists.proof import prove_lists
from chimera.views.parked import all_parked


async def pending(contexts: Mapping[str, Context]) -> list[str]:
    """The work still under way, in words: empty when every consumer has applied everything and nothing is retried."""
    found: list[str] = []
    for name, context in contexts.items():
        late: Counter[str] = Counter()
        for row in await consumer_rows(context, consumers_of(context.service)):
            if row["lag"] is None:
                found.append(f"{name}/{row['consumer']} does not know the heads of {row['source']}")
            elif row["lag"]:
                late[row["consumer"]] += row["lag"]
        found += [f"{name}/{consumer} is {lag} behind" for consumer, lag in late.items()]
        for row in await every_row(context, Parked):
            if row.state == "retrying" or (
                row.state == "unread" and (row.due or code_of(context.service) not in row.unread_by)
            ):
                found.append(f"{name}/{row.consumer} tries {row.id} again")
    return found


async def unread_for_nothing(context: Context) -> list[Parked]:
    """The messages that are parked because a build could not read them, though this one can."""
    reads, found = can_read(context.service), list[Parked]()
    for row in await every_row(context, Parked):
        name = row.type if row.consumer == COMMANDS else f"{row.consumer.rpartition(':')[0]}/{row.type}"
        schema = (reads.commands if row.consumer == COMMANDS else reads.events).get(name)
        if row.state != "unread" or schema is None or UPGRADED in schema:
            continue
        if not misfit_of(row.data, schema):
            found.append(row)
    return found


async def rebuilding(contexts: Mapping[str, Context]) -> list[str]:
    """The views that are being built anew, or are still to be, in words."""
    found: list[str] = []
    for name, context in contexts.items():
        for view, state in (await read_generations(context.views, list(context.service.views))).items():
            code = fingerprint(context.service.views[view])
            if state.building or state.serving.code not in ("", code):
                found.append(f"the view {view} of {name} is not built anew yet")
    return found


async def imbalances(name: str, contexts: Mapping[str, Context], keys: Collection[str] = ()) -> list[str]:
    """What is wrong with a service, in words: holes in its journal; views, copies, reservations not as they must be.

    `contexts` are all services by name, with plain engines; `keys` are looked for at owners beside those they emitted.
    """
    context = contexts[name]
    found: list[str] = []
    heads = await context.store.heads()
    numbers: dict[int, list[int]] = {}
    for message in await journal_of(context):
        numbers.setdefault(message.partition, []).append(message.number)
    for partition, taken in numbers.items():
        if taken != list(range(taken[0], heads[partition] + 1)):
            found.append(f"the journal of {name} has a hole in partition {partition}")
    found += [f"what {name} has reserved is not as its journal says: {digest}" for digest in await unlike(context)]
    for view in context.service.views.values():
        journals = [message for source in sorted(view.sources) for message in await journal_of(contexts[source])]
        kept = await serving_name(context, view.name)
        parked = {(failure.message.source, failure.message.id) for failure in await all_parked(context.views, kept)}
        wanted = recomputed(view, [each for each in journals if (each.source, each.id) not in parked])
        found += _differences(f"{name}/{view.name}", await _stored(context, kept), wanted)
        if view.lists:
            proof = await prove_lists(context.views, kept, ViewEntries(view), context.clock, mend=False)
            found += [f"the lists of {name}/{view.name} are not as its documents: {proof.told}"] if proof.found else []
    for borrow in context.service.borrows.values():
        setting = await read_mode(context, borrow)
        if setting.mode == "async" and borrow.owner in contexts:
            copied = await _stored(context, copy_name(borrow.name, setting.mode))
            wanted = await _shared(contexts[borrow.owner], borrow, {*copied, *keys})
            found += _differences(f"{name}'s copy of {borrow.name}", copied, wanted)
    return found


def recomputed(view: View[Any], events: Sequence[Message]) -> dict[str, Any]:
    """A view as it has to be: every event folded once, a partition after the other."""
    folder = Folder(view)
    documents: dict[str, Any] = {}
    for message in events:
        if step := folder.steps.get(message.type):
            event = step.decoder.decode(message.data)
            for key in folder.keys(step, event):
                documents[key] = folder.apply(step, documents.get(key), key, event)
    return {
        key: msgspec.to_builtins(document, enc_hook=write_inside)
        for key, document in documents.items()
        if document is not None
    }


async def _shared(owner: Context, borrow: Borrow[Any], known: Collection[str]) -> dict[str, Any]:
    """The owner's current documents: of the keys that are known, and of those that it ever emitted."""
    keys = {row.key for row in await every_row(owner, SharedKey) if row.share == borrow.share} | set(known)
    found: dict[str, Any] = {}
    async with owner.store.snapshot() as session:
        for page in pages(sorted(keys)):
            documents = await shared_documents(
                owner.resources.calling, owner.service.shares[borrow.share], Reads(owner.service, session), page
            )
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


async def journal_of(context: Context) -> list[Message]:
    """The events of a service's journal, partition by partition."""
    found: list[Message] = []
    for partition in range(context.service.partitions):
        found += await _kept_of(context, partition)
    return found


async def _kept_of(context: Context, partition: int) -> list[Message]:
    while True:
        found: list[Message] = []
        after = (await context.store.oldest())[partition] - 1
        with suppress(Trimmed):  # meanwhile
            while page := await context.store.journal(partition, after, 500):
                found += page
                after = page[-1].number
            return found


async def every_row(context: Context, entity: type[Entity]) -> Iterable[Any]:
    """All rows of an entity."""
    table = table_of(entity)
    async with context.store.snapshot() as session:
        return [table.from_row(row) for row in await session.find(table, {})]
