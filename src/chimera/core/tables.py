"""The rows of Chimera's own in a service's store, as entities like any other."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from chimera.core import names
from chimera.entities import Entity, Reserved, Snapshot, SubjectKey, Table, table_of
from chimera.ports import Checkpoint


class _Own(Entity):
    """A row of Chimera's own: what is not there is nobody's, for a lease and a checkpoint say whose it is."""

    __guarded__: ClassVar[bool] = False


class Handled(_Own, key="command_id", table=names.INBOX_TABLE):
    """The inbox: a command that was handled, and how it ended.

    `positions` are comma-separated; `body` is a direct command's answer. `at`: when it ended; none as long as it is
    parked, so that it is not forgotten meanwhile. `fingerprint`: the digest that tells its payload from another, where
    its id was made from an Idempotency-Key. `more`: JSON of what only some answers have.
    """

    __indexes__: ClassVar[tuple[str, ...]] = ("at",)

    command_id: str
    state: str
    reason: str = ""
    detail: str = ""
    positions: str = ""
    status: int = 200
    body: bytes = b""
    at: datetime | None = None
    fingerprint: str | None = None
    more: str | None = None


class Progress(_Own, key=("consumer", "source", "partition"), table=names.CHECKPOINTS_TABLE):
    """A checkpoint that moves with effects in this store. Of a log of commands, the number is an offset.

    `chain`: see `Checkpoint.stands_on`.
    """

    consumer: str
    source: str
    partition: int
    number: int
    offset: int
    chain: str | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint without whose it is."""
        return Checkpoint.standing(self.number, self.offset, self.chain)

    @classmethod
    def of(cls, consumer: str, source: str, partition: int, at: Checkpoint) -> Progress:
        """A consumer's checkpoint, as it is stored."""
        return cls(consumer, source, partition, at.number, at.offset, at.stands_on)


class Parked(_Own, key=("consumer", "key", "partition", "number"), table=names.PARKED_TABLE):
    """A parked message with its cause, or one that waits behind such a message of the same key.

    `state`: retrying (tried again when `due`), parked (waits for a person), behind (waits for its turn), unread (waits
    for code that can read it, or for a person; until `due`, where a write head said that it can). `unread_by`: the
    kinds of code that could not, separated by spaces.
    `tried_by`: the process that tries it now, or ended meanwhile; `ends`: how many ended while they tried it.
    `long_key`: the whole key where it is too long to be one here. `traceback`: where the last try failed.
    `metadata`: the message's.
    """

    consumer: str
    key: str
    partition: int
    number: int
    source: str
    state: str
    id: str
    type: str
    time: str
    data: bytes
    traceparent: str
    cause: str
    tries: int
    first_at: datetime
    last_at: datetime
    due: datetime | None = None
    tried_by: str | None = None
    ends: int | None = None
    long_key: str | None = None
    traceback: str | None = None
    unread_by: str | None = None
    metadata: str | None = None


class ParkedPlace(_Own, key=("consumer", "key", "partition", "number"), table=names.PARKED_TABLE):
    """A `Parked` without what it holds: enough to count, and to see what stands before what."""

    consumer: str
    key: str
    partition: int
    number: int
    state: str
    due: datetime | None = None
    tried_by: str | None = None
    ends: int | None = None
    unread_by: str | None = None


class Start(_Own, key=("consumer", "source", "partition"), table=names.STARTS_TABLE):
    """The start of a consumer: after which `number`, and `by` which process (empty once that ended in order).

    `killed`: how many processes in a row started there and did not end in order. `trying`: the number of the message
    that it handles alone, 0 for none; `ends`: how many processes ended at it.
    """

    consumer: str
    source: str
    partition: int
    number: int
    by: str = ""
    trying: int = 0
    ends: int = 0
    killed: int = 0


class Lease(_Own, key="name", table=names.LEASES_TABLE):
    """Who does some work until when. `until` is in seconds since the epoch."""

    name: str
    holder: str
    until: float


class SharedKey(_Own, key=("share", "partition", "bucket", "key"), table=names.SHARED_TABLE):
    """The last change that this service emitted of a key that it shares: its number, and the document's digest.

    `digest` is empty for a key that has no document any more; such a row stays.
    """

    share: str
    partition: int
    bucket: int
    key: str
    number: int
    digest: str


class ReportedConsumer(_Own, key=("consumer", "partition"), table=names.CONSUMERS_TABLE):
    """A consumer of this journal in another service: how far it was when it was last heard of, at `seen`."""

    __indexes__: ClassVar[tuple[str, ...]] = ("seen",)

    consumer: str
    partition: int
    number: int
    offset: int
    seen: datetime


class StoredName(Entity, key=("kind", "name"), table=names.NAMES_TABLE):
    """A name that this service has declared: of an event, a command, a view, a reaction, a table, a share.

    `gone`: it was not declared any more, and that was all right. `detail`: of a command, its route. Of the kind `build`
    are the digests of all names that were declared together.
    """

    kind: str
    name: str
    detail: str = ""
    gone: bool = False


class StoredEpoch(_Own, key=("partition", "offset"), table=names.EPOCHS_TABLE):
    """An `Epoch` of this service's journal, and when it began."""

    partition: int
    offset: int
    number: int
    chain: str
    at: datetime


class KeptEvent(_Own, key=("consumer", "digest"), table=names.KEPT_TABLE):
    """An event that a reaction has handled and its owner has lost since: what it did stays.

    The same event (see `chimera.upkeep.recovery`), should it come again, is not handled again, so many `times`.
    """

    consumer: str
    digest: str
    times: int


class Build(_Own, key="code", table=names.BUILDS_TABLE):
    """A build of this service: the code that its write heads say they run (see `Leases`), and what that can read.

    `reads` is JSON (see `contracts.CanRead`). It never changes, and is small; it stays when the build is gone.
    """

    code: str
    reads: str


class TableGenerations(_Own, key="reaction", table=names.TABLES_TABLE):
    """Which generation of the tables that a reaction writes serves, once they were built anew.

    `state` and `report` are JSON, of `Generations` and of the last `Comparison` in `chimera.views`. `tables`: those of
    the generation that serves, separated by spaces; any other has the name that it was given.
    """

    reaction: str
    state: str
    report: str = ""
    tables: str = ""


class Forgetting(Entity, key="subject", table=names.FORGETTING_TABLE):
    """That a person is to be forgotten, who asked for it (`by`), and how far it has come; it is never deleted.

    `destroyed_at`: when her key was gone, and `position` where the event is that says so. `done_at`: when every
    consumer had it; `proof` is JSON, of what was looked through then.
    """

    subject: str
    by: str
    asked_at: datetime
    destroyed_at: datetime | None = None
    position: str = ""
    done_at: datetime | None = None
    proof: str = ""


def framework_tables() -> list[Table]:
    """The tables that every service's store has beside its own."""
    return [
        table_of(entity)
        for entity in (
            Handled,
            Progress,
            Parked,
            Start,
            Lease,
            SharedKey,
            ReportedConsumer,
            StoredName,
            StoredEpoch,
            KeptEvent,
            Build,
            Reserved,
            TableGenerations,
            Snapshot,
            SubjectKey,
            Forgetting,
        )
    ]
