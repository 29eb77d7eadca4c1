"""MongoDB behind the port of views: with transactions where there are some, with a protocol of its own elsewhere.

On a replica set or behind mongos, a write is one transaction with majority write concern.

A standalone mongod or FerretDB changes one document at a time. There, every write of a consumer goes through the
consumer's *head*, a document with its checkpoints and a sequence number, in steps:

1. read the head; finish the write that is pending in it, if there is one; compare checkpoints and revisions;
2. stage: insert new documents without a revision, which nobody sees; keep changes and deletions in a *batch*;
3. commit: put the batch's name into the head, if its sequence number is still the same, and count that up;
4. apply: give staged documents their revision, change and delete the others, each only at its old revision;
5. finish: move the checkpoints in the head, take the pending batch out, delete what is left of it.

The head need not be read as long as nobody else writes for the consumer: 3 fails where somebody has.

What stops before 3 has changed nothing, and what it leaves behind is swept by the next write. What stops after 3 is
finished by the next write of the consumer, whoever makes it. Applying twice, or late, changes nothing: a revision and
a batch's name never come again. So a write is applied once or not at all, and checkpoints are never ahead of
documents. What is not promised there is one moment: a reader may see some documents of a batch before the others, and
after a crash only some until the next write. A document may be written by one consumer only (ValueError).
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import pymongo
from pymongo import AsyncMongoClient, DeleteOne, InsertOne, UpdateMany, UpdateOne, errors
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from chimera.errors import SettingsError, Unavailable
from chimera.ports import Checkpoint, Document, Features, Move, ViewStore

Record = dict[str, Any]
Operation = UpdateOne | UpdateMany | DeleteOne | InsertOne[Record]
Checkpoints = Mapping[tuple[str, int], Checkpoint]

_TIMEOUT_S = 30.0
_DEFAULTS = {"serverSelectionTimeoutMS": 3_000, "connectTimeoutMS": 3_000, "maxPoolSize": 16, "appname": "chimera"}
_CHUNK_BYTES = 8 * 1024 * 1024
_DUPLICATE = 11000
_REFUSED = frozenset({13, 18, 8000})
_TRIES = 200
_MANY = 100


def open_engine(kind: Literal["log", "store", "views"], url: str) -> ViewStore:
    """The views of `mongodb://[user:password@]host:port/database`; options are MongoDB's. Raises SettingsError."""
    if kind != "views":
        raise SettingsError(f"{_public(url)}: MongoDB can't be a {kind}; it can keep views")
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise SettingsError(f"{_public(url)} is not an address of MongoDB; one looks like mongodb://host:27017/views")
    return MongoViews(url)


class _Stale(Exception):  # noqa: N818 - not an error: it ends a transaction
    """A checkpoint or a document is not where the writer believes."""


class _Head(NamedTuple):
    """A consumer's head, as it was read or will be."""

    seq: int
    checkpoints: Checkpoints
    pending: Record | None = None


class _Plan(NamedTuple):
    """A write whose checkpoints and revisions were found right: what it inserts, and what it changes or deletes."""

    new: list[Record]
    changes: list[Record]


