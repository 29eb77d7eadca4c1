"""What Chimera keeps for itself in a service's store, as entities like any other."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from chimera.entities import Entity, Table, table_of

State = Literal["done", "rejected", "retrying", "parked"]


class Handled(Entity, key="command_id", table="chimera_inbox"):
    """The inbox: what became of a command. `positions` are comma-separated; `body` is a direct command's answer."""

    command_id: str
    state: str
    reason: str = ""
    detail: str = ""
    positions: str = ""
    status: int = 200
    body: bytes = b""
    at: datetime | None = None


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


def framework_tables() -> list[Table]:
    """The tables that every service's store has beside its own."""
    return [table_of(entity) for entity in (Handled, Progress, Parked, Lease, SharedKey)]
