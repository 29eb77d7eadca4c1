"""One who looks at views and borrows, and knows what she has written and seen before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from chimera.borrowed import Borrowed
from chimera.messages import Position
from chimera.reader import Notes
from chimera.service import Borrow, Mode
from chimera.testing.fleets.network import Broken, Listener
from chimera.testing.fleets.world import World

BEHIND = "chimera-behind"


class Looks:
    """Looks at everything that shows a key: each view that has a path, and each borrow.

    What is shown has what she wrote, or says that it is behind; and never less than what she saw there before.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._promises = world.promises
        self._seen: dict[tuple[str, str, str], int] = {}
        """The version of each document that she has seen: by service, view or borrow, and key."""

    async def look(self, keys: Sequence[str], after: Sequence[Position]) -> int:
        """Look at a command's key, and at other words of it that are keys; says how many answers came.

        `after` are the positions of what she has written.
        """
        came = 0
        for name, service in self._world.fleet.services.items():
            for view in service.views.values():
                if view.path is not None and view.path.count("{") == 1 and "?" not in view.path:
                    for key in keys:
                        path = view.path.replace(f"{{{view.key}}}", quote(key))
                        came += await self._look_at_view(name, view.name, path, key, after)
            for borrow in service.borrows.values():
                for key in keys:
                    if key == keys[0] or self._promises.shared(borrow.owner, borrow.share, key):
                        came += await self._look_at_borrow(name, borrow, key, after)
        return came

    async def _look_at_view(self, service: str, view: str, path: str, key: str, after: Sequence[Position]) -> bool:
        ideals = self._promises.ideals[service, view]
        history = ideals[0].histories.get(key)
        if history is None or len(ideals) > 1:
            return False
        headers = {"chimera-after": ",".join(map(str, after))} if after else {}
        floor = max((history.index_of(each.number) for each in after if history.place == _place(each)), default=0)
        began = self._world.loop.now
        try:
            answer = await self._world.network.ask(service, "GET", path, headers=headers)
        except Broken:
            return False
        if self._promises.forgot_at.get(service, -1.0) >= began:
            return True
        declared = self._world.fleet.services[service].views[view]
        data = answer.body if answer.status == 200 else None
        is_empty = declared.absent == "empty" and data is not None and history.newest(data) < 0
        if answer.status not in (200, 404) or not history.is_known or is_empty:
            return True
        newest = history.newest(data)
        if newest < 0:
            self._promises.breaks("a view shows what was", f"{path} of {service} shows {answer.body.decode()}", key)
            return True
        if newest < floor and BEHIND not in answer.headers:
            self._promises.breaks(
                "who writes reads what she wrote",
                f"{path} of {service} answers {answer.status} with version {newest} of {key!r}; she wrote version "
                f"{floor} ({', '.join(map(str, after))}), and it does not say that it is behind",
                key,
            )
        self._compare(service, view, key, history.oldest(data), newest, path)
        return True

    async def _look_at_borrow(self, service: str, borrow: Borrow[Any], key: str, after: Sequence[Position]) -> bool:
        own = [each for each in after if each.source == borrow.owner]
        try:
            found, missing, mode = await self._world.network.within(
                service, lambda listener: _borrowed(listener, borrow.name, key, own)
            )
        except Broken:
            return False
        versions = self._promises.shared(borrow.owner, borrow.share, key)
        numbers = {_place(each): each.number for each in own}
        floor = sum(version.number <= numbers.get(version.place, 0) for version in versions)
        shown = None if found.value is None else msgspec.to_builtins(found.value)
        matching = [index for index, version in enumerate(versions, 1) if version.document == shown]
        if shown is None:
            matching.insert(0, 0)
        if found.state == "stale" or found.age is None or service in self._promises.forgot_at:
            return True
        what = f"{service} shows {shown} of {key!r} as {found.state}, {found.age:.2f} s old"
        if not matching:
            self._promises.breaks("a borrower shows what its owner had", f"{what}, which {borrow.owner} never had", key)
            return True
        if max(matching) < floor and (found.state == "fresh" or not missing):
            self._promises.breaks(
                "who writes reads what she wrote",
                f"{what}: version {max(matching)}; she wrote version {floor} ({', '.join(map(str, own))})",
                key,
            )
        # Who brings a position back, or comes when the copy may be old, is shown what the owner has, ahead of the copy.
        if not own and (mode == "sync" or found.age > 0.0):
            self._compare(service, borrow.name, key, min(matching), max(matching), what)
        return True

    def _compare(self, service: str, name: str, key: str, oldest: int, newest: int, what: str) -> None:
        """She must not see less than before; of several versions that look alike it may have been any."""
        before = self._seen.get((service, name, key), 0)
        if newest < before and service not in self._promises.forgot_at:
            self._promises.breaks(
                "nobody sees less than before", f"{what}: version {newest} of {key!r} after version {before}", key
            )
        self._seen[service, name, key] = max(oldest, before)


async def _borrowed(
    listener: Listener, name: str, key: str, after: Sequence[Position]
) -> tuple[Borrowed[Any], list[Position], Mode]:
    """What a page would show, and what it would say that it has reached instead (see Reader.borrowed)."""
    reads, notes = listener.borrows[name], Notes(after)
    found = await reads.get(key, notes)
    return found, notes.behind, reads.mode


def _place(position: Position) -> tuple[str, int]:
    return position.source, position.partition
