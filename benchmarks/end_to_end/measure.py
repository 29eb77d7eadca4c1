"""End to end: from a commit at the owner until another service's view shows it, idle and at half of the load it takes.

An order is posted; when the owner has answered, it is committed and the clock starts. The other service is asked again
and again, one request after another, until it has the order. Both services share the measured core.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from urllib.parse import urlsplit

from benchmarks import load
from benchmarks.engines import Place, make, place, url_of
from benchmarks.harness import THEIRS, Bench, Subject, asgi, chimera, free_port, running, serving

STACKS = {
    "embedded": ("sqlite", "sqlite", "sqlite"),
    "rabbitmq+mysql": ("rabbitmq", "mysql", "mysql"),
    "rabbitmq+mysql+mongodb": ("rabbitmq", "mysql", "mongodb"),
    "kafka+mysql+mongodb": ("kafka", "mysql", "mongodb"),
    "kafka+postgresql": ("kafka", "postgresql", "postgresql"),
}
PATH = "/direct-orders"
PROBES = 100
PAUSE_S = 0.01
PATIENCE_S = 30.0


def measure(bench: Bench) -> None:
    for stack in filter(bench.wants, STACKS):
        subjects = [Subject("chimera", partial(_ours, bench, stack))]
        if stack != "embedded":
            subjects.append(Subject("FastStream + outbox polling", partial(_peer, bench, stack)))
        bench.compare("end-to-end", "commit to visible", stack, "ms", subjects)


def _ours(bench: Bench, stack: str) -> dict[str, float]:
    with place() as where, _our_services(where, *STACKS[stack]) as (owner, viewer):
        return _delays(bench, owner, viewer)


def _peer(bench: Bench, stack: str) -> dict[str, float]:
    with place() as where, _peer_services(where, *STACKS[stack]) as (owner, viewer):
        return _delays(bench, owner, viewer)


@contextmanager
def _our_services(where: Place, log: str, store: str, views: str) -> Iterator[tuple[str, str]]:
    names = ("bench-orders", "bench-viewer")
    for name in names:
        asyncio.run(make(where.url(store, name)))
        if views == store:
            asyncio.run(make(where.url(views, f"{name}-views")))
    ports = {name: free_port() for name in names}
    settings = {
        "CHIMERA_STATE": str(where.folder),
        "CHIMERA_LOG": where.log(log, *names),
        "CHIMERA_STORE": where.url(store, "{service}"),
        "CHIMERA_VIEWS": where.url(views, "{service}-views"),
        **{f"CHIMERA_SERVICES__{name.replace('-', '_').upper()}__PORT": str(port) for name, port in ports.items()},
    }
    apps = {"bench-orders": "benchmarks.orders:service", "bench-viewer": "benchmarks.end_to_end.viewer:service"}
    config = where.config(apps)
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(running(chimera(config, "run", name), settings)).answering(ports[name])
        yield f"http://127.0.0.1:{ports['bench-orders']}", f"http://127.0.0.1:{ports['bench-viewer']}"


@contextmanager
def _peer_services(where: Place, log: str, store: str, views: str) -> Iterator[tuple[str, str]]:
    queue = f"{where.tag}-orders"
    where.queues.add(queue)
    settings = {"CHIMERA_LOG": where.log(log), "BENCH_AMQP": url_of("rabbitmq"), "BENCH_QUEUE": queue}
    urls = {"owner": where.url(store, "owner"), "viewer": where.url(views, "viewer")}
    for url in urls.values():
        asyncio.run(make(url))
    with ExitStack() as stack:
        owner, viewer = [
            stack.enter_context(
                serving(asgi(THEIRS, f"benchmarks.end_to_end.peer_{name}:app"), {**settings, "BENCH_URL": url})
            )
            for name, url in urls.items()
        ]
        yield owner, viewer


def _delays(bench: Bench, owner: str, viewer: str) -> dict[str, float]:
    probe = _Probe(owner, viewer)
    probe.many(10)
    idle = probe.many(bench.many(PROBES))
    posted = load.post(owner, PATH, bench.seconds)
    [left_ms] = probe.many(1)
    capacity = posted * bench.seconds / (bench.seconds + left_ms / 1000)
    probe.many(3)
    with ThreadPoolExecutor(1) as apart:
        loading = apart.submit(load.post, owner, PATH, 3 * bench.seconds, rate=capacity / 2)
        time.sleep(0.5)
        busy = probe.many(10_000, seconds=3 * bench.seconds - 1)
        loading.result()
    return {
        "idle, p50": _percentile(idle, 50),
        "idle, p99": _percentile(idle, 99),
        "half load, p50": _percentile(busy, 50),
        "half load, p99": _percentile(busy, 99),
    }


class _Probe:
    """Posts an order and waits until it shows."""

    def __init__(self, owner: str, viewer: str) -> None:
        self._owner, self._viewer = (http.client.HTTPConnection(urlsplit(base).netloc) for base in (owner, viewer))

    def many(self, count: int, seconds: float = PATIENCE_S) -> list[float]:
        """Milliseconds from commit to visible, of so many orders or as many as there is time for."""
        found: list[float] = []
        until = time.monotonic() + seconds
        while len(found) < count and (time.monotonic() < until or not found):
            found.append(self._one())
            time.sleep(PAUSE_S)
        return found

    def _one(self) -> float:
        order = {"order_id": uuid.uuid4().hex, "seller_id": "s1", "gig_id": "g1", "amount_cents": 100, "note": ""}
        if (status := _ask(self._owner, "POST", PATH, json.dumps(order))) != 201:
            raise RuntimeError(f"the owner answered {status}")
        committed = time.perf_counter()
        while _ask(self._viewer, "GET", f"/watched/{order['order_id']}") != 200:
            if time.perf_counter() > committed + PATIENCE_S:
                raise RuntimeError(f"an order did not show in {PATIENCE_S:.0f} s")
        return (time.perf_counter() - committed) * 1000


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> int:
    connection.request(method, path, body, {"content-type": "application/json"} if body else {})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _percentile(figures: list[float], which: int) -> float:
    return sorted(figures)[min(len(figures) - 1, len(figures) * which // 100)]
