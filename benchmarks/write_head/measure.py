"""Write head: small commands that insert or update a row and emit an event, per second.

All commands wait in the broker (the limit has them in memory) when a subject starts. What counts is how the journal,
or the peers' outbox, grows from its first twentieth to its end. SQLite commits with synchronous=FULL for everybody.
Chimera reads its commands from the broker and relays its events to it as well: so does "limit, from log to log".
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from urllib.parse import urlsplit

import aio_pika
import asyncmy
import asyncpg
import msgspec

from benchmarks.engines import Place, make, place, url_of
from benchmarks.harness import OURS, SERVER, THEIRS, Bench, Subject, chimera, running
from benchmarks.write_head.work import orders
from chimera.core.clock import Clock
from chimera.core.keys.seals import Seal
from chimera.messages import Message, partition_of
from chimera.run.engines import open_engine

ENGINES = ("sqlite", "postgresql", "mysql")
SERVICE = "bench-orders"
PARTITIONS = 8
CLOCK = Clock()
PATIENCE_S = 120.0
UNSEALED = Seal(SERVICE)
WRITTEN = {"journal": "SELECT sum(number) FROM chimera_heads", "outbox": "SELECT max(id) FROM outbox"}
"""How much was written, asked so that it costs the server next to nothing."""
WORKER = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "error"]

Count = Callable[[], Awaitable[int]]


def measure(bench: Bench) -> None:
    many, peers = bench.many(30_000), max(400, bench.many(2_000))
    for engine in filter(bench.wants, ENGINES):
        subjects = [
            Subject("chimera", partial(ours, engine, many)),
            Subject("limit", partial(_limit, engine, 2 * many)),
            Subject("limit, from log to log", partial(_limit_on_log, engine, many)),
            Subject("FastStream + SQLAlchemy", partial(_faststream, engine, peers)),
            Subject("Celery, acks_late", partial(_celery, engine, peers)),
        ]
        bench.compare("write-head", "insert or update, and emit", engine, "commands/s", subjects)


def ours(engine: str, count: int, workers: int = 1, cores: set[int] = SERVER) -> float:
    """Commands a second that Chimera's write heads do together."""
    with ExitStack() as stack:
        where = stack.enter_context(place())
        settings = {
            "CHIMERA_STATE": str(where.folder),
            "CHIMERA_LOG": where.log("sqlite" if engine == "sqlite" else "rabbitmq", SERVICE),
            "CHIMERA_STORE": where.url(engine, "store"),
        }
        config = where.config({SERVICE: "benchmarks.orders:service"})
        asyncio.run(make(settings["CHIMERA_STORE"]))
        asyncio.run(append(settings["CHIMERA_LOG"], count))
        for _ in range(workers):
            stack.enter_context(running(chimera(config, "run", SERVICE, "--write"), settings, cores))
        return asyncio.run(rate(settings["CHIMERA_STORE"], "journal", count))


async def append(url: str, count: int, seal: Seal = UNSEALED) -> None:
    """Have the commands in the log, as a read head puts them there."""
    log = open_engine("log", url)
    try:
        await log.create(f"{SERVICE}.commands", PARTITIONS)
        batch = []
        for number, order in enumerate(orders(count)):
            key, data = str(order["order_id"]), json.dumps(order).encode()
            at = partition_of(key, PARTITIONS)
            command = Message(f"c{number}", SERVICE, f"{SERVICE}.PlaceOrder", key, CLOCK.stamp(), data, at)
            batch.append(msgspec.structs.replace(command, chain=seal.of_command(command)))
            if len(batch) == 1000:
                await log.append(f"{SERVICE}.commands", batch)
                batch = []
        await log.append(f"{SERVICE}.commands", batch)
    finally:
        await log.close()


def _limit(engine: str, count: int) -> float:
    with place() as where:
        settings = {"BENCH_URL": where.url(engine)}
        asyncio.run(make(settings["BENCH_URL"]))
        with running([OURS, "-m", "benchmarks.write_head.by_hand", str(count)], settings):
            return asyncio.run(rate(settings["BENCH_URL"], "outbox", count))


