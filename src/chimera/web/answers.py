"""What Chimera's own routes answer, as types: they are what is sent, and what openapi.json describes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from chimera.ports import BucketDigest, Entry
from chimera.service import Mode

Count = Annotated[int, Meta(ge=0)]
Partition = Annotated[int, Meta(ge=0, le=255)]


class CommandShown(msgspec.Struct, omit_defaults=True):
    """What became of a command. `unknown`: no such command was accepted, or it is no longer remembered.

    `reason` is a word for programs, `detail` a sentence, `position` where its events are.
    """

    state: Literal["pending", "done", "rejected", "parked", "unknown"]
    reason: str = ""
    detail: str = ""
    position: str = ""


class OneCommand(msgspec.Struct, omit_defaults=True):
    """What became of a command. `reason` is a word for programs, `position` is where its events are."""

    command_id: str
    state: Literal["pending", "done", "rejected", "parked"]
    reason: str = ""
    detail: str = ""
    position: str = ""


class ManyCommands(msgspec.Struct):
    commands: dict[str, CommandShown]


class JournalEvent(msgspec.Struct, omit_defaults=True):
    """A CloudEvent 1.0 in JSON format. `partition` and `number` are its place in the journal."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: Literal["application/json"]
    partition: Partition
    number: Annotated[int, Meta(ge=1)]
    data: Any
    traceparent: str = ""


class JournalPage(msgspec.Struct):
    """Events after a position, in order, without a hole."""

    partition: Partition
    after: Count
    events: list[JournalEvent]


class Heads(msgspec.Struct):
    """The newest number of each partition, by partition."""

    heads: dict[str, Count]


class ConsumersKept(msgspec.Struct):
    """How many were told of."""

    kept: Count


class SharedDocuments(msgspec.Struct):
    """The current documents by key; keys without one are left out."""

    share: str
    documents: dict[str, Any]


class SharedDigests(msgspec.Struct):
    """The digest of each bucket of a partition, by bucket; those without a document are left out."""

    share: str
    partition: Partition
    buckets: dict[str, BucketDigest]


class SharedEntries(msgspec.Struct):
    """The event that last changed each key, and its document's digest, empty when it has none any more."""

    share: str
    partition: Partition
    entries: dict[str, Entry]


class BorrowMode(msgspec.Struct):
    """`mode` is in force; `wanted` is what it becomes as soon as its copy is complete."""

    name: str
    owner: str
    mode: Mode
    wanted: Mode


class BorrowShown(BorrowMode):
    """`budget_s` is what a read may wait for the owner; a copy not confirmed for `max_age_s` is stale."""

    budget_s: Annotated[float, Meta(ge=0)]
    max_age_s: Annotated[float, Meta(ge=0)]


class AuditShown(msgspec.Struct):
    """What the last comparison of a copy with its owner found. `at`: when its oldest part was made."""

    at: datetime
    checked: Count
    changed: Count
    missing: Count
    invented: Count
    repaired: Count
    in_flight: Count


class BorrowStatus(BorrowMode):
    """`audit` is null before the first one."""

    audit: AuditShown | None = None


class Borrows(msgspec.Struct):
    borrows: list[BorrowShown]


class ConsumerShown(msgspec.Struct):
    """How far a consumer is in one partition of one source; `head` is null while the owner can't be asked."""

    consumer: str
    source: str
    partition: Partition
    checkpoint: Count
    head: Count | None
    lag: Count | None


class JournalKept(msgspec.Struct):
    """What is kept of a partition of the journal: numbers `oldest` to `newest`, `since` as the oldest's sender said.

    `held_back_by`: the consumer that is last, where there is something that it does not have.
    """

    partition: Partition
    oldest: Annotated[int, Meta(ge=1)]
    newest: Count
    kept: Count
    since: str | None
    held_back_by: str | None


class KnownConsumer(msgspec.Struct):
    """A consumer of the journal; `heard_of` is null for one of this service. `why_not`: why it holds nothing back."""

    consumer: str
    partition: Partition
    applied: Count
    heard_of: datetime | None
    holds_back: bool
    why_not: str


class RetentionShown(msgspec.Struct):
    """For how many days things are kept, 0 is for ever; what is kept of the journal, and who consumes it."""

    journal_days: Annotated[float, Meta(ge=0)]
    inbox_days: Annotated[float, Meta(ge=0)]
    log_days: Annotated[float, Meta(ge=0)]
    parked_days: Annotated[float, Meta(ge=0)]
    journal: list[JournalKept]
    consumers: list[KnownConsumer]


class Status(msgspec.Struct):
    """Where every consumer is, how many messages are parked by consumer, how things are borrowed, and what is kept."""

    service: str
    partitions: Annotated[int, Meta(ge=1, le=256)]
    consumers: list[ConsumerShown]
    parked: dict[str, Count]
    borrows: list[BorrowStatus]
    retention: RetentionShown


class Live(msgspec.Struct):
    status: Literal["live"] = "live"


class Ready(msgspec.Struct):
    status: Literal["ready"] = "ready"
