"""MongoDB behind the port of views: with transactions where there are some, with a protocol of its own elsewhere.

On a replica set or behind mongos, a write is one transaction with majority write concern.

A standalone mongod or FerretDB changes one document at a time. There, every write of a consumer goes through the
consumer's *state*, a document in `heads` with its checkpoints and a sequence number, in steps:

1. read the state; finish the write that is pending in it, if there is one; compare checkpoints and revisions;
2. stage: insert new documents without a revision, which nobody sees; keep changes and deletions in a *batch*;
3. commit: put the batch's name into the state, if its sequence number is still the same, and count that up;
4. apply: give staged documents their revision, change and delete the others, each only at its old revision;
5. finish: move the checkpoints in the state, take the pending batch out, delete what is left of it.

The state need not be read as long as nobody else writes for the consumer: 3 fails where somebody has.

What stops before 3 has changed nothing, and what it leaves behind is swept by the next write. What stops after 3 is
finished by the next write of the consumer, whoever makes it. Applying twice, or late, changes nothing: a revision and
a batch's name never come again. So a write is applied once or not at all, and checkpoints are never ahead of
documents. What is not promised there is one moment: a reader may see some documents of a batch before the others, and
after a crash only some until the next write. A document may be written by one consumer only (ValueError).

An entry of a list is a document like the others, without data, and is found by its id.
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
from typing import Any, NamedTuple

import pymongo
from pymongo import AsyncMongoClient, DeleteOne, InsertOne, UpdateMany, UpdateOne, errors
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from chimera.adapters.mongodb.ids import (
    bytes_of,
    end_of,
    index_bytes_of,
    index_text_of,
    list_start,
    lists_of,
    start_of,
    text_of,
)
from chimera.errors import CutShort, SettingsError, Unavailable
from chimera.ports import Checkpoint, Document, Features, Listing, Move

Stored = dict[str, Any]
"""A document as MongoDB has it."""
Operation = UpdateOne | UpdateMany | DeleteOne | InsertOne[Stored]
Checkpoints = Mapping[tuple[str, int], Checkpoint]

_TIMEOUT_S = 30.0
_DEFAULTS = {"serverSelectionTimeoutMS": 3_000, "connectTimeoutMS": 3_000, "maxPoolSize": 16, "appname": "chimera"}
CHUNK_BYTES = 8 * 1024 * 1024
_LARGEST = (16 << 20) - (64 << 10)
"""MongoDB takes 16 MiB with the names, ids and revisions beside a document's data."""
_DUPLICATE = 11000
_REFUSED = frozenset({13, 18, 8000})
_TRIES = 200
_MANY = 100


class _Stale(Exception):  # noqa: N818 - not an error: it ends a transaction
    """A checkpoint or a document is not where the writer believes."""


class _ConsumerState(NamedTuple):
    """A consumer's state, as it was read or will be."""

    seq: int
    checkpoints: Checkpoints
    pending: Stored | None = None


class _Plan(NamedTuple):
    """A write whose checkpoints and revisions were found right: what it inserts, and what it changes or deletes."""

    new: list[Stored]
    changes: list[Stored]


