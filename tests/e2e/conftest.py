"""Real processes: started, killed, stopped, and looked at from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from chimera.core.timing import Timing
from chimera_faults.fleet import command_of, descendants, free_ports

ROOT = Path(__file__).parents[2]
LEASE_S = Timing().lease_s
MARKETPLACE = ROOT / "chimera.toml"
WATCHED = ROOT / "tests" / "e2e" / "witness" / "chimera.toml"
"""The marketplace, and a service that watches the order of its orders' events."""
READY_S = 90
PATIENCE_S = 60.0
"""For what comes at once on a machine that has nothing else to do."""
DEV = {"CHIMERA_DEV": "true"}
"""Nobody on this machine needs a key."""
STOP_S = 60
STOPPED_S = 10
"""An orderly stop takes less, however busy the machine is: it runs into none of its own limits."""


class Running:
    """A process of ours, in a session of its own, with what it prints."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str] = {}, cwd: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}/src:{ROOT}",
                "COLUMNS": "200",
                "CHIMERA_DEV": "true",
                **environment,
            },
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        """All but what each start says of who may reach it."""
        return "".join(line for line in self.lines if " WARNING who may: " not in line)

    def wait_ready(self) -> str:
        """The base URL, or what it says it is, once it serves."""
        found = wait_until(
            lambda: (
                next((line for line in self.lines if line.startswith("ready ")), None)
                or self.process.poll() is not None
            ),
            READY_S,
        )
        assert isinstance(found, str), self.output
        return found.split(maxsplit=1)[1].strip()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Stop it as an orchestrator does; returns the seconds that it took."""
        began = time.monotonic()
        os.kill(self.pid, number)
        code = self.process.wait(STOP_S)
        self._reading.join(STOP_S)
        assert code == 0, self.output
        return time.monotonic() - began

    def end(self) -> None:
        """Whatever happened: leave nothing behind."""
        left = [self.pid, *descendants(self.pid)]
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for pid in left[1:]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._reading.join(STOP_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


def wait_until(found: Callable[[], object], seconds: float = PATIENCE_S) -> object:
    """The first true value of `found`, or the last one."""
    until = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < until:
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def child_named(pid: int, words: str) -> int:
    """The child whose command line holds these words."""
    [found] = [child for child in descendants(pid) if words in command_of(child)]
    return found


class Chimera:
    """Runs `chimera` on one state folder and port; ends what it started. No rule of the marketplace is asked."""

    def __init__(self, state: Path, config: Path = MARKETPLACE, environment: Mapping[str, str] = {}) -> None:
        self.state = state
        self.port = free_ports(8)
        self.config = config
        self.environment = {"CHIMERA_STATE": str(state), "CHIMERA_PORT": str(self.port)}
        self.environment |= {"CHIMERA_OPEN": "true"} if config in (MARKETPLACE, WATCHED) else {}
        self.environment |= environment
        self.running: list[Running] = []

    def start(self, *arguments: str, module: str = "chimera") -> Running:
        where = ["--config", str(self.config)] if module == "chimera" else []
        running = Running([module, *where, *arguments], self.environment)
        self.running.append(running)
        return running

    def up(self, *arguments: str) -> Running:
        running = self.start("up", *arguments)
        running.wait_ready()
        return running

    def run(self, *arguments: str, environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself, and so serves nobody."""
        return subprocess.run(
            [sys.executable, "-m", "chimera", "--config", str(self.config), *arguments],
            env={**os.environ, "COLUMNS": "200", **self.environment, "CHIMERA_OPEN": "false", **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        for running in self.running:
            running.end()


@pytest.fixture
def chimera(tmp_path: Path) -> Iterator[Chimera]:
    chimera = Chimera(tmp_path / "state")
    yield chimera
    chimera.end()


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
