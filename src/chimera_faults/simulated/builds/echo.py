"""Echo: takes words, reacts to another service's events with effects and events of its own, borrows in hybrid mode."""

from __future__ import annotations

from typing import Literal

import msgspec

from chimera import Command, Entity, Event, Service, Transaction
from chimera_faults.simulated.seating import with_seats
from chimera_faults.tally.messages import Added, Standing

echo = Service("echo", partitions=2)
with_seats(echo)


@echo.entity
class Heard(Entity, key="account_id", table="heard"):
    """The labels that were heard of an account."""

    account_id: str
    labels: list[str] = []  # noqa: RUF012 - msgspec copies it


class Echoed(Event, source="echo", key="account_id"):
    """A label was heard, and is said again."""

    account_id: str
    label: str


class Echoes(msgspec.Struct):
    """A view of what was said again."""

    account_id: str
    labels: list[str] = []


@echo.on(Added, start="beginning")
async def hear(event: Added, tx: Transaction) -> None:
    """Write the label down, and say it again."""
    heard = await tx.load(Heard, event.account_id) or Heard(event.account_id)
    heard.labels.append(event.label)
    tx.save(heard)
    tx.emit(Echoed(event.account_id, event.label))


echoes = echo.view(Echoes, key="account_id", path="/echoes/{account_id}", name="echoes")


@echoes.on(Echoed)
def echoed(document: Echoes, event: Echoed) -> None:
    """Add the label."""
    document.labels.append(event.label)


standings = echo.borrow("standings", Standing, owner="tally", mode="hybrid")


@echo.entity
class Remembered(Entity, key="account_id", table="remembered"):
    """The words that were said to an account."""

    account_id: str
    words: list[str] = []  # noqa: RUF012 - msgspec copies it


class Say(Command, key="account_id"):
    """Say a word."""

    account_id: str
    word: str
    mood: Literal["plain"] = "plain"


class Said(Event, source="echo", key="account_id"):
    """A word was said."""

    account_id: str
    word: str
    mood: Literal["plain"] = "plain"


@echo.handle("POST /words")
async def say(command: Say, tx: Transaction) -> None:
    """Say it, some time after 201."""
    tx.emit(Said(command.account_id, command.word, command.mood))


@echo.on(Said, start="beginning")
async def remember(event: Said, tx: Transaction) -> None:
    """Write the word down."""
    remembered = await tx.load(Remembered, event.account_id) or Remembered(event.account_id)
    remembered.words.append(event.word)
    tx.save(remembered)
