"""Servers as processes: each in a session of its own, remembered by pid and start time."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from backend import ServerError
from native.engine import Engine
from native.programs import as_user
from settings import DATA, RUN, log_of

STOP_PATIENCE = 30.0

Process = tuple[int, int]  # pid and start time: pids are used again


def _record(name: str) -> Path:
    return RUN / f"{name}.json"


def _stat(pid: int) -> list[str] | None:
    """State, parent, group, session, … of a process, as in proc(5) from the third field on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _identity(pid: int) -> Process | None:
    stat = _stat(pid)
    if stat is None or stat[0] in "ZX":
        return None
    return pid, int(stat[19])


def _recorded(name: str) -> Process | None:
    try:
        pid, started = json.loads(_record(name).read_text())
    except FileNotFoundError:
        return None
    return pid, started


def running(name: str) -> int | None:
    recorded = _recorded(name)
    return recorded[0] if recorded and _identity(recorded[0]) == recorded else None


def spawn(engine: Engine) -> subprocess.Popen[bytes]:
    with log_of(engine.name).open("ab") as log:
        process = subprocess.Popen(
            engine.command(),
            cwd=DATA,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | engine.environment,
            start_new_session=True,
            **as_user(engine.user),
        )
    _record(engine.name).write_text(json.dumps(_identity(process.pid)))
    return process


def stop(engine: Engine) -> None:
    leader = running(engine.name)
    family = _family(engine.name)
    if leader is not None:
        os.kill(leader, engine.stop_signal)
        if not _gone(family[:1], STOP_PATIENCE):
            raise ServerError(engine.name, f"did not stop in {STOP_PATIENCE:.0f} s; try: kill {engine.name}")
    _end(family)
    engine.sweep()


def kill(engine: Engine) -> None:
    _end(_family(engine.name))
    engine.sweep()


def memory(name: str) -> int:
    """Bytes, with what processes share counted once."""
    return sum(_proportional(pid) for pid, _ in _family(name))


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _family(name: str) -> list[Process]:
    """The leader, what is in its session, and their descendants: PostgreSQL's have sessions of their own."""
    recorded = _recorded(name)
    if recorded is None or _identity(recorded[0]) not in (recorded, None):
        return []
    stats = {int(entry.name): stat for entry in Path("/proc").glob("[0-9]*") if (stat := _stat(int(entry.name)))}
    found = [recorded[0]] + [pid for pid, stat in stats.items() if int(stat[3]) == recorded[0] != pid]
    for pid in found:
        found.extend(child for child, stat in stats.items() if int(stat[1]) == pid and child not in found)
    return [process for pid in found if (process := _identity(pid))]


def _end(family: list[Process]) -> None:
    for process in family:
        if _identity(process[0]) == process:
            os.kill(process[0], signal.SIGKILL)
    _gone(family, STOP_PATIENCE)


def _gone(processes: list[Process], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while any(_identity(process[0]) == process for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
