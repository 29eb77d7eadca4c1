"""The kit: a hundred tests of a service of ten handlers, in a process of their own, in memory and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from xml.etree import ElementTree as ET

from benchmarks.engines import url_of
from benchmarks.harness import OURS, Bench, Subject, running

TESTS = 100
PLUGINS = ("pytest_asyncio.plugin", "chimera.testing.simulate.plugin", "chimera_faults.plugin")
"""What pytest finds by itself where somebody has Chimera and pytest-asyncio, and none of our own tools."""
TESTS_S = 300.0


def measure(bench: Bench) -> None:
    for engine in filter(bench.wants, ("memory", "postgresql")):
        with bench.surviving(f"the kit on {engine}"):
            run = partial(_tested, _environment(engine))
            bench.compare("kit", f"{TESTS} tests", engine, "ms", [Subject("chimera", run)])


def _environment(engine: str) -> Mapping[str, str]:
    if engine == "memory":
        return {"CHIMERA_TEST_STORE": ""}
    url = url_of(engine)
    return {"CHIMERA_TEST_STORE": f"{url}{'&' if '?' in url else '?'}schema={{test}}-{{service}}"}


def _tested(environment: Mapping[str, str]) -> Mapping[str, float]:
    """Milliseconds of pytest's process, of its tests alone, and of a test of each kind."""
    with TemporaryDirectory(prefix="bench-kit-") as folder:
        shutil.copy(Path(__file__).parent / "tried.py", Path(folder) / "test_shop.py")
        (Path(folder) / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
        report = Path(folder) / "report.xml"
        plugins = [word for plugin in PLUGINS for word in ("-p", plugin)]
        command = [OURS, "-m", "pytest", "-q", *plugins, f"--junitxml={report}", folder]
        began = perf_counter()
        with running(command, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment}) as program:
            program.wait(TESTS_S)
            process_ms = (perf_counter() - began) * 1_000
        took = dict(_milliseconds(report))
    if len(took) != TESTS:
        raise RuntimeError(f"{len(took)} tests ran, and there are {TESTS}")
    found = {"the process": process_ms, "the tests alone": sum(took.values())}
    for kind in ("given", "running"):
        of_kind = [each for name, each in took.items() if name.startswith(f"test_{kind}_")]
        found |= {f"one by {kind}, p50": median(of_kind), f"one by {kind}, max": max(of_kind)}
    return found


def _milliseconds(report: Path) -> Iterator[tuple[str, float]]:
    """What each test took, with its set-up and its end, by its name."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has written it just now
        yield case.attrib["name"], float(case.attrib["time"]) * 1_000
