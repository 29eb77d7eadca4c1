"""What a scenario is: traffic, what strikes meanwhile, and what may be left afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from chimera.testing.faults.driver import Traffic
from chimera.testing.faults.points import Armed

if TYPE_CHECKING:
    from chimera.testing.faults.rig import Run

Strike = Callable[["Run"], Coroutine[Any, Any, None]]

EMBEDDED = "embedded"
SERVERS = ("rabbitmq-mysql", "kafka-postgresql")
EVERY_STACK = (EMBEDDED, *SERVERS)


class Scenario(NamedTuple):
    """One way to strike a fleet.

    `armed` strikes at crash points, `strike` from outside; both while `traffic` is sent. Everything that was armed has
    to fire, or the run is void. `keep_armed` heals only after the fleet has converged. With `parks` something may be
    set aside at the end. One `alone` has a fleet of its own, after all others, with `disk_bytes` on a disk of that
    size. A `slow` one is not for a quick run.
    """

    name: str
    what: str
    armed: Sequence[Armed] = ()
    strike: Strike | None = None
    traffic: Traffic = Traffic()
    stacks: Collection[str] = (EMBEDDED,)
    keep_armed: bool = False
    parks: bool = False
    alone: bool = False
    disk_bytes: int = 0
    slow: bool = False


class Result(msgspec.Struct):
    """What a scenario came to, and which crash points its fleet has passed by then.

    `void` says why it proves nothing, `skipped` why it was not run; empty otherwise.
    """

    scenario: str
    stack: str
    commands: int = 0
    fired: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    other: int = 0
    seconds: float = 0.0
    void: str = ""
    skipped: str = ""
    findings: list[str] = []
    reached: list[str] = []
    notes: list[str] = []

    @property
    def is_well(self) -> bool:
        return not (self.void or self.lost or self.doubled or self.out_of_order or self.other)
