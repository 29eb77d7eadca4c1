"""Projection: events into documents on each view store, from the log and from the journal (a rebuild)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from functools import partial

import msgspec

from benchmarks.engines import Place, make, place
from benchmarks.harness import OURS, THEIRS, Bench, Subject, running
from benchmarks.projection.events import Each, events
from chimera.core.clock import Clock
from chimera.core.keys.seals import Seal
from chimera.messages import Message, partition_of
from chimera.run.engines import open_engine

ENGINES = ("sqlite", "postgresql", "mysql", "mongodb", "redis")
PROJECTED = "bench-sales"
PARTITIONS = 8
CLOCK = Clock()


def measure(bench: Bench) -> None:
    for engine in filter(bench.wants, ENGINES):
        count = bench.many(6_000 if engine == "mongodb" else 200_000)  # FerretDB takes its time
        with bench.surviving(f"projection on {engine}"), place() as where:
            asyncio.run(fill(where, count))
            _compare(bench, engine, Projection(engine, where), count)


def _compare(bench: Bench, engine: str, projection: Projection, count: int) -> None:
    few = str(bench.many(3_000))
    subjects = [
        Subject("chimera", partial(projection.ours, "log", count)),
        Subject("limit", partial(projection.run, OURS, "by_hand", "fold", str(count))),
        Subject("an upsert per event", partial(projection.run, OURS, "by_hand", "upsert", few)),
    ]
    for name in ("eventsourcing", "protean") if engine == "postgresql" else ():
        subjects += [Subject(name, partial(projection.run, THEIRS, f"with_{name}", few))]
    bench.compare("projection", "fold events", engine, "events/s", subjects)
    rebuild = Subject("chimera", partial(projection.ours, "journal", count))
    bench.compare("projection", "rebuild from the journal", engine, "events/s", [rebuild])


class Projection:
    """Runs from one log and one journal, both on SQLite, into databases that are new each time."""

    def __init__(self, engine: str, where: Place) -> None:
        self._engine = engine
        self._where = where
        self._number = itertools.count()

    def ours(self, way: str, count: int, keys: Mapping[str, str] = {}) -> float:
        settings = {
            "CHIMERA_LOG": f"sqlite:///{self._where.folder}/{'log' if way == 'log' else 'empty-log'}",
            "CHIMERA_STORE": self._where.url("sqlite", "store"),
            "CHIMERA_VIEWS": self._new(),
            **keys,
        }
        with running([OURS, "-m", "benchmarks.projection.ours", str(count)], settings) as program:
            return float(program.wait())

    def run(self, python: str, module: str, *arguments: str) -> float:
        command = [python, "-m", f"benchmarks.projection.{module}", *arguments]
        with running(command, {"BENCH_URL": self._new()}) as program:
            return float(program.wait())

    def _new(self) -> str:
        url = self._where.url(self._engine, f"run{next(self._number)}")
        asyncio.run(make(url))
        return url


async def fill(source: Place, count: int, seal: Seal | None = None) -> None:
    """The events in a journal, and in the log to which they were relayed; with a chain where there is a seal."""
    log, store = open_engine("log", source.log("sqlite")), open_engine("store", source.url("sqlite", "store"))
    topic = f"{PROJECTED}.events"
    encode = msgspec.json.Encoder().encode
    try:
        await store.create([], PARTITIONS)
        await log.create(topic, PARTITIONS)
        numbers, chains = [0] * PARTITIONS, [""] * PARTITIONS
        for chunk in _chunks(count):
            batch = []
            for each in chunk:
                at = partition_of(each.order_id, PARTITIONS)
                numbers[at] += 1
                data = encode(
                    {"order_id": each.order_id, "seller_id": each.seller_id, "amount_cents": each.amount_cents}
                )
                position = f"{PROJECTED}/{at}@{numbers[at]}"
                kind = f"{PROJECTED}.{each.type}"
                time = CLOCK.stamp()
                if seal is not None:
                    chains[at] = seal.after(chains[at], kind, each.order_id, time, data)
                event = Message(position, PROJECTED, kind, each.order_id, time, data, at, numbers[at])
                batch.append(msgspec.structs.replace(event, chain=chains[at]))
            async with store.transaction() as session:
                await session.hold({message.partition for message in batch})
                await session.append(batch)
            await log.append(topic, batch)
    finally:
        await log.close()
        await store.close()


def _chunks(count: int) -> list[list[Each]]:
    every = list(events(count))
    return [every[start : start + 2000] for start in range(0, count, 2000)]
