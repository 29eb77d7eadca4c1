"""Growth: what more orders, a longer journal, more copies and more workers change."""

from __future__ import annotations

import asyncio
import http.client
import time
from contextlib import ExitStack
from functools import partial
from statistics import median
from urllib.parse import urlsplit

from benchmarks import load
from benchmarks.engines import Place, make, place
from benchmarks.growth.journal import PARTITIONS, SERVICE
from benchmarks.harness import OTHERS, OURS, SERVER, THEIRS, Bench, Subject, asgi, chimera, running, serving
from benchmarks.reads.measure import marketplace
from benchmarks.write_head import measure as write_head
from chimera.ports import Document
from chimera.run.engines import open_engine

ORDERS = (1_000, 10_000, 100_000, 1_000_000)
JOURNALS = {
    "sqlite": (10_000, 100_000, 1_000_000, 10_000_000),
    "postgresql": (10_000, 100_000, 1_000_000),  # it would take minutes to fill one of ten million
}
COPIES = (10, 100, 1_000)
WORKERS = (1, 2, 4, 8)
_COLUMNS = "order_id bigint PRIMARY KEY, seller_id varchar(64), status varchar(20), amount_cents integer"
RELATIONAL = ("sqlite", "postgresql", "mysql")


def measure(bench: Bench) -> None:
    for engine in filter(bench.wants, RELATIONAL):
        with bench.surviving(f"dashboard on {engine}"), place() as where:
            _dashboard(bench, engine, where)
    for engine in filter(bench.wants, JOURNALS):
        with bench.surviving(f"journal on {engine}"), place() as where:
            _journal(bench, engine, where)
    for sellers in COPIES if bench.wants("sqlite") else ():
        with bench.surviving(f"copies of {sellers} sellers"), place() as where:
            _copies(bench, sellers, where)
    if bench.wants("postgresql"):
        for workers in WORKERS:
            run = partial(write_head.ours, "postgresql", bench.many(30_000), workers, SERVER | OTHERS)
            subject = Subject("chimera", run)
            bench.compare("growth", f"write heads on all cores: {workers}", "postgresql", "commands/s", [subject])


# The dashboard: a seller's document beside counting her orders at each request


def _dashboard(bench: Bench, engine: str, where: Place) -> None:
    sizes = [bench.many(size) for size in ORDERS]
    asyncio.run(_fill_dashboard(where, engine, sizes))
    config = where.config({"bench-sales": "benchmarks.projection.service:service"})
    settings = {
        "CHIMERA_STATE": str(where.folder),
        "CHIMERA_VIEWS": where.url(engine, "views"),
        "BENCH_URL": where.url(engine),
    }
    with ExitStack() as stack:
        command = chimera(config, "run", "bench-sales", "--read", "--port", "{port}")
        bases = {"chimera": stack.enter_context(serving(command, settings))}
        app = asgi(THEIRS, "benchmarks.growth.fastapi_group_by:app")
        bases["FastAPI + GROUP BY"] = stack.enter_context(serving(app, settings))
        for size in sizes:
            path = f"/sellers/s{size}/sales"
            subjects = [Subject(name, partial(_latency, base, path, bench.seconds)) for name, base in bases.items()]
            bench.compare("growth", f"dashboard of {size:,} orders", engine, "ms", subjects)


