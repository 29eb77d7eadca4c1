"""What a comparison of contracts finds, in words and as data."""

from __future__ import annotations

from typing import NamedTuple

CLIENTS = "clients"
"""Whoever comes from outside: nobody knows what they read."""


class Break(NamedTuple):
    """What a change would break: where, which consumer, what of it reads, what is wrong in words, what to do.

    `may_be_accepted`: it can be right, which only people know; with `chimera contract export --accept PLACE` it is.
    """

    place: str
    consumer: str
    reader: str
    says: str
    todo: str
    may_be_accepted: bool = False

    @property
    def line(self) -> str:
        """It in one line."""
        whom = f" — it breaks {self.consumer}{f' ({self.reader})' if self.reader else ''}" if self.consumer else ""
        accept = (
            f"; if that is right, type: chimera contract export --accept {self.place}" if self.may_be_accepted else ""
        )
        return f"{self.place}: {self.says}{whom}; {self.todo}{accept if self.may_be_accepted else ''}"


class First(NamedTuple):
    """One service that has to be deployed before another one, and why."""

    first: str
    then: str
    why: str

    @property
    def line(self) -> str:
        """It in one line."""
        return f"deploy {self.first} before {self.then}: {self.why}"


class FoundBreaks(NamedTuple):
    """What a change would break, and in which order services are deployed."""

    breaks: list[Break]
    order: list[First]
