"""The shares of an owner: its current documents by key, and their changes in its own journal.

Whenever a transaction emits an event that may change a shared document, the new document goes into
the journal in the same transaction, as an event of its own. So a borrower's copy needs no code of the
owner's, and holds at each position exactly what the owner held there. The owner stores, in the same
transaction again, which event that was and the document's digest: against that, copies are compared.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from chimera.caller import BY_SYSTEM
from chimera.core.names import share_type
from chimera.core.tables import SharedKey
from chimera.entities import table_of
from chimera.forms import encoder_of, form_of
from chimera.messages import Message, partition_of
from chimera.parts import Share
from chimera.ports import Session
from chimera.reads import Reads
from chimera.service import Service
from chimera.share.digests import SharedChange, bucket_of
from chimera.signature import Signature, texts_of
from chimera.transaction import Pending, Unit, UnitReads

Callings = Callable[[Signature], Callable[..., Awaitable[Any]]]
"""From a function of a service to how it is called, with what it needs."""


async def shared_documents(calling: Callings, share: Share, reads: Reads, keys: Sequence[str]) -> dict[str, bytes]:
    """The owner's current documents of a share, as JSON; keys without one are left out.

    Equal documents are equal bytes: sets and dicts are written in the order of their members.
    """
    documents = await _current(calling, share, reads, keys)
    encode = encoder_of("deterministic").encode
    return {key: encode(document) for key, document in documents.items()}


async def _fitting(calling: Callings, share: Share, reads: Reads, keys: Sequence[str]) -> dict[str, bytes]:
    """As `shared_documents`, for the journal. Raises Unfit for one that could not be read again."""
    encode = form_of(share.document, "deterministic").encode
    return {key: encode(document) for key, document in (await _current(calling, share, reads, keys)).items()}


async def _current(calling: Callings, share: Share, reads: Reads, keys: Sequence[str]) -> dict[str, Any]:
    """What the author's function has for keys, by their texts; what is no key of the share's type has nothing."""
    typed = keys if share.typed_key is None else _typed(share.typed_key, keys)
    documents = await calling(share.signature)(list(typed), reads)
    return {
        text: document
        for text, key in zip(keys if share.typed_key is None else map(str, typed), typed, strict=True)
        if (document := documents.get(key)) is not None
    }


def _typed(typed_key: Callable[[str], Any], keys: Sequence[str]) -> list[Any]:
    made: list[Any] = []
    for text in keys:
        with suppress(msgspec.ValidationError):
            if str(key := typed_key(text)) == text:
                made.append(key)
    return made


async def emit_changed(calling: Callings, unit: Unit, emitted: Sequence[Sequence[Pending]]) -> list[set[int]]:
    """Add the shares' changes to a unit; returns which partitions each list of events touches, with them.

    Two transactions may change different rows of one document. So that the later one emits both, a key's row of
    `SharedKey` is loaded, and so held until the commit, before its document is computed.
    """
    touched = [{pending.partition for pending in events} for events in emitted]
    for share in unit.service.shares.values():
        keys = [{key for pending in events for key in _changed_keys(share, pending)} for events in emitted]
        every = sorted(set().union(*keys)) if keys else []
        if not every:
            continue
        await emitted_rows(unit.session, share.name, unit.service.partitions, every)
        documents = await _fitting(calling, share, UnitReads(unit), every)
        latest = {key: pending for pending in unit.events for key in _changed_keys(share, pending)}
        for key in every:
            cause, document = latest[key], documents.get(key)
            unit.events.append(
                change_of(unit.service, share, key, document, cause.time, cause.traceparent, cause.metadata)
            )
        for partitions, own in zip(touched, keys, strict=True):
            partitions |= {partition_of(key, unit.service.partitions) for key in own}
    return touched


async def emitted_rows(session: Session, share: str, partitions: int, keys: Sequence[str]) -> dict[str, SharedKey]:
    """The rows about the last changes of these keys, by key. In a transaction they are held until it ends."""
    table = table_of(SharedKey)
    slots = [(share, partition_of(key, partitions), bucket_of(key), key) for key in keys]
    return {row.key: row for row in map(table.from_row, await session.load(table, slots))}


def _changed_keys(share: Share, pending: Pending) -> list[str]:
    key_of = share.changed_by.get(type(pending.event)) if pending.event is not None else None
    if key_of is None:
        return []
    return texts_of(key_of(pending.event))


def change_of(
    service: Service,
    share: Share,
    key: str,
    document: bytes | None,
    time: str,
    traceparent: str = "",
    metadata: str = BY_SYSTEM,
) -> Pending:
    """The event that carries a share's new document; without `metadata`, one that nobody has asked for."""
    return Pending(
        share_type(service.name, share.name),
        key,
        partition_of(key, service.partitions),
        change_data(key, document),
        time,
        traceparent,
        metadata=metadata,
    )


def change_data(key: str, document: bytes | None) -> bytes:
    """The data of the event that carries a share's new document."""
    return msgspec.json.encode(SharedChange(key, msgspec.Raw(document or b"null")))


def record_changes(unit: Unit, messages: Iterable[Message]) -> None:
    """Store with a unit which keys' documents it has emitted."""
    shares = {share_type(unit.service.name, share): share for share in unit.service.shares}
    for message in messages:
        if message.type in shares:
            unit.put(shared_key(shares[message.type], message))


def shared_key(share: str, message: Message) -> SharedKey:
    """The row about a share's change, of the message that carries it."""
    change = _CHANGES.decode(message.data)
    return SharedKey(share, message.partition, bucket_of(change.key), change.key, message.number, change.digest)


_CHANGES = msgspec.json.Decoder(SharedChange)