async def _fill_dashboard(where: Place, engine: str, sizes: list[int]) -> None:
    """Each seller's orders, and the document that folding them makes."""
    await make(where.url(engine))
    await make(where.url(engine, "views"))
    views, store = open_engine("views", where.url(engine, "views")), open_engine("store", where.url(engine))
    try:
        await views.create()
        form = '{"seller_id":"s%d","counts":{"placed":%d,"shipped":%d},"revenue_cents":%d}'
        made = [
            Document("sales", f"s{size}", (form % (size, size // 2, size // 2, 100 * size)).encode()) for size in sizes
        ]
        assert await views.write("sales", made, [])
        await store.create([], PARTITIONS)
        for statement in (
            f"CREATE TABLE orders ({_COLUMNS})",
            *(_orders(engine, start, size) for start, size in zip(_starts(sizes), sizes, strict=True)),
            "CREATE INDEX orders_by_seller ON orders (seller_id, status, amount_cents)",
            *(["ANALYZE orders"] if engine != "mysql" else []),
        ):
            async with store.transaction() as session:
                await session.execute(statement)
    finally:
        await views.close()
        await store.close()


def _starts(sizes: list[int]) -> list[int]:
    return [sum(sizes[:at]) for at in range(len(sizes))]


def _orders(engine: str, start: int, size: int) -> str:
    numbers = _numbers(engine, start, start + size)
    if engine == "mysql":
        return f"INSERT INTO orders SELECT i, 's{size}', IF(i % 2 = 0, 'placed', 'shipped'), 100 FROM {numbers}"  # noqa: S608
    case = "CASE WHEN i % 2 = 0 THEN 'placed' ELSE 'shipped' END"
    return f"INSERT INTO orders SELECT i, 's{size}', {case}, 100 FROM {numbers}"  # noqa: S608


def _numbers(engine: str, start: int, end: int) -> str:
    """A table with the column i, from start to before end, in an engine's SQL."""
    match engine:
        case "postgresql":
            return f"generate_series({start}, {end - 1}) AS numbers(i)"
        case "mysql":
            return f"(SELECT seq AS i FROM seq_{start}_to_{end - 1}) AS numbers"  # noqa: S608
        case _:
            last = end - 1
            return (
                f"(WITH RECURSIVE n(i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"  # noqa: S608
                " SELECT i FROM n) AS numbers"
            )


def _latency(base: str, path: str, seconds: float) -> float:
    """The median of milliseconds for one GET after another."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    spent: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(spent) < 3:
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        data = answer.read()
        spent.append((time.perf_counter() - began) * 1000)
        if answer.status != 200 or b"placed" not in data:
            raise RuntimeError(f"{path} answered {answer.status}: {data[:200]!r}")
    return median(spent)


# The journal


def _journal(bench: Bench, engine: str, where: Place) -> None:
    url = where.url(engine)
    asyncio.run(make(url))
    for size in sorted({max(10_000, bench.many(size)) for size in JOURNALS[engine]}):
        asyncio.run(_lengthen(engine, url, size))
        for what, unit, words in (("append", "events/s", "append"), ("page", "ms", "500 events from the middle")):
            run = partial(_of_journal, what, url)
            bench.compare("growth", f"journal of {size:,}: {words}", engine, unit, [Subject("chimera", run)])


def _of_journal(what: str, url: str) -> float:
    with running([OURS, "-m", "benchmarks.growth.journal", what, url]) as program:
        return float(program.wait())


async def _lengthen(engine: str, url: str, size: int) -> None:
    """Have so many events in the journal, at least."""
    store = open_engine("store", url)
    try:
        await store.create([], PARTITIONS)
        [start] = set((await store.heads()).values())
        columns = "partition, number, source, type, key, time, data, traceparent"
        data = "'{\"amount_cents\":100}'" + ("::bytea" if engine == "postgresql" else "")
        data = f"CAST({data} AS BLOB)" if engine == "sqlite" else data
        numbers = _numbers(engine, start * PARTITIONS, size)
        async with store.transaction() as session:
            await session.execute(
                f"INSERT INTO chimera_journal ({columns}) SELECT i % {PARTITIONS}, i / {PARTITIONS} + 1, '{SERVICE}',"  # noqa: S608
                f" '{SERVICE}.Happened', 'k' || i % 5000, '2026-01-01T00:00:00.000000Z', {data}, '' FROM {numbers}"
            )
            await session.execute(f"UPDATE chimera_heads SET number = {size // PARTITIONS}")  # noqa: S608
    finally:
        await store.close()


# Copies


def _copies(bench: Bench, sellers: int, where: Place) -> None:
    with marketplace({"CHIMERA_STATE": str(where.folder)}, sellers, sellers) as base:
        run = partial(load.get, base, "/gigs/g%d", sellers, bench.seconds)
        bench.compare(
            "growth", f"gig page, copies of {sellers:,} sellers", "sqlite", "requests/s", [Subject("chimera", run)]
        )
