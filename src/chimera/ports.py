"""The ports: everything that Chimera asks of an engine.

Each guarantee is stated at its method, and `chimera.testing` holds one contract suite per port.
Where an engine can't be reached or can't confirm, every method raises `Unavailable`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import msgspec

from chimera.entities import Key, Range, Row, Table, Window
from chimera.messages import Message, Position


class Features(msgspec.Struct, frozen=True):
    """The abilities of an engine.

    `durable`: what was confirmed outlives the process. `shared`: several processes may use it at once.
    `poll_s`: how often, in seconds, it may be asked cheaply whether something is new. `trims`: a log drops what it is
    told to; one that can't only has its own retention. `largest`: bytes of a document, or
    of a message's data, that fit. `together`: documents are never seen before the checkpoints of their write; where
    they are, the next write ends that.
    """

    durable: bool = True
    shared: bool = True
    poll_s: float = 0.01
    trims: bool = True
    largest: int = 512 << 20
    together: bool = True


PAGE_BYTES = 8 << 20
"""A page of events or records ends early rather than hold much more data than this, so that a backlog of large ones
fits in memory; it holds one at least."""


class Record(NamedTuple):
    """A message in a log, with its offset in its partition. Offsets grow, and count from 1 or later."""

    offset: int
    message: Message


class Log(Protocol):
    """A broker, seen as partitioned logs. No groups, no acks: readers keep their own progress."""

    features: Features

    async def create(self, topic: str, partitions: int) -> None:
        """Make sure that the topic exists, with so many partitions or more. Doing it twice changes nothing.

        Raises SettingsError where it has fewer.
        """

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Add messages, each to its own `partition`; returns once all are confirmed as durable as the engine promises.

        Messages of one partition keep their order, within a call and across calls that follow one another.
        When it raises, none, some or all of them may be in the log: delivery is at least once. Unfit where a message is
        larger than the log takes; CutShort where the connection ends in the middle, which one of them may have caused.
        """

    def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        """Batches of at most `limit` records after an offset (0: from the oldest there is) of each partition asked for.

        Within a partition records come in order. Waits when there is nothing more; ends only when closed. A batch, and
        what is read ahead, are a few PAGE_BYTES at most.
        """

    async def ends(self, topic: str) -> Mapping[int, int]:
        """The offset of the newest record of each partition; 0 for an empty one. Unavailable for an unknown topic."""

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        """Drop the records up to these offsets, by partition, in a short step; the newest one may stay.

        No later record changes its offset, nor do `ends`. A read from before the oldest there is starts there.
        """

    async def close(self) -> None:
        """Close its connections, and end the reads that wait. Doing it twice changes nothing."""


class Tip(NamedTuple):
    """The newest event of a journal partition: its number, and the partition's chain there.

    Before the first event a chain begins with a random digest, which no other journal has.
    """

    number: int
    chain: str