class MongoViews:
    """Documents, consumers' states (`heads`) and batches as three collections; above is said what holds where.

    `chunk_bytes`: the most that a document with a part of a batch holds.
    """

    features = Features(durable=True, shared=True, poll_s=0.02, largest=_LARGEST, together=False)

    def __init__(self, url: str, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.name = public(url)
        self._url = url
        self._chunk_bytes = chunk_bytes
        self._client: AsyncMongoClient[Stored] | None = None
        self._is_closed = False
        self._transactions = False
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._left: dict[str, _ConsumerState] = {}
        """Each consumer's state as this process left it."""

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
            for state in await self._heads.find({"pending": {"$exists": True}}).to_list():
                await self._settled(state["_id"])
            if self._transactions:
                await self._documents.delete_many({"staged": {"$gt": ""}})

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        start = start_of(view)
        wanted = {"_id": start + keys[0]} if len(keys) == 1 else {"_id": {"$in": [start + key for key in set(keys)]}}
        with _telling(self.name):
            found = await self._documents.find(wanted, _SERVED).to_list() if keys else []
        return {each.key: each for each in (_document(view, stored) for stored in found if "revision" in stored)}

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        async with self._locks[consumer]:
            with _telling(self.name, cut_short=True), pymongo.timeout(_TIMEOUT_S):
                for attempt in range(_TRIES):
                    state = self._left.pop(consumer, None)
                    if state is None or not _is_at(state, moves):  # it may be out of date
                        state = await self._settled(consumer)
                    done = await self._try(consumer, state, documents, moves, listings)
                    if done is not None:
                        return done
                    await asyncio.sleep(secrets.randbelow(1 + min(attempt, 20)) / 1000)
        raise Unavailable(f"{self.name}: too many processes write {consumer} at once")

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        with _telling(self.name):
            state = await self._heads.find_one({"_id": consumer})
        return _checkpoints(state["checkpoints"] if state else [])

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        wanted = {"_id": {"$gt": start_of(view) + after, "$lt": end_of(view)}, "revision": {"$gt": 0}}
        with _telling(self.name):
            found = await self._documents.find(wanted, _SERVED).sort("_id", 1).limit(limit).to_list()
        return [_document(view, stored) for stored in found]

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        start = list_start(view, within)
        beyond = start + (text_of(after) if within else index_text_of(after))
        wanted = {"_id": {"$gt": beyond, "$lt": start[:-1] + "0"}, "revision": {"$gt": 0}}
        with _telling(self.name):
            found = self._documents.find(wanted, {"_id": 1}).sort("_id", 1).skip(skip).limit(limit)
            texts = [stored["_id"][len(start) :] for stored in await found.to_list()]
        return list(map(bytes_of if within else index_bytes_of, texts))

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._locks[consumer]:
            with _telling(self.name), pymongo.timeout(_TIMEOUT_S):
                self._left.pop(consumer, None)
                while True:
                    state = await self._settled(consumer)
                    if await self._commit(consumer, state, {"drop": list(views), "checkpoints": []}):
                        await self._settled(consumer)
                        return

    def removal(self, topics: Sequence[str]) -> str:
        """As `ports.Removable`."""
        return f"in {self.name}: db.documents.drop(); db.heads.drop(); db.batches.drop()"

    async def close(self) -> None:
        self._is_closed = True
        client, self._client = self._client, None
        if client:
            await client.close()

    async def _try(
        self,
        consumer: str,
        state: _ConsumerState,
        documents: Sequence[Document],
        moves: Sequence[Move],
        listings: Sequence[Listing],
    ) -> int | None:
        """Write once; None when somebody else was quicker, so that everything has to be read again."""
        if not _is_at(state, moves):
            return 0
        moved = {(move.source, move.partition): move.after for move in moves}
        after = _ConsumerState(state.seq + 1, {**state.checkpoints, **moved})
        plan = await self._plan(consumer, documents, state.seq)
        if plan is None:
            return 0
        if listings:
            await self._plan_lists(plan, consumer, listings, state.seq)
        if self._transactions or not (plan.new or plan.changes):
            return await self._write_at_once(consumer, state, after, plan)
        return await self._write_in_steps(consumer, state, after, plan)

    async def _plan(self, consumer: str, documents: Sequence[Document], seq: int) -> _Plan | None:
        """The documents to insert and to change; None when one is not at its revision."""
        by_id = {start_of(each.view) + each.key: each for each in documents}
        found = await self._documents.find({"_id": {"$in": list(by_id)}}, {"data": 0}).to_list() if by_id else []
        existing = {stored["_id"]: stored for stored in found if "revision" in stored}
        plan = _Plan([], [])
        for at, document in by_id.items():
            if existing.get(at, _ABSENT)["revision"] != document.revision:
                return None
            if at in existing and existing[at]["consumer"] != consumer and not self._transactions:
                raise ValueError(f"{at} is written by {existing[at]['consumer']}, so {consumer} can't write it as well")
            if at in existing:
                plan.changes.append({"id": at, "revision": document.revision, "data": document.data})
            elif document.data is not None:
                plan.new.append({"_id": at, "data": document.data, "consumer": consumer, "seq": seq})
        return plan

    async def _plan_lists(self, plan: _Plan, consumer: str, listings: Sequence[Listing], seq: int) -> None:
        """Add the entries to insert and to delete; each is deleted at the revision that it is found at."""
        by_id = {list_start(each.view, each.within) + text_of(each.at): each for each in listings}
        found = await self._documents.find({"_id": {"$in": list(by_id)}}, {"revision": 1}).to_list()
        existing = {stored["_id"]: stored["revision"] for stored in found if "revision" in stored}
        for at, listing in by_id.items():
            if listing.is_gone and at in existing:
                plan.changes.append({"id": at, "revision": existing[at], "data": None})
            elif not listing.is_gone and at not in existing:
                plan.new.append({"_id": at, "data": b"", "consumer": consumer, "seq": seq})

    async def _write_at_once(
        self, consumer: str, state: _ConsumerState, after: _ConsumerState, plan: _Plan
    ) -> int | None:
        """All of it in a transaction, or only the state where no document changes."""
        revision = _revision()
        operations = [
            *(InsertOne({**stored, "revision": revision}) for stored in plan.new),
            *_changes(plan.changes, revision, state.seq),
        ]

        async def run(session: AsyncClientSession | None) -> None:
            change = {"$set": {"seq": after.seq, "checkpoints": _stored(after.checkpoints)}}
            counted = await self._heads.update_one({"_id": consumer, "seq": state.seq}, change, session=session)
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

    async def _write_in_steps(
        self, consumer: str, state: _ConsumerState, after: _ConsumerState, plan: _Plan
    ) -> int | None:
        batch, revision = uuid.uuid4().hex, _revision()
        if not await self._stage(consumer, state, batch, plan.new):
            return None
        place = {"batch": batch, "consumer": consumer, "seq": state.seq}
        parts = _chunks(plan.changes, self._chunk_bytes)
        chunks = [{"_id": f"{batch}/{at}", **place, "items": items} for at, items in enumerate(parts)]
        for chunk in chunks:
            await self._batches.insert_one(chunk)
        moved = _stored(after.checkpoints)
        pending = {"batch": batch, "chunks": len(chunks), "checkpoints": moved, "revision": revision}
        if not await self._commit(consumer, state, pending):
            await self._documents.delete_many({"staged": batch})
            await self._batches.delete_many({"batch": batch})
            return None
        await self._apply(batch, [stored["_id"] for stored in plan.new], chunks, revision, after.seq)
        if await self._move(consumer, after.seq, moved):
            self._left[consumer] = after
        if chunks:
            await self._sweep(consumer, after.seq)
        return revision

    async def _stage(self, consumer: str, state: _ConsumerState, batch: str, new: Sequence[Stored]) -> bool:
        """Insert new documents, unseen. False when others stood in the way: they are swept away if they never count."""
        if not new:
            return True
        try:
            await self._documents.insert_many([{**stored, "staged": batch} for stored in new], ordered=False)
            return True
        except errors.BulkWriteError as error:
            if not _only_duplicates(error):
                raise
        # Counting the state up makes sure that whoever staged those before can't commit any more.
        if await self._count_up(consumer, state):
            dead = {"_id": {"$in": [stored["_id"] for stored in new]}, "consumer": consumer, "seq": {"$lte": state.seq}}
            await self._documents.delete_many({**dead, "staged": {"$gt": ""}})
        else:
            await self._documents.delete_many({"staged": batch})
        return False

    async def _count_up(self, consumer: str, state: _ConsumerState) -> bool:
        counted = await self._heads.update_one({"_id": consumer, "seq": state.seq}, {"$set": {"seq": state.seq + 1}})
        return counted.matched_count == 1

    async def _commit(self, consumer: str, state: _ConsumerState, pending: Stored) -> bool:
        change = {"$set": {"seq": state.seq + 1, "pending": pending}}
        return (await self._heads.update_one({"_id": consumer, "seq": state.seq}, change)).matched_count == 1

    async def _settled(self, consumer: str) -> _ConsumerState:
        """The consumer's state, after what was pending in it is finished."""
        while True:
            stored = await self._heads.find_one({"_id": consumer})
            if stored is None:
                await self._insert_state(consumer)
                continue
            state = _ConsumerState(stored["seq"], _checkpoints(stored["checkpoints"]), stored.get("pending"))
            if state.pending is None:
                return state
            await self._finish(consumer, state.seq, state.pending)

    async def _insert_state(self, consumer: str) -> None:
        seq = time.time_ns() // 1000  # microseconds, so that one made anew begins above all that were before
        try:
            await self._heads.insert_one({"_id": consumer, "seq": seq, "checkpoints": []})
        except errors.DuplicateKeyError:
            return

    async def _finish(self, consumer: str, seq: int, pending: Stored) -> None:
        """Apply what is pending, move the checkpoints, sweep up. Any number may do it, even long afterwards."""
        if "drop" in pending:
            await self._delete_views(consumer, pending["drop"], seq)
        else:
            batch = pending["batch"]
            chunks = await self._batches.find({"batch": batch}).to_list() if pending["chunks"] else []
            if len(chunks) != pending["chunks"]:  # somebody else has finished it
                return
            staged = await self._documents.find({"staged": batch}, {"_id": 1}).to_list()
            await self._apply(batch, [stored["_id"] for stored in staged], chunks, pending["revision"], seq)
        await self._move(consumer, seq, pending["checkpoints"])
        await self._sweep(consumer, seq)

    async def _apply(self, batch: str, new: Sequence[str], chunks: Iterable[Stored], revision: int, seq: int) -> None:
        seen = {"$set": {"revision": revision}, "$unset": {"staged": ""}}
        shown: list[Operation] = [UpdateOne({"_id": each, "staged": batch}, seen) for each in new]
        if len(new) > _MANY:  # not for few, because FerretDB reads the whole collection for this
            shown = [UpdateMany({"staged": batch}, seen)]
        for operations in (shown, *(_changes(chunk["items"], revision, seq - 1) for chunk in chunks)):
            if operations:
                await self._documents.bulk_write(operations, ordered=False)

    async def _move(self, consumer: str, seq: int, checkpoints: list[Stored]) -> bool:
        """Move the checkpoints, and nothing is pending any more. False when somebody else has done so."""
        pending = {"_id": consumer, "seq": seq, "pending": {"$exists": True}}
        change = {"$set": {"checkpoints": checkpoints}, "$unset": {"pending": ""}}
        return (await self._heads.update_one(pending, change)).matched_count == 1

    async def _sweep(self, consumer: str, seq: int) -> None:
        await self._batches.delete_many({"consumer": consumer, "seq": {"$lt": seq}})

    async def _delete_views(self, consumer: str, views: Sequence[str], seq: int) -> None:
        for view in views:
            for start, end in ((start_of(view), end_of(view)), (lists_of(view) + "/", lists_of(view) + "0")):
                older = {"_id": {"$gte": start, "$lt": end}, "consumer": consumer, "seq": {"$lt": seq}}
                await self._documents.delete_many(older)

    def _connect(self) -> None:
        try:
            given = pymongo.uri_parser.parse_uri(self._url)["options"]
            usual: dict[str, Any] = {name: value for name, value in _DEFAULTS.items() if name not in given}
            self._client = AsyncMongoClient(self._url, **usual)
            self._client.get_default_database()
        except (errors.InvalidURI, errors.ConfigurationError, ValueError) as error:
            raise SettingsError(f"{self.name}: {error}") from error

    @property
    def _client_in_use(self) -> AsyncMongoClient[Stored]:
        if self._client is None:
            raise Unavailable(f"{self.name} is not open: call create first")
        return self._client

    @property
    def _documents(self) -> AsyncCollection[Stored]:
        return self._client_in_use.get_default_database()["documents"]

    @property
    def _heads(self) -> AsyncCollection[Stored]:
        return self._client_in_use.get_default_database()["heads"]

    @property
    def _batches(self) -> AsyncCollection[Stored]:
        return self._client_in_use.get_default_database()["batches"]


_SERVED = {"data": 1, "revision": 1}
_ABSENT: Stored = {"revision": 0}


def _changes(items: Iterable[Stored], revision: int, seq: int) -> list[Operation]:
    """Change or delete documents, each only at its old revision."""
    changed: list[Operation] = []
    for item in items:
        at = {"_id": item["id"], "revision": item["revision"]}
        change = {"$set": {"data": item["data"], "revision": revision, "seq": seq}}
        changed.append(DeleteOne(at) if item["data"] is None else UpdateOne(at, change))
    return changed


def _chunks(items: Iterable[Stored], most: int) -> Iterator[list[Stored]]:
    """Parts that fit a document, which MongoDB limits to 16 MiB."""
    chunk: list[Stored] = []
    size = 0
    for item in items:
        weight = len(item["data"] or b"") + 3 * len(item["id"]) + 64
        if chunk and size + weight > most:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += weight
    if chunk:
        yield chunk


def _revision() -> int:
    """A number that was never a document's revision before: random, and small enough for a double."""
    return secrets.randbits(52) + 1


def _is_at(state: _ConsumerState, moves: Sequence[Move]) -> bool:
    at = state.checkpoints
    return all(at.get((move.source, move.partition), Checkpoint()).number == move.before for move in moves)


def _stored(checkpoints: Checkpoints) -> list[Stored]:
    return [
        {"source": source, "partition": partition, "number": at.number, "offset": at.offset, "chain": at.stands_on}
        for (source, partition), at in checkpoints.items()
    ]


def _checkpoints(stored: Iterable[Stored]) -> dict[tuple[str, int], Checkpoint]:
    return {
        (each["source"], each["partition"]): Checkpoint.standing(each["number"], each["offset"], each.get("chain"))
        for each in stored
    }


def _document(view: str, stored: Stored) -> Document:
    return Document(view, stored["_id"].partition("/")[2], bytes(stored["data"]), stored["revision"])


def _only_duplicates(error: errors.BulkWriteError) -> bool:
    return all(each["code"] == _DUPLICATE for each in (error.details or {})["writeErrors"])


def public(url: str) -> str:
    """The URL as people may see it."""
    return re.sub(r"//[^/]*@", "//", url.partition("?")[0])


@contextmanager
def _telling(name: str, *, cut_short: bool = False) -> Iterator[None]:
    """Raises what the driver says about reach and rights in our words. `cut_short`: what is done may be the cause."""
    try:
        yield
    except errors.PyMongoError as error:
        text = " ".join(str(error).split()).partition(", Topology Description")[0]
        if isinstance(error, errors.OperationFailure) and error.code in _REFUSED:
            raise SettingsError(f"{name}: {text}") from error
        if isinstance(error, errors.ConfigurationError):
            raise SettingsError(f"{name}: {text}") from error
        if isinstance(error, errors.InvalidOperation | errors.ConnectionFailure | errors.OperationFailure):
            is_away = isinstance(error, errors.InvalidOperation | errors.ServerSelectionTimeoutError)
            raise (CutShort if cut_short and not is_away else Unavailable)(f"{name}: {text}") from error
        raise