class MongoViews:
    """Documents, heads and batches as three collections. See this module for what holds on which server."""

    features = Features(durable=True, shared=True, poll_s=0.02)

    def __init__(self, url: str) -> None:
        self.name = _public(url)
        self._url = url
        self._client: AsyncMongoClient[Record] | None = None
        self._is_closed = False
        self._transactions = False
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._left: dict[str, _Head] = {}
        """Each consumer's head as this process left it."""

    async def create(self) -> None:
        """Finishes what was left pending, also from when the server had no transactions."""
        if self._is_closed:
            raise Unavailable(f"{self.name} was closed")
        with _telling(self.name):
            if self._client is None:
                self._connect()
            hello = await self._client_in_use.admin.command("hello")
            self._transactions = "setName" in hello or hello.get("msg") == "isdbgrid"
            await self._documents.create_index("staged", sparse=True)
            for head in await self._heads.find({"pending": {"$exists": True}}).to_list():
                await self._settled(head["_id"])
            if self._transactions:
                await self._documents.delete_many({"staged": {"$gt": ""}})

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        start = _start(view)
        wanted = {"_id": start + keys[0]} if len(keys) == 1 else {"_id": {"$in": [start + key for key in set(keys)]}}
        with _telling(self.name):
            records = await self._documents.find(wanted, _SERVED).to_list() if keys else []
        return {each.key: each for each in (_document(view, record) for record in records if "revision" in record)}

    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        async with self._locks[consumer]:
            with _telling(self.name), pymongo.timeout(_TIMEOUT_S):
                for attempt in range(_TRIES):
                    head = self._left.pop(consumer, None)
                    if head is None or not _is_at(head, moves):  # it may be out of date
                        head = await self._settled(consumer)
                    done = await self._try(consumer, head, documents, moves)
                    if done is not None:
                        return done
                    await asyncio.sleep(secrets.randbelow(1 + min(attempt, 20)) / 1000)
        raise Unavailable(f"{self.name}: too many processes write {consumer} at once")

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        with _telling(self.name):
            head = await self._heads.find_one({"_id": consumer})
        return _checkpoints(head["checkpoints"] if head else [])

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        wanted = {"_id": {"$gt": _start(view) + after, "$lt": _end(view)}, "revision": {"$gt": 0}}
        with _telling(self.name):
            records = await self._documents.find(wanted, _SERVED).sort("_id", 1).limit(limit).to_list()
        return [_document(view, record) for record in records]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._locks[consumer]:
            with _telling(self.name), pymongo.timeout(_TIMEOUT_S):
                self._left.pop(consumer, None)
                while True:
                    head = await self._settled(consumer)
                    if await self._commit(consumer, head, {"drop": list(views), "checkpoints": []}):
                        await self._settled(consumer)
                        return

    async def close(self) -> None:
        self._is_closed = True
        client, self._client = self._client, None
        if client:
            await client.close()

    async def _try(
        self, consumer: str, head: _Head, documents: Sequence[Document], moves: Sequence[Move]
    ) -> int | None:
        """Write once; None when somebody else was quicker, so that everything has to be looked at again."""
        if not _is_at(head, moves):
            return 0
        moved = {(move.source, move.partition): move.after for move in moves}
        after = _Head(head.seq + 1, {**head.checkpoints, **moved})
        plan = await self._plan(consumer, documents, head.seq)
        if plan is None:
            return 0
        if self._transactions or not (plan.new or plan.changes):
            return await self._write_at_once(consumer, head, after, plan)
        return await self._write_in_steps(consumer, head, after, plan)

    async def _plan(self, consumer: str, documents: Sequence[Document], seq: int) -> _Plan | None:
        """What to insert and what to change; None when a document is not at its revision."""
        by_id = {_start(each.view) + each.key: each for each in documents}
        found = await self._documents.find({"_id": {"$in": list(by_id)}}, {"data": 0}).to_list() if by_id else []
        kept = {record["_id"]: record for record in found if "revision" in record}
        plan = _Plan([], [])
        for at, document in by_id.items():
            if kept.get(at, _ABSENT)["revision"] != document.revision:
                return None
            if at in kept and kept[at]["consumer"] != consumer and not self._transactions:
                raise ValueError(f"{at} is written by {kept[at]['consumer']}, so {consumer} can't write it as well")
            if at in kept:
                plan.changes.append({"id": at, "revision": document.revision, "data": document.data})
            elif document.data is not None:
                plan.new.append({"_id": at, "data": document.data, "consumer": consumer, "seq": seq})
        return plan

    async def _write_at_once(self, consumer: str, head: _Head, after: _Head, plan: _Plan) -> int | None:
        """All of it in a transaction, or only the head where no document changes."""
        revision = _revision()
        operations = [
            *(InsertOne({**record, "revision": revision}) for record in plan.new),
            *_changes(plan.changes, revision, head.seq),
        ]

        async def run(session: AsyncClientSession | None) -> None:
            change = {"$set": {"seq": after.seq, "checkpoints": _records(after.checkpoints)}}
            counted = await self._heads.update_one({"_id": consumer, "seq": head.seq}, change, session=session)
            if counted.matched_count == 0:
                raise _Stale
            if operations:
                done = await self._documents.bulk_write(operations, ordered=False, session=session)
                if done.matched_count + done.deleted_count != len(plan.changes):
                    raise _Stale

        try:
            if operations:
                async with self._client_in_use.start_session() as session:
                    await session.with_transaction(run, ReadConcern("snapshot"), WriteConcern("majority"))
            else:
                await run(None)
        except _Stale:
            return None
        except errors.BulkWriteError as error:
            if _only_duplicates(error):
                return None
            raise
        self._left[consumer] = after
        return revision

    async def _write_in_steps(self, consumer: str, head: _Head, after: _Head, plan: _Plan) -> int | None:
        batch, revision = uuid.uuid4().hex, _revision()
        if not await self._stage(consumer, head, batch, plan.new):
            return None
        place = {"batch": batch, "consumer": consumer, "seq": head.seq}
        chunks = [{"_id": f"{batch}/{at}", **place, "items": items} for at, items in enumerate(_chunks(plan.changes))]
        for chunk in chunks:
            await self._batches.insert_one(chunk)
        moved = _records(after.checkpoints)
        pending = {"batch": batch, "chunks": len(chunks), "checkpoints": moved, "revision": revision}
        if not await self._commit(consumer, head, pending):
            await self._documents.delete_many({"staged": batch})
            await self._batches.delete_many({"batch": batch})
            return None
        await self._apply(batch, [record["_id"] for record in plan.new], chunks, revision, after.seq)
        if await self._move(consumer, after.seq, moved):
            self._left[consumer] = after
        if chunks:
            await self._sweep(consumer, after.seq)
        return revision

    async def _stage(self, consumer: str, head: _Head, batch: str, new: Sequence[Record]) -> bool:
        """Insert new documents, unseen. False when others stood in the way: they are swept away if they never count."""
        if not new:
            return True
        try:
            await self._documents.insert_many([{**record, "staged": batch} for record in new], ordered=False)
            return True
        except errors.BulkWriteError as error:
            if not _only_duplicates(error):
                raise
        # Counting the head up makes sure that whoever staged those before can't commit any more.
        if await self._count_up(consumer, head):
            dead = {"_id": {"$in": [record["_id"] for record in new]}, "consumer": consumer, "seq": {"$lte": head.seq}}
            await self._documents.delete_many({**dead, "staged": {"$gt": ""}})
        else:
            await self._documents.delete_many({"staged": batch})
        return False

    async def _count_up(self, consumer: str, head: _Head) -> bool:
        counted = await self._heads.update_one({"_id": consumer, "seq": head.seq}, {"$set": {"seq": head.seq + 1}})
        return counted.matched_count == 1

    async def _commit(self, consumer: str, head: _Head, pending: Record) -> bool:
        change = {"$set": {"seq": head.seq + 1, "pending": pending}}
        return (await self._heads.update_one({"_id": consumer, "seq": head.seq}, change)).matched_count == 1

    async def _settled(self, consumer: str) -> _Head:
        """The consumer's head, after what was pending in it is finished."""
        while True:
            record = await self._heads.find_one({"_id": consumer})
            if record is None:
                await self._insert_head(consumer)
                continue
            head = _Head(record["seq"], _checkpoints(record["checkpoints"]), record.get("pending"))
            if head.pending is None:
                return head
            await self._finish(consumer, head.seq, head.pending)

    async def _insert_head(self, consumer: str) -> None:
        seq = time.time_ns() // 1000  # microseconds, so that one made anew begins above all that were before
        try:
            await self._heads.insert_one({"_id": consumer, "seq": seq, "checkpoints": []})
        except errors.DuplicateKeyError:
            return

    async def _finish(self, consumer: str, seq: int, pending: Record) -> None:
        """Apply what is pending, move the checkpoints, sweep up. Any number may do it, even long afterwards."""
        if "drop" in pending:
            await self._delete_views(consumer, pending["drop"], seq)
        else:
            batch = pending["batch"]
            chunks = await self._batches.find({"batch": batch}).to_list() if pending["chunks"] else []
            if len(chunks) != pending["chunks"]:  # somebody else has finished it
                return
            staged = await self._documents.find({"staged": batch}, {"_id": 1}).to_list()
            await self._apply(batch, [record["_id"] for record in staged], chunks, pending["revision"], seq)
        await self._move(consumer, seq, pending["checkpoints"])
        await self._sweep(consumer, seq)

    async def _apply(self, batch: str, new: Sequence[str], chunks: Iterable[Record], revision: int, seq: int) -> None:
        seen = {"$set": {"revision": revision}, "$unset": {"staged": ""}}
        shown: list[Operation] = [UpdateOne({"_id": each, "staged": batch}, seen) for each in new]
        if len(new) > _MANY:  # not for few, because FerretDB reads the whole collection for this
            shown = [UpdateMany({"staged": batch}, seen)]
        for operations in (shown, *(_changes(chunk["items"], revision, seq - 1) for chunk in chunks)):
            if operations:
                await self._documents.bulk_write(operations, ordered=False)

    async def _move(self, consumer: str, seq: int, checkpoints: list[Record]) -> bool:
        """Move the checkpoints, and nothing is pending any more. False when somebody else has done so."""
        pending = {"_id": consumer, "seq": seq, "pending": {"$exists": True}}
        change = {"$set": {"checkpoints": checkpoints}, "$unset": {"pending": ""}}
        return (await self._heads.update_one(pending, change)).matched_count == 1

    async def _sweep(self, consumer: str, seq: int) -> None:
        await self._batches.delete_many({"consumer": consumer, "seq": {"$lt": seq}})

    async def _delete_views(self, consumer: str, views: Sequence[str], seq: int) -> None:
        for view in views:
            older = {"_id": {"$gte": _start(view), "$lt": _end(view)}, "consumer": consumer, "seq": {"$lt": seq}}
            await self._documents.delete_many(older)

    def _connect(self) -> None:
        try:
            given = pymongo.uri_parser.parse_uri(self._url)["options"]
            kept: dict[str, Any] = {name: value for name, value in _DEFAULTS.items() if name not in given}
            self._client = AsyncMongoClient(self._url, **kept)
            self._client.get_default_database()
        except (errors.InvalidURI, errors.ConfigurationError, ValueError) as error:
            raise SettingsError(f"{self.name}: {error}") from error

    @property
    def _client_in_use(self) -> AsyncMongoClient[Record]:
        if self._client is None:
            raise Unavailable(f"{self.name} is not open: call create first")
        return self._client

    @property
    def _documents(self) -> AsyncCollection[Record]:
        return self._client_in_use.get_default_database()["documents"]

    @property
    def _heads(self) -> AsyncCollection[Record]:
        return self._client_in_use.get_default_database()["heads"]

    @property
    def _batches(self) -> AsyncCollection[Record]:
        return self._client_in_use.get_default_database()["batches"]


