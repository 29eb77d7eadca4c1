"""Command intake: POST to 201, where 201 says that the broker has confirmed the command."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial

from benchmarks import load
from benchmarks.engines import Place, make_topic, place, url_of
from benchmarks.harness import OURS, THEIRS, Bench, Subject, asgi, chimera, serving

WARM_S = 1.0
ENGINES = ("sqlite", "rabbitmq", "kafka")
PEERS = {
    "sqlite": {"FastAPI + aiosqlite": "fastapi_sqlite"},
    "rabbitmq": {
        "FastAPI + aio-pika": "fastapi_aiopika",
        "FastAPI + FastStream": "fastapi_faststream",
        "FastAPI + Celery delay": "fastapi_celery",
    },
    "kafka": {"FastAPI + FastStream": "fastapi_faststream"},
}


def measure(bench: Bench) -> None:
    for engine in filter(bench.wants, ENGINES):
        with bench.surviving(f"intake on {engine}"), place() as where:
            _intake(bench, engine, where)


def _intake(bench: Bench, engine: str, where: Place) -> None:
    queue = f"{where.tag}-queue"
    where.queues.update((queue, f"{queue}-celery"))
    settings = {
        "CHIMERA_STATE": str(where.folder),
        "CHIMERA_LOG": where.log(engine, "bench-orders"),
        "BENCH_AMQP": url_of("rabbitmq"),
        "BENCH_QUEUE": queue,
        "BENCH_FILE": str(where.folder / "queue.db"),
    }
    if engine == "kafka":
        asyncio.run(make_topic(queue))
    config = where.config({"bench-orders": "benchmarks.orders:service"})
    with ExitStack() as stack:
        servers = {"chimera": chimera(config, "run", "bench-orders", "--read", "--port", "{port}")}
        bases = {name: stack.enter_context(serving(command, settings)) for name, command in servers.items()}
        bases["limit"] = stack.enter_context(serving(asgi(OURS, "benchmarks.intake.limit:app"), settings))
        for name, module in PEERS[engine].items():
            bases[name] = stack.enter_context(serving(asgi(THEIRS, f"benchmarks.intake.{module}:app"), settings))
        for base in bases.values():
            load.warm_up(partial(load.post, base, "/orders", WARM_S))
        subjects = [Subject(name, partial(load.post, base, "/orders", bench.seconds)) for name, base in bases.items()]
        bench.compare("intake", "POST to 201", engine, "commands/s", subjects)
