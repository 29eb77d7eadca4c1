"""Board: a view of another service's events, and a copy of what it shares."""

from __future__ import annotations

import msgspec

from chimera import Reader, Service
from chimera_faults.tally.messages import Added, Standing

board = Service("board", partitions=4)


class SeenNote(msgspec.Struct):
    """A view of another service's events: the labels of an account."""

    account_id: str
    labels: list[str] = []


class ShownStanding(msgspec.Struct):
    """A standing as it is shown: its state says how far it can be trusted."""

    account_id: str
    state: str
    last: str = ""


seen = board.view(SeenNote, key="account_id", path="/seen/{account_id}", name="seen")
standings = board.borrow("standings", Standing, owner="tally", mode="async")


@seen.on(Added)
def saw(document: SeenNote, event: Added) -> None:
    """Add the label."""
    document.labels.append(event.label)


@board.get("/standings/{account_id}")
async def show_standing(account_id: str, read: Reader) -> ShownStanding:
    """Show what is borrowed of an account."""
    found = await read.borrowed(standings, account_id)
    return ShownStanding(account_id, found.state, found.value.last if found.value else "")
