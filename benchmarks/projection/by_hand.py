"""By hand: the limit (fold a batch in memory, one bulk write), and the peers' way (an upsert and a commit per event).

`python -m benchmarks.projection.by_hand fold|upsert COUNT`. Both commit how far they are with what they write.
Events come from memory. Prints the events per second.
"""

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.projection.events import TYPES, Each, events
from benchmarks.reads.by_hand import mongodb, mysql_pool, open_many, open_redis, postgresql_pool

BATCH = 2000
WORDS = {each: each.removeprefix("Order").lower() for each in TYPES}


class Order(msgspec.Struct):
    order_id: str
    seller_id: str
    amount_cents: int


class Sales(msgspec.Struct):
    seller_id: str
    counts: dict[str, int] = {}
    revenue_cents: int = 0


Put = Callable[[Mapping[str, bytes], int], Awaitable[None]]
Upsert = Callable[[str, str, int, int], Awaitable[None]]


class Engine(NamedTuple):
    """How an engine puts many documents and a position at once, and how it changes one document and moves on."""

    put: Put
    upsert: Upsert


async def fold(url: str, messages: list[tuple[str, bytes]]) -> None:
    engine, many = await open_engine(url), await open_many(url)
    decode, encode = msgspec.json.Decoder(Order).decode, msgspec.json.Encoder().encode
    load = msgspec.json.Decoder(Sales).decode
    for start in range(0, len(messages), BATCH):
        decoded = [(kind, decode(data)) for kind, data in messages[start : start + BATCH]]
        keys = list({order.seller_id for _, order in decoded})
        found = {key: load(data) for key, data in (await many("documents", keys)).items()}
        for kind, order in decoded:
            sales = found.get(order.seller_id)
            if sales is None:
                sales = found[order.seller_id] = Sales(order.seller_id)
            word = WORDS[kind]
            sales.counts[word] = sales.counts.get(word, 0) + 1
            sales.revenue_cents += _worth(kind, order.amount_cents)
        await engine.put({key: encode(sales) for key, sales in found.items()}, start + len(decoded))


async def upsert(url: str, messages: list[tuple[str, bytes]]) -> None:
    engine = await open_engine(url)
    decode = msgspec.json.Decoder(Order).decode
    for number, (kind, data) in enumerate(messages, 1):
        order = decode(data)
        await engine.upsert(order.seller_id, WORDS[kind], _worth(kind, order.amount_cents), number)


def _worth(kind: str, amount: int) -> int:
    return {"OrderPlaced": amount, "OrderCanceled": -amount}.get(kind, 0)


COLUMNS = ", ".join(f"{word} integer DEFAULT 0" for word in WORDS.values())
TABLES = (
    "CREATE TABLE documents ({key} varchar(64) PRIMARY KEY, data {bytes})",
    f"CREATE TABLE sales (seller_id varchar(64) PRIMARY KEY, revenue_cents integer, {COLUMNS})",
    "CREATE TABLE positions (name varchar(64) PRIMARY KEY, number integer)",
    "INSERT INTO positions VALUES ('sales', 0)",
)


async def open_engine(url: str) -> Engine:
    return await _ENGINES[urlsplit(url).scheme](url)


async def _postgresql(url: str) -> Engine:
    pool = await postgresql_pool(url)
    connection: Any = await pool.acquire()
    for sql in TABLES:
        await connection.execute(sql.format(key="key", bytes="bytea"))

    async def put(documents: Mapping[str, bytes], number: int) -> None:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO documents SELECT * FROM unnest($1::text[], $2::bytea[])"
                " ON CONFLICT (key) DO UPDATE SET data = excluded.data",
                list(documents),
                list(documents.values()),
            )
            await connection.execute("UPDATE positions SET number = $1", number)

    async def one(seller_id: str, word: str, worth: int, number: int) -> None:
        async with connection.transaction():
            await connection.execute(
                f"INSERT INTO sales (seller_id, revenue_cents, {word}) VALUES ($1, $2, 1) ON CONFLICT (seller_id)"  # noqa: S608
                f" DO UPDATE SET revenue_cents = sales.revenue_cents + $2, {word} = sales.{word} + 1",
                seller_id,
                worth,
            )
            await connection.execute("UPDATE positions SET number = $1", number)

    return Engine(put, one)


