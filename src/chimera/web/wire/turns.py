"""Turns: what one caller may ask for, by rate and at once. Nobody waits in a line; who comes too often is told when."""

from __future__ import annotations

import math
from collections import OrderedDict

import msgspec

from chimera.core.clock import Clock
from chimera.core.timing import PerCaller
from chimera.errors import Rejected


class TooMany(Rejected):
    """One caller asks for more than she may: 429, and after how many whole seconds to come again."""

    def __init__(self, detail: str, after_s: float) -> None:
        super().__init__("too_many_requests", detail, status=429)
        self.after_s = max(1, math.ceil(after_s))


class UnderWay(msgspec.Struct):
    """The requests of a caller that are under way, and those among them that wait."""

    requests: int = 0
    waits: int = 0


class CallerTurns:
    """The turns of callers, each known by a name: an address, or a subject.

    Of each that has asked of late, one number is kept: when all that she has asked for would be over at the rate that
    she has (the generic cell rate algorithm). Those that have been silent for longest are forgotten first.
    """

    def __init__(self, most: PerCaller, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._every_s = 1 / most.rate if most.rate else 0.0
        self._ahead_s = (most.most_at_once - 1) * self._every_s
        self._until: OrderedDict[str, float] = OrderedDict()
        self._under_way: dict[str, UnderWay] = {}

    def __len__(self) -> int:
        return len(self._until)

    def enter(self, who: str, *, waits: bool) -> None:
        """Take a turn, until `leave`. Raises TooMany, and then there is nothing to leave."""
        most, under_way = self._most, self._under_way.get(who) or UnderWay()
        if most.requests and under_way.requests >= most.requests:
            raise TooMany(f"{under_way.requests} of your requests are under way; that many are answered at once", 1)
        if waits and most.waits and under_way.waits >= most.waits:
            raise TooMany(f"{under_way.waits} of your requests wait already; that many may", 1)
        if most.rate:
            self._spend(who)
        under_way.requests += 1
        under_way.waits += waits
        self._under_way[who] = under_way

    def leave(self, who: str, *, waits: bool) -> None:
        """The request is answered."""
        under_way = self._under_way[who]
        under_way.requests -= 1
        under_way.waits -= waits
        if not under_way.requests:
            del self._under_way[who]

    def _spend(self, who: str) -> None:
        now = self._clock.monotonic()
        until = max(self._until.get(who, now), now)
        if (early_s := until - now - self._ahead_s) > 1e-9:
            raise TooMany(f"more than {self._most.rate:g} requests a second; come again later", early_s)
        self._until[who] = until + self._every_s
        self._until.move_to_end(who)
        while len(self._until) > self._most.callers:
            self._until.popitem(last=False)
