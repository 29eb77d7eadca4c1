"""Board: a view of another service's events, and a copy of what it shares."""

from __future__ import annotations

import msgspec

from chimera import Service
from chimera_faults.tally.messages import Added, Standing

board = Service("board", partitions=4)


class SeenNote(msgspec.Struct):
    """A view of another service's events: the labels of an account."""

    account_id: str
    labels: list[str] = []


seen = board.view(SeenNote, key="account_id", path="/seen/{account_id}", name="seen")
standings = board.borrow("standings", Standing, owner="tally", mode="async")


@seen.on(Added)
def saw(document: SeenNote, event: Added) -> None:
    """Add the label."""
    document.labels.append(event.label)
