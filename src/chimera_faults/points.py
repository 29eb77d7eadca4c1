"""Crash points: the named places of a process at which a fault can strike, and how it is armed there.

The variable `FAULTS` names a folder. Its file `armed.json` says what strikes where, and may change while processes
run; what fired is in `fired.jsonl`, written and synced before it takes effect, so that a fault can be proven.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from chimera.errors import SettingsError, Unavailable

FOLDER = "FAULTS"

Action = Literal["kill", "raise", "delay", "pause", "drop", "repeat", "refuse", "clock"]

POINTS = {
    "commands.append.before": "the read head is about to append commands to the log",
    "commands.append.after": "the log has confirmed commands, and no 201 has left",
    "commands.read": "the write head was given commands by the log, and has not begun with them",
    "commands.handler": "a command's handler reads its first row",
    "commands.commit.before": "a batch of commands is done and not committed",
    "commands.commit.after": "a batch of commands is committed, and the process does not know yet",
    "direct.handler": "a direct command's handler reads its first row",
    "direct.commit.before": "direct commands are done and not committed",
    "direct.commit.after": "direct commands are committed and not answered",
    "reaction.handler": "a reaction reads its first row",
    "reaction.commit.before": "a reaction is done and not committed",
    "reaction.commit.after": "a reaction is committed, and the process does not know yet",
    "redrive.handler": "a message that was set aside is tried again, and its handler reads its first row",
    "redrive.commit.before": "a message that was set aside is done and not committed",
    "redrive.commit.after": "a message that was set aside is settled, and the process does not know yet",
    "events.append.before": "the relay is about to append events to the log",
    "events.append.after": "the log has confirmed events, and the relay does not know yet",
    "events.read": "a consumer was given events by the log, and has not begun with them",
    "relay.commit.before": "the relay's checkpoint is written and not committed",
    "relay.commit.after": "the relay's checkpoint is committed",
    "leases.commit.before": "leases are renewed and not committed",
    "leases.commit.after": "leases are committed, and the worker does not know yet",
    "trim.commit.before": "events that are old enough are dropped, and that is not committed",
    "trim.commit.after": "events that are old enough are dropped, and the process does not know yet",
    "view.write.before": "a view's documents are folded and not written",
    "view.write.after": "a view's documents and checkpoint are written, and the process does not know yet",
    "copy.write.before": "a copy of borrowed documents is not written yet",
    "copy.write.after": "a copy of borrowed documents is written, and the process does not know yet",
    "log.call": "any call of the log",
    "store.call": "any call of the store",
    "views.call": "any call of the view store",
}


class Armed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fault that waits: `action` strikes when `point` is passed.

    `kill` ends the process with SIGKILL, after `seconds` while it goes on; `raise` raises Unavailable, which at a
    point that ends in `after` is a lost reply; `delay` holds it up for `seconds`; `pause` stops the process with
    SIGSTOP; `drop` loses, and `repeat` delivers five times, what the log is given or gives; `refuse` has the
    log refuse a call because of one message in it, as too large; `clock` sets the process's clock forward by `seconds`.

    Each process counts its passes from when the fault was armed: it strikes from the `nth` on, `times` times in all
    processes together (0: as long as it is armed), in those alone whose command line holds `where`.
    """

    name: str
    point: str
    action: Action
    nth: int = 1
    times: int = 1
    seconds: float = 0.0
    where: str = ""


class Fired(msgspec.Struct):
    """That a fault struck: which one, at which point, in which process."""

    name: str
    point: str
    action: str
    pid: int
    where: str
    at: float


