"""A log in SQLite: a directory with a file for each topic. Several processes may use the same files."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from chimera.adapters.rows import (
    too_few_partitions,
)
from chimera.adapters.sqlite.files import FEATURES, SQLiteConnection, SQLiteFile, removal_of
from chimera.adapters.sqlite.tables import add_columns
from chimera.core.aio.signals import Signal
from chimera.entities import Row
from chimera.errors import SettingsError, Unavailable
from chimera.messages import Message, unreadable
from chimera.ports import (
    PAGE_BYTES,
    Record,
)

WAKE_S = 45.0
_TOPIC = re.compile(r"[a-z0-9.-]+")
_LOG_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS records (
    partition INTEGER, offset INTEGER, id TEXT, source TEXT, type TEXT, key TEXT, time TEXT, data BLOB, number INTEGER,
    traceparent TEXT, chain TEXT NOT NULL DEFAULT '', metadata TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (partition, offset)) STRICT, WITHOUT ROWID
"""
_APPEND = """
INSERT INTO records (partition, offset, id, source, type, key, time, data, number, traceparent, chain, metadata)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


_NAMES = (
    *("offset", "id", "source", "type", "key", "time", "data", "partition", "number", "traceparent", "chain"),
    "metadata",
)
_TEXTS = ("id", "source", "type", "key", "time", "traceparent", "chain", "metadata")
_COLUMNS = ", ".join(_NAMES)
_COLUMNS_AS_BYTES = ", ".join(f"CAST({name} AS BLOB)" if name in _TEXTS else name for name in _NAMES)


class SQLiteLog:
    """A log of one file per topic, `<directory>/<topic>.db`. What is appended is on disk when `append` returns.

    What is appended wakes the readers: of this process at once, of others when they look at the folder's bell. Each
    looks for itself every `wake_s` seconds.
    """

    features = FEATURES

    def __init__(self, directory: str | Path, *, wake_s: float = WAKE_S) -> None:
        self._directory = Path(directory)
        self._wake_s = wake_s
        self._topics: dict[str, SQLiteTopic] = {}

    async def create(self, topic: str, partitions: int) -> None:
        """Raises SettingsError when the topic exists with fewer partitions."""
        await self._topic(topic).open(partitions)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Raises ValueError, and adds nothing, when a message's partition is not one of the topic's."""
        await (await self._opened(topic)).append(messages)

    async def read(
        self, topic: str, after: Mapping[int, int], limit: int = 500
    ) -> AsyncGenerator[Sequence[Record], None]:
        opened = await self._opened(topic)
        offsets, turns = dict(after), deque(after)
        while opened.is_open:
            appended = opened.appended
            if batch := opened.fetch(offsets, turns, limit):
                turns.rotate(-1)
                yield batch
                await asyncio.sleep(0)
            else:
                await opened.changed(appended)

    async def ends(self, topic: str) -> Mapping[int, int]:
        return (await self._opened(topic)).ends()

    async def trim(self, topic: str, through: Mapping[int, int]) -> None:
        await (await self._opened(topic)).trim(through)

    def removal(self, topics: Sequence[str]) -> str:
        """As `ports.Removable`."""
        return removal_of([self._directory / f"{topic}.db" for topic in topics])

    async def close(self) -> None:
        for topic in list(self._topics.values()):
            await topic.close()

    async def _opened(self, name: str) -> SQLiteTopic:
        topic = self._topic(name)
        if not topic.is_open:
            await topic.open()
        return topic

    def _topic(self, name: str) -> SQLiteTopic:
        if name not in self._topics:
            if not _TOPIC.fullmatch(name):
                raise SettingsError(f"{name!r} can't name a topic; use lower case letters, digits, dots and dashes")
            self._topics[name] = SQLiteTopic(self._directory / f"{name}.db", self._wake_s)
        return self._topics[name]


