"""The messages of the two services. Every message carries the label that the rig gave to its command."""

from __future__ import annotations

import msgspec

from chimera import Command, Event


class Add(Command, key="account_id"):
    """Add to an account. A negative amount is refused; `poison` makes the handler fail or its process end.

    The `text` comes with what is emitted, however long it is.
    """

    account_id: str
    label: str
    amount: int
    poison: str = ""
    text: str = ""


class AddNow(Command, key="account_id"):
    """As Add, inside the request."""

    account_id: str
    label: str
    amount: int
    poison: str = ""
    text: str = ""


class Added(Event, source="tally", key="account_id"):
    """An amount was added to an account."""

    account_id: str
    label: str
    amount: int
    text: str = ""


class Weighed(Event, source="tally", key="account_id"):
    """What an account weighs: a float, which may be none that JSON can hold."""

    account_id: str
    label: str
    weight: float


class Noted(Event, source="tally", key="account_id"):
    """A reaction has taken note of Added."""

    account_id: str
    label: str


class Standing(msgspec.Struct):
    """The document that the tally shares of an account."""

    account_id: str
    count: int
    total: int
    last: str
