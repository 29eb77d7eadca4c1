"""A plan: all that is done to a fleet in a run, as data: drawn from a seed, kept as JSON, played again, shrunk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from chimera.errors import SettingsError

VERSION = 1

Kind = Literal[
    "killed",
    "killed at a call",
    "paused",
    "stopped",
    "upgraded",
    "skewed",
    "refused",
    "unanswered",
    "slow",
    "conflict",
    "cut",
    "full",
    "doubled",
    "lost",
    "late",
    "emptied",
    "wiped",
    "restored",
    "request lost",
    "answer lost",
    "request doubled",
    "request slow",
    "mode changed",
    "rebuilt",
    "retried",
    "junk",
    "uncarried",
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happens to the fleet at a time (virtual seconds from the beginning).

    - `killed`, `stopped` (in order), `paused`: the process `process`, for `for_s` seconds. `killed at a call`: at its
      next call at `point` after `at`, before that has its effect, or after it when `late`. `upgraded`: all processes of
      the service `process`, one after another, `for_s` seconds apart, to the build number `build`, the read heads first
      when `late`. `skewed`: its wall clock by `by_s` seconds.
    - For `for_s` seconds a `share` (0 to 1) of the calls to `engine`, by `process` alone where it is named: are
      `refused` (no effect), `unanswered` (with effect), `slow` (`by_s` seconds in the mean), end in a `conflict`. All
      of them: `cut`. All that write: `full`.
    - Of the events appended to the log: `doubled`, `lost` (though confirmed), `late` (come again after later ones).
    - `emptied`: the log of the events of the service `process` is made anew. `wiped`: `engine`, a view store, loses all
      it has. `restored`: it, or `log SERVICE` (its events), loses what it got in the last `by_s` seconds.
    - For `for_s` seconds a `share` of the requests to the service `process`: are lost or doubled, or their answers are
      lost, or they take `by_s` seconds in the mean.
    - `mode changed`: `process` borrows `what` in the mode `to`. `rebuilt`: `process` builds the view `what` anew.
      `retried`: a person has all that `process` has parked tried again.
    - `junk`: somebody writes records into the topics of the service `process` that are no messages of it. `uncarried`:
      from then on the log refuses one event of three, whenever it is sent, and with it all that are sent in one call.
    """

    at: float
    kind: Kind
    process: str = ""
    engine: str = ""
    for_s: float = 0.0
    share: float = 1.0
    by_s: float = 0.0
    point: str = ""
    late: bool = False
    build: int = 0
    what: str = ""
    to: str = ""


class Sending(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command that a client sends, after those that it sent before are answered, and not before `at`.

    `label` is its name, and its Idempotency-Key.
    """

    at: float
    client: str
    service: str
    command: str
    body: dict[str, Any]
    label: str
    reads: bool = True
    """Whether the client then reads what it wrote."""


class Plan(msgspec.Struct, frozen=True):
    """A run: how many processes, how slow the network and the engines are, the commands, the faults.

    `seed` chooses the order in which processes run, and their chance. `shuffle`: also the order within a process.
    `latency_s`: the mean of an engine's answer, of the share `delayed` of calls; `network_s`: the most that a request
    takes on its way. `commit`: of the code that it was found with.
    """

    seed: int
    processes: dict[str, int]
    commands: Sequence[Sending]
    faults: Sequence[Fault]
    until_s: float
    shuffle: bool = False
    latency_s: float = 0.002
    delayed: float = 0.1
    network_s: float = 0.002
    commit: str = ""
    version: int = VERSION

    @property
    def steps(self) -> int:
        """The number of things that are done."""
        return len(self.commands) + len(self.faults)


def save(plan: Plan, path: Path) -> None:
    """Keep a plan as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")


def load(path: Path) -> Plan:
    """A plan that was kept. Raises SettingsError when the file does not hold one."""
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise SettingsError(f"{path} holds no plan: {error}") from error
    if plan.version > VERSION:
        raise SettingsError(f"{path} is a plan of a later version ({plan.version}, this one reads {VERSION})")
    return plan
