"""Pages of lists, and of the marketplace's search, of a thousand documents and of a million."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial

from benchmarks.engines import make, place
from benchmarks.harness import OTHERS, OURS, SERVER, Bench, Subject, running

ENGINES = ("sqlite", "postgresql", "mysql", "mongodb", "redis")
RELATIONAL = ("sqlite", "postgresql", "mysql")
SIZES = (1_000, 1_000_000)
FILLS_S = 3_600.0


def measure(bench: Bench) -> None:
    sizes = [SIZES[0], max(2_000, bench.many(SIZES[1]))]
    for engine in filter(bench.wants, ENGINES):
        with bench.surviving(f"lists on {engine}"), place() as where:
            url, words = where.url(engine, "views"), [str(size) for size in sizes]
            asyncio.run(make(url))
            _program("lists", "fill", url, *words)
            run = partial(_figures, "lists", {url: words})
            bench.compare("lists", "page", engine, "ms", [Subject("chimera", run)])
    for engine in filter(bench.wants, RELATIONAL):
        with bench.surviving(f"search on {engine}"), place() as where:
            urls = {where.url(engine, f"search{size}"): [str(size)] for size in sizes}
            for url, words in urls.items():
                asyncio.run(make(url))
                _program("search", "fill", url, *words)
            run = partial(_figures, "search", urls)
            bench.compare("lists", "marketplace", engine, "ms", [Subject("chimera", run)])


def _figures(module: str, sizes: Mapping[str, list[str]]) -> dict[str, float]:
    """Milliseconds by what they are of, from a program for each place."""
    found: dict[str, float] = {}
    for url, words in sizes.items():
        found |= json.loads(_program(module, "pages", url, *words))
    return found


def _program(module: str, what: str, *words: str) -> str:
    """The last line of a program: one that fills has all cores, one that reads a core of its own."""
    command = [OURS, "-m", f"benchmarks.growth.{module}", what, *words]
    with running(command, cores=SERVER | OTHERS if what == "fill" else SERVER) as program:
        return program.wait(FILLS_S)
