"""Memory curves: how much each process of a fleet holds over time, and whether that grows.

The slope is Theil and Sen's: the median of the slopes between all pairs of points, which a few outliers don't move,
with Sen's interval from Kendall's rank correlation (P. K. Sen, Estimates of the regression coefficient based on
Kendall's tau, Journal of the American Statistical Association 63, 1968, pages 1379 to 1389). What a process holds
depends on what it held a moment before: the points are the medians of equal stretches of time, and the interval is
wider by what Hamed and Rao found for such series (A modified Mann-Kendall trend test for autocorrelated data, Journal
of Hydrology 204, 1998, pages 182 to 196). So one step, when something takes more memory than ever before, is no trend.
"""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from statistics import median
from typing import Literal, NamedTuple

from chimera_faults.fleet import RunningFleet, command_of, descendants, held_bytes

EVERY_S = 1.0
STRETCHES = 30
CONFIDENT = 1.96
"""Standard deviations either side of 95 % of a normal distribution."""
MIB = 1 << 20

BOUND_MIB_PER_H = 16.0
"""A head asks for 128 MiB and may have 512 (`chimera deploy kubernetes`): at this slope it lasts for a day."""
JUDGED_S = 120.0
"""A second half that is shorter says nothing: a young process grows until its caches are full."""

GATEWAY, RIG = "gateway", "the rig"

Verdict = Literal["flat", "grows", "too short"]


class Slope(NamedTuple):
    """Theil and Sen's, with its interval of 95 %: in the unit of the values for each unit of the places."""

    middle: float
    low: float
    high: float


class Curve:
    """The memory of one process: seconds since the first sample of all, and MiB."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.kind = ""
        self.seconds = array("d")
        self.mib = array("d")

    def between(self, first_s: float, last_s: float) -> list[tuple[float, float]]:
        """The samples of a stretch of time."""
        both = zip(self.seconds, self.mib, strict=True)
        return [(second, mib) for second, mib in both if first_s <= second <= last_s]

    def at(self, second: float, around_s: float) -> float | None:
        """The median of the samples around a moment; None when there are none."""
        near = [mib for _, mib in self.between(second - around_s, second + around_s)]
        return median(near) if near else None

    def covers(self, first_s: float, last_s: float) -> bool:
        """True when the process lived through a stretch of time."""
        return self.seconds[0] <= first_s + 2 * EVERY_S and self.seconds[-1] >= last_s - 2 * EVERY_S


class Curves:
    """The curve of every process that was seen; `seconds` says how long that went on."""

    def __init__(self) -> None:
        self.by_pid: dict[int, Curve] = {}
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the sampling began."""
        return time.monotonic() - self._began

    async def keep_sampling(self, fleet: RunningFleet) -> None:
        """Look at every process now and then, until cancelled."""
        while True:
            self.sample({fleet.pid: GATEWAY, os.getpid(): RIG} | {pid: kind_of(pid) for pid in descendants(fleet.pid)})
            await asyncio.sleep(EVERY_S)

    def sample(self, kinds: dict[int, str]) -> None:
        """Note what each process holds now. One of no known kind is about to become another."""
        for pid, kind in kinds.items():
            if kind and (held := held_bytes(pid)):
                curve = self.by_pid.setdefault(pid, Curve(pid))
                curve.kind = kind
                curve.seconds.append(self.seconds)
                curve.mib.append(held / MIB)


def kind_of(pid: int) -> str:
    """The kind of a fleet's process, such as `tally write`; empty for anything but a read or write head."""
    words = command_of(pid).split()
    if "run" not in words:
        return ""
    service, *options = words[words.index("run") + 1 :]
    return f"{service} {'write' if '--write' in options else 'read'}"


def slope_of(points: Sequence[tuple[float, float]]) -> Slope:
    """The slope of at least two points, in order of their places."""
    slopes = sorted((y - y_before) / (x - x_before) for (x_before, y_before), (x, y) in combinations(points, 2))
    found, count = median(slopes), len(points)
    wider = dependence([y - found * x for x, y in points])
    half = CONFIDENT * sqrt(count * (count - 1) * (2 * count + 5) / 18 * wider) / 2
    middle = len(slopes) / 2
    low, high = max(0, int(middle - half)), min(len(slopes) - 1, int(middle + half))
    return Slope(found, slopes[low], slopes[high])


def dependence(values: Sequence[float]) -> float:
    """The factor by which the variance is larger because values depend on those before: Hamed and Rao's, at least 1."""
    count = len(values)
    if count < 4 or len(set(values)) == 1:
        return 1.0
    order = {value: place for place, value in enumerate(sorted(values))}
    ranks = [order[value] for value in values]
    centre = sum(ranks) / count
    spread = sum((rank - centre) ** 2 for rank in ranks)
    total = 0.0
    for lag in range(1, count - 2):
        alike = sum((a - centre) * (b - centre) for a, b in zip(ranks, ranks[lag:], strict=False)) / spread
        if abs(alike) > CONFIDENT / sqrt(count):
            total += (count - lag) * (count - lag - 1) * (count - lag - 2) * alike
    return max(1.0, 1 + 2 * total / (count * (count - 1) * (count - 2)))


def medians(samples: Sequence[tuple[float, float]], stretches: int = STRETCHES) -> list[tuple[float, float]]:
    """The middle and the median of each of so many equal stretches, as far as they have samples."""
    if not samples:
        return []
    first, last = samples[0][0], samples[-1][0]
    wide = (last - first) / stretches or 1.0
    found: dict[int, list[float]] = {}
    for place, value in samples:
        found.setdefault(min(stretches - 1, int((place - first) / wide)), []).append(value)
    return [(first + (index + 0.5) * wide, median(values)) for index, values in sorted(found.items())]


def growth(curve: Curve, first_s: float, last_s: float) -> Slope | None:
    """The MiB an hour that a process grew by in a stretch of time; None when it did not live through it."""
    points = medians(curve.between(first_s, last_s))
    if len(points) < 2 or not curve.covers(first_s, last_s):
        return None
    return Slope(*(3600 * each for each in slope_of(points)))


def verdict(slope: Slope, seconds: float) -> Verdict:
    """The verdict on a process: it grows when it does so faster than the bound with a confidence of 97.5 %."""
    if seconds < JUDGED_S:
        return "too short"
    return "grows" if slope.low > BOUND_MIB_PER_H else "flat"
