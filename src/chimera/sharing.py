"""What an owner shares: its current documents by key, and their changes in its own journal.

Whenever a transaction emits an event that may change a shared document, the new document goes into
the journal in the same transaction, as an event of its own. So a borrower's copy needs no code of the
owner's, and holds at each position exactly what the owner held there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from chimera.messages import partition_of
from chimera.service import Service, Share
from chimera.transaction import Pending, Reads, Unit, UnitReads


class SharedChange(msgspec.Struct):
    """The data of the event that carries a share's new document; `null` when the key has none any more."""

    key: str
    document: msgspec.Raw

    @property
    def removed(self) -> bool:
        return bytes(self.document) == b"null"


def share_type(owner: str, share: str) -> str:
    """The wire type of a share's changes."""
    return f"{owner}.share.{share}"


async def shared_documents(share: Share, reads: Reads, keys: Sequence[str]) -> dict[str, bytes]:
    """The owner's current documents of a share, as JSON; keys without one are left out."""
    documents: Mapping[str, Any] = await share.function(list(keys), reads)
    return {key: msgspec.json.encode(documents[key]) for key in keys if documents.get(key) is not None}


async def emit_changed(unit: Unit, emitted: Sequence[Sequence[Pending]]) -> list[set[int]]:
    """Add the shares' changes to a unit; returns which partitions each list of events touches, with them."""
    touched = [{pending.partition for pending in events} for events in emitted]
    for share in unit.service.shares.values():
        keys = [{key for pending in events for key in _changed_keys(share, pending)} for events in emitted]
        every = sorted(set().union(*keys)) if keys else []
        if not every:
            continue
        documents = await shared_documents(share, UnitReads(unit), every)
        latest = {key: pending for pending in unit.events for key in _changed_keys(share, pending)}
        for key in every:
            unit.events.append(_change(unit.service, share, key, documents.get(key), latest[key]))
        for partitions, own in zip(touched, keys, strict=True):
            partitions |= {partition_of(key, unit.service.partitions) for key in own}
    return touched


def _changed_keys(share: Share, pending: Pending) -> list[str]:
    key_of = share.changed_by.get(type(pending.event)) if pending.event is not None else None
    if key_of is None:
        return []
    keys = key_of(pending.event)
    return [keys] if isinstance(keys, str) else list(keys)


def _change(service: Service, share: Share, key: str, document: bytes | None, cause: Pending) -> Pending:
    data = msgspec.json.encode(SharedChange(key, msgspec.Raw(document or b"null")))
    return Pending(
        share_type(service.name, share.name),
        key,
        partition_of(key, service.partitions),
        data,
        cause.time,
        cause.traceparent,
    )