class PointFolder:
    """The files that a rig and the processes that it strikes share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._armed = path / "armed.json"
        self._fired = path / "fired.jsonl"
        self._reached = path / "reached"
        self._spared = path / "spared.json"

    def arm(self, faults: Sequence[Armed]) -> None:
        """Replace what is armed."""
        for each in faults:
            if each.point not in POINTS:
                raise SettingsError(f"there is no crash point {each.point!r}; there are: {', '.join(POINTS)}")
        self.path.mkdir(parents=True, exist_ok=True)
        written = self._armed.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(faults))
        written.replace(self._armed)

    def version(self) -> tuple[int, int]:
        """Changes whenever something else is armed."""
        try:
            stat = self._armed.stat()
        except FileNotFoundError:
            return 0, 0
        return stat.st_ino, stat.st_mtime_ns

    def armed(self) -> list[Armed]:
        """The faults that are to strike, as they were armed last."""
        try:
            return msgspec.json.decode(self._armed.read_bytes(), type=list[Armed])
        except FileNotFoundError:
            return []

    def fired(self) -> list[Fired]:
        """Everything that has struck, in order."""
        if not self._fired.exists():
            return []
        return [msgspec.json.decode(line, type=Fired) for line in self._fired.read_bytes().splitlines()]

    def spare(self, pids: Sequence[int]) -> None:
        """Whatever is armed from now on kills none of these processes."""
        self._spared.write_bytes(msgspec.json.encode(pids))

    def spares(self, pid: int) -> bool:
        """True when no fault may strike this process."""
        return self._spared.exists() and pid in msgspec.json.decode(self._spared.read_bytes(), type=list[int])

    def record(self, fired: Fired) -> None:
        """Returns once the line is on disk."""
        add_line(self._fired, msgspec.json.encode(fired), sync=True)

    def claim(self, name: str, times: int) -> bool:
        """Take one of the times that a fault may strike, whichever process asks."""
        claims = self.path / "claims"
        claims.mkdir(exist_ok=True)
        for turn in range(times):
            try:
                os.close(os.open(claims / f"{name}.{turn}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False

    def reach(self, point: str) -> None:
        """Note that a process has passed the point."""
        add_line(self._reached, point.encode())

    def reached(self) -> set[str]:
        """The points that any process has passed."""
        return set(self._reached.read_text().split()) if self._reached.exists() else set()


def add_line(path: Path, line: bytes, *, sync: bool = False) -> None:
    """Append a line to a file that several processes write; with `sync` it is on disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line + b"\n")
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Trip:
    """The faults as one process meets them: it asks at each of its crash points."""

    def __init__(self, folder: PointFolder, where: str) -> None:
        self._folder = folder
        self._where = where
        self._version = (-1, -1)
        self._armed: list[Armed] = []
        self._passes: Counter[str] = Counter()
        self._ours: dict[str, bool] = {}
        self._reached: set[str] = set()

    async def pass_by(self, point: str) -> None:
        """Go past a point. Kills, stops, delays, or raises Unavailable, where that is armed."""
        for fault in self._struck(point, ("kill", "raise", "delay", "pause")):
            match fault.action:
                case "kill" if fault.seconds:
                    threading.Timer(fault.seconds, _kill).start()
                case "kill":
                    _kill()
                case "pause":
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "delay":
                    await asyncio.sleep(fault.seconds)
                case _:
                    raise Unavailable(f"the fault {fault.name!r} at {point}")

    def distorts(self, point: str, action: Action) -> bool:
        """True when what passes a point is to be dropped, or repeated: as `action` says."""
        return bool(self._struck(point, (action,)))

    def clock_s(self) -> float:
        """The seconds that the clock of this process is set forward."""
        self._look()
        return sum(fault.seconds for fault in self._armed if fault.action == "clock" and self._is_ours(fault))

    def _struck(self, point: str, actions: Sequence[Action]) -> list[Armed]:
        if point not in self._reached:
            self._reached.add(point)
            self._folder.reach(point)
        self._look()
        return [fault for fault in self._armed if fault.point == point and fault.action in actions and self._due(fault)]

    def _look(self) -> None:
        if (version := self._folder.version()) != self._version:
            self._version = version
            spared = self._folder.spares(os.getpid())
            self._armed = [
                fault
                for fault in self._folder.armed()
                if fault.where in self._where and not (spared and fault.action == "kill")
            ]
            self._passes.clear()
            self._ours.clear()

    def _due(self, fault: Armed) -> bool:
        self._passes[fault.name] += 1
        if self._passes[fault.name] < fault.nth:
            return False
        if fault.times == 0:
            return self._is_ours(fault)
        if not self._folder.claim(fault.name, fault.times):
            return False
        self._folder.record(self._fired(fault, fault.point))
        return True

    def _is_ours(self, fault: Armed) -> bool:
        """True when a fault that goes on strikes this process, which is asked once."""
        if fault.name not in self._ours:
            self._ours[fault.name] = fault.times == 0 or self._folder.claim(fault.name, fault.times)
            if self._ours[fault.name]:
                self._folder.record(self._fired(fault, fault.point))
        return self._ours[fault.name]

    def _fired(self, fault: Armed, point: str) -> Fired:
        return Fired(fault.name, point, fault.action, os.getpid(), self._where, time.monotonic())


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def trip_of(environment: dict[str, str]) -> Trip:
    """The crash points of this process. Raises SettingsError without the folder's name."""
    folder = environment.get(FOLDER)
    if not folder:
        raise SettingsError(
            f"an engine whose address begins with faulty: needs {FOLDER}=FOLDER; see docs/results/faults.md"
        )
    return Trip(PointFolder(Path(folder)), " ".join(sys.argv))