_SERVED = {"data": 1, "revision": 1}
_ABSENT: Record = {"revision": 0}


def _changes(items: Iterable[Record], revision: int, seq: int) -> list[Operation]:
    """Change or delete documents, each only at its old revision."""
    changed: list[Operation] = []
    for item in items:
        at = {"_id": item["id"], "revision": item["revision"]}
        change = {"$set": {"data": item["data"], "revision": revision, "seq": seq}}
        changed.append(DeleteOne(at) if item["data"] is None else UpdateOne(at, change))
    return changed


def _chunks(items: Iterable[Record]) -> Iterator[list[Record]]:
    """Parts that fit a document, which MongoDB limits to 16 MiB."""
    chunk: list[Record] = []
    size = 0
    for item in items:
        weight = len(item["data"] or b"") + 3 * len(item["id"]) + 64
        if chunk and size + weight > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += weight
    if chunk:
        yield chunk


def _revision() -> int:
    """A number that was never a document's revision before: random, and small enough for a double."""
    return secrets.randbits(52) + 1


def _is_at(head: _Head, moves: Sequence[Move]) -> bool:
    at = head.checkpoints
    return all(at.get((move.source, move.partition), Checkpoint()).number == move.before for move in moves)


def _records(checkpoints: Checkpoints) -> list[Record]:
    return [
        {"source": source, "partition": partition, "number": number, "offset": offset}
        for (source, partition), (number, offset) in checkpoints.items()
    ]


