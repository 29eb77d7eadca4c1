"""What Chimera keeps for itself in a service's store, as entities like any other."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from chimera.entities import Entity, Table, table_of

State = Literal["done", "rejected", "retrying", "parked"]


class Handled(Entity, key="command_id", table="chimera_inbox"):
    """The inbox: what became of a command. `positions` are comma-separated; `body` is a direct command's answer.

    `at`: when that was; none as long as it is set aside, so that it is not forgotten meanwhile. `fingerprint`: what
    tells its payload from another, where its id was made from an Idempotency-Key.
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


class Progress(Entity, key=("consumer", "source", "partition"), table="chimera_checkpoints"):
    """A checkpoint that moves with effects in this store. Of a log of commands, the number is an offset."""

    consumer: str
    source: str
    partition: int
    number: int
    offset: int


class Parked(Entity, key=("consumer", "key", "partition", "number"), table="chimera_parked"):
    """A message set aside with its cause, or one that waits behind such a message of the same key.

    `state`: retrying (tried again when `due`), parked (waits for a person), behind (waits for its turn).
    `tried_by`: the process that tries it now, or ended meanwhile; `ends`: how many ended while they tried it.
    `long_key`: the whole key where it is too long to be one here.
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


class ParkedPlace(Entity, key=("consumer", "key", "partition", "number"), table="chimera_parked"):
    """A `Parked` without what it holds: enough to count, and to see what stands before what."""

    consumer: str
    key: str
    partition: int
    number: int
    state: str
    due: datetime | None = None


class Start(Entity, key=("consumer", "source", "partition"), table="chimera_starts"):
    """Where a consumer started: after `number`, by which process (empty once that ended in order).

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


class Lease(Entity, key="name", table="chimera_leases"):
    """Who does some work until when. `until` is in seconds since the epoch."""

    name: str
    holder: str
    until: float


class SharedKey(Entity, key=("share", "partition", "bucket", "key"), table="chimera_shared"):
    """What this service last emitted of a key that it shares: the event's number, and its document's digest.

    `digest` is empty for a key that has no document any more; such a row stays.
    """

    share: str
    partition: int
    bucket: int
    key: str
    number: int
    digest: str


class Known(Entity, key=("consumer", "partition"), table="chimera_consumers"):
    """A consumer of this journal in another service: how far it was when it was last heard of, at `seen`."""

    __indexes__: ClassVar[tuple[str, ...]] = ("seen",)

    consumer: str
    partition: int
    number: int
    offset: int
    seen: datetime


def framework_tables() -> list[Table]:
    """The tables that every service's store has beside its own."""
    return [table_of(entity) for entity in (Handled, Progress, Parked, Start, Lease, SharedKey, Known)]
