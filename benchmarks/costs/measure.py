"""What the chain, seals and rules cost: the same build with them and without, in turns.

The write head and the projection on SQLite, where a command costs the least else; the intake with a caller who is
known, a rule on a field of the command, and both with commands that are sealed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from benchmarks import load
from benchmarks.engines import place
from benchmarks.harness import OURS, Bench, Subject, chimera, free_port, processor_seconds, running
from benchmarks.projection.measure import PROJECTED, Projection, fill
from benchmarks.write_head.measure import SERVICE, append, rate
from chimera.core.keys.seals import Seal

KEY = "of-a-fleet-that-is-measured-and-nothing-else"
SEALED = {"CHIMERA_FLEET__KEYS": KEY}
UNCHAINED = [OURS, "-m", "benchmarks.costs.unchained"]
WARM_S = 1.0


def measure(bench: Bench) -> None:
    with bench.surviving("write head"):
        _write_head(bench)
    with bench.surviving("projection"):
        _projection(bench)
    with bench.surviving("intake"):
        _intake(bench)


def _write_head(bench: Bench) -> None:
    many = bench.many(120_000)
    ours = [OURS, "-m", "chimera"]
    plain, sealed = partial(_commands, ours, {}, many), partial(_commands, ours, SEALED, many)
    unchained = Subject("without a chain", partial(_commands, UNCHAINED, {}, many))
    bench.compare("costs", "write head", "sqlite", "commands/s", [Subject("chimera", plain), unchained])
    others = [Subject("without keys", plain)]
    bench.compare("costs", "write head, sealed", "sqlite", "commands/s", [Subject("chimera", sealed), *others])


def _commands(program: list[str], keys: Mapping[str, str], count: int) -> float:
    """Commands a second that a write head does."""
    with ExitStack() as stack:
        where = stack.enter_context(place())
        urls = {"CHIMERA_LOG": where.log("sqlite", SERVICE), "CHIMERA_STORE": where.url("sqlite", "store")}
        config = where.config({SERVICE: "benchmarks.orders:service"})
        asyncio.run(append(urls["CHIMERA_LOG"], count, Seal(SERVICE, list(keys.values()))))
        command = [*program, *chimera(config, "run", SERVICE, "--write")[3:]]
        stack.enter_context(running(command, {"CHIMERA_STATE": str(where.folder), **urls, **keys}))
        return asyncio.run(rate(urls["CHIMERA_STORE"], "journal", count))


def _projection(bench: Bench) -> None:
    count = bench.many(200_000)
    with ExitStack() as stack:
        places = {name: stack.enter_context(place()) for name in ("sealed", "chained", "unchained")}
        seals = {"sealed": Seal(PROJECTED, [KEY]), "chained": Seal(PROJECTED), "unchained": None}
        for name, where in places.items():
            asyncio.run(fill(where, count, seals[name]))
        ours = {name: Projection("sqlite", where).ours for name, where in places.items()}
        plain = partial(ours["chained"], "log", count)
        sealed = Subject("chimera", partial(ours["sealed"], "log", count, {"BENCH_KEY": KEY}))
        unchained = Subject("without a chain", partial(ours["unchained"], "log", count))
        bench.compare("costs", "projection", "sqlite", "events/s", [Subject("chimera", plain), unchained])
        bench.compare("costs", "projection, sealed", "sqlite", "events/s", [sealed, Subject("without keys", plain)])


def _intake(bench: Bench) -> None:
    with ExitStack() as stack:
        heads = {
            "chimera": _read_head(stack, "ruled", SEALED),
            "a rule, no keys": _read_head(stack, "ruled", {}),
            "no rule": _read_head(stack, "known", {}),
            "nobody known": _read_head(stack, "opened", {}),
        }
        subjects = [Subject(name, partial(head.microseconds, 2 * bench.seconds)) for name, head in heads.items()]
        bench.compare("costs", "intake", "sqlite", "us", subjects)


class _ReadHead(NamedTuple):
    base: str
    pid: int

    def microseconds(self, seconds: float) -> float:
        """Processor time for a command that is taken in."""
        before = processor_seconds(self.pid)
        taken = load.post(self.base, "/orders", seconds) * max(1, round(seconds))
        return (processor_seconds(self.pid) - before) / taken * 1e6


def _read_head(stack: ExitStack, service: str, keys: Mapping[str, str]) -> _ReadHead:
    where = stack.enter_context(place())
    settings = {"CHIMERA_STATE": str(where.folder), "CHIMERA_LOG": where.log("sqlite", SERVICE)}
    config, port = where.config({SERVICE: f"benchmarks.costs.guarded:{service}"}), free_port()
    command = chimera(config, "run", SERVICE, "--read", "--port", str(port))
    program = stack.enter_context(running(command, settings | keys))
    program.answering(port)
    base = f"http://127.0.0.1:{port}"
    load.warm_up(partial(load.post, base, "/orders", WARM_S))
    return _ReadHead(base, program.pid)
