"""Reads: GET of a view's document by key, and of a gig's page with what it borrows."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.engines import Place, make, place
from benchmarks.harness import OTHERS, OURS, ROOT, THEIRS, Bench, Subject, asgi, chimera, free_port, running, serving
from benchmarks.reads.by_hand import fill
from benchmarks.reads.gigs import GIGS, SELLERS, clients, gig, stored_clients, stored_gigs
from benchmarks.reads.sales import KEYS, key_of, stored
from chimera.ports import Document
from chimera.run.engines import open_engine

ENGINES = ("sqlite", "postgresql", "mysql", "mongodb", "redis")
RELATIONAL = ("sqlite", "postgresql", "mysql")
PAGES = ("sqlite", "postgresql", "mysql", "mysql+mongodb", "postgresql+redis")
UNIT = "requests/s"
WARM_S = 1.0


def measure(bench: Bench) -> None:
    for engine in filter(bench.wants, ENGINES):
        with bench.surviving(f"reads on {engine}"), place() as where:
            _view(bench, engine, where)
    for engine in filter(bench.wants, PAGES):
        with bench.surviving(f"pages on {engine}"), place() as where:
            _page(bench, engine, where)


# A view's document


def _view(bench: Bench, engine: str, where: Place) -> None:
    asyncio.run(_fill_views(where, engine))
    config = where.config({"bench-reads": "benchmarks.reads.ours:service"})
    settings = {
        "CHIMERA_STATE": str(where.folder),
        "CHIMERA_VIEWS": where.url(engine, "views"),
        "BENCH_URL": where.url(engine),
    }
    servers = {
        "chimera": chimera(config, "run", "bench-reads", "--read", "--port", "{port}"),
        "limit": asgi(OURS, "benchmarks.reads.limit:app"),
        "FastAPI + driver": asgi(THEIRS, "benchmarks.reads.fastapi_driver:app"),
    }
    if engine in RELATIONAL:
        with running([THEIRS, "-m", "benchmarks.reads.fill_sqlalchemy"], settings) as filling:
            filling.wait()
        servers["FastAPI + SQLAlchemy"] = asgi(THEIRS, "benchmarks.reads.fastapi_sqlalchemy:app")
    with ExitStack() as stack:
        bases = {name: stack.enter_context(serving(command, settings)) for name, command in servers.items()}
        paths = {name: (base, "/sellers/s%d/sales") for name, base in bases.items()}
        paths["FastAPI + driver, stored bytes"] = (bases["FastAPI + driver"], "/sellers/s%d/stored")
        for base, path in paths.values():
            _expect(base + path % 7, {"seller_id": "s7", "orders": 1007})
            load.warm_up(partial(load.get, base, path, KEYS, WARM_S))
        subjects = [
            Subject(name, partial(load.get, base, path, KEYS, bench.seconds)) for name, (base, path) in paths.items()
        ]
        bench.compare("reads", "view by key", engine, UNIT, subjects)


async def _fill_views(where: Place, engine: str) -> None:
    await make(where.url(engine))
    await make(where.url(engine, "views"))
    await fill(where.url(engine), "documents", {key_of(number): stored(number) for number in range(KEYS)})
    views = open_engine("views", where.url(engine, "views"))
    try:
        await views.create()
        for start in range(0, KEYS, 500):
            documents = [Document("sales", key_of(each), stored(each)) for each in range(start, start + 500)]
            assert await views.write("sales", documents, [])
    finally:
        await views.close()


# A gig's page


def _page(bench: Bench, engine: str, where: Place) -> None:
    store, _, copies = engine.partition("+")
    copies = copies or store
    asyncio.run(_fill_pages(where, store, copies))
    settings = {
        "CHIMERA_STATE": str(where.folder),
        "CHIMERA_STORE": where.url(store, "{service}"),
        "CHIMERA_VIEWS": where.url(copies, "{service}-views"),
        "BENCH_URL": where.url(store),
        "BENCH_CLIENTS_URL": where.url(copies),
    }
    servers = {"limit": asgi(OURS, "benchmarks.reads.limit_page:app")}
    if copies == store:
        with running([THEIRS, "-m", "benchmarks.reads.fill_sqlalchemy"], settings) as filling:
            filling.wait()
        servers["FastAPI + SQLAlchemy"] = asgi(THEIRS, "benchmarks.reads.fastapi_sqlalchemy:app")
    with ExitStack() as stack:
        bases = {"chimera": stack.enter_context(marketplace(settings))}
        bases |= {name: stack.enter_context(serving(command, settings)) for name, command in servers.items()}
        for base in bases.values():
            _expect(base + "/gigs/g7", {"gig_id": "g7", "seller_id": "s7"})
            load.warm_up(partial(load.get, base, "/gigs/g%d", GIGS, WARM_S))
        subjects = [
            Subject(name, partial(load.get, base, "/gigs/g%d", GIGS, bench.seconds)) for name, base in bases.items()
        ]
        bench.compare("reads", "gig page, async", engine, UNIT, subjects)
        fresh = Subject("chimera", partial(_share_of_fresh, bases["chimera"]))
        bench.compare("reads", "gig page, async, pages shown fresh", engine, "share", [fresh])


async def _fill_pages(where: Place, store: str, copies: str) -> None:
    for service in ("top-clients", "gig-page"):
        await make(where.url(store, service))
        await make(where.url(copies, f"{service}-views"))
    await make(where.url(store))
    if copies != store:
        await make(where.url(copies))
    await fill(where.url(store), "gig_documents", stored_gigs())
    await fill(where.url(copies), "client_documents", stored_clients())


@contextmanager
def marketplace(settings: Mapping[str, str], sellers: int = SELLERS, gigs: int = GIGS) -> Iterator[str]:
    """The gig page's read head on the measured core; its write head, and the owner of the clients, on the others.

    Ready once the last gig shows its seller's clients.
    """
    owner = free_port()
    port = free_port()
    settings = {
        **settings,
        "CHIMERA_OPEN": "true",
        "CHIMERA_SERVICES__TOP_CLIENTS__PORT": str(owner),
        "CHIMERA_SERVICES__GIG_PAGE__PORT": str(port),
    }
    config = Path(ROOT / "chimera.toml")
    with ExitStack() as stack:
        for arguments in (("top-clients",), ("gig-page", "--write")):
            program = stack.enter_context(running(chimera(config, "run", *arguments), settings, OTHERS))
            program.saying("ready ")
        pages = stack.enter_context(running(chimera(config, "run", "gig-page", "--read"), settings))
        pages.answering(port)
        base = f"http://127.0.0.1:{port}"
        for number in range(sellers):
            for client in clients(number):
                _send("POST", f"http://127.0.0.1:{owner}/sellers/s{number}/clients", client)
        for number in range(gigs):
            said = gig(number, sellers)
            _send("PUT", f"{base}/gigs/{said.pop('gig_id')}", said)
        while b'"Client 1' not in _read(f"{base}/gigs/g{gigs - 1}"):
            time.sleep(0.05)
        yield base


def _share_of_fresh(base: str) -> float:
    """How many of the pages so far showed what they borrow as fresh: a page that is stale asks the owner as well."""
    lines = [
        line for line in _read(f"{base}/metrics").decode().splitlines() if line.startswith("chimera_borrowed_total")
    ]
    counts = [(float(line.rpartition(" ")[2]), 'state="fresh"' in line) for line in lines]
    return sum(count for count, fresh in counts if fresh) / sum(count for count, _ in counts)


def _send(method: str, url: str, body: object) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), method=method)  # noqa: S310 - loopback
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - loopback
        return bytes(answer.read())


def _expect(url: str, fields: dict[str, object]) -> None:
    """Nobody is measured who does not answer with the document."""
    found = json.loads(_read(url))
    if {name: found.get(name) for name in fields} != fields:
        raise RuntimeError(f"{url} answered {found}")