class SQLiteTopic:
    """One topic's file, shared by all who read or append it in this process."""

    def __init__(self, path: Path, wake_s: float) -> None:
        self._file = SQLiteFile(path, "FULL")
        self._wake_s = wake_s
        self._partitions = 0
        self._appended = Signal()

    @property
    def is_open(self) -> bool:
        """True once the topic exists and its file is open."""
        return self._file.is_open and self._partitions > 0

    async def open(self, partitions: int | None = None) -> None:
        """Open the topic, and create it if `partitions` says how many it gets."""
        if partitions is None and not self._file.path.exists():
            raise Unavailable(f"there is no topic in {self._file.path} yet")
        await self._file.open()
        self._file.listen(self._appended.notify)
        async with self._file.writing() as connection:
            connection.run_script(_LOG_SCHEMA)
            add_columns(connection, [("records", f"{name} TEXT NOT NULL DEFAULT ''") for name in ("chain", "metadata")])
            if partitions is not None:
                connection.run("INSERT OR IGNORE INTO meta VALUES ('partitions', ?)", (partitions,))
            rows = connection.run("SELECT value FROM meta WHERE name = 'partitions'")
        found = int(rows[0][0]) if rows else 0
        if partitions is not None and found < partitions:
            raise too_few_partitions(f"the topic in {self._file.path}", found, partitions)
        self._partitions = found

    async def append(self, messages: Sequence[Message]) -> None:
        """Append messages in one transaction, and wake the readers. Raises ValueError for an unknown partition."""
        for message in messages:
            if not 0 <= message.partition < self._partitions:
                raise ValueError(f"{self._file.path} has {self._partitions} partitions, no number {message.partition}")
        async with self._file.writing() as connection:
            ends = {partition: _end(connection, partition) for partition in {message.partition for message in messages}}
            rows = list(_numbered(messages, ends))
            connection.run_many(_APPEND, rows)
        self._appended.notify()

    def ends(self) -> Mapping[int, int]:
        """The newest offset of each partition; 0 for an empty one."""
        return {partition: _end(self._file.reader, partition) for partition in range(self._partitions)}

    async def trim(self, through: Mapping[int, int]) -> None:
        """The newest record stays: offsets are counted on from it."""
        async with self._file.writing() as connection:
            for partition, offset in through.items():
                last = min(offset, _end(connection, partition) - 1)
                connection.run("DELETE FROM records WHERE partition = ? AND offset <= ?", (partition, last))

    async def close(self) -> None:
        """Close the file, and end the readers."""
        await self._file.close()
        self._appended.notify()

    @property
    def appended(self) -> int:
        """A number that is another one whenever somebody may have appended."""
        return self._appended.times

    async def changed(self, since: int) -> None:
        """Wait until there may be more than there was when `appended` was `since`; at most `wake_s` seconds."""
        if self.is_open and self._appended.times == since:
            await self._appended.wait(self._wake_s)

    def fetch(self, offsets: dict[int, int], turns: Iterable[int], limit: int) -> list[Record]:
        """The next records: every partition gets its part of the batch before any gets more."""
        batch: list[Record] = []
        for room in (limit // max(1, len(offsets)) or 1, limit):
            turns = [each for each in turns if self._fill(batch, offsets, each, min(room, limit - len(batch)))]
        return batch

    def _fill(self, batch: list[Record], offsets: dict[int, int], partition: int, room: int) -> bool:
        """Add at most `room` records of a partition, and its share of a page; says whether there may be more."""
        size = PAGE_BYTES // len(offsets)
        sql = f"SELECT {_COLUMNS} FROM records WHERE partition = ? AND offset > ? ORDER BY offset LIMIT ?"  # noqa: S608
        parameters = (partition, offsets[partition], room)
        try:
            rows = self._file.reader.page(sql, parameters, data=6, size=size)
        except sqlite3.OperationalError:  # text that is no UTF-8, as no Chimera writes
            as_bytes = sql.replace(_COLUMNS, _COLUMNS_AS_BYTES)
            rows = list(map(_as_text, self._file.reader.page(as_bytes, parameters, data=6, size=size)))
        if rows:
            batch += [
                Record(row[0], self._odd_one(partition, row) if None in row else Message(*row[1:])) for row in rows
            ]
            offsets[partition] = rows[-1][0]
        return len(rows) == room > 0

    def _odd_one(self, partition: int, row: Row) -> Message:
        """What stands for a record that no Chimera has written."""
        found = dict(zip(_NAMES, row, strict=True))
        missing = ", ".join(name for name in _NAMES if found[name] is None)
        place = f"{self._file.path.stem}/{partition}@{found['offset']}"
        return unreadable(place, partition, found["data"] or b"", f"{missing}: missing, or no text", found["key"] or "")


def _as_text(row: Row) -> Row:
    """A row whose texts were read as bytes: with None where they are no text."""
    return tuple(_text(value) if name in _TEXTS else value for name, value in zip(_NAMES, row, strict=True))


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _end(connection: SQLiteConnection, partition: int) -> int:
    [(end,)] = connection.run("SELECT coalesce(max(offset), 0) FROM records WHERE partition = ?", (partition,))
    return int(end)


def _numbered(messages: Iterable[Message], ends: dict[int, int]) -> Iterator[Row]:
    for m in messages:
        ends[m.partition] += 1
        offset = ends[m.partition]
        yield (
            *(m.partition, offset, m.id, m.source, m.type, m.key, m.time, m.data, m.number, m.traceparent, m.chain),
            m.metadata,
        )