def _checkpoints(kept: Iterable[Record]) -> dict[tuple[str, int], Checkpoint]:
    return {(each["source"], each["partition"]): Checkpoint(each["number"], each["offset"]) for each in kept}


@cache
def _start(view: str) -> str:
    """What the ids of a view's documents begin with. MongoDB compares strings as UTF-8 bytes, as `scan` must."""
    return quote(view, safe="") + "/"


def _end(view: str) -> str:
    return quote(view, safe="") + "0"


def _document(view: str, record: Record) -> Document:
    return Document(view, record["_id"].partition("/")[2], bytes(record["data"]), record["revision"])


def _only_duplicates(error: errors.BulkWriteError) -> bool:
    return all(each["code"] == _DUPLICATE for each in (error.details or {})["writeErrors"])


def _public(url: str) -> str:
    """The URL as people may see it."""
    return re.sub(r"//[^/]*@", "//", url.partition("?")[0])


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """Raises what the driver says about reach and rights in our words."""
    try:
        yield
    except errors.PyMongoError as error:
        text = " ".join(str(error).split()).partition(", Topology Description")[0]
        if isinstance(error, errors.OperationFailure) and error.code in _REFUSED:
            raise SettingsError(f"{name}: {text}") from error
        if isinstance(error, errors.ConfigurationError):
            raise SettingsError(f"{name}: {text}") from error
        if isinstance(error, errors.InvalidOperation | errors.ConnectionFailure | errors.OperationFailure):
            raise Unavailable(f"{name}: {text}") from error
        raise
