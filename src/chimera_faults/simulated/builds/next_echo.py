"""The next build of echo: everything has another name in Python, and it reads more.

Both builds run side by side while echo is upgraded, and the old one comes back: they share what is stored. What only
this one can read is a command, a field and a value of another command, and what becomes of them: an event.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from chimera import Command, Entity, Event, Service, Transaction
from chimera_faults.simulated.builds.echo import Remembered
from chimera_faults.simulated.seating import with_seats
from chimera_faults.tally.messages import Added, Standing

next_echo = Service("echo", partitions=2)
with_seats(next_echo)


@next_echo.entity
class Listened(Entity, key="account_id", renamed_from="heard"):
    """As `Heard`."""

    account_id: str
    labels: list[str] = []  # noqa: RUF012 - msgspec copies it


class SaidAgain(Event, source="echo", key="account_id", renamed_from="Echoed"):
    """As `Echoed`."""

    account_id: str
    label: str


class Sayings(msgspec.Struct):
    """As `Echoes`."""

    account_id: str
    labels: list[str] = []


@next_echo.on(Added, renamed_from="hear", start="beginning")
async def listen(event: Added, tx: Transaction) -> None:
    """As `hear`."""
    listened = await tx.load(Listened, event.account_id) or Listened(event.account_id)
    listened.labels.append(event.label)
    tx.save(listened)
    tx.emit(SaidAgain(event.account_id, event.label))


sayings = next_echo.view(Sayings, key="account_id", path="/echoes/{account_id}", renamed_from="echoes")


@sayings.on(SaidAgain)
def said_again(document: Sayings, event: SaidAgain) -> None:
    """Add the label."""
    document.labels.append(event.label)


standings = next_echo.borrow("standings", Standing, owner="tally", mode="hybrid")


Mood = Literal["plain", "glad"]
next_echo.entity(Remembered)


class SayMore(Command, key="account_id", name="Say"):
    """As `Say`, in one mood more, and with a word aside."""

    account_id: str
    word: str
    mood: Mood = "plain"
    aside: str = ""


class Whisper(Command, key="account_id"):
    """As `Say`, more quietly."""

    account_id: str
    word: str


class SaidMore(Event, source="echo", key="account_id", name="Said"):
    """As `Said`, in one mood more."""

    account_id: str
    word: str
    mood: Mood = "plain"


@next_echo.handle("POST /words")
async def say_more(command: SayMore, tx: Transaction) -> None:
    """As `say`."""
    tx.emit(SaidMore(command.account_id, command.word, command.mood))


@next_echo.handle("POST /whispers")
async def whisper(command: Whisper, tx: Transaction) -> None:
    """Say a word in the mood that is new."""
    tx.emit(SaidMore(command.account_id, command.word, "glad"))


@next_echo.on(SaidMore, name="remember", start="beginning")
async def remember_more(event: SaidMore, tx: Transaction) -> None:
    """As `remember`."""
    remembered = await tx.load(Remembered, event.account_id) or Remembered(event.account_id)
    remembered.words.append(event.word)
    tx.save(remembered)
