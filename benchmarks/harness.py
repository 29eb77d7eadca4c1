"""What every benchmark stands on: subjects as processes on a core of their own, runs in turn, rows with a spread."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
OURS = sys.executable
THEIRS = str(ROOT / ".bench" / "venv" / "bin" / "python")
READY_S = 60.0
STOP_S = 10.0

_CORES = sorted(os.sched_getaffinity(0))
SERVER = {_CORES[0]}
"""The one core of what is measured."""
OTHERS = set(_CORES[1:]) or SERVER
"""Where the load and the engines run, so that they take nothing from what is measured."""


class Row(NamedTuple):
    """A subject's figure: the median of its runs, the lowest and the highest.

    `stolen` is the most processor time (a share, 0 to 1) that the machine's host gave to others during one of the
    runs, `load` the highest load average (one minute) that one began with.
    """

    group: str
    case: str
    engine: str
    subject: str
    median: float
    low: float
    high: float
    unit: str
    runs: int
    stolen: float
    load: float


Figures = Mapping[str, float]


class Subject(NamedTuple):
    """Somebody's way to do a case's work. `chimera` is ours, `limit` by hand.

    `run` does it once and returns the figure, or several by what they tell.
    """

    name: str
    run: Callable[[], float | Figures]


class Bench:
    """A run of benchmarks: how thorough it is, and the rows and failures so far.

    `seconds` is how long a load lasts, `scale` a factor on how much there is to work through.
    """

    def __init__(self, *, runs: int = 3, seconds: float = 2.0, scale: float = 1.0, engine: str = "") -> None:
        self._engine = engine
        self.runs = runs
        self.seconds = seconds
        self.scale = scale
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def wants(self, engine: str) -> bool:
        """Whether this engine, or stack, is to be measured."""
        return self._engine in ("", engine)

    def many(self, count: int) -> int:
        return max(10, int(count * self.scale))

    def compare(self, group: str, case: str, engine: str, unit: str, subjects: Sequence[Subject]) -> None:
        """Run the subjects in turn, as often as is asked, and keep a row for each that worked."""
        runs: dict[str, dict[str, list[_Run]]] = defaultdict(lambda: defaultdict(list))
        for turn in range(self.runs):
            for subject in [*subjects[turn % len(subjects) :], *subjects[: turn % len(subjects)]]:
                with self.surviving(f"{group}, {case}, {engine}, {subject.name}"):
                    for told, run in _watched(subject.run).items():
                        runs[f"{case}, {told}" if told else case][subject.name].append(run)
        for told, found in runs.items():
            for subject in subjects:
                if subject.name in found:
                    self.add(group, told, engine, subject.name, unit, found[subject.name])

    def add(self, group: str, case: str, engine: str, subject: str, unit: str, runs: Sequence[_Run]) -> None:
        figures = [run.figure for run in runs]
        row = Row(
            group,
            case,
            engine,
            subject,
            round(median(figures), 4),
            round(min(figures), 4),
            round(max(figures), 4),
            unit,
            len(runs),
            round(max(run.stolen for run in runs), 3),
            max(run.load for run in runs),
        )
        self.rows.append(row)
        print(f"{row.case:38} {row.engine:18} {row.subject:34} {row.median:>12,.4g} {row.unit}", flush=True)

    @contextmanager
    def surviving(self, what: str) -> Iterator[None]:
        """Note a failure and go on: one subject's trouble is not the others'."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - told at the end
            traceback.print_exc()
            self.failures.append(f"{what}: {error}")


class _Run(NamedTuple):
    figure: float
    stolen: float
    load: float


def _watched(run: Callable[[], float | Figures]) -> dict[str, _Run]:
    load, before = os.getloadavg()[0], _ticks()
    found = run()
    after = _ticks()
    spent = sum(after) - sum(before)
    stolen = (after[7] - before[7]) / spent if spent else 0.0
    figures = found if isinstance(found, Mapping) else {"": found}
    return {told: _Run(figure, stolen, round(load, 2)) for told, figure in figures.items()}


def _ticks() -> list[int]:
    """The machine's processor time by kind, as /proc/stat has it; the eighth is stolen."""
    return [int(each) for each in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]


class Program:
    """A process on one core, in a session of its own; what it says is kept in a file, its last lines are its error."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] = {}, cores: set[int] = SERVER) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = subprocess.Popen(  # noqa: S603 - our own commands
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CHIMERA_DEV": "true", **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def answering(self, port: int) -> None:
        """Wait until it answers HTTP on a port."""
        self._until(lambda: _answers(port), f"nobody answers on port {port}")

    def saying(self, words: str) -> str:
        """Wait until it has printed a line with these words; returns the line."""
        self._until(lambda: bool(self._lines(words)), f"it never said {words!r}")
        return self._lines(words)[0]

    def wait(self, seconds: float = 300.0) -> str:
        """Wait until it ends by itself; returns its last line."""
        code = self._process.wait(seconds)
        said = self.said()
        if code:
            raise RuntimeError(f"it ended with {code}: {said[-2000:]}")
        return said.strip().rpartition("\n")[2]

    def end(self) -> None:
        """Stop it, and what it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
                self._process.wait(STOP_S)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._said.close()

    def said(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    def _lines(self, words: str) -> list[str]:
        return [line for line in self.said().splitlines() if words in line]

    def _until(self, found: Callable[[], bool], otherwise: str) -> None:
        give_up_at = time.monotonic() + READY_S
        while not found():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{otherwise}: {self.said()[-2000:]}")
            time.sleep(0.02)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str] = {}, cores: set[int] = SERVER) -> Iterator[Program]:
    """A program, for as long as the block lasts."""
    program = Program(command, environment, cores)
    try:
        yield program
    finally:
        program.end()


@contextmanager
def serving(command: Sequence[str], environment: Mapping[str, str] = {}, cores: set[int] = SERVER) -> Iterator[str]:
    """A server for as long as the block lasts; `{port}` in its command is where. Gives its base URL."""
    port = free_port()
    with running([part.replace("{port}", str(port)) for part in command], environment, cores) as program:
        program.answering(port)
        yield f"http://127.0.0.1:{port}"


def asgi(python: str, app: str) -> list[str]:
    """The command that serves an ASGI application, with the same server and settings for everybody."""
    settings = ["--host", "127.0.0.1", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    return [python, "-m", "uvicorn", app, "--port", "{port}", *settings, "--log-level", "warning"]


def chimera(config: Path, *arguments: str) -> list[str]:
    return [OURS, "-m", "chimera", "--config", str(config), *arguments]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far, its own and what the system did for it."""
    spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.settimeout(READY_S)
            connection.sendall(b"GET /favicon.ico HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False
