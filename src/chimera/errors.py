"""Everything Chimera raises.

ChimeraError
├── DeclarationError   a service is declared wrongly; raised while it is being declared
├── SettingsError      chimera.toml or an environment variable is wrong
├── Rejected           a business refusal, raised by handlers and remembered with the command
│   ├── Taken          … because a value that only one may have is another's
│   └── Expired        … because what was reserved for a while is not, or no longer
├── Invalid            a request that breaks the declared types, before anything is stored
├── Unavailable        an engine or an owner can't be reached now; the work is tried again
│   ├── CutShort       … in the middle of a work, which may itself be the cause
│   ├── OutOfService   … whatever the work is: it is read-only, a standby, or starts or ends
│   └── NotYet         … because only another build can do it; whoever asks is told
├── Unfit              what is to be written can't be kept as it is; trying again does not help
├── Trimmed            a journal no longer has the events asked for; trying again does not help
└── Conflict           somebody else changed what this transaction relied on; run it again
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Sequence

import msgspec

MAKE_KEY = 'python -c "import secrets; print(secrets.token_hex(32))"'
"""What to type for a key of a fleet, or of operators."""


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with a field of what was sent."""

    field: str
    detail: str


class ChimeraError(Exception):
    """The base of every error of this library."""


class Unreadable(Exception):  # noqa: N818 - what a message is
    """This code can't read a message: it knows no such type, or the data break what the type declares.

    `elsewhere`: a write head that lives runs code that can.
    """

    elsewhere = False


class DeclarationError(ChimeraError):
    """A service, message, entity or view is declared wrongly; the text says what to change."""


class SettingsError(ChimeraError):
    """A setting is missing or wrong; the text names it and where it was read."""


class Rejected(ChimeraError):  # noqa: N818 - a refusal is an answer, not an error of ours
    """The business says no. Raised by a handler; its changes are undone and the reason is remembered.

    `reason` is a short word for programs, `detail` a sentence for people, `status` the HTTP status of a direct
    command's answer. `field` is the one at fault, if it is one; of several, `errors` says what is wrong with each.
    """

    def __init__(
        self, reason: str, detail: str = "", *, status: int = 409, field: str = "", errors: Sequence[FieldError] = ()
    ) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail
        self.status = status
        self.field = field
        self.errors = tuple(errors)


class Taken(Rejected):
    """Another row, or whoever else reserved it, has a value that only one may have: a 409 unless a handler catches it.

    `name` is that of the reservation, or of the unique fields with commas between; `value` what was asked for, as text;
    `holder` who has it: the key of the row.
    """

    def __init__(self, name: str, value: str, holder: str) -> None:
        super().__init__("taken", f"{name} is taken", field=name)
        self.name = name
        self.value = value
        self.holder = holder


class Expired(Rejected):
    """A value is not reserved, or no longer: a 409 unless a handler catches it.

    Its deadline has passed, it was given back, or never reserved. `name` is that of the reservation, `value` as text.
    """

    def __init__(self, name: str, value: str) -> None:
        super().__init__("expired", f"{name} is not reserved, or no longer", field=name)
        self.name = name
        self.value = value


class Invalid(ChimeraError):  # noqa: N818 - read as "an invalid request"
    """A request breaks the declared types. `field` is a path such as `$.amount_cents`; several are in `errors`."""

    def __init__(self, detail: str, *, field: str = "$", status: int = 422, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.status = status
        self.errors = tuple(errors)


class Unavailable(ChimeraError):  # noqa: N818 - read as "the store is unavailable"
    """An engine or an owner can't be reached or can't confirm. Nothing was stored; try again."""


class CutShort(Unavailable):
    """An engine ended a statement, or the connection, in the middle of a work. Nothing was stored.

    The engine may be away; or this work is the cause, whenever it is tried: too long, too large. To try it alone tells.
    """


class OutOfService(Unavailable):
    """An engine is there and takes no work now: it is read-only, a standby, starting or going down. Nothing was stored.

    No work is the cause. Its connections are given up: another server, or this one later, may take it.
    """


class NotYet(Unavailable):
    """Only another build can do it, and none that runs is that one. Nothing was stored; the text says why."""


class Unfit(ChimeraError):  # noqa: N818 - what something is
    """It can't be kept as it is: read again it would be another, or nothing; or it is larger than an engine holds.

    The text names the event, entity or document, the field, and the type of the value at fault.
    """


class Trimmed(ChimeraError):  # noqa: N818 - what happened to the events
    """Events that were asked for are gone. Whoever needs them starts anew, from the current documents."""

    def __init__(self, partition: int, after: int, what: str = "the journal") -> None:
        super().__init__(f"{what} has trimmed what follows number {after} of partition {partition}")
        self.partition = partition
        self.after = after


class Conflict(ChimeraError):  # noqa: N818 - read as "a conflict"
    """Somebody else changed what this transaction relied on. Running it again is safe."""


def at_line(path: str, line: int) -> str:
    """A place in a file, as it is told to people."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # another drive
        near = path
    return f"{path if near.startswith('..') else near}:{line}"


def line_of(function: Callable[..., object]) -> str:
    """The file and line of a function."""
    return at_line(function.__code__.co_filename, function.__code__.co_firstlineno)


def line_outside(packages: Collection[str]) -> str:
    """The file and line that is running now, outside of these packages."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
        frame = frame.f_back
    return at_line(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def class_at(class_: type) -> str:
    """The file and line of a class; its module and name where there is no source."""
    try:
        return at_line(inspect.getsourcefile(class_) or "", inspect.getsourcelines(class_)[1])
    except (OSError, TypeError):
        return f"{class_.__module__}.{class_.__qualname__}"
