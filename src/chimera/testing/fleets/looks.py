"""One who looks at views and borrows, and knows what she has written and seen before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from chimera.journal.checkpoints import Place, floor_of
from chimera.messages import Position
from chimera.parts import Borrow, Borrowed, Mode
from chimera.reader import Notes
from chimera.testing.fleets.network import Broken, Listener
from chimera.testing.fleets.promises import SharedVersion
from chimera.testing.fleets.world import World

AFTER, BEHIND, POSITION = "chimera-after", "chimera-behind", "chimera-position"
FIRST = "who writes reads what she wrote"
BACK = "who brings back what she saw sees no less"


class Looks:
    """Looks at everything that shows a key: each view that has a path, and each borrow.

    What is shown has what she wrote, or says that it is behind; and never less than what she saw there before. When she
    follows, she brings back every position that she was given: then nothing shows less than anything did.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._promises = world.promises
        self._first = next(iter(world.fleet.services))
        self._seen: dict[tuple[str, str, str], int] = {}
        """The version of each document that she has seen: by service, view or borrow, and key."""
        self._given: dict[Place, int] = {}
        """The positions that she was given."""
        self._shown: dict[Place, int] = {}
        """The events, by place, that what she was shown when she followed had in it."""

    async def look(self, keys: Sequence[str], after: Sequence[Position]) -> int:
        """Look at a command's key, and at other words of it that are keys; says how many answers came.

        `after` are the positions of what she has written.
        """
        return await self._look(keys, _Look(after, floor_of(after)))

    async def follow(self, keys: Sequence[str], after: Sequence[Position]) -> int:
        """As `look`, and bring back what she was given, each time."""
        self._keep(after)
        return await self._look(keys, None)

    async def _look(self, keys: Sequence[str], look: _Look | None) -> int:
        came = 0
        for name, service in self._world.fleet.services.items():
            for view in service.views.values():
                if view.path is not None and view.path.count("{") == 1 and "?" not in view.path:
                    for key in keys:
                        path = view.path.replace(f"{{{view.key}}}", quote(key))
                        came += await self._look_at_view(name, view.name, path, key, look or self._following())
            for borrow in service.borrows.values():
                for key in keys:
                    if key == keys[0] or self._promises.shared(borrow.owner, borrow.share, key):
                        came += await self._look_at_borrow(name, borrow, key, look or self._following())
        return came

    def _following(self) -> _Look:
        given = [Position(*place, number) for place, number in self._given.items()] or [Position(self._first, 0, 0)]
        return _Look(given, {**self._shown, **_highest(self._given, self._shown)}, follows=True)

    def _keep(self, given: Iterable[Position]) -> None:
        self._given = _highest(floor_of(given), self._given)

    async def _look_at_view(self, service: str, view: str, path: str, key: str, look: _Look) -> bool:
        ideals = self._promises.ideals[service, view]
        history = ideals[0].histories.get(key)
        if history is None or len(ideals) > 1:
            return False
        headers = {AFTER: look.header} if look.after else {}
        floor = history.index_of(look.floor.get(history.place, 0))
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
        if answer.status not in (200, 404):
            return True
        self._keep(map(Position.parse, filter(None, answer.headers.get(POSITION, "").split(","))))
        if not history.is_known or is_empty:
            return True
        newest = history.newest(data)
        if newest < 0:
            self._promises.breaks("a view shows what was", f"{path} of {service} shows {answer.body.decode()}", key)
            return True
        if newest < floor and BEHIND not in answer.headers:
            self._promises.breaks(
                look.promise,
                f"{path} of {service} answers {answer.status} with version {newest} of {key!r}; she brings version "
                f"{floor} ({look.header}), and it does not say that it is behind",
                key,
            )
        if look.follows:
            self._saw(history.place, [each.number for each in history.versions], history.oldest(data))
        self._compare(service, view, key, history.oldest(data), newest, path)
        return True

    async def _look_at_borrow(self, service: str, borrow: Borrow[Any], key: str, look: _Look) -> bool:
        versions = self._promises.shared(borrow.owner, borrow.share, key)
        floor = sum(version.number <= look.floor.get(version.place, 0) for version in versions)
        began = self._world.loop.now
        try:
            found, notes, mode = await self._world.network.within(
                service, lambda listener: _borrowed(listener, borrow.name, key, Notes(look.after))
            )
        except Broken:
            return False
        if self._promises.forgot_at.get(service, -1.0) >= began:
            return True
        self._keep(notes.seen if look.follows else ())
        versions = self._promises.shared(borrow.owner, borrow.share, key)
        shown = None if found.value is None else msgspec.to_builtins(found.value)
        matching = [index for index, version in enumerate(versions, 1) if version.document == shown]
        if shown is None:
            matching.insert(0, 0)
        what = f"{service} shows {shown} of {key!r} as {found.state}"
        what += "" if found.age is None else f", {found.age:.2f} s old"
        self._check_absence(found, versions, began, what, key)
        if look.follows and matching and versions:
            if max(matching) < floor and not notes.behind:
                self._promises.breaks(BACK, f"{what}: version {max(matching)}; she has seen {floor}", key)
            self._saw(versions[0].place, [each.number for each in versions], min(matching))
        if found.state == "stale" or found.age is None or service in self._promises.forgot_at:
            return True
        if not matching:
            self._promises.breaks("a borrower shows what its owner had", f"{what}, which {borrow.owner} never had", key)
            return True
        if max(matching) < floor and (found.state == "fresh" or not notes.behind):
            self._promises.breaks(
                look.promise, f"{what}: version {max(matching)}; she brings version {floor} ({look.header})", key
            )
        # Who brings a position back, or comes when the copy may be old, is shown what the owner has, ahead of the copy.
        if not look.after and (mode == "sync" or found.age > 0.0):
            self._compare(service, borrow.name, key, min(matching), max(matching), what)
        return True

    def _check_absence(
        self, found: Borrowed[Any], versions: Sequence[SharedVersion], began: float, what: str, key: str
    ) -> None:
        """A key that is absent with an age had no document at some time since then."""
        if found.state != "absent" or found.age is None:
            return
        first = sum(version.at < began - found.age for version in versions)
        if first and all(version.document is not None for version in versions[first - 1 :]):
            self._promises.breaks("an absence with an age is one", f"{what}, and it was there all the time", key)

    def _saw(self, place: Place, numbers: Sequence[int], version: int) -> None:
        """What she was shown is this version at least, of those that events with these numbers made."""
        if version > 0:
            self._shown[place] = max(numbers[version - 1], self._shown.get(place, 0))

    def _compare(self, service: str, name: str, key: str, oldest: int, newest: int, what: str) -> None:
        """She must not see less than before; of several versions that look alike it may have been any."""
        before = self._seen.get((service, name, key), 0)
        if newest < before and service not in self._promises.forgot_at:
            self._promises.breaks(
                "nobody sees less than before", f"{what}: version {newest} of {key!r} after version {before}", key
            )
        self._seen[service, name, key] = max(oldest, before)


class _Look(NamedTuple):
    """One look: the positions that she brings, and, by place, the events that must be there."""

    after: Sequence[Position]
    floor: Mapping[Place, int]
    follows: bool = False

    @property
    def header(self) -> str:
        return ",".join(map(str, self.after))

    @property
    def promise(self) -> str:
        return BACK if self.follows else FIRST


def _highest(one: Mapping[Place, int], other: Mapping[Place, int]) -> dict[Place, int]:
    return {place: max(one.get(place, 0), other.get(place, 0)) for place in (*one, *other)}


async def _borrowed(listener: Listener, name: str, key: str, notes: Notes) -> tuple[Borrowed[Any], Notes, Mode]:
    """What a page would show, and what it would say besides (see Reader.borrowed)."""
    reads = listener.borrows[name]
    return await reads.get(key, notes), notes, reads.mode
