"""The cause of a failure, as it is stored with the message and read by people; and what a retry would do."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

from chimera.errors import Unreadable
from chimera.forms import Decodes
from chimera.messages import Message

Read = TypeVar("Read")

LONGEST_TRACEBACK = 8_000
"""Characters that are kept of a traceback: its last ones, which tell what was raised and where."""


class ProcessEnded(Exception):  # noqa: N818 - what happened
    """Processes ended while they handled a message, `times` of them one after another."""

    def __init__(self, times: int) -> None:
        super().__init__(f"the process ended {times} times while handling it")
        self.times = times


class TookTooLong(Exception):  # noqa: N818 - what happened
    """A handler was not done within its limit, and was stopped."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"its handler was not done within {limit_s:g} s, and was stopped")


def cause_of(error: Exception) -> str:
    """An error as people read it in a list of parked work."""
    if isinstance(error, ProcessEnded | TookTooLong):
        return str(error)
    if isinstance(error, Unreadable) and isinstance(error.__cause__, Exception):
        return cause_of(error.__cause__)
    return f"{type(error).__name__}: {text_of(error)}"


def traceback_of(error: Exception) -> str:
    """The traceback of an error and of what led to it, as every database takes it; empty for a process that ended."""
    if isinstance(error, ProcessEnded):
        return ""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - as for its text
        text = "".join(traceback.format_tb(error.__traceback__))
    return _without_what_is_refused(text[-LONGEST_TRACEBACK:])


def text_of(error: Exception) -> str:
    """The text of an error, as every database takes it."""
    try:
        return storable(str(error))
    except Exception:  # noqa: BLE001 - an error that can't be printed must not keep its message from being parked
        return "it has no text that can be printed"


def storable(text: str) -> str:
    """Text without what some database refuses: lone surrogates, NUL, more than 2000 characters."""
    return _without_what_is_refused(text[:2000])


def _without_what_is_refused(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def decoded(decoder: Decodes[Read], message: Message) -> Read:
    """The command or event of a message. Raises Unreadable."""
    try:
        return decoder.decode(message.data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unreadable(f"{message.type}: {error}") from error


class Write(NamedTuple):
    """An event of a type, or a document of a view, by its key. `data` is its JSON; None for a document's end."""

    type: str
    key: str
    data: bytes | None


class Rehearsed(NamedTuple):
    """The end that a message would come to: applied, duplicate, refused, failed, or waits behind one that failed.

    `detail` says why; `writes` are the events that it would emit, or the documents that it would write.
    """

    id: str
    result: str
    detail: str = ""
    writes: Sequence[Write] = ()
