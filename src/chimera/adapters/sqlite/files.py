"""SQLite files: one writer with group commit, many readers, and what can't be reached now told from what is wrong.

Reads run inline on the event loop, because they take microseconds. Writes go through one connection per
file and process; what waits for the disk, the commit, runs in a thread.
"""

from __future__ import annotations

import asyncio
import shlex
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from chimera.adapters.relational.pool import finished
from chimera.adapters.rows import (
    marks,
    own,
)
from chimera.adapters.sqlite.bell import Bell, bell_of
from chimera.entities import Row
from chimera.errors import Unavailable
from chimera.ports import (
    Features,
)

Result = TypeVar("Result")
question_marks = partial(marks, mark="?")
LOCK_S = 10.0
_LOCK_POLL_S = 0.001
MAX_PARAMETERS = 1_000
# As many readers stay open as requests read at once; to open one costs more than a page.
READERS = 128
# What is read is mapped, as much as SQLite maps at most: a page in a file that is larger than what is mapped takes half
# as long again. A mapping takes address space, and memory only for what is read. There may be many readers, so that
# only what is still in the write-ahead log is cached.
_MAPS_ALL = f"mmap_size = {2 << 30}"
_READERS_PRAGMAS = ("query_only = ON", _MAPS_ALL, "cache_size = -256")
FEATURES = Features(durable=True, shared=True, poll_s=0.01)
MANY = 64
IDLE_S = 0.5
"""Where more than so many files of a folder are open, connections that were not used for so many seconds are closed."""
_OUT_OF_REACH = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def connect(path: Path, lock_s: float, *pragmas: str) -> SQLiteConnection:
    """A connection to a file, made with its folder where it is missing. Raises Unavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path,
            timeout=lock_s,
            isolation_level=None,
            check_same_thread=False,
            factory=SQLiteConnection,
            cached_statements=128,
        )
    except (sqlite3.OperationalError, OSError) as error:
        raise Unavailable(f"{path} can't be opened: {error}") from error
    connection.path = path
    for pragma in pragmas:
        connection.run(f"PRAGMA {pragma}")
    return connection


def removal_of(paths: Sequence[Path]) -> str:
    """The command that removes files with what SQLite keeps beside them."""
    return f"rm -f {' '.join(f'{shlex.quote(str(path))} {shlex.quote(str(path))}-*' for path in paths)}"


class SQLiteConnection(sqlite3.Connection):
    """A connection that says Unavailable, naming its file, when the file can't be reached or written."""

    path: Path
    only_reads = False
    prefix = ""

    def own(self, sql: str) -> str:
        """SQL on Chimera's own tables, which are written bare, as they are called here."""
        return own(sql, self.prefix)

    def run(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """All rows of a statement."""
        try:
            return self.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            self._fail(error)

    def page(self, sql: str, parameters: Sequence[object], *, data: int, size: float) -> list[Row]:
        """As `run`, up to the row with which the column number `data` has come to `size` bytes."""
        rows: list[Row] = []
        try:
            with closing(self.execute(sql, parameters)) as found:
                for row in found:
                    rows.append(row)
                    size -= len(row[data] or b"")
                    if size <= 0:
                        break
                return rows
        except sqlite3.OperationalError as error:
            self._fail(error)

    def run_many(self, sql: str, rows: Sequence[Row]) -> None:
        """Run a statement once for each row of parameters."""
        try:
            self.executemany(sql, rows)
        except sqlite3.OperationalError as error:
            self._fail(error)

    def run_script(self, script: str) -> None:
        """Run statements that are separated by semicolons, inside the transaction that is open."""
        for statement in script.split(";"):
            self.run(statement)

    def check_transaction(self) -> None:
        """SQLite itself rolls back when the disk is full; what follows must not commit on its own."""
        if not self.in_transaction:
            raise Unavailable(f"{self.path}: the transaction was rolled back before its end")

    def leave(self) -> None:
        """Roll back what is still open."""
        if self.in_transaction:
            self.run("ROLLBACK")

    def meaning_of(self, error: Exception) -> Exception:
        """An error of SQLite as it is told: Unavailable, or itself."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _OUT_OF_REACH or (code == sqlite3.SQLITE_READONLY and not self.only_reads):
            return Unavailable(f"{self.path}: {error}")
        return error

    def _fail(self, error: sqlite3.OperationalError) -> NoReturn:
        meant = self.meaning_of(error)
        raise meant from (error if meant is not error else None)


class SQLiteFile:
    """One SQLite file: a writer guarded by a lock, and readers that never wait for it.

    Readers are opened when they are wanted. Of many files, those that nobody uses are closed, to save descriptors, and
    so is the writer of a file that is `NORMAL`. That of a `FULL` one stays open, and ready to commit.
    """

    def __init__(
        self, path: Path, synchronous: Literal["FULL", "NORMAL"], *, lock_s: float = LOCK_S, readers: int = READERS
    ) -> None:
        self.path = path
        self._bell: Bell | None = None
        self._used_at = 0.0
        self._closing: asyncio.TimerHandle | None = None
        self._synchronous = synchronous
        self._lock_s = lock_s
        self._readers = readers
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._leaving: asyncio.Future[None] | None = None
        self._had_readers = False
        self._writer: SQLiteConnection | None = None
        self._reader: SQLiteConnection | None = None
        self._idle: list[SQLiteConnection] = []
        self._is_closed = False
        self.prefix = ""

    @property
    def is_open(self) -> bool:
        """True from `open` until `close`."""
        return self._bell is not None

    @property
    def reader(self) -> SQLiteConnection:
        """For single statements of our own, at once: it is never inside a transaction.

        The writer, where it is free and no reader is open: a reader of hundreds of quiet files is a descriptor each,
        and SQLite keeps that until nobody in the process has the file open any more.
        """
        if self._reader is None and self._writer is not None and not self._lock.locked():
            self._use()
            return self._writer
        return self.own_reader

    @property
    def own_reader(self) -> SQLiteConnection:
        """For single statements of others, at once: it can't write."""
        self._use()
        if self._reader is None:
            self._reader = self._open_reader()
        return self._reader

    async def open(self) -> None:
        """Open the writer and a reader, once. Raises Unavailable, also after `close`."""
        async with self._lock:
            if self._is_closed:
                raise Unavailable(f"{self.path} was closed")
            if self._bell is None:
                self._writer = await self.long(self._open_writer)
                self._bell = bell_of(self.path.parent)
                self._bell.open()

    async def close(self) -> None:
        """Close all connections that are not in use, once the writer is free."""
        async with self._lock:
            self._is_closed = True
            if self._bell is not None:
                self._bell.ignore(str(self.path), self)
                self._bell.close()
                self._bell = None
            if self._closing is not None:
                self._closing.cancel()
            self._close_readers()
            await self._close_writer()
            self._thread.shutdown(wait=False)

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard`, until `close`, soon after somebody else may have committed to the file."""
        bell = self._bell or self._not_open()
        bell.listen(str(self.path), self, heard)

    def _use(self) -> None:
        """Remember that somebody uses the file now."""
        if self._bell is None:
            self._not_open()
        loop = asyncio.get_running_loop()
        self._used_at = loop.time()
        if self._closing is None:
            self._closing = loop.call_later(IDLE_S, self._close_idle)

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._used_at + IDLE_S - loop.time()
        self._closing = None
        if left > 0:
            self._closing = loop.call_later(left, self._close_idle)
            return
        if self._bell is None or self._bell.users <= MANY:
            self._closing = loop.call_later(10 * IDLE_S, self._close_idle)
            return
        had_readers, self._had_readers = self._had_readers, False
        self._close_readers()
        if (had_readers or self._synchronous == "NORMAL") and not self._lock.locked():
            self._leaving = asyncio.ensure_future(self._leave())

    async def _leave(self) -> None:
        """Close the writer, so that SQLite lets go of the readers' descriptors too; that of a FULL file opens again."""
        async with self._lock:
            if self._closing is None and self._bell is not None:
                await self._close_writer()
                if self._synchronous == "FULL":
                    self._writer = await self.long(self._open_writer)

    def _close_readers(self) -> None:
        for reader in (*self._idle, self._reader):
            if reader:
                reader.close()
        self._idle.clear()
        self._reader = None

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            await self.long(writer.close)

    def take_reader(self) -> SQLiteConnection:
        """A reader of one's own, until it is given back."""
        self._use()
        return self._idle.pop() if self._idle else self._open_reader()

    def give_back(self, reader: SQLiteConnection) -> None:
        """Let others use the reader, or close it where enough are idle."""
        if self.is_open and len(self._idle) < self._readers:
            self._idle.append(reader)
        else:
            reader.close()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[SQLiteConnection]:
        """A transaction, the only one in this file: leaving commits, an exception rolls back."""
        async with self._lock:
            self._use()
            if self._writer is None:
                self._writer = self._open_writer()
            writer = self._writer
            await self._begin(writer)
            changes = writer.total_changes
            try:
                yield writer
                writer.check_transaction()
                await self.long(writer.run, "COMMIT")
            finally:
                writer.leave()
            if self._bell is not None and writer.total_changes != changes:
                self._bell.ring(str(self.path), self)

    async def _begin(self, writer: SQLiteConnection) -> None:
        # The writer never waits inside SQLite: that would take a thread, and leave cancelled waiters in it.
        deadline = time.monotonic() + self._lock_s
        while True:
            try:
                writer.run("BEGIN IMMEDIATE")
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOCK_POLL_S)

    def name_tables(self, connection: SQLiteConnection, prefix: str) -> None:
        """Know the prefix of Chimera's own tables, inside the transaction that has found it."""
        self.prefix = connection.prefix = prefix
        self._close_readers()

    async def long(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Run what takes long in this file's thread: it is over when this returns or raises, cancelled or not."""
        return await finished(asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments))

    def _open_writer(self) -> SQLiteConnection:
        writer = connect(self.path, self._lock_s, f"synchronous = {self._synchronous}", _MAPS_ALL)
        deadline = time.monotonic() + self._lock_s
        while True:
            try:
                writer.prefix = self.prefix
                writer.run("PRAGMA journal_mode = WAL")
                writer.run("PRAGMA busy_timeout = 0")
                return writer
            except Unavailable:
                # SQLite does not wait for the lock when two processes switch a new file to WAL at once.
                if time.monotonic() > deadline:
                    raise
            time.sleep(_LOCK_POLL_S)

    def _open_reader(self) -> SQLiteConnection:
        reader = connect(self.path, self._lock_s, *_READERS_PRAGMAS)
        reader.only_reads = self._had_readers = True
        reader.prefix = self.prefix
        return reader

    def _not_open(self) -> NoReturn:
        raise Unavailable(f"{self.path} is not open: call create first")
