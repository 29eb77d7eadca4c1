"""Views in SQLite: documents, checkpoints and lists in one file."""

# ruff: noqa: S608 - names in SQL are marks for parameters; values are always bound

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chimera.adapters.rows import distinct, entry_of
from chimera.adapters.sqlite.files import (
    FEATURES,
    MAX_PARAMETERS,
    SQLiteConnection,
    SQLiteFile,
    question_marks,
    removal_of,
)
from chimera.adapters.sqlite.tables import add_columns
from chimera.core.paging import pages
from chimera.entities import Row
from chimera.ports import Checkpoint, Document, Listing, Move

_VIEWS_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    view TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (view, key)) STRICT;
CREATE TABLE IF NOT EXISTS checkpoints (
    consumer TEXT, source TEXT, partition INTEGER, number INTEGER NOT NULL, offset INTEGER NOT NULL,
    chain TEXT, PRIMARY KEY (consumer, source, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chimera_lists (
    view TEXT, within BLOB, at BLOB, PRIMARY KEY (view, within, at)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revisions (last INTEGER NOT NULL) STRICT
"""
_INDEX = (
    "SELECT within, at FROM chimera_lists WHERE view = ? AND (within, at) > (?, ?) ORDER BY within, at LIMIT ? OFFSET ?"
)


class SQLiteViews:
    """Documents, checkpoints and lists in one file.

    After a power cut the last writes may be gone, all that they wrote together: it is folded again.
    """

    features = FEATURES

    def __init__(self, path: str | Path) -> None:
        self._file = SQLiteFile(Path(path), "NORMAL")

    async def create(self) -> None:
        await self._file.open()
        async with self._file.writing() as connection:
            connection.run_script(_VIEWS_SCHEMA)
            add_columns(connection, [("checkpoints", "chain TEXT")])
            connection.run("INSERT INTO revisions SELECT 0 WHERE NOT EXISTS (SELECT * FROM revisions)")

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        rows = _documents(self._file.reader, "key, data, revision", view, keys)
        return {key: Document(view, key, data, revision) for key, data, revision in rows}

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        async with self._file.writing() as connection:
            if not (self._are_at(connection, consumer, moves) and self._are_current(connection, documents)):
                return 0
            revision = self._put(connection, documents)
            if listings:
                _list(connection, listings)
            connection.run_many(
                "INSERT OR REPLACE INTO checkpoints (consumer, source, partition, number, offset, chain) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (consumer, move.source, move.partition, move.after.number, move.after.offset, move.after.stands_on)
                    for move in moves
                ],
            )
            return revision

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        return _checkpoints(self._file.reader, consumer)

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        rows = self._file.reader.run(
            "SELECT view, key, data, revision FROM documents WHERE view = ? AND key > ? ORDER BY key LIMIT ?",
            (view, after, limit),
        )
        return [Document(*row) for row in rows]

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        if not within:
            return [each + at for each, at in self._file.reader.run(_INDEX, (view, *entry_of(after), limit, skip))]
        rows = self._file.reader.run(
            "SELECT at FROM chimera_lists WHERE view = ? AND within = ? AND at > ? ORDER BY at LIMIT ? OFFSET ?",
            (view, within, after, limit, skip),
        )
        return [at for (at,) in rows]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        async with self._file.writing() as connection:
            connection.run("DELETE FROM checkpoints WHERE consumer = ?", (consumer,))
            for table in ("documents", "chimera_lists"):
                delete = f"DELETE FROM {table} WHERE view = ?"
                await self._file.long(connection.run_many, delete, [(view,) for view in views])

    def listen(self, heard: Callable[[], None]) -> None:
        self._file.listen(heard)

    def removal(self, topics: Sequence[str]) -> str:
        """As `ports.Removable`."""
        return removal_of([self._file.path])

    async def close(self) -> None:
        await self._file.close()

    def _are_at(self, connection: SQLiteConnection, consumer: str, moves: Sequence[Move]) -> bool:
        stored = _checkpoints(connection, consumer) if moves else {}
        return all(stored.get((move.source, move.partition), Checkpoint()).number == move.before for move in moves)

    def _are_current(self, connection: SQLiteConnection, documents: Sequence[Document]) -> bool:
        by_view: dict[str, dict[str, int]] = {}
        for document in documents:
            by_view.setdefault(document.view, {})[document.key] = document.revision
        for view, expected in by_view.items():
            stored: dict[str, int] = dict(_documents(connection, "key, revision", view, list(expected)))
            if any(stored.get(key, 0) != revision for key, revision in expected.items()):
                return False
        return True

    def _put(self, connection: SQLiteConnection, documents: Sequence[Document]) -> int:
        # One counter for the whole file: a key that is deleted and comes back never repeats a revision.
        [(revision,)] = connection.run("UPDATE revisions SET last = last + 1 RETURNING last")
        connection.run_many(
            "INSERT INTO documents VALUES (?, ?, ?, ?) "
            "ON CONFLICT (view, key) DO UPDATE SET revision = excluded.revision, data = excluded.data",
            [(view, key, revision, data) for view, key, data, _ in documents if data is not None],
        )
        connection.run_many(
            "DELETE FROM documents WHERE view = ? AND key = ?",
            [(view, key) for view, key, data, _ in documents if data is None],
        )
        return int(revision)


def _documents(connection: SQLiteConnection, columns: str, view: str, keys: Sequence[str]) -> list[Row]:
    if len(keys) > MAX_PARAMETERS:
        parts = pages(distinct(keys), MAX_PARAMETERS)
        return [row for part in parts for row in _documents(connection, columns, view, part)]
    sql = f"SELECT {columns} FROM documents WHERE view = ? AND key IN ({question_marks(len(keys))})"
    return connection.run(sql, (view, *keys))


def _list(connection: SQLiteConnection, listings: Sequence[Listing]) -> None:
    for is_gone, change in (
        (True, "DELETE FROM chimera_lists WHERE view = ? AND within = ? AND at = ?"),
        (False, "INSERT OR IGNORE INTO chimera_lists (view, within, at) VALUES (?, ?, ?)"),
    ):
        connection.run_many(change, [each[:3] for each in listings if each.is_gone == is_gone])


def _checkpoints(connection: SQLiteConnection, consumer: str) -> dict[tuple[str, int], Checkpoint]:
    sql = "SELECT source, partition, number, offset, chain FROM checkpoints WHERE consumer = ?"
    return {(row[0], row[1]): Checkpoint.standing(*row[2:]) for row in connection.run(sql, (consumer,))}
