"""The result of a borrowed read: a value, and how far it can be trusted."""

from __future__ import annotations

from typing import Generic, Literal, NamedTuple, TypeVar

Doc = TypeVar("Doc")

State = Literal["fresh", "stale", "absent"]


class Borrowed(NamedTuple, Generic[Doc]):
    """A borrowed value and how far it can be trusted.

    `fresh`: as the owner has it, as far as can be known within the budget. `stale`: the last known good
    value, `age` seconds old. `absent`: there is no value; `age` is None when the owner could not be asked.
    """

    value: Doc | None
    state: State
    age: float | None