class Session(Protocol):
    """A consistent read of a service's own tables. Rows are tuples in the order of the table's columns."""

    dialect: str
    """The SQL spoken by `execute`: sqlite, postgresql, mysql, or empty where there is none."""

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        """The rows with these keys, in any order; unknown keys are left out."""

    async def find(self, table: Table, where: Mapping[str, Sequence[object]]) -> Sequence[Row]:
        """The rows whose columns each hold one of the values given for it, ordered by key."""

    async def page(self, table: Table, where: Mapping[str, Sequence[object]], window: Window) -> Sequence[Row]:
        """Of the rows that `find` finds, those of a window."""

    async def count(self, table: Table, where: Mapping[str, Sequence[object]], ranges: Mapping[str, Range] = {}) -> int:
        """How many rows `find` finds that are in these ranges."""

    async def scan(self, table: Table, after: Key, limit: int) -> Sequence[Row]:
        """At most `limit` rows, ordered by key, after a key (empty: from the first on). What it reads does not hold."""

    async def execute(self, sql: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        """Run SQL of the engine's own dialect on this session's connection and return its rows.

        What it reads does not hold by itself, unless it locks it (`SELECT … FOR UPDATE`); on SQLite it does.
        """

    async def history(self, partition: int, key: str, after: int = 0) -> Sequence[Message]:
        """The journal's events of one key, in order."""

    async def heads(self) -> Mapping[int, int]:
        """As `Store.heads`, of the moment that the session reads."""


class WriteSession(Session, Protocol):
    """An open transaction. All of it becomes visible at once, or none of it."""

    async def save(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert the rows, or replace those whose key exists."""

    async def delete(self, table: Table, keys: Sequence[Key]) -> None:
        """Delete the rows with these keys; unknown keys are no error."""

    async def hold(self, partitions: Collection[int]) -> Mapping[int, Tip]:
        """Hold these partitions' heads until the transaction ends; returns the newest event of each.

        So numbers become visible in their order, and a rolled-back transaction leaves no hole.
        """

    async def expire(self, table: Table, column: str, before: datetime, limit: int) -> int:
        """Delete at most `limit` rows, the oldest first, whose time in `column` is before; says how many.

        The column should be one of the table's `indexes`.
        """

    async def trim(self, partition: int, through: int) -> None:
        """Forget the journal's events of a partition up to a number; `heads` stay, and the chain goes on."""

    async def append(self, events: Sequence[Message]) -> None:
        """Add events to the journal: each partition's are those after what `hold` returned, in order."""


class Store(Protocol):
    """A service's source of truth: its entities and its journal."""

    features: Features

    async def create(
        self, tables: Sequence[Table], partitions: int, statements: Mapping[str, Sequence[str]] = {}
    ) -> None:
        """Make sure that the tables and the journal exist; run this dialect's idempotent `statements`.

        Raises SettingsError, saying what to do, when what is there does not fit.
        """

    def transaction(self) -> AbstractAsyncContextManager[WriteSession]:
        """One transaction: leaving the block commits durably, an exception rolls back.

        What was loaded or found, and what was looked for and was not there, can't be changed by somebody else before
        the transaction ends, so that committed transactions are as if they had run one after the other. Where an engine
        can't keep others from that, reading or leaving raises `Conflict` and nothing is stored. Of tables that are not
        `guarded`, only rows that were there hold.
        """

    def snapshot(self, *, once: bool = False) -> AbstractAsyncContextManager[Session]:
        """Reads only; sees every transaction that was committed before.

        `once`: for a single call, which needs no transaction around it and costs less; of many rows, each is of a
        moment of its own.
        """

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        """At most `limit` events of a partition after a number: in order, committed only, without a hole.

        Only where there are none is nothing left: a page may end early (PAGE_BYTES).

        Raises Trimmed, and never answers from further on, when the first of them is no longer there.
        """

    async def heads(self) -> Mapping[int, int]:
        """The newest committed number of each partition; 0 for an empty one."""

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        """The chain of each of these partitions at a number.

        Left out where it is not known: after the head, before the last event that was trimmed, and before there were
        chains.
        """

    async def oldest(self) -> Mapping[int, int]:
        """The oldest number still there of each partition; that of the next event where there is none."""

    async def types(self) -> Mapping[str, int]:
        """The types of the events that are still there, and how many there are of each. It may read all of them."""

    async def close(self) -> None:
        """Close its connections. Doing it twice changes nothing."""


class Wakes(Protocol):
    """A store or view store that tells when others write to it. Those that can't are looked at more often."""

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` on this event loop, until `close`, soon after somebody else may have committed; once created.

        It is a hint: one may come for nothing, and in bad times be lost.
        """


def wakes(port: object) -> TypeGuard[Wakes]:
    """True for one that tells; asked at each look, where `isinstance` of a protocol would be most of its cost."""
    return hasattr(port, "listen")


@runtime_checkable
class Lends(Protocol):
    """A `WriteSession` on whose connection SQLAlchemy can work."""

    async def sqlalchemy(self) -> Any:
        """An AsyncSession on this session's connection, which it can't commit, roll back or close.

        Once one of its statements has failed outside a savepoint, or it has rolled back, the transaction never commits.
        Raises ChimeraError where SQLAlchemy is not installed.
        """


@runtime_checkable
class Removable(Protocol):
    """A log or view store that can say how a person removes what it keeps; of others it is said in general."""

    def removal(self, topics: Sequence[str]) -> str:
        """What to type, and where: for all that a view store keeps, or these topics of a log. It removes nothing."""


class Document(NamedTuple):
    """A view's document: JSON bytes as they are served, or None for none; `revision` as it was read, 0 for new."""

    view: str
    key: str
    data: bytes | None
    revision: int = 0


class Checkpoint(NamedTuple):
    """The progress of a consumer in one partition of one source.

    `number` is the last position applied. `offset` is only a hint: where to read the log on from. `chain` is the
    source's chain at `number`; empty where it is not known.
    """

    number: int = 0
    offset: int = 0
    chain: str = ""

    @property
    def stands_on(self) -> str:
        """The chain with the number that it belongs to, as it is stored: an older release only moves the number."""
        return f"{self.number}:{self.chain}" if self.chain else ""

    @classmethod
    def standing(cls, number: int, offset: int, on: str | None) -> Checkpoint:
        """A checkpoint as it was stored; `on` as `stands_on`."""
        at, _, chain = (on or "").partition(":")
        return cls(number, offset, chain if at == str(number) else "")


class Move(NamedTuple):
    """A checkpoint's step, from the number that the writer believes it has."""

    source: str
    partition: int
    before: int
    after: Checkpoint


class Listing(NamedTuple):
    """An entry that comes into a list of a view, or is gone from it: a filter of the list, and the place in there.

    `within` has WITHIN bytes, `at` from one up to LONGEST_PLACE; it is like no other in there, and tells what it is the
    entry of.
    """

    view: str
    within: bytes
    at: bytes
    is_gone: bool = False


LONGEST_PLACE = 2000
WITHIN = 16
"""Bytes of a filter."""


class ViewStore(Protocol):
    """Read-optimised documents by view and key, with the checkpoints of what was folded into them, and lists."""

    features: Features

    async def create(self) -> None:
        """Make sure that the store can be used. Doing it twice changes nothing."""

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        """The documents that exist among these keys."""

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        """Put the documents (delete those without data), move the consumer's checkpoints, change lists, atomically.

        Returns the revision at which all that were put are from now on, above 0; 0, and nothing is changed, when a
        checkpoint is not at `before` or a document not at its `revision`. Of an entry that is there already, or is
        gone already, nothing changes.
        """

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        """The places of the entries that a filter has, in the order of their bytes, after one; the first `skip` not.

        Without a filter, where `within` is empty: of all that the view has, each place with its filter before it.

        However many there are, a page from the beginning or after a place costs the same; what is skipped is read.
        """

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        """The consumer's checkpoints by (source, partition); those that never moved are left out."""

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        """The view's documents in the order of their keys (UTF-8 bytes), after a key."""

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        """Delete the consumer's checkpoints, and every document and list of these views, atomically."""

    async def close(self) -> None:
        """Close its connections. Doing it twice changes nothing."""


class Entry(msgspec.Struct, frozen=True):
    """The last change that an owner emitted of a shared key: its number, and the document's digest (empty: none)."""

    number: int
    digest: str


class BucketDigest(msgspec.Struct, frozen=True):
    """The digest of all keys in a bucket that have a document: with those documents, and of the keys alone."""

    documents: str
    keys: str


class ConsumerAt(msgspec.Struct, frozen=True):
    """The progress of a consumer in a partition of a journal (see `Checkpoint`); its name is unique everywhere."""

    consumer: str
    partition: int
    number: int
    offset: int


class Fetched(NamedTuple):
    """Documents of a share as JSON, by key, and the position of each key asked for; no positions from who tells none.

    The position is in the key's partition: the document has all that the owner did up to there, and nothing beyond.
    """

    documents: Mapping[str, bytes]
    positions: Mapping[str, Position] = {}


class Epoch(NamedTuple):
    """Where a partition's history began anew, because its journal was put back or made anew, and was recovered.

    It is the same up to `number`, where its chain is `chain` (empty: not known). Records of the log up to `offset` with
    a higher number are of the history before, or are in the journal as well.
    """

    partition: int
    number: int
    chain: str
    offset: int


class Owner(Protocol):
    """Another service, as those who borrow from it or consume its events see it.

    What it emitted of a share is known by key, apart from its documents: `chimera.share.digests` says which digests are
    meant, and which of the buckets a key is in.
    """

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        """The owner's current documents, in one call; keys without one are left out.

        Unavailable for a share that the owner does not have.
        """

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        """The digest of each bucket of a partition; those where no key has a document are left out.

        Each is of one moment, not all of the same one. Unavailable as `entries`.
        """

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        """The keys in these buckets of a partition that were ever emitted, those without a document as well.

        Unavailable for a share or partition that the owner does not have, and until it knows every key.
        """

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        """As `Store.journal`, of the owner's store."""

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        """As `Store.chain`, of the owner's store."""

    async def heads(self) -> Mapping[int, int]:
        """As `Store.heads`, of the owner's store."""

    async def epochs(self) -> Sequence[Epoch]:
        """Where its history began anew, oldest first; none where it never did."""

    async def report(self, consumers: Sequence[ConsumerAt]) -> None:
        """Tell how far these consumers of the owner's events are, so that it keeps what they still need."""

    async def close(self) -> None:
        """Close its connections. Doing it twice changes nothing."""


class KnownKey(NamedTuple):
    """The key of a person's values, with its id; an empty key where it was destroyed, or never was."""

    id: str
    key: bytes


@runtime_checkable
class HasKeys(Protocol):
    """An owner that tells other services of its fleet the keys of what it has concealed."""

    async def subject_keys(self, subjects: Sequence[str]) -> Mapping[str, KnownKey]:
        """The keys of these subjects; those of whom there is none may be left out. Raises Unavailable."""


class LastKnown(NamedTuple):
    """A value as the owner last gave it, and how long ago."""

    data: bytes
    age_s: float


class LastKnownStore(Protocol):
    """Values by key, held for a while, perhaps forgotten sooner. No method raises, or waits for more than `wait_s`."""

    wait_s: float
    """The most seconds that an answer takes."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, LastKnown]:
        """The values known among these keys; what can't be had in time is left out."""

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        """Remember good values; None forgets a key. What can't be put in time may be put later, or never."""

    async def close(self) -> None:
        """Close its connections. Doing it twice changes nothing."""