async def _mysql(url: str) -> Engine:
    pool = await mysql_pool(url)
    connection: Any = await pool.acquire()
    cursor = connection.cursor()
    for sql in TABLES:
        await cursor.execute(sql.format(key="`key`", bytes="blob"))
    await connection.autocommit(False)

    async def put(documents: Mapping[str, bytes], number: int) -> None:
        await cursor.executemany(
            "INSERT INTO documents VALUES (%s, %s) ON DUPLICATE KEY UPDATE data = VALUES(data)", list(documents.items())
        )
        await cursor.execute("UPDATE positions SET number = %s", (number,))
        await connection.commit()

    async def one(seller_id: str, word: str, worth: int, number: int) -> None:
        await cursor.execute(
            f"INSERT INTO sales (seller_id, revenue_cents, {word}) VALUES (%s, %s, 1)"  # noqa: S608
            f" ON DUPLICATE KEY UPDATE revenue_cents = revenue_cents + VALUES(revenue_cents), {word} = {word} + 1",
            (seller_id, worth),
        )
        await cursor.execute("UPDATE positions SET number = %s", (number,))
        await connection.commit()

    return Engine(put, one)


async def _sqlite(url: str) -> Engine:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    for sql in TABLES:
        connection.execute(sql.format(key="key", bytes="blob"))

    async def put(documents: Mapping[str, bytes], number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?)", documents.items())
        connection.execute("UPDATE positions SET number = ?", (number,))
        connection.execute("COMMIT")

    async def one(seller_id: str, word: str, worth: int, number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            f"INSERT INTO sales (seller_id, revenue_cents, {word}) VALUES (?, ?, 1) ON CONFLICT (seller_id)"  # noqa: S608
            f" DO UPDATE SET revenue_cents = revenue_cents + excluded.revenue_cents, {word} = {word} + 1",
            (seller_id, worth),
        )
        connection.execute("UPDATE positions SET number = ?", (number,))
        connection.execute("COMMIT")

    return Engine(put, one)


async def _mongodb(url: str) -> Engine:
    from pymongo import ReplaceOne

    database = mongodb(url)

    async def put(documents: Mapping[str, bytes], number: int) -> None:
        many = [ReplaceOne({"_id": key}, {"data": data}, upsert=True) for key, data in documents.items()]
        await database["documents"].bulk_write(many, ordered=False)
        await database["positions"].update_one({"_id": "sales"}, {"$set": {"number": number}}, upsert=True)

    async def one(seller_id: str, word: str, worth: int, number: int) -> None:
        change = {"$inc": {f"counts.{word}": 1, "revenue_cents": worth}, "$set": {"number": number}}
        await database["sales"].update_one({"_id": seller_id}, change, upsert=True)

    return Engine(put, one)


async def _redis(url: str) -> Engine:
    redis, prefix = open_redis(url)

    async def put(documents: Mapping[str, bytes], number: int) -> None:
        rows: dict[str, bytes | int] = {f"{prefix}:documents:{key}": data for key, data in documents.items()}
        await redis.mset(rows | {f"{prefix}:position": number})

    async def one(seller_id: str, word: str, worth: int, number: int) -> None:
        async with redis.pipeline(transaction=True) as together:
            together.hincrby(f"{prefix}:sales:{seller_id}", word, 1)
            together.hincrby(f"{prefix}:sales:{seller_id}", "revenue_cents", worth)
            together.set(f"{prefix}:position", number)
            await together.execute()

    return Engine(put, one)


_ENGINES: dict[str, Callable[[str], Awaitable[Engine]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mongodb": _mongodb,
    "redis": _redis,
}


def _message(event: Each) -> tuple[str, bytes]:
    return event.type, msgspec.json.encode(Order(event.order_id, event.seller_id, event.amount_cents))


async def main(way: str, count: int) -> None:
    messages = [_message(event) for event in islice(events(count), count)]
    began = time.perf_counter()
    await {"fold": fold, "upsert": upsert}[way](os.environ["BENCH_URL"], messages)
    print(count / (time.perf_counter() - began))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2])))
