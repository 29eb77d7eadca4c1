"""`python -m fuzz`: so many inputs, in several processes, from one seed."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from fuzz.run import SHARES, Report, one, work

GROWTH_MIB = 16.0
"""What a process's memory may be more at the end than when it was warm: fragments, caches that fill."""
ABOUT = {
    "commands": "bodies, paths and keys of commands; what was accepted is read again as a write head does",
    "positions": "positions",
    "after": "`Chimera-After`",
    "cursors": "cursors of lists",
    "tokens": "tokens of services",
    "queries": "queries",
    "requests": "`Accept`, cookies, `baggage`, hosts",
    "multipart": "forms, in pieces",
    "records": "records of Kafka and RabbitMQ, seals, events",
    "metadata": "who did what",
    "owners": "answers of owners",
    "site": "requests at every route",
    "wire": "bytes on connections, several requests in one",
    "wire, gateway": "the same, on connections to the gateway",
    "gateway": "requests through the gateway to a service",
    "answers": "what is behind the gateway answers anything",
}


def main() -> None:
    """Run, print what was found, and end with 1 where something was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--target", choices=SHARES, help="one input of a target, again")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a page for what was found")
    given = parser.parse_args()
    if given.target:
        asyncio.run(one(given.target, given.seed, given.at))
        return
    began = time.perf_counter()
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        parts = [pool.submit(work, given.inputs, given.seed, each, given.processes) for each in range(given.processes)]
        reports = [part.result() for part in parts]
    text = told(reports, given.seed, time.perf_counter() - began)
    print(text)
    if given.out:
        given.out.write_text(text)
    sys.exit(bool(wrong(reports)))


def wrong(reports: list[Report]) -> list[str]:
    """What went wrong, a line each."""
    failures = [each for report in reports for done in report.targets.values() for each in done.failures]
    grown = [
        f"a process grew from {report.warm:.0f} to {report.end:.0f} MiB"
        for report in reports
        if report.end > report.warm + GROWTH_MIB
    ]
    return [*failures, *grown, *(f"{report.tasks} tasks were left" for report in reports if report.tasks)]


def told(reports: list[Report], seed: int, seconds: float) -> str:
    """The page."""
    rows, every = list[str](), 0
    for name in SHARES:
        dones = [report.targets[name] for report in reports]
        inputs, spent = sum(done.inputs for done in dones), sum(done.seconds for done in dones)
        failed = sum(len(done.failures) for done in dones)
        every += inputs
        rows.append(f"| {name} | {ABOUT[name]} | {inputs:,} | {spent / max(inputs, 1) * 1e6:.0f} | {failed} |")
    memory = "; ".join(f"{report.warm:.0f} to {report.end:.0f} MiB" for report in reports)
    found = wrong(reports)
    return "\n".join(
        [
            "# Fuzzed inputs",
            "",
            f"`make fuzz N={every} SEED={seed}`: {every:,} inputs in {len(reports)} processes, {seconds:.0f} s. Good",
            "inputs, changed by chance: none may end in a 500, take over 5 s, be taken for another, make it grow.",
            "",
            "| target | what it reads | inputs | µs each | failures |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Memory of each process, once it was warm and at the end: {memory}.",
            *(["", "Wrong:", "", *(f"- {each}" for each in found)] if found else []),
            "",
        ]
    )


if __name__ == "__main__":
    main()
