"""The owner's commits with their times, so that it can be said how stale a page was."""

from __future__ import annotations

from collections.abc import Iterable


class WriteLedger:
    """The commit time of every version of every key. Versions count from 1, without a gap.

    Times are seconds of the machine's monotonic clock, which all processes of a machine share.
    """

    def __init__(self, commits: Iterable[tuple[str, int, float]] = ()) -> None:
        self._at: dict[str, list[float]] = {}
        for key, version, at in commits:
            self.committed(key, version, at)

    def committed(self, key: str, version: int, at: float) -> None:
        """Note a commit. Raises ValueError for a version that does not follow the one before."""
        times = self._at.setdefault(key, [])
        if version != len(times) + 1:
            raise ValueError(f"version {version} of {key} follows version {len(times)}")
        times.append(at)

    def staleness(self, key: str, shown: int, at: float) -> float:
        """Seconds since the commit of the oldest version that a page which shows version `shown` lacks at `at`.

        0 when it lacks none.
        """
        times = self._at.get(key, ())
        return max(0.0, at - times[shown]) if shown < len(times) else 0.0
