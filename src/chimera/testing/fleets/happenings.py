"""What happens in a run, and what is broken, as it is told."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Happening(NamedTuple):
    """Something that happened: when (virtual seconds), in which process, and to which keys."""

    at: float
    process: str
    text: str
    keys: Collection[str] = ()


class BrokenPromise(NamedTuple):
    """A promise that was not kept: which one, how, and of which key where it is one's."""

    at: float
    promise: str
    text: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.promise}: {self.text}"
