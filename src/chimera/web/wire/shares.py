"""Sharing what is limited (requests under way, bytes held): nobody gets all of it, whoever comes first."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec


class Lane(msgspec.Struct):
    """What was taken in a lane, in all and by each of its clients."""

    taken: int = 0
    clients: dict[str, int] = {}


class Shares:
    """A number of units (`limit`), shared by lanes, and in each lane by clients, by dynamic thresholds.

    A lane and a client in it get more while as much as both have stays free beside it. So one client alone gets a
    third, a lane of many at most half, two such lanes a third each; who comes new finds room, whatever the others do.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._lanes: dict[Hashable, Lane] = {}

    def take(self, name: Hashable, client: str, amount: int = 1) -> Lane | None:
        """Take so many units for a client in a lane; None, and nothing is taken, where that is more than its share."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane()
        own = lane.clients.get(client, 0)
        if lane.taken + own + amount > self.limit - self.taken:
            return None
        self.taken += amount
        lane.taken += amount
        lane.clients[client] = own + amount
        return lane

    def give_back(self, lane: Lane, client: str, amount: int = 1) -> None:
        """Give back units that were taken of a lane."""
        self.taken -= amount
        lane.taken -= amount
        left = lane.clients[client] - amount
        if left:
            lane.clients[client] = left
        else:
            del lane.clients[client]