def _limit_on_log(engine: str, count: int) -> float:
    with place() as where:
        log = where.log("sqlite" if engine == "sqlite" else "rabbitmq", SERVICE)
        settings = {"BENCH_URL": where.url(engine), "CHIMERA_LOG": log}
        asyncio.run(make(settings["BENCH_URL"]))
        asyncio.run(append(log, count))
        with running([OURS, "-m", "benchmarks.write_head.by_hand", str(count)], settings):
            return asyncio.run(rate(settings["BENCH_URL"], "outbox", count))


def _faststream(engine: str, count: int) -> float:
    with place() as where:
        settings = _peer_settings(where, engine)
        asyncio.run(make(settings["BENCH_URL"]))
        asyncio.run(_publish(settings["BENCH_QUEUE"], count))
        with running([THEIRS, "-m", "benchmarks.write_head.faststream_app"], settings):
            return asyncio.run(rate(settings["BENCH_URL"], "outbox", count))


def _celery(engine: str, count: int) -> float:
    with place() as where:
        settings = _peer_settings(where, engine)
        asyncio.run(make(settings["BENCH_URL"]))
        with running([THEIRS, "-m", "benchmarks.write_head.celery_app", str(count)], settings) as filling:
            filling.wait()
        processes = "1" if engine == "sqlite" else "4"
        worker = [THEIRS, "-m", "celery", "-A", "benchmarks.write_head.celery_app", "worker", *WORKER, "-c", processes]
        with running(worker, settings):
            return asyncio.run(rate(settings["BENCH_URL"], "outbox", count))


def _peer_settings(where: Place, engine: str) -> dict[str, str]:
    queue = f"{where.tag}-orders"
    where.used.add("rabbitmq")
    where.queues.add(queue)
    return {"BENCH_URL": where.url(engine), "BENCH_AMQP": url_of("rabbitmq"), "BENCH_QUEUE": queue}


async def _publish(queue: str, count: int) -> None:
    connection = await aio_pika.connect(url_of("rabbitmq"))
    async with connection, connection.channel() as channel:
        await channel.declare_queue(queue, durable=True)
        messages = [
            aio_pika.Message(json.dumps(order).encode(), content_type="application/json", delivery_mode=2)
            for order in orders(count)
        ]
        for start in range(0, len(messages), 500):
            sent = (channel.default_exchange.publish(each, queue) for each in messages[start : start + 500])
            await asyncio.gather(*sent)


async def rate(url: str, table: str, count: int) -> float:
    """How many rows a second the table grows by, until it has so many."""
    ask = await _COUNTS[urlsplit(url).scheme](url, table)
    first: tuple[float, int] | None = None
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        rows, at = await ask(), time.monotonic()
        if first is None and rows >= count // 20:
            first = at, rows
        if first and rows >= count // 2 * 2:
            return (rows - first[1]) / (at - first[0]) if rows > first[1] else float("nan")
        await asyncio.sleep(0.02)
    raise RuntimeError(f"{rows} of {count} commands were done in {PATIENCE_S:.0f} s")


async def _count_sqlite(url: str, table: str) -> Count:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)

    async def count() -> int:
        try:
            return int(connection.execute(WRITTEN[table]).fetchone()[0] or 0)
        except sqlite3.OperationalError:
            return 0

    return count


async def _count_postgresql(url: str, table: str) -> Count:
    connection = await asyncpg.connect(url)

    async def count() -> int:
        try:
            return int(await connection.fetchval(WRITTEN[table]) or 0)
        except asyncpg.UndefinedTableError:
            return 0

    return count


async def _count_mysql(url: str, table: str) -> Count:
    at = urlsplit(url)
    connection = await asyncmy.connect(
        host=at.hostname,
        port=at.port,
        user=at.username,
        password=at.password,
        database=at.path.strip("/"),
        autocommit=True,
    )

    async def count() -> int:
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(WRITTEN[table])
                return int((await cursor.fetchone())[0] or 0)
        except asyncmy.errors.ProgrammingError:
            return 0

    return count


_COUNTS = {"sqlite": _count_sqlite, "postgresql": _count_postgresql, "mysql": _count_mysql}
