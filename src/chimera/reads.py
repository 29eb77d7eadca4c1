"""The source of truth, to read: rows, and event-sourced entities, which are folded from snapshots on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import msgspec

from chimera.entities import Entity, Key, Row, Snapshot, Table, Where, Window, table_of
from chimera.errors import ChimeraError, Unfit, Unreadable
from chimera.finding import Finding, Now
from chimera.folds import Fold, Folder
from chimera.forms import AnyDocument, decoder_of, form_of
from chimera.messages import Message, partition_of
from chimera.ports import Session
from chimera.service import Service
from chimera.versions import is_newer, too_new

Kept = TypeVar("Kept", bound=AnyDocument)
SNAPSHOTS = table_of(Snapshot)
LARGEST_SNAPSHOT = 1 << 20
"""Bytes of a snapshot that is kept; what is larger is folded from its events each time."""


def snapshot_of(fold: Fold[AnyDocument], key: str, number: int, document: AnyDocument | None) -> Snapshot | None:
    """The snapshot of an entity; None where its JSON is too large, or would be read as something else."""
    try:
        data = b"" if document is None else form_of(fold.document).encode(document)
        is_same = not data or decoder_of(fold.document).decode(data) == document
    except (Unfit, msgspec.MsgspecError):
        return None
    fits = is_same and len(data) <= LARGEST_SNAPSHOT
    return Snapshot(fold.document.__name__, key, number, fold.code, data) if fits else None


def _read(kept: Snapshot, fold: Fold[AnyDocument]) -> tuple[AnyDocument | None, int] | None:
    """The entity of a snapshot, and the number of its event; None where other code has made it, or it can't be read."""
    try:
        found = decoder_of(fold.document).decode(kept.data) if kept.data else None
    except msgspec.MsgspecError:
        return None
    return (found, kept.number) if kept.code == fold.code else None


class Reads(Finding):
    """The source of truth, to read: what queries and shares are given.

    Whoever is not told the time sees what is reserved as the rows are, whatever its deadline: so shares do, whose
    documents must be what rows make of them.
    """

    def __init__(self, service: Service, session: Session, now: Now | None = None) -> None:
        self._service = service
        self._session = session
        self._time = now

    @property
    def dialect(self) -> str:
        """The SQL that `execute` takes here: sqlite, postgresql, mysql, or empty where there is none."""
        return self._session.dialect

    async def load(self, entity: type[Kept], *key: object) -> Kept | None:
        """The entity with this key, or None. An event-sourced one is folded from its events."""
        if issubclass(entity, Entity):
            row = await self._row(table := self._table(entity), table.key_for(key))
            return None if row is None else cast("Kept", table_of(entity).from_row(row))
        return cast("Kept | None", await self._folded(entity, str(key[0])))

    async def execute(self, sql: str, *parameters: object) -> Sequence[Row]:
        """Rows of a query in the store's own SQL."""
        return await self._session.execute(sql, parameters)

    async def _folded(self, entity: type[Kept], key: str) -> AnyDocument | None:
        fold = self._fold(entity)
        folder = Folder(fold)
        document, number = await self._snapshot(fold, key) if fold.snapshot else (None, 0)
        history = await self._history(key, number)
        self._check_known(entity.__name__, folder, key, history)
        numbered = [message for message in history if message.number]
        document = folder.fold(key, numbered, document)
        if fold.snapshot and len(numbered) >= fold.snapshot:
            self._keep(snapshot_of(fold, key, numbered[-1].number, document))
        return folder.fold(key, history[len(numbered) :], document)

    async def _snapshot(self, fold: Fold[AnyDocument], key: str) -> tuple[AnyDocument | None, int]:
        """The entity as a snapshot has it, and the number of its event; 0 where there is none that this code made."""
        row = await self._row(SNAPSHOTS, (fold.document.__name__, key))
        kept: Snapshot | None = None if row is None else SNAPSHOTS.from_row(row)
        return (kept and _read(kept, fold)) or (None, 0)

    def _keep(self, snapshot: Snapshot | None) -> None:
        """Keep a snapshot, where something can be written."""

    def _check_known(self, name: str, folder: Folder[AnyDocument], key: str, history: Sequence[Message]) -> None:
        for message in history:
            if message.type in folder.steps:
                continue
            if is_newer(message.type, folder.steps):
                raise Unreadable(f"{message.position}: {too_new(message.type, folder.steps)}")
            if not self._service.reads(message.type):
                raise ChimeraError(
                    f"{name} {key!r} can't be folded: {message.position} is of type {message.type}, "
                    "which this code does not know (an older build, or a class that was renamed); see docs/names.md"
                )

    async def _row(self, table: Table, key: Key) -> Row | None:
        rows = await self._session.load(table, [key])
        return rows[0] if rows else None

    async def _find(self, table: Table, where: Where, window: Window) -> Sequence[Row]:
        session = self._session
        return await (session.find(table, where) if window == Window() else session.page(table, where, window))

    async def _count(self, table: Table, where: Where, window: Window) -> int:
        return await self._session.count(table, where, window.ranges)

    async def _history(self, key: str, after: int = 0) -> list[Message]:
        return list(await self._session.history(partition_of(key, self._service.partitions), key, after))

    def _table(self, entity: type[Entity]) -> Table:
        if entity not in self._service.entities and entity.__guarded__:
            raise ChimeraError(
                f"service {self._service.name} does not declare the entity {entity.__name__}; "
                f"add {self._service.name.replace('-', '_')}.entity({entity.__name__})"
            )
        return table_of(entity)

    def _fold(self, document: type) -> Fold[AnyDocument]:
        if document not in self._service.folds:
            raise ChimeraError(f"{document.__name__} is neither an Entity nor declared with event_sourced(…)")
        return self._service.folds[document]
