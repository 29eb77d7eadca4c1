"""The plan of a comparison: the declared borrow, the load, and the trouble meanwhile."""

from __future__ import annotations

import random
import re
from typing import Literal

import msgspec

from chimera.errors import SettingsError
from chimera.forms import AnyDocument
from chimera.parts import Borrow, Mode
from chimera.service import Service

Way = Literal["sync", "async", "hybrid", "monolith"]
WAYS: tuple[Way, ...] = ("sync", "async", "hybrid", "monolith")
Trouble = Literal["slow", "failing", "down", "garbage", "none"]

SLOW_BUDGETS = 10
DEADLINE_BUDGETS = 5
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison. `reads` and `writes` are per second; `known` are shares of `keys`; the rest is in seconds.

    `document`, `declared` (its mode), `budget` and `max_age` are those of the declared borrow. `trouble_share` is the
    part of the run, in its middle, in which the owner is in trouble. A page that takes longer than `deadline` counts
    as not answered.
    """

    document: object
    declared: Mode = "sync"
    budget: float = 0.05
    max_age: float = 5.0
    keys: int = 1000
    known: tuple[float, ...] = (0.3,)
    reads: float = 200.0
    writes: float = 20.0
    seconds: float = 10.0
    owner_latency: float = 0.005
    trouble: Trouble = "none"
    trouble_share: float = 0.3
    deadline: float = 0.25
    seed: int = 1

    @property
    def slow(self) -> float:
        """Seconds that an owner which is slow takes longer."""
        return SLOW_BUDGETS * self.budget

    @property
    def trouble_window(self) -> tuple[float, float]:
        """When the trouble begins and ends, in seconds from the start; both are the end where there is none."""
        if self.trouble == "none":
            return self.seconds, self.seconds
        length = self.seconds * self.trouble_share
        begin = (self.seconds - length) / 2
        return begin, begin + length

    def page_keys(self) -> list[str]:
        """The keys that there is a page for."""
        return [f"key-{number:06}" for number in range(self.keys)]

    def known_keys(self, known: float) -> list[str]:
        """The keys for which the owner has a document: the same ones whenever the seed is the same, at least one."""
        count = max(1, round(self.keys * known))
        return sorted(random.Random(f"{self.seed} known").sample(self.page_keys(), count))  # noqa: S311 - a load


def declared_borrow(service: Service, share: str) -> Borrow[AnyDocument]:
    """The borrow that is compared. Raises SettingsError that says what the service borrows."""
    if share not in service.borrows:
        raise SettingsError(
            f"{service.name} does not borrow {share!r}; it borrows: {', '.join(service.borrows) or 'nothing'}"
        )
    return service.borrows[share]


def seconds_of(text: str) -> float:
    """A duration such as `5ms` or `0.5s`, in seconds. Raises SettingsError."""
    if (matched := _DURATION.fullmatch(text.strip())) is None:
        raise SettingsError(f"{text!r} is not a duration; a duration looks like 5ms or 0.5s")
    return float(matched[1]) * (0.001 if matched[2] == "ms" else 1.0)
