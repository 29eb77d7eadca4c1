"""Millions of journal rows in SQLite are trimmed while events go on being appended and read.

    python -m benchmarks.retention [--rows 5000000] [--folder DIR]

Prints the rows a second, the longest pause of a writer, and what became of the file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from chimera import Service
from chimera.adapters.sqlite import SQLiteLog, SQLiteStore, SQLiteViews
from chimera.core.context import Context
from chimera.core.names import RELAY
from chimera.core.tables import Progress
from chimera.core.timing import Retention
from chimera.entities import table_of
from chimera.messages import Message
from chimera.ports import Owner
from chimera.run.engines import context_of
from chimera.upkeep.retention import Trimming

PARTITIONS = 8
DATA = (
    b'{"order_id":"0123456789abcdef","seller_id":"0123456789abcdef","amount_cents":1200,"note":"' + b"x" * 120 + b'"}'
)


def fill(path: Path, rows: int) -> None:
    """Old events, as many in each partition, put there without the library: only the trimming is measured."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    each = rows // PARTITIONS
    for partition in range(PARTITIONS):
        made = (
            (partition, n, "shop", "shop.Placed", f"key-{n % 50_000}", "2020-01-01T00:00:00.000000Z", DATA, "")
            for n in range(1, each + 1)
        )
        connection.executemany("INSERT INTO chimera_journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", made)
        connection.execute("UPDATE chimera_heads SET number = ? WHERE partition = ?", (each, partition))
        connection.commit()
    connection.close()


async def write(context: Context, waits: list[float], over: asyncio.Event) -> int:
    """Emit an event at a time, as fast as it goes, and note how long each took."""
    count = 0
    while not over.is_set():
        began = time.perf_counter()
        partition = count % PARTITIONS
        async with context.store.transaction() as session:
            number = (await session.hold([partition]))[partition].number + 1
            place = f"shop/{partition}@{number}"
            await session.append(
                [Message(place, "shop", "shop.Placed", "k", context.clock.stamp(), DATA, partition, number)]
            )
        waits.append(time.perf_counter() - began)
        count += 1
        await asyncio.sleep(0.002)
    return count


async def follow(context: Context, after: int, over: asyncio.Event) -> int:
    """Read partition 0 on, and see that nothing is missing."""
    number = after
    while not over.is_set():
        page: Sequence[Message] = await context.store.journal(0, number, 500)
        assert [message.number for message in page] == list(range(number + 1, number + 1 + len(page)))
        number += len(page)
        await asyncio.sleep(0.005)
    return number - after


def share(waits: Sequence[float], part: float) -> float:
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * part))] * 1000


async def measure(folder: Path, rows: int) -> dict[str, object]:
    path = folder / "shop.db"
    store, log, views = SQLiteStore(path), SQLiteLog(folder / "log"), SQLiteViews(folder / "views.db")
    context = context_of(Service("shop"), log, store, views, _nobody)
    context = replace(context, retention=Retention(journal_days=1))
    await context.prepare()
    fill(path, rows)
    full = path.stat().st_size
    heads = await store.heads()
    async with store.transaction() as session:
        relayed = [Progress(RELAY, "shop", partition, number, 0) for partition, number in heads.items()]
        await session.save(table_of(Progress), [table_of(Progress).to_row(row) for row in relayed])
    quiet, busy, over = list[float](), list[float](), asyncio.Event()
    asyncio.get_running_loop().call_later(5.0, over.set)
    await write(context, quiet, over)
    over = asyncio.Event()
    work = [asyncio.ensure_future(write(context, busy, over)), asyncio.ensure_future(follow(context, heads[0], over))]
    began = time.perf_counter()
    trimming = Trimming(context, range(PARTITIONS))
    await trimming.trim_store()
    took = time.perf_counter() - began
    over.set()
    written, read = await asyncio.gather(*work)
    left = sum((await store.heads()).values()) - sum((await store.oldest()).values()) + PARTITIONS
    trimmed_to = path.stat().st_size
    for _ in range(0, 20_000, 500):
        async with store.transaction() as session:
            first = (await session.hold([1]))[1].number + 1
            numbers = range(first, first + 500)
            await session.append(
                [Message(f"s/{n}", "shop", "shop.Placed", "k", context.clock.stamp(), DATA, 1, n) for n in numbers]
            )
    grown = path.stat().st_size - trimmed_to
    for engine in (store, log, views):
        await engine.close()
    return {
        "rows": rows,
        "seconds": round(took, 1),
        "rows_per_second": round(rows / took),
        "left": left,
        "written_meanwhile": written,
        "read_meanwhile": read,
        "write_ms_without": {"p50": share(quiet, 0.5), "p99": share(quiet, 0.99), "longest": max(quiet) * 1000},
        "write_ms_trimming": {"p50": share(busy, 0.5), "p99": share(busy, 0.99), "longest": max(busy) * 1000},
        "file_mb": {"full": full >> 20, "trimmed": trimmed_to >> 20, "grown_by_20000_more": grown >> 20},
        "at": (datetime.now(UTC)).isoformat(timespec="seconds"),
    }


def _nobody(name: str) -> Owner:
    raise AssertionError(f"nothing of {name} is used")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        print(json.dumps(uvloop.run(measure(Path(folder), given.rows)), indent=1))


if __name__ == "__main__":
    main()
