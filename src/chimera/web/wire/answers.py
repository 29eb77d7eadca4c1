"""The answers of Chimera's own routes, as types: they are sent, and openapi.json describes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from chimera.parts import Mode
from chimera.ports import BucketDigest, Entry

Count = Annotated[int, Meta(ge=0)]
Partition = Annotated[int, Meta(ge=0, le=255)]


class CommandShown(msgspec.Struct, omit_defaults=True):
    """The outcome of a command. `unknown`: no such command was accepted, or it is no longer remembered.

    `reason` is a word for programs, `detail` a sentence, `position` where its events are.
    """

    state: Literal["pending", "done", "rejected", "parked", "unknown"]
    reason: str = ""
    detail: str = ""
    position: str = ""


class OneCommand(msgspec.Struct, omit_defaults=True):
    """The outcome of a command. `reason` is a word for programs, `detail` a sentence, `position` its events'."""

    command_id: str
    state: Literal["pending", "done", "rejected", "parked"]
    reason: str = ""
    detail: str = ""
    position: str = ""


class ManyCommands(msgspec.Struct):
    """The outcomes of commands, by id."""

    commands: dict[str, CommandShown]


class JournalEvent(msgspec.Struct, omit_defaults=True):
    """A CloudEvent 1.0 in JSON format. `partition` and `number` are its position in the journal."""

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
    chain: str = ""
    metadata: str = ""


class JournalPage(msgspec.Struct):
    """Events after a position, in order, without a hole."""

    partition: Partition
    after: Count
    events: list[JournalEvent]


class Heads(msgspec.Struct):
    """The newest number of each partition, by partition."""

    heads: dict[str, Count]


class Chain(msgspec.Struct):
    """The chain of a partition at a number; empty where it is not known."""

    partition: Count
    number: Count
    chain: str


class Began(msgspec.Struct):
    """A partition's history is the same up to `number`, where its chain is `chain`, and began anew there.

    Records of the log up to `offset` with a higher number are of the history before.
    """

    partition: Partition
    number: Count
    chain: str
    offset: Count


class JournalEpochs(msgspec.Struct):
    """Where the journal's history began anew, because it was put back or made anew, and was recovered."""

    epochs: list[Began]


class SubjectsKeys(msgspec.Struct):
    """The keys of subjects, each with its id; an empty one for who was forgotten."""

    keys: dict[str, tuple[str, bytes]]


class ConsumersKept(msgspec.Struct):
    """The number of consumers' checkpoints that were reported, and are stored now."""

    kept: Count


class SharedDocuments(msgspec.Struct):
    """The current documents by key; keys without one are left out.

    `positions`: of each key asked for, up to where the owner's journal is in its document.
    """

    share: str
    documents: dict[str, Any]
    positions: dict[str, str]


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
    """The findings of the last audit of a copy, in keys. `at`: when its oldest part was made."""

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
    """The borrows of a service, in the order in which they are declared."""

    borrows: list[BorrowShown]


class ConsumerShown(msgspec.Struct):
    """A consumer's checkpoint in a partition of a source; `head` and `lag` are null while the owner can't be asked.

    `lag` is null as well where the consumer stands on what its owner has lost. `diverged`: why it does not stand on its
    source's history, and takes nothing of it; else empty. Of commands: why their log is not the one that was read; a
    write head reads it from its beginning.
    """

    consumer: str
    source: str
    partition: Partition
    checkpoint: Count
    head: Count | None
    lag: Count | None
    diverged: str


class JournalKept(msgspec.Struct):
    """A partition of the journal: its `kept` events, numbers `oldest` to `newest`; `since` is the oldest one's time.

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
    """The days after which things are dropped, 0 is never; the journal's partitions and its consumers."""

    journal_days: Annotated[float, Meta(ge=0)]
    inbox_days: Annotated[float, Meta(ge=0)]
    log_days: Annotated[float, Meta(ge=0)]
    parked_days: Annotated[float, Meta(ge=0)]
    journal: list[JournalKept]
    consumers: list[KnownConsumer]


class RebuildShown(msgspec.Struct):
    """A view that is built anew: the generation that serves, the one that is being built, and how far that is.

    `held`: it lacks what the serving one has and waits for a person, `why` says what; `ready`: it takes over now.
    """

    view: str
    serving: int
    building: int
    phase: Literal["building", "held", "ready"]
    why: str


class StandingShown(msgspec.Struct):
    """A work of a service that does not get on: since when, how often it was tried, and what it failed with last.

    With no tries, the cause is what somebody else sees of it, or what happened to it that a person has to know.
    """

    work: str
    since: datetime
    tries: Count
    cause: str


class Status(msgspec.Struct):
    """A service's consumers with their checkpoints, its parked messages by consumer, borrows, what stands still, …"""

    service: str
    partitions: Annotated[int, Meta(ge=1, le=256)]
    consumers: list[ConsumerShown]
    parked: dict[str, Count]
    borrows: list[BorrowStatus]
    rebuilds: list[RebuildShown]
    standing: list[StandingShown]
    retention: RetentionShown


class Live(msgspec.Struct):
    """The answer of a process that serves."""

    status: Literal["live"] = "live"


class Ready(msgspec.Struct):
    """The answer of a process whose engines have answered. `standing`: what stands still in it all the same."""

    status: Literal["ready"] = "ready"
    standing: list[StandingShown] | msgspec.UnsetType = msgspec.UNSET
