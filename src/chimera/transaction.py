"""The reads and the changes of a handler: the source of truth as it sees it, and the buffer of what it changes.

Many commands share one database transaction (a `Unit`). Each handler works in a `Transaction` of its
own that is merged into the unit when it succeeds and forgotten when it is refused, so that a refusal
costs no savepoint. Only what has already reached the database (`execute`, or `find` after `save`)
can't be forgotten: then `written` is set, and the caller rolls the unit back.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from chimera.caller import BY_SYSTEM, AskedBy, Origin, Request, caller_of, caused_by, caused_together, origin_of
from chimera.entities import (
    RESERVED,
    SUBJECT_KEYS,
    Entity,
    Key,
    Reserved,
    Row,
    Snapshot,
    Sought,
    Table,
    Where,
    Window,
    table_of,
)
from chimera.errors import ChimeraError, Conflict, Taken, Unfit
from chimera.finding import Concealing, Conceals, Now, Reserving, Stored
from chimera.forms import form_of
from chimera.messages import MAX_KEY, AnyEvent, Chaining, Message, chain_of, partition_of
from chimera.ports import Lends, Tip, WriteSession
from chimera.reads import Reads
from chimera.service import Service
from chimera.unique import (
    ReservedChange,
    UniqueRule,
    holder_of,
    reserved_type,
)

if TYPE_CHECKING:  # for those who have it
    from sqlalchemy.ext.asyncio import AsyncSession

Slot = tuple[Table, Key]


class Pending(msgspec.Struct, frozen=True):
    """An event that has no number yet."""

    type: str
    key: str
    partition: int
    data: bytes
    time: str
    traceparent: str = ""
    event: AnyEvent | None = None
    metadata: str = ""


class Unit:
    """One database transaction, shared by the commands of a batch: their merged changes, written at the end.

    `asking`: how many questions of handlers the database has not answered yet. `loaded_singly`, `sought`: what was
    loaded one by one, for whoever could have done it at once.
    """

    def __init__(
        self, service: Service, session: WriteSession, chaining: Chaining = chain_of, keys: Conceals | None = None
    ) -> None:
        self.service = service
        self.keys = keys
        self.chaining = chaining
        self.session = session
        self.rows: dict[Slot, Row | None] = {}
        self.dirty: dict[Slot, Row | None] = {}
        self.events: list[Pending] = []
        self.appended: Sequence[Message] = ()
        self.read_at: dict[tuple[int, str], int] = {}
        self.loaded_singly: list[Slot] = []
        self.sought: list[Sought] = []
        self.asking = 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The database is asked something inside."""
        self.asking += 1
        try:
            yield
        finally:
            self.asking -= 1

    async def row(self, table: Table, key: Key) -> Row | None:
        """The row with this key as it is in this unit, loaded where it was not yet; None for none."""
        slot = (table, key)
        if slot not in self.rows:
            with self.answering():
                rows = await self.session.load(table, [key])
            self.rows[slot] = rows[0] if rows else None
            self.loaded_singly.append(slot)
        return self.rows[slot]

    def seek(self, digest: str, what: Sought) -> None:
        """Note what is looked for among what is reserved, unless it is here already."""
        if digest and (RESERVED, (digest,)) not in self.rows:
            self.sought.append(what)

    async def fetch(self, table: Table, keys: Sequence[Key]) -> None:
        """Load the rows with these keys in one query, but for those that are here already."""
        missing = [key for key in keys if (table, key) not in self.rows]
        if missing:
            rows = {table.key_of(row): row for row in await self.session.load(table, missing)}
            self.rows.update({(table, key): rows.get(key) for key in missing})

    def put(self, entity: Entity) -> None:
        """Save a row of Chimera's own, outside any handler's changes."""
        table = table_of(type(entity))
        row = table.to_row(entity)
        slot = (table, table.key_of(row))
        self.rows[slot] = self.dirty[slot] = row

    def forget(self, entity: Entity) -> None:
        """Delete a row of Chimera's own."""
        table = table_of(type(entity))
        slot = (table, table.key_of(table.to_row(entity)))
        self.rows[slot] = self.dirty[slot] = None

    def unnumbered(self, key: str, emitted: Sequence[Pending] = ()) -> list[Message]:
        """The events of a key that have no number yet, those of a handler's own last."""
        return [
            Message("", self.service.name, event.type, key, event.time, event.data, event.partition)
            for event in (*self.events, *emitted)
            if event.key == key
        ]

    async def flush(self) -> None:
        """Write what has changed so far: one bulk statement per table."""
        saves: dict[str, tuple[Table, list[Row]]] = {}
        deletes: dict[str, tuple[Table, list[Key]]] = {}
        for (table, key), row in self.dirty.items():
            if row is None:
                deletes.setdefault(table.name, (table, []))[1].append(key)
            else:
                saves.setdefault(table.name, (table, []))[1].append(row)
        self.dirty = {}
        for table, keys in deletes.values():
            await self.session.delete(table, keys)
        for table, rows in saves.values():
            await self.session.save(table, rows)

    async def number(self) -> Sequence[Message]:
        """Give every pending event its number and add it to the journal; the last thing a unit does.

        The heads of all partitions that were read are held from here on, those without a new event too.
        """
        partitions = {partition for partition, _ in self.read_at} | {pending.partition for pending in self.events}
        if not partitions:
            return []
        tips = await self.session.hold(partitions)
        await self._check_versions()
        if not self.events:
            return []
        self.appended = list(_numbered(self.service.name, self.events, tips, self.chaining))
        await self.session.append(self.appended)
        return self.appended

    async def _check_versions(self) -> None:
        """An event-sourced entity must not have changed since it was folded; its partition's head is held now."""
        for (partition, key), number in self.read_at.items():
            if await self.session.history(partition, key, number):
                raise Conflict(f"{key!r} has new events since it was read")


