"""A fleet under test: real processes, started by `chimera up`, found and struck from outside."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from chimera.errors import ChimeraError

READY_S = 120.0
STOP_S = 20.0
LOOK_S = 0.02


class NotReady(ChimeraError):  # noqa: N818 - what happened
    """The fleet has ended, or does not serve in time; the text is what it said last."""


class RunningFleet:
    """`chimera up --processes` of one chimera.toml, with `workers` write heads for each service.

    What it prints is in `output`, a file. It has only those settings of CHIMERA_… that are given.
    """

    def __init__(
        self, config: Path, state: Path, environment: Mapping[str, str], *, workers: int = 2, services: int = 2
    ) -> None:
        self.state = state
        self.port = free_ports(services + 1)
        self.output = state / "output.log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHIMERA_")},
            "CHIMERA_DEV": "true",
            **environment,
            "CHIMERA_STATE": str(state),
            "CHIMERA_PORT": str(self.port),
            "COLUMNS": "200",
        }
        self._command = [sys.executable, "-m", "chimera", "--config", str(config)]
        self._arguments = ["up", "--processes", "--workers", str(workers)]
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def base(self) -> str:
        """The base URL of the fleet's gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the fleet's first process, the supervisor, which was started."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns once every head serves. Raises NotReady."""
        self.state.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *self._arguments,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=output,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line.startswith(b"ready "):
            raise NotReady(f"the fleet does not serve; it says: {self._last_lines()}")
        self._reading = asyncio.ensure_future(_drain(self._process.stdout))

    async def stop(self) -> None:
        """Stop it as an orchestrator does, or harder."""
        left = descendants(self.pid)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        for pid in left:
            _signal(pid, signal.SIGCONT)
        await self._ended(left)

    async def kill(self) -> None:
        """Kill every process of it at once."""
        left = [self.pid, *descendants(self.pid)]
        for pid in left:
            _signal(pid, signal.SIGKILL)
        await self._ended(left[1:])

    async def _ended(self, left: Sequence[int]) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        for pid in left:
            if is_alive(pid):
                _signal(pid, signal.SIGKILL)
        if self._reading is not None:
            self._reading.cancel()

    def heads(self, words: str = " run ") -> list[int]:
        """The processes whose command line holds these words, such as `run orders --write`."""
        return [pid for pid in descendants(self.pid) if words in command_of(pid)]

    async def run(self, *arguments: str) -> str:
        """Run another `chimera` command on the same settings; returns what it prints. Raises ChimeraError."""
        process = await asyncio.create_subprocess_exec(
            *self._command, *arguments, env=self.environment, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        if process.returncode:
            raise ChimeraError(f"chimera {' '.join(arguments)} failed: {err.decode(errors='replace')[-500:]}")
        return out.decode(errors="replace")

    def _last_lines(self) -> str:
        return self.output.read_text(errors="replace")[-1500:] if self.output.exists() else ""


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


async def send_signal(pids: Sequence[int], number: int) -> None:
    """Send a signal, and wait until it shows: a process that was killed is gone, one that was stopped stands still."""
    for pid in pids:
        _signal(pid, number)
    wanted = {signal.SIGKILL: "gone", signal.SIGTERM: "gone", signal.SIGSTOP: "T"}.get(signal.Signals(number))
    until = time.monotonic() + STOP_S
    while wanted and any(state_of(pid) != wanted for pid in pids):
        if time.monotonic() > until:
            raise ChimeraError(f"signal {number} did not take effect on {list(pids)}")
        await asyncio.sleep(LOOK_S)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def state_of(pid: int) -> str:
    """The letter of a process's state, or `gone`."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return "gone" if state in "ZX" else state


def is_alive(pid: int) -> bool:
    """True until the process has ended; a zombie has."""
    return state_of(pid) != "gone"


def held_bytes(pid: int) -> int:
    """The memory that a process holds, 0 when it has ended.

    Without pages of files that it has mapped, such as SQLite's: those are the kernel's, which takes them back.
    """
    try:
        _, resident, of_files, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except OSError:
        return 0
    return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def command_of(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


PORTS = range(24_000, 32_000)
"""The system gives none of them to a connection, which would take it while a server is not yet, or no longer, there."""
_turns = itertools.count(secrets.randbelow(len(PORTS)))


def free_ports(count: int = 1) -> int:
    """The first of so many ports in a row that are free now. Each call goes on where the last one ended."""
    for turn in itertools.islice(_turns, len(PORTS)):
        ports = PORTS[turn % len(PORTS) :][:count]
        if len(ports) == count and all(map(is_free, ports)):
            list(itertools.islice(_turns, count - 1))
            return ports[0]
    raise ChimeraError("no ports are free")


def is_free(port: int) -> bool:
    """True when nobody listens on the port of 127.0.0.1 now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
