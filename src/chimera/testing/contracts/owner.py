"""The contract of the port `Owner`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import msgspec
import pytest

from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.context import Context
from chimera.entities import Entity
from chimera.errors import Trimmed, Unavailable
from chimera.messages import Command, Event, Message, Position, partition_of
from chimera.ports import Entry, Owner
from chimera.reads import Reads
from chimera.run.engines import context_of
from chimera.service import Service
from chimera.share.digests import BUCKETS, BucketSum, bucket_of, digest_of
from chimera.testing.contracts.bank import trimmed
from chimera.testing.contracts.suite import NAMES
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.transaction import Transaction
from chimera.upkeep.drift.share_audit import complete

SHARE = "notes"
Change = Callable[[str, "str | None"], Awaitable[None]]

owner_service = Service("contract-owner", partitions=3)
"""A service that owns notes and shares them; a subclass serves it in its own way."""


class SharedNote(msgspec.Struct):
    """The shared document of a note."""

    note_id: str
    text: str


@owner_service.entity
class KeptNote(Entity, key="note_id", table="notes"):
    """The owner's row of a note."""

    note_id: str
    text: str


class ChangeNote(Command, key="note_id"):
    """Give a note another text; None deletes it."""

    note_id: str
    text: str | None


class NoteChanged(Event, source="contract-owner", key="note_id"):
    """A note has another text, or is gone."""

    note_id: str


@owner_service.handle(direct=True)
async def change_note(command: ChangeNote, tx: Transaction) -> None:
    """Save or delete the note, and emit that it changed."""
    if command.text is None:
        tx.delete(KeptNote(command.note_id, ""))
    else:
        tx.save(KeptNote(command.note_id, command.text))
    tx.emit(NoteChanged(command.note_id))


@owner_service.share(SHARE, key="note_id", changed_by=[NoteChanged])
async def notes_of(note_ids: list[str], reads: Reads) -> dict[str, SharedNote]:
    """The share: the notes that there are."""
    return {note.note_id: SharedNote(note.note_id, note.text) for note in await reads.find(KeptNote, note_id=note_ids)}


