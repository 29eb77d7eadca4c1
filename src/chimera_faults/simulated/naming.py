"""The next build of echo, in which everything has another name in Python; and mistakes about names.

Both builds run side by side while echo is upgraded, and the old one comes back: they share what is stored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chimera import Entity, Event, Service, Transaction
from chimera.commands import react
from chimera.commands.handlers import reaction_executor
from chimera_faults.patching import Mistake, Patching
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


def _named_after_its_function(at: Patching) -> None:
    def executor(context: Any, reaction: Any, source: str) -> Any:
        name = reaction.function.__name__
        if name == reaction.name or not at.wrong():
            return reaction_executor(context, reaction, source)
        return reaction_executor(context, reaction._replace(name=name), source)

    at.replace(react, "reaction_executor", executor)


NAMING = {
    "named-after-its-function": Mistake(
        "a reaction keeps its checkpoints under the name of its function", "", _named_after_its_function
    ),
}
