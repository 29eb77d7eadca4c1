"""Board: a view of another service's events, and a copy of what it shares."""

from __future__ import annotations

import msgspec

from chimera import Service
from chimera.testing.faults.tally.messages import Added, Standing

board = Service("board", partitions=4)


class Seen(msgspec.Struct):
    account_id: str
    labels: list[str] = []


seen = board.view(Seen, key="account_id", path="/seen/{account_id}")
standings = board.borrow("standings", Standing, owner="tally", mode="async")


@seen.on(Added)
def saw(document: Seen, event: Added) -> None:
    document.labels.append(event.label)
