"""The limit: a loop around the driver. 500 commands from memory, one transaction of a few bulk statements, and again.

It does what exactly once takes and nothing else: commands that were seen before are left out, rows are read and
written, each event gets the next number of its journal. `python -m benchmarks.write_head.by_hand COUNT`.

Where CHIMERA_LOG is set, it takes the commands from there and, after each commit, puts their events there: what a write
head does beside its transactions, by the same adapter and again in one loop.
"""

import json
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import asyncpg
import msgspec
import uvloop

from benchmarks.write_head.work import orders
from chimera.core.clock import Clock
from chimera.messages import Message, partition_of
from chimera.run.engines import open_engine

BATCH = 500
PARTITIONS = 8
CLOCK = Clock()
COMMANDS, EVENTS = "bench-orders.commands", "bench-orders.events"
_ORDERS = "seller_id varchar(64), gig_id varchar(64), amount_cents integer, note varchar(200), changes integer"
TABLES = (
    "CREATE TABLE inbox (id varchar(64) PRIMARY KEY)",
    f"CREATE TABLE orders (order_id varchar(64) PRIMARY KEY, {_ORDERS})",
    "CREATE TABLE outbox (id bigint PRIMARY KEY, type varchar(64), data text)",
)


class PlaceOrder(msgspec.Struct):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str


class Rows:
    """What a batch writes."""

    def __init__(self, batch: list[tuple[str, bytes]], seen: set[str], changes: dict[str, int], last: int) -> None:
        self.events: list[tuple[str, bytes]] = []
        self.inbox: list[tuple[str]] = []
        self.orders: dict[str, tuple[Any, ...]] = {}
        self.outbox: list[tuple[int, str, str]] = []
        for command_id, data in batch:
            if command_id not in seen:
                order = _decode(data)
                changes[order.order_id] = changes.get(order.order_id, -1) + 1
                self.inbox.append((command_id,))
                self.orders[order.order_id] = (*msgspec.structs.astuple(order), changes[order.order_id])
                self.events.append((order.order_id, _encode(order)))
                self.outbox.append((last + len(self.inbox), "OrderPlaced", self.events[-1][1].decode()))


_decode = msgspec.json.Decoder(PlaceOrder).decode
_encode = msgspec.json.Encoder().encode
Batch = list[tuple[str, bytes]]
Write = Callable[[Batch, list[str], int], Awaitable[Batch]]
"""Handles commands (id, data) after so many; returns their events (key, data)."""


async def postgresql(url: str) -> Write:
    # The tables are new, and without this their first plan, which reads all of them, is kept while they grow.
    connection = await asyncpg.connect(url, server_settings={"enable_seqscan": "off", "jit": "off"})
    for sql in TABLES:
        await connection.execute(sql)

    async def write(batch: Batch, keys: list[str], last: int) -> Batch:
        async with connection.transaction():
            seen = await connection.fetch("SELECT id FROM inbox WHERE id = ANY($1)", [each for each, _ in batch])
            known = await connection.fetch(
                "SELECT order_id, changes FROM orders WHERE order_id = ANY($1) FOR UPDATE", keys
            )
            rows = Rows(batch, {row[0] for row in seen}, dict(known), last)
            await connection.execute("INSERT INTO inbox SELECT unnest($1::text[])", [row[0] for row in rows.inbox])
            await connection.execute(
                "INSERT INTO orders SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[],"
                " $6::int[]) ON CONFLICT (order_id) DO UPDATE SET amount_cents = excluded.amount_cents,"
                " note = excluded.note, changes = excluded.changes",
                *map(list, zip(*rows.orders.values(), strict=True)),
            )
            await connection.execute(
                "INSERT INTO outbox SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])",
                *map(list, zip(*rows.outbox, strict=True)),
            )
        return rows.events

    return write


async def mysql(url: str) -> Write:
    at = urlsplit(url)
    connection = await asyncmy.connect(
        host=at.hostname, port=at.port, user=at.username, password=at.password, database=at.path.strip("/")
    )
    cursor = connection.cursor()
    for sql in TABLES:
        await cursor.execute(sql)

    async def write(batch: Batch, keys: list[str], last: int) -> Batch:
        marks = ",".join(["%s"] * len(batch))
        await cursor.execute(f"SELECT id FROM inbox WHERE id IN ({marks})", [each for each, _ in batch])  # noqa: S608
        seen = {row[0] for row in await cursor.fetchall()}
        marks = ",".join(["%s"] * len(keys))
        await cursor.execute(f"SELECT order_id, changes FROM orders WHERE order_id IN ({marks}) FOR UPDATE", keys)  # noqa: S608
        rows = Rows(batch, seen, dict(await cursor.fetchall()), last)
        await cursor.executemany("INSERT INTO inbox VALUES (%s)", rows.inbox)
        await cursor.executemany(
            "INSERT INTO orders VALUES (%s, %s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE"
            " amount_cents = VALUES(amount_cents), note = VALUES(note), changes = VALUES(changes)",
            list(rows.orders.values()),
        )
        await cursor.executemany("INSERT INTO outbox VALUES (%s, %s, %s)", rows.outbox)
        await connection.commit()
        return rows.events

    return write


async def sqlite(url: str) -> Write:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for sql in TABLES:
        connection.execute(sql)

    async def write(batch: Batch, keys: list[str], last: int) -> Batch:
        connection.execute("BEGIN IMMEDIATE")
        marks = ",".join("?" * len(batch))
        seen = connection.execute(f"SELECT id FROM inbox WHERE id IN ({marks})", [each for each, _ in batch])  # noqa: S608
        marks = ",".join("?" * len(keys))
        known = connection.execute(f"SELECT order_id, changes FROM orders WHERE order_id IN ({marks})", keys)  # noqa: S608
        rows = Rows(batch, {row[0] for row in seen}, dict(known), last)
        connection.executemany("INSERT INTO inbox VALUES (?)", rows.inbox)
        connection.executemany("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?)", rows.orders.values())
        connection.executemany("INSERT INTO outbox VALUES (?, ?, ?)", rows.outbox)
        connection.execute("COMMIT")
        return rows.events

    return write


async def from_memory(write: Write, count: int) -> None:
    commands = [(f"c{number}", json.dumps(order).encode()) for number, order in enumerate(orders(count))]
    for start in range(0, len(commands), BATCH):
        await handle(write, commands[start : start + BATCH], start)


async def from_log(write: Write, count: int, url: str) -> None:
    log, last = open_engine("log", url), 0
    await log.create(EVENTS, PARTITIONS)
    async for records in log.read(COMMANDS, dict.fromkeys(range(PARTITIONS), 0), BATCH):
        events = await handle(write, [(message.id, message.data) for _, message in records], last)
        numbered = enumerate(events, last + 1)
        await log.append(EVENTS, [_message(number, key, data) for number, (key, data) in numbered])
        last += len(events)
        if last == count:
            return


async def handle(write: Write, batch: Batch, last: int) -> Batch:
    return await write(batch, list({_decode(data).order_id for _, data in batch}), last)


def _message(number: int, key: str, data: bytes) -> Message:
    at = partition_of(key, PARTITIONS)
    return Message(f"by-hand@{number}", "by-hand", "by-hand.OrderPlaced", key, CLOCK.stamp(), data, at, number)


async def main(count: int) -> None:
    url, log = os.environ["BENCH_URL"], os.environ.get("CHIMERA_LOG")
    write = await {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}[urlsplit(url).scheme](url)
    await (from_log(write, count, log) if log else from_memory(write, count))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
