"""The next build of board: its view counts as well, so that it is another view to build while the old one serves."""

from __future__ import annotations

import msgspec

from chimera import Service
from chimera_faults.tally.messages import Added, Standing

next_board = Service("board", partitions=4)


class SeenAndCounted(msgspec.Struct):
    """A view of another service's events: the labels of an account, and how many there are."""

    account_id: str
    labels: list[str] = []
    count: int = 0


seen = next_board.view(SeenAndCounted, key="account_id", path="/seen/{account_id}", name="seen")
standings = next_board.borrow("standings", Standing, owner="tally", mode="async")


@seen.on(Added)
def saw(document: SeenAndCounted, event: Added) -> None:
    """Add the label, and count it."""
    document.labels.append(event.label)
    document.count += 1