class OwnerContract:
    """Every guarantee of `Owner`.

    A subclass provides `engine`: `owner_service` of the fixture `context`, as an owner. It may override `context`, for
    other engines, `change`, which gives a key another text, or none, and `look_through`, after which the owner
    knows every key that it ever shared.
    """

    @pytest.fixture
    async def context(self) -> AsyncIterator[Context]:
        """The owner, in memory."""
        context = context_of(owner_service, MemoryLog(), MemoryStore(), MemoryViews(), nobody_else)
        await context.prepare()
        yield context
        await context.owners.close()

    @pytest.fixture
    def change(self, context: Context) -> Change:
        """A function that gives a key another text, or none."""
        return partial(give_text, context)

    @pytest.fixture
    def look_through(self, context: Context) -> Callable[[], Awaitable[None]]:
        """A function after which the owner knows every key that it ever shared, as `entries` needs."""

        async def look_through() -> None:
            await complete(context, owner_service.shares[SHARE], range(owner_service.partitions))

        return look_through

    async def test_documents_come_by_key_and_keys_without_one_are_left_out(self, engine: Owner, change: Change) -> None:
        """Also when there is none at all."""
        await change("a", "first")
        await change("b", "second")
        assert texts((await engine.fetch(SHARE, ["b", "nobody", "a"])).documents) == {"a": "first", "b": "second"}
        assert texts((await engine.fetch(SHARE, ["nobody"])).documents) == {}

    async def test_events_that_were_trimmed_are_never_passed_over(
        self, engine: Owner, context: Context, change: Change
    ) -> None:
        """Trimmed says from where; what is left can be read."""
        for number in range(6):
            await change("a", f"text {number}")
        partition = partition_of("a", owner_service.partitions)
        await trimmed(context.store, partition, 5)
        with pytest.raises(Trimmed) as raised:
            await engine.journal(partition, 4, 10)
        assert (raised.value.partition, raised.value.after) == (partition, 4)
        head = (await engine.heads())[partition]
        assert [message.number for message in await engine.journal(partition, 5, 100)] == list(range(6, head + 1))

    async def test_what_is_fetched_is_what_the_owner_has_now(self, engine: Owner, change: Change) -> None:
        """Changed and deleted documents at once: nothing is cached."""
        await change("a", "first")
        assert texts((await engine.fetch(SHARE, ["a"])).documents) == {"a": "first"}
        await change("a", "second")
        assert texts((await engine.fetch(SHARE, ["a"])).documents) == {"a": "second"}
        await change("a", None)
        assert texts((await engine.fetch(SHARE, ["a"])).documents) == {}

    async def test_a_document_comes_with_the_position_that_it_is_of(self, engine: Owner, change: Change) -> None:
        """Of a key without a document as well: in its partition, everything up to there, and nothing beyond."""
        for text in ("first", "second", None):
            await change("a", text)
            found, heads = await engine.fetch(SHARE, ["a", "nobody"]), await engine.heads()
            for key in ("a", "nobody"):
                partition = partition_of(key, owner_service.partitions)
                assert found.positions[key] == Position(owner_service.name, partition, heads[partition])

    async def test_documents_come_under_any_key(self, engine: Owner, change: Change) -> None:
        """Spaces, quotes, control characters, many bytes."""
        for name in NAMES:
            await change(name, name)
        assert texts((await engine.fetch(SHARE, NAMES)).documents) == {name: name for name in NAMES}

    async def test_a_thousand_keys_are_fetched_at_once(self, engine: Owner, change: Change) -> None:
        """More than fit one address of HTTP."""
        await change("key-999", "last")
        assert texts((await engine.fetch(SHARE, [f"key-{at}" for at in range(1000)])).documents) == {"key-999": "last"}

    async def test_a_share_that_is_not_there_is_unavailable(self, engine: Owner) -> None:
        """To `fetch`, `entries` and `digests`."""
        with pytest.raises(Unavailable):
            await engine.fetch("secrets", ["a"])
        with pytest.raises(Unavailable):
            await engine.entries("secrets", 0, [0])
        with pytest.raises(Unavailable):
            await engine.digests("secrets", 0)

    async def test_a_partition_that_is_not_there_is_unavailable(
        self, engine: Owner, look_through: Callable[[], Awaitable[None]]
    ) -> None:
        """To `entries` and `digests`."""
        await look_through()
        with pytest.raises(Unavailable):
            await engine.entries(SHARE, owner_service.partitions, [0])
        with pytest.raises(Unavailable):
            await engine.digests(SHARE, owner_service.partitions)

    async def test_each_key_has_the_number_and_the_digest_of_its_last_change(
        self, engine: Owner, context: Context, change: Change, look_through: Callable[[], Awaitable[None]]
    ) -> None:
        """Deleted keys too, with an empty digest; each in its own partition."""
        await look_through()
        for name in (*NAMES, "gone", "again"):
            await change(name, "first")
        await change("gone", None)
        await change("again", "second")
        found: dict[str, Entry] = {}
        for partition, head in (await context.store.heads()).items():
            entries = await engine.entries(SHARE, partition, range(BUCKETS))
            assert all(partition_of(key, owner_service.partitions) == partition for key in entries)
            assert all(0 < entry.number <= head for entry in entries.values())
            found |= entries
        fetched = (await engine.fetch(SHARE, list(found))).documents
        assert {key: entry.digest for key, entry in found.items()} == {
            **{key: digest_of(document) for key, document in fetched.items()},
            "gone": "",
        }
        assert set(found) == {*NAMES, "gone", "again"}
        partition = partition_of("again", owner_service.partitions)
        events = await context.store.journal(partition, 0, 1000)
        assert found["again"].number == max(event.number for event in events if event.key == "again")

    async def test_entries_are_those_of_the_buckets_asked_for(
        self, engine: Owner, change: Change, look_through: Callable[[], Awaitable[None]]
    ) -> None:
        """All of them, and no others."""
        await look_through()
        keys = [f"key-{at}" for at in range(60)]
        for key in keys:
            await change(key, "text")
        for asked in ([3], [0, 1, 2, 3], [63, 8]):
            found = {key for partition in range(3) for key in await engine.entries(SHARE, partition, asked)}
            assert found == {key for key in keys if bucket_of(key) in asked}

    async def test_a_digest_is_that_of_the_entries_with_a_document_in_any_order(
        self, engine: Owner, change: Change, look_through: Callable[[], Awaitable[None]]
    ) -> None:
        """As `BucketSum` adds them up; deleted keys do not count."""
        await look_through()
        for at in range(40):
            await change(f"key-{at}", "text")
        await change("key-7", None)
        for partition in range(3):
            sums: dict[int, BucketSum] = {}
            entries = await engine.entries(SHARE, partition, range(BUCKETS))
            for key, entry in reversed(list(entries.items())):
                if entry.digest:
                    sums.setdefault(bucket_of(key), BucketSum()).add(key, entry.digest)
            assert dict(await engine.digests(SHARE, partition)) == {at: each.digest() for at, each in sums.items()}

    async def test_another_text_changes_the_digest_of_the_documents_and_not_that_of_the_keys(
        self, engine: Owner, change: Change, look_through: Callable[[], Awaitable[None]]
    ) -> None:
        """A bucket without a document has no digest."""
        await look_through()
        partition, bucket = partition_of("a", owner_service.partitions), bucket_of("a")
        await change("a", "first")
        first = (await engine.digests(SHARE, partition))[bucket]
        await change("a", "second")
        second = (await engine.digests(SHARE, partition))[bucket]
        assert (first.keys, first.documents != second.documents) == (second.keys, True)
        await change("a", None)
        assert bucket not in await engine.digests(SHARE, partition)

    async def test_the_journal_is_the_owners_page_by_page(
        self, engine: Owner, context: Context, change: Change
    ) -> None:
        """The same events as in its store."""
        for at in range(20):
            await change(f"key-{at}", "text")
        for partition in range(owner_service.partitions):
            everything = list(await context.store.journal(partition, 0, 1000))
            assert list(await engine.journal(partition, 0, 1000)) == everything
            assert list(await engine.journal(partition, 2, 3)) == everything[2:5]
            assert list(await engine.journal(partition, len(everything), 10)) == []

    async def test_heads_are_the_newest_numbers(self, engine: Owner, context: Context, change: Change) -> None:
        """0 for a partition without an event."""
        assert dict(await engine.heads()) == {0: 0, 1: 0, 2: 0}
        for at in range(5):
            await change(f"key-{at}", "text")
        assert dict(await engine.heads()) == dict(await context.store.heads())

    async def test_its_chain_is_known_at_every_event(self, engine: Owner, context: Context, change: Change) -> None:
        """And before the first; it is left out behind the head."""
        for at in range(5):
            await change(f"key-{at}", "text")
        for partition, head in (await context.store.heads()).items():
            for number in range(head + 1):
                found = await engine.chain({partition: number})
                assert dict(found) == dict(await context.store.chain({partition: number})) != {}
            assert dict(await engine.chain({partition: head + 1})) == {}


def texts(documents: Mapping[str, bytes]) -> dict[str, str]:
    """The notes' texts by key."""
    return {key: msgspec.json.decode(document, type=SharedNote).text for key, document in documents.items()}


async def give_text(context: Context, key: str, text: str | None) -> None:
    """Give a note of `owner_service` another text, or none."""
    data = msgspec.json.encode(ChangeNote(key, text))
    partition = partition_of(key, owner_service.partitions)
    name, time = f"{key}-{text}", "2024-05-01T12:00:00Z"
    message = Message(name, owner_service.name, "contract-owner.ChangeNote", key, time, data, partition)
    [outcome] = await direct_executor(context).run([Task(message)])
    assert not isinstance(outcome, Unavailable)
    assert outcome.state == "done"


def nobody_else(name: str) -> Owner:
    """Raises Unavailable: the owner asks no other service."""
    raise Unavailable(f"nobody knows {name}")
