"""What Chimera promises, looked at in every step: whenever something is committed, written, appended or answered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from chimera.commands.inbox import FINAL
from chimera.core.clock import Clock
from chimera.core.names import (
    AUDITS,
    CHECKPOINTS_TABLE,
    GENERATIONS,
    INBOX_TABLE,
    LEASES_TABLE,
    PARKED_TABLE,
    PARTITION,
    commands_topic,
    share_type,
    view_of,
)
from chimera.entities import Key, Row, Table
from chimera.journal.consumers import Consumer, document_consumers
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Move
from chimera.share.digests import SharedChange, digest_of
from chimera.testing.fleets.happenings import BrokenPromise, Happening
from chimera.testing.fleets.ideal import IdealView
from chimera.testing.memory import Changes
from chimera.testing.plans.fleet import Fleet
from chimera.testing.virtual.loop import PROCESS, SimLoop

Place = tuple[str, int]


class SharedVersion(NamedTuple):
    """A shared document as its owner committed it `at` a time, with the event of this number; None for none."""

    place: Place
    number: int
    digest: str
    document: Any
    at: float


class Promises:
    """The promises of all services of a fleet. `broken` is empty as long as they are kept.

    `notes`: what has happened, where somebody wants to tell it. `on_commit`: called after every commit. `last_error`:
    what was last logged as one. `forgot_at`: when the views of a service were last put back to an older moment, so that
    they show less than before for a while.
    """

    def __init__(self, fleet: Fleet, clock: Clock, loop: SimLoop) -> None:
        self.broken: list[BrokenPromise] = []
        self.notes: list[Happening] | None = None
        self.on_commit: Callable[[], None] = lambda: None
        self.forgot_at: dict[str, float] = {}
        self.last_error = ""
        self.events: dict[str, dict[int, list[Message]]] = {name: {} for name in fleet.services}
        self.ideals: dict[tuple[str, str], list[IdealView]] = {}
        self._clock = clock
        self._loop = loop
        self._heads: dict[str, dict[int, int]] = {name: {} for name in fleet.services}
        self._inboxes = {name: Inbox() for name in fleet.services}
        self._copies: dict[tuple[str, str], Consumer] = {}
        self._emitted: dict[tuple[str, str], dict[str, list[SharedVersion]]] = {}
        self._lease_s = fleet.timing.lease_s
        self._leased_at: dict[tuple[str, Key], float] = {}
        self._checkpoints: dict[tuple[str, str], dict[Place, int]] = {}
        self._of_source: dict[str, list[IdealView]] = {}
        for name, builds in fleet.builds.items():
            for build in builds:
                for view in build.views.values():
                    ideal = IdealView(view)
                    self.ideals.setdefault((name, view.name), []).append(ideal)
                    for source in sorted(view.sources):
                        self._of_source.setdefault(source, []).append(ideal)
                for consumer in document_consumers(build).values():
                    if consumer.kind == "copy":
                        self._copies[name, consumer.name] = consumer
                for share in build.shares:
                    self._emitted[name, share] = {}

    def note(self, text: str, keys: Collection[str] = (), *, process: str = "") -> None:
        """Something happens."""
        if self.notes is not None:
            self.notes.append(Happening(self._loop.now, process or self._who(), text, keys))

    def read(self, table: Table, asked: Sequence[Sequence[object]], rows: Sequence[Row]) -> None:
        """A transaction reads rows of a table."""
        if self.notes is not None and not table.name.startswith("chimera_"):
            keys = [str(each) for values in asked for each in values]
            found = "; ".join(str(row) for row in rows)[:300] or "nothing"
            self.note(f"reads {table.name} of {', '.join(keys)}: {found}", keys)

    def logs(self, text: str) -> None:
        """An error is logged."""
        self.last_error = text
        self.note(f"logs: {text}", process=self._who())

    def breaks(self, promise: str, text: str, key: str = "") -> None:
        """A promise is not kept."""
        self.broken.append(BrokenPromise(self._loop.now, promise, f"{text} (by {self._who()})", key))
        self.note(f"BROKEN: {promise}: {text}", [key])

    def committing(self, service: str) -> Callable[[Changes], None]:
        """What a service's store tells of every commit."""

        def committed(changes: Changes) -> None:
            self._loop.witness(f"{service} commits {changes.rows} {changes.appended}")
            if self.notes is not None:
                self._tell_commit(changes)
            self._check_journal(service, changes)
            self._check_inbox(service, changes)
            self._check_checkpoints(service, changes)
            self._check_leases(service, changes)
            for events in changes.appended.values():
                for event in events:
                    self._emit(service, event)
            if changes.appended or not all(table.startswith("chimera_") for table in changes.rows):
                self.on_commit()

        return committed

    def appended(self, topic: str, messages: Sequence[Message]) -> None:
        """What the log tells of every append."""
        for name, inbox in self._inboxes.items():
            if topic == commands_topic(name):
                for message in messages:
                    inbox.accept(message)
        if self.notes is not None:
            for message in messages:
                what = f"event {message.position}" if message.number else f"command {message.type} {message.id}"
                self.note(f"{what} of {message.key!r} is in the log {topic}", [message.key])

    def writing(self, service: str) -> Callable[[str, Sequence[Document], Sequence[Move]], None]:
        """What a service's view store tells of every write."""

        def written(consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> None:
            if self.notes is not None and documents:
                self._tell_write(consumer, documents, moves)
            at = self._checkpoints.setdefault((service, consumer), {})
            for move in moves:
                place = (move.source, move.partition)
                if move.before != at.get(place, 0) or move.after.number < move.before:
                    self.breaks(
                        "checkpoints move forward",
                        f"{service}'s {consumer} moves from {move.before} to {move.after.number} in {place}, "
                        f"and was at {at.get(place, 0)}",
                    )
                at[place] = move.after.number
            if ideals := self.ideals.get((service, view_of(consumer))):
                self._check_view(service, consumer, ideals, documents, moves)
            elif copied := self._copies.get((service, consumer)):
                self._check_copy(service, consumer, copied, documents)

        return written

    def dropping(self, service: str) -> Callable[[str], None]:
        """What a service's view store tells of what is dropped."""

        def dropped(consumer: str) -> None:
            self._checkpoints.pop((service, consumer), None)
            self.note(f"drops {consumer}")

        return dropped

    def restored(self, service: str, checkpoints: Mapping[str, Mapping[Place, Checkpoint]]) -> None:
        """A service's views are as they were once, with these checkpoints by consumer."""
        self.forgot_at[service] = self._loop.now
        for each in [each for each in self._checkpoints if each[0] == service]:
            del self._checkpoints[each]
        for consumer, at in checkpoints.items():
            self._checkpoints[service, consumer] = {place: checkpoint.number for place, checkpoint in at.items()}

    def shared(self, owner: str, share: str, key: str) -> Sequence[SharedVersion]:
        """The versions of a shared document, in order, as its owner committed them."""
        return self._emitted[owner, share].get(key, ())

    # Of a store

    def _check_journal(self, service: str, changes: Changes) -> None:
        heads = self._heads[service]
        for partition, events in changes.appended.items():
            before = heads.get(partition, 0)
            numbers = [event.number for event in events]
            if numbers != list(range(before + 1, before + len(numbers) + 1)):
                self.breaks(
                    "a journal has no holes",
                    f"partition {partition} of {service} goes from {before} on with the events {numbers}",
                )
            heads[partition] = numbers[-1]
        for partition in changes.appended.keys() - changes.held.keys():
            self.breaks(
                "a journal has no holes", f"{service} appends to partition {partition} without holding its head"
            )

    def _check_inbox(self, service: str, changes: Changes) -> None:
        inbox = self._inboxes[service]
        for (command_id,), row in changes.rows.get(INBOX_TABLE, {}).items():
            if row is None or not isinstance(command_id, str):
                continue
            state = str(row[1])
            if command_id in inbox.settled:
                self.breaks(
                    "a command has its effect once",
                    f"command {command_id} of {service} is {state}, and was {inbox.settled[command_id]} before",
                    inbox.keys.get(command_id, ""),
                )
            if state in FINAL:
                inbox.settled[command_id] = state
                if earlier := inbox.unsettled_before(command_id):
                    self.breaks(
                        "commands of a key keep their order",
                        f"command {command_id} of {service} is {state} before {earlier}, which came before it",
                        inbox.keys[command_id],
                    )

    def _check_checkpoints(self, service: str, changes: Changes) -> None:
        at = self._checkpoints.setdefault((service, ""), {})
        for key, row in changes.rows.get(CHECKPOINTS_TABLE, {}).items():
            if row is None:
                continue
            place, number = (str(key), 0), int(row[3])
            if number < at.get(place, 0):
                self.breaks("checkpoints move forward", f"{service}'s {key} goes from {at[place]} back to {number}")
            at[place] = number

    def _check_leases(self, service: str, changes: Changes) -> None:
        process = PROCESS.get(self._loop.world)
        now = self._clock.time() + process.most_skew_s - process.skew_s  # by whatever clock it has decided
        renewed = self._loop.now - self._lease_s  # a lease that was not renewed since is nobody's, whatever it says
        for key, row in changes.rows.get(LEASES_TABLE, {}).items():
            before = changes.read.get((LEASES_TABLE, key))
            written_at, self._leased_at[service, key] = self._leased_at.get((service, key), 0.0), self._loop.now
            if row is None or before is None or not str(key[0]).startswith(PARTITION):
                continue
            holder, owner, until = row[1], before[1], before[2]
            if holder and owner not in ("", holder) and now < until < now + 60.0 and written_at > renewed:
                self.breaks("a lease is its holder's", f"{holder} takes {key[0]} of {service} from {owner} too early")

    def _emit(self, service: str, event: Message) -> None:
        self.events[service].setdefault(event.partition, []).append(event)
        for share in [share for owner, share in self._emitted if owner == service]:
            if event.type == share_type(service, share):
                change = msgspec.json.decode(event.data, type=SharedChange)
                document, place = msgspec.json.decode(change.document), (service, event.partition)
                version = SharedVersion(place, event.number, change.digest, document, self._loop.now)
                self._emitted[service, share].setdefault(change.key, []).append(version)
        for ideal in self._of_source.get(service, ()):
            ideal.fold(event)

    # Of a view store

    def _check_view(
        self,
        service: str,
        consumer: str,
        ideals: Sequence[IdealView],
        documents: Sequence[Document],
        moves: Sequence[Move],
    ) -> None:
        at = self._checkpoints[service, consumer]
        written = {document.key: document.data for document in documents if document.view == consumer}
        for move in moves:
            for number in range(move.before + 1, move.after.number + 1):
                touched = [ideal.touched.get((move.source, move.partition), {}).get(number, []) for ideal in ideals]
                for key in touched[0]:
                    history = ideals[0].histories[key]
                    unchanged = history.at(number) == history.at(number - 1)
                    if len(ideals) == 1 and history.is_known and key not in written and not unchanged:
                        self.breaks(
                            "a view is the fold of its events",
                            f"{service}'s {consumer} leaves out {move.source}/{move.partition}@{number} of {key!r}",
                            key,
                        )
        for key, data in written.items():
            wanted = []
            for ideal in ideals:
                known = ideal.histories.get(key)
                if known is None or not known.is_known:
                    break
                wanted.append(known.at(at.get(known.place, 0)))
            else:
                if data not in wanted:
                    self.breaks(
                        "a view is the fold of its events",
                        f"{service}'s {consumer} has {_text(data)} of {key!r}, and should have {_text(wanted[0])}",
                        key,
                    )

    def _check_copy(self, service: str, consumer: str, copied: Consumer, documents: Sequence[Document]) -> None:
        assert copied.declared is not None
        emitted, at = self._emitted[copied.source, copied.declared.name], self._checkpoints[service, consumer]
        for document in documents:
            if document.view != consumer:
                continue
            shown = _shown(copied, "" if document.data is None else digest_of(document.data))
            versions = emitted.get(document.key, [])
            newest = max((i for i, each in enumerate(versions, 1) if _shown(copied, each.digest) == shown), default=0)
            floor = sum(version.number <= at.get(version.place, 0) for version in versions)
            has = f"{service}'s {consumer} has {_text(document.data)} of {document.key!r}"
            if not newest and shown:
                self.breaks("a copy is what its owner had", f"{has}, which {copied.source} never had", document.key)
            elif newest < floor:
                what = f"{has}, version {newest}, and is where its owner had version {floor}"
                self.breaks("a copy is what its owner had", what, document.key)

    # For the story

    def _who(self) -> str:
        process = PROCESS.get(None)
        return process.name if process else "world"

    def _tell_commit(self, changes: Changes) -> None:
        for table, rows in changes.rows.items():
            for key, row in rows.items():
                if table == INBOX_TABLE and row is not None:
                    self.note(f"settles the command {key[0]}: {row[1]} {row[2]}", [str(key[0])])
                elif table == PARKED_TABLE and row is not None:
                    self.note(f"parks {row[7]} {row[6]} of {key[1]!r}, {row[5]}: {row[11]}", [str(key[1])])
                elif not table.startswith("chimera_"):
                    text = "deletes the row" if row is None else f"commits the row {', '.join(map(repr, row))}"
                    self.note(f"{text} of {table}", [str(each) for each in (*key, *(row or ()))])
        for events in changes.appended.values():
            for event in events:
                self.note(
                    f"commits the event {event.position} {event.type} of {event.key!r}: {event.data.decode()[:300]}",
                    [event.key],
                )

    def _tell_write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> None:
        to = ", ".join(f"{move.source}/{move.partition}@{move.after.number}" for move in moves)
        for document in documents:
            if document.view.endswith(".starts") or document.view in (AUDITS, GENERATIONS):
                continue
            self.note(
                f"writes {document.view} {document.key!r} {_text(document.data)}" + (f" up to {to}" if to else ""),
                [document.key],
            )


class Inbox:
    """What was seen of a service's commands: `settled` by id, those accepted by key in order, the key of each."""

    def __init__(self) -> None:
        self.settled: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self._accepted: dict[str, list[str]] = {}

    def accept(self, message: Message) -> None:
        if message.id not in self.keys:
            self.keys[message.id] = message.key
            self._accepted.setdefault(message.key, []).append(message.id)

    def unsettled_before(self, command_id: str) -> str:
        """A command of the same key that was accepted before this one, and is not settled; empty where none is."""
        for each in self._accepted.get(self.keys.get(command_id, ""), ()):
            if each == command_id:
                break
            if each not in self.settled:
                return each
        return ""


def _shown(copied: Consumer, digest: str) -> str:
    """What a copy shows of a document: in hybrid mode only that there is one."""
    return digest if copied.mode == "async" else "one" * bool(digest)


def _text(data: bytes | None) -> str:
    return "nothing" if data is None else data.decode(errors="replace")[:300]
