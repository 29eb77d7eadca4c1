"""Footprint: what an idle service with both heads takes of memory and of time to start, and what importing costs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.engines import Place, place, url_of
from benchmarks.harness import OURS, ROOT, SERVER, THEIRS, Bench, Subject, asgi, chimera, free_port, running

SETTLED_S = 2.0


def measure(bench: Bench) -> None:
    imports = {
        "chimera": (OURS, "chimera"),
        "FastAPI": (THEIRS, "fastapi"),
        "FastStream": (THEIRS, "faststream.rabbit"),
        "Celery": (THEIRS, "celery.app.base"),
        "SQLAlchemy's asyncio": (THEIRS, "sqlalchemy.ext.asyncio"),
    }
    subjects = [Subject(name, partial(_import, *what)) for name, what in imports.items()]
    bench.compare("footprint", "import", "none", "ms", subjects)
    for engine in filter(bench.wants, ("sqlite", "rabbitmq")):
        with place() as where:
            servers = _servers(where, engine)
            starts = [Subject(name, partial(_start, *server)) for name, server in servers.items()]
            bench.compare("footprint", "start to serving", engine, "ms", starts)
            sizes = [Subject(name, partial(_size, *server)) for name, server in servers.items()]
            bench.compare("footprint", "memory when idle", engine, "MB", sizes)


def _servers(where: Place, engine: str) -> Mapping[str, tuple[Sequence[str], Mapping[str, str]]]:
    """Chimera with its log there, its store and views in SQLite; FastAPI with FastStream on RabbitMQ."""
    config = where.config({"bench-orders": "benchmarks.orders:service"})
    settings = {"CHIMERA_STATE": str(where.folder), "CHIMERA_LOG": where.log(engine, "bench-orders")}
    servers: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        "chimera": (chimera(config, "run", "bench-orders", "--port", "{port}"), settings)
    }
    if engine == "rabbitmq":
        queue = f"{where.tag}-orders"
        where.queues.add(queue)
        settings = {"BENCH_AMQP": url_of("rabbitmq"), "BENCH_QUEUE": queue}
        servers["FastAPI + FastStream"] = (asgi(THEIRS, "benchmarks.footprint.peer:app"), settings)
    return servers


def _import(python: str, module: str) -> float:
    """Milliseconds that the import takes in a process that has imported nothing else."""
    code = f"import time; began = time.perf_counter(); import {module}; print((time.perf_counter() - began) * 1000)"
    command = ["taskset", "-c", ",".join(map(str, SERVER)), python, "-c", code]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)  # noqa: S603


def _start(command: Sequence[str], settings: Mapping[str, str]) -> float:
    """Milliseconds from the process's start until its port answers."""
    port, began = free_port(), time.perf_counter()
    with running([part.replace("{port}", str(port)) for part in command], settings) as program:
        program.answering(port)
        return (time.perf_counter() - began) * 1000


def _size(command: Sequence[str], settings: Mapping[str, str]) -> float:
    """Resident megabytes of the process when it has had nothing to do for a moment."""
    port = free_port()
    with running([part.replace("{port}", str(port)) for part in command], settings) as program:
        program.answering(port)
        time.sleep(SETTLED_S)
        [line] = [line for line in Path(f"/proc/{program.pid}/status").read_text().splitlines() if "VmRSS" in line]
        return int(line.split()[1]) / 1024