def _numbered(source: str, events: Iterable[Pending], tips: Mapping[int, Tip], chain: Chaining) -> Iterator[Message]:
    """The events as those that follow the tips of their partitions."""
    at: dict[int, tuple[int, str]] = dict(tips)
    for event in events:
        kind, key, time, data = event.type, event.key, event.time, event.data
        before, last = at[partition := event.partition]
        at[partition] = number, last = before + 1, chain(last, kind, key, time, data, event.metadata)
        place = f"{source}/{partition}@{number}"
        yield Message(
            place, source, kind, key, time, data, partition, number, event.traceparent, last, metadata=event.metadata
        )


class UnitReads(Reads):
    """The source of truth as it will be when the unit commits; what shares are given inside a transaction."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit.service, unit.session)
        self._unit = unit

    async def _history(self, key: str, after: int = 0) -> list[Message]:
        return await super()._history(key, after) + self._unit.unnumbered(key)


class Transaction(Reads, Reserving, Concealing):
    """One handler's changes. They are stored together with its command's outcome, or not at all.

    `command_id` identifies the command (or the event) being handled, `key` is its key, empty for a `batch` of events;
    `now` is when it was accepted. They stay the same when the work is tried again.
    """

    def __init__(
        self,
        unit: Unit,
        cause: Message,
        key: str = "",
        request: Request | None = None,
        now: Now | None = None,
        batch: Sequence[Message] = (),
    ) -> None:
        super().__init__(unit.service, unit.session, now)
        self._batch = batch
        self._unit = unit
        self._cause = cause
        self._key = key
        self._request = request
        self._changes: dict[Slot, Row | None] = {}
        self._unsettled: dict[Slot, None] = {}
        self._settled: dict[Slot, Row | None] = {}
        self._reserving: dict[str, ReservedChange] = {}
        self._emitted: list[Pending] = []
        self._ids = 0
        self._caused = ""
        self._lent: AsyncSession | None = None
        self.command_id = cause.id
        self.written = False

    @property
    def now(self) -> datetime:
        """When the command was accepted, in UTC."""
        return datetime.fromisoformat(self._cause.time).astimezone(UTC)

    @property
    def asked(self) -> AskedBy:
        """Who asked for it, as its command or event says, and with which request, where it is handled inside one."""
        return AskedBy(caller_of(self._cause.metadata), self._request)

    @property
    def origin(self) -> Origin:
        """Who did what is handled, and the chain of commands and events in which it stands."""
        return origin_of(self._cause.id, self._cause.metadata)

    def new_id(self) -> str:
        """A new unique id; the same one when the same command is tried again."""
        self._ids += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.command_id}/{self._ids}"))

    def save(self, entity: Entity) -> None:
        """Insert the entity or replace the one with its key; what it holds now is what is stored.

        Raises Unfit for one that does not hold what it declares. Its unique values are taken when the handler returns,
        or before the next `find`, `execute`, `load_by` or `claim`, which raise Taken where another has one.
        """
        table = self._table(type(entity))
        form_of(type(entity)).encode(entity)
        row = table.to_row(entity)
        self._change((table, table.key_of(row)), row)

    async def claim(self, entity: Entity) -> None:
        """As `save`, and take its unique values now. Raises Taken where another has one; then it is not saved."""
        table = self._table(type(entity))
        slot = (table, table.key_of(table.to_row(entity)))
        before = {slot: self._changes[slot]} if slot in self._changes else {}
        await self.settle()
        self.save(entity)
        try:
            await self.settle()
        except Taken:
            del self._changes[slot], self._unsettled[slot]
            self._changes.update(before)
            raise

    def delete(self, entity: Entity) -> None:
        """Delete the entity with this one's key."""
        table = self._table(type(entity))
        self._change((table, table.key_of(table.to_row(entity))), None)

    def emit(self, event: AnyEvent) -> None:
        """Append a fact to the journal, in this transaction. Raises Unfit for one that could not be read again."""
        if event.__source__ != self._service.name:
            raise ChimeraError(
                f"{type(event).__name__} is owned by {event.__source__!r}; {self._service.name!r} can't emit it"
            )
        key = event.key
        if len(key) > MAX_KEY:
            raise Unfit(f"the key of {type(event).__name__} has {len(key)} characters; at most {MAX_KEY} fit")
        type_, partition, cause = event.wire_type(), partition_of(key, self._service.partitions), self._cause
        data = form_of(type(event)).encode(event)
        self._emitted.append(
            Pending(type_, key, partition, data, cause.time, cause.traceparent, event, self._caused or self._carried())
        )

    @property
    def _keys(self) -> Conceals:
        if self._unit.keys is None:
            raise ChimeraError("there are no keys of personal values here")
        return self._unit.keys

    def _put_subject(self, row: Row) -> None:
        self._change((SUBJECT_KEYS, SUBJECT_KEYS.key_of(row)), row)

    async def execute(self, sql: str, *parameters: object) -> Sequence[Row]:
        """Run SQL of the store's own dialect, in this transaction, after what was saved so far."""
        with self._unit.answering():
            await self._flush()
            self.written = True
            self._unit.rows.clear()
            return await super().execute(sql, *parameters)

    async def sqlalchemy(self) -> AsyncSession:
        """SQLAlchemy in this transaction, after what was saved so far: the same session however often it is asked for.

        What is pending in it is sent when the handler returns; before `load` or `find`, type `await session.flush()`.
        It can't commit. Raises ChimeraError where the store has no connection that SQLAlchemy knows.
        """
        if not isinstance(self._unit.session, Lends):
            raise ChimeraError(
                "this store has no connection that SQLAlchemy can use; SQLite, PostgreSQL and MySQL have"
            )
        with self._unit.answering():
            await self._flush()
            self.written = True
            self._lent = self._lent or await self._unit.session.sqlalchemy()
        return self._lent

    async def load_by(self, entity: type[Stored], **fields: object) -> Stored | None:
        """As `Reads.load_by`, with what was saved so far. Raises Taken as `find`."""
        await self.settle()
        rule = (table := self._table(entity)).rule_of(fields)
        self._unit.seek(rule.digest_by(fields), Sought(table, rule, [fields[field] for field in rule.fields]))
        return await super().load_by(entity, **fields)

    async def settle(self) -> None:
        """Take the unique values of what was saved so far, and give back what those rows had before. Raises Taken."""
        if self._lent is not None:
            await self._lent.flush()
            self._unit.rows.clear()
        if not self._unsettled:
            return
        slots = list(self._unsettled)
        with self._unit.answering():
            await self._settle(slots)
        self._unsettled.clear()
        self._settled.update({slot: self._changes[slot] for slot in slots})

    def merge(self) -> list[Pending]:
        """Make the changes, which are settled, part of the unit; returns the events, in order."""
        self._unit.rows.update(self._changes)
        self._unit.dirty.update(self._changes)
        self._unit.events += self._emitted
        self._unit.events += [
            saying(self._service, digest, change, self._cause.time, self._cause.traceparent, self._carried())
            for digest, change in self._reserving.items()
        ]
        return self._emitted

    def _carried(self) -> str:
        """What each of its events carries of who did it."""
        if not self._caused and len(self._batch) > 1:
            self._caused = caused_together(self._cause.id, [each.metadata for each in self._batch])
        self._caused = self._caused or caused_by(self._cause.id, self._cause.metadata)
        return self._caused

    async def _row(self, table: Table, key: Key) -> Row | None:
        if self._lent is not None:
            self._unit.rows.clear()
        return self._changes[table, key] if (table, key) in self._changes else await self._unit.row(table, key)

    async def _find(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        with self._unit.answering():
            await self._flush()
            return await super()._find(table, where, window)

    async def _count(self, table: Table, where: Where, window: Window) -> int:
        with self._unit.answering():
            await self._flush()
            return await super()._count(table, where, window)

    def _keep(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._unit.put(snapshot)

    async def _history(self, key: str, after: int = 0) -> list[Message]:
        with self._unit.answering():
            stored = await super()._history(key, after)
        partition = partition_of(key, self._service.partitions)
        at = stored[-1].number if stored else after
        if self._unit.read_at.setdefault((partition, key), at) != at:
            raise Conflict(f"{key!r} has new events since it was read")
        return stored + self._unit.unnumbered(key, self._emitted)

    def _change(self, slot: Slot, row: Row | None) -> None:
        self._changes[slot] = row
        if slot[0].rules:
            self._unsettled[slot] = None

    async def _settle(self, slots: Iterable[Slot]) -> None:
        """Each value that is wanted is had by nobody, or by a row that has given it up; else Taken."""
        wanted, left = await self._compared(slots)
        await self._unit.fetch(RESERVED, [(digest,) for digest in sorted({*wanted, *left})])
        for digest, (rule, slot) in wanted.items():
            found = await self._reservation(digest)
            if found is not None and found.holder != holder_of(slot[1]) and await self._has(slot[0], rule, found):
                raise self._taken(rule, slot, found.by)
        for digest, slot in left.items():
            found = await self._reservation(digest)
            if found is not None and found.holder == holder_of(slot[1]):
                self._changes[RESERVED, (digest,)] = None
        for digest, (rule, slot) in wanted.items():
            self._put_reserved(digest, rule.name, holder_of(slot[1]), rule.probe)

    async def _compared(self, slots: Iterable[Slot]) -> tuple[dict[str, tuple[UniqueRule, Slot]], dict[str, Slot]]:
        """The values, by digest, that rows have now and had not before, and those that they had. Raises Taken."""
        wanted: dict[str, tuple[UniqueRule, Slot]] = {}
        left: dict[str, Slot] = {}
        for slot in slots:
            row = self._changes[slot]
            before = self._settled[slot] if slot in self._settled else await self._unit.row(*slot)
            for rule in slot[0].rules:
                had, wants = (rule.digest_of(each) if each is not None else "" for each in (before, row))
                if had == wants:
                    continue
                if had:
                    left[had] = slot
                if wants and row is not None:
                    self._unit.seek(wants, Sought(slot[0], rule, rule.values_of(row)))
                if wants and (other := wanted.setdefault(wants, (rule, slot))[1]) != slot:
                    raise self._taken(rule, slot, "/".join(map(str, other[1])))
        return wanted, left

    async def _has(self, table: Table, rule: UniqueRule, found: Reserved) -> bool:
        """True where the row that reserved a value still has it: SQL, and code without the rule, leave it reserved."""
        row = await self._row(table, table.key_in(found.holder))
        return row is not None and rule.digest_of(row) == found.digest

    def _taken(self, rule: UniqueRule, slot: Slot, holder: str) -> Taken:
        row = self._changes[slot] or ()
        return Taken(", ".join(rule.fields), ", ".join(str(row[at]) for at in rule.at), holder)

    def _put_reserved(self, digest: str, name: str, holder: str, probe: str = "") -> None:
        self._changes[RESERVED, (digest,)] = RESERVED.to_row(Reserved(digest, name, holder, probe))

    def _seek(self, digest: str, what: Sought) -> None:
        self._unit.seek(digest, what)

    def _say(self, digest: str, change: ReservedChange) -> None:
        self._changes[RESERVED, (digest,)] = reserved_row(digest, change)
        self._reserving[digest] = change

    async def _flush(self) -> None:
        await self.settle()
        self._settled.clear()
        if self._changes:
            self.written = True
            self._unit.rows.update(self._changes)
            self._unit.dirty.update(self._changes)
            self._changes = {}
        await self._unit.flush()


def reserved_row(digest: str, change: ReservedChange) -> Row | None:
    """The row of what is reserved from a change on; None for nothing."""
    if not change.holder:
        return None
    return RESERVED.to_row(Reserved(digest, change.name, holder_of(change.holder), until=change.until, told=True))


def saying(
    service: Service, digest: str, change: ReservedChange, time: str, traceparent: str = "", metadata: str = BY_SYSTEM
) -> Pending:
    """The event that says who has a reserved value from now on."""
    partition, data = partition_of(digest, service.partitions), msgspec.json.encode(change)
    return Pending(reserved_type(service.name), digest, partition, data, time, traceparent, None, metadata)
