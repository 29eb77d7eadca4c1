"""Scenarios and their results: traffic, what strikes meanwhile, and what may be left afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from chimera_faults.driver import Traffic
from chimera_faults.points import Armed

if TYPE_CHECKING:
    from chimera_faults.rig import Run

Strike = Callable[["Run"], Coroutine[Any, Any, None]]

EMBEDDED = "embedded"
SERVERS = ("rabbitmq-mysql", "kafka-postgresql")
EVERY_STACK = (EMBEDDED, *SERVERS)
OWN = "own"
"""The stack of somebody's own engines, by their URLs."""


class Scenario(NamedTuple):
    """One way to strike a fleet.

    `armed` strikes at crash points, `strike` from outside; both while `traffic` is sent. Everything that was armed has
    to fire, or the run is void. `keep_armed` heals only after the fleet has converged. With `parks` something may be
    set aside at the end. Those that name a `fleet` share it with each other only; it may have all that it keeps on a
    disk of `disk_bytes`, or so many old `rows` in its first journal. It runs beside the others, or, with `last`, after
    them. A `slow` one is not for a quick run, a `long` one only for those who ask for it.

    Its `strike` may note what is `wrong` by itself; where it does so for everything, because what was answered is not
    there any more, it does not `settle`. The services' views may be in another engine, `views`; with `own_user` they
    have a user of the database to themselves. One `by_hand` knows the stacks' engines by their names.
    """

    name: str
    what: str
    armed: Sequence[Armed] = ()
    strike: Strike | None = None
    traffic: Traffic = Traffic()
    stacks: Collection[str] = (EMBEDDED,)
    keep_armed: bool = False
    parks: bool = False
    fleet: str = ""
    disk_bytes: int = 0
    rows: int = 0
    last: bool = False
    slow: bool = False
    long: bool = False
    settles: bool = True
    views: str = ""
    own_user: bool = False
    by_hand: bool = False

    def strikes(self, stack: str) -> bool:
        """True where it can strike on a stack; on one's own, what can strike on any."""
        if stack == OWN:
            return set(EVERY_STACK) <= set(self.stacks) and not self.by_hand
        return stack in self.stacks


class Result(msgspec.Struct):
    """The result of a scenario, and the crash points that its fleet has passed by then.

    `seconds` is how long it took to converge, `whole_s` the scenario in all. `void` says why it proves nothing,
    `skipped` why it was not run; empty otherwise.
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
    whole_s: float = 0.0
    void: str = ""
    skipped: str = ""
    findings: list[str] = []
    reached: list[str] = []
    notes: list[str] = []

    @property
    def is_well(self) -> bool:
        """True when it proves something, and nothing was found."""
        return not (self.void or self.lost or self.doubled or self.out_of_order or self.other)
