"""What a borrower keeps of an owner's share: filled, kept up, put in force when it is complete, and dropped.

`async` keeps copies of the documents, `hybrid` only the keys that have one; both are projections of the
owner's events, named after the mode. They start from what the owner has now where it can tell, else from its
first event. A wanted mode's copy is filled and caught up while the old mode goes on answering. What neither needs
is dropped a while later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from chimera.body import Body
from chimera.errors import ChimeraError, Trimmed
from chimera.feed import Feed
from chimera.filling import Filling
from chimera.messages import Position
from chimera.modes import ModeSetting, Settling, flip, read_mode
from chimera.projections import CopyProjection
from chimera.projector import Projector
from chimera.service import Borrow, Mode
from chimera.setaside import kept_views
from chimera.sharing import share_type
from chimera.tasks import stop

logger = logging.getLogger("chimera")

COPYING: tuple[Mode, ...] = ("async", "hybrid")
LOOK_S = 0.25
GRACE_S = 2.0
COMPARE_S = 0.25
LOOK_AGAIN_S = 0.02


def copy_name(borrow: Borrow[Any], mode: Mode) -> str:
    """The name of the projection that a mode reads."""
    return f"borrow.{borrow.name}.{mode}"


class CopyKeeper:
    """Keeps what the modes in force and wanted need, drops what they don't, and flips when it is time.

    It fills the copy's part that comes from the partitions `held`.
    """

    def __init__(self, body: Body, borrow: Borrow[Any], held: frozenset[int]) -> None:
        self._body = body
        self._borrow = borrow
        self._held = held
        self._filling: dict[Mode, asyncio.Task[None]] = {}
        self._unneeded_since: dict[Mode, float] = {}
        self._settling = Settling(borrow)

    async def run(self) -> None:
        """Keep the copies until cancelled. Raises Unavailable when an engine can't be reached."""
        try:
            while True:
                setting = await read_mode(self._body, self._borrow)
                await self._fill_or_drop({setting.mode, setting.wanted})
                if self._settling.see(setting) and setting.wanted != setting.mode and await self._is_ready(setting):
                    await flip(self._body, self._borrow, setting)
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._filling.values():
                await stop(task)

    async def _is_ready(self, setting: ModeSetting) -> bool:
        return setting.wanted == "sync" or await caught_up(self._body, self._borrow, setting.wanted)

    async def _fill_or_drop(self, modes: set[Mode]) -> None:
        for mode in COPYING:
            if mode in modes:
                self._unneeded_since.pop(mode, None)
                if mode not in self._filling:
                    self._filling[mode] = asyncio.ensure_future(_fill(self._body, self._borrow, mode, self._held))
                elif self._filling[mode].done():
                    await self._filling.pop(mode)
            elif time.monotonic() > self._unneeded_since.setdefault(mode, time.monotonic()) + GRACE_S:
                # Until now read heads that had not seen the change might have read it, and waited for it to move.
                if mode in self._filling:
                    await stop(self._filling.pop(mode))
                await _drop(self._body, self._borrow, mode)


async def caught_up(body: Body, borrow: Borrow[Any], mode: Mode) -> bool:
    """Whether the mode's copy soon has everything that the owner has now. False when the owner can't be asked.

    An owner that is busy is always a little ahead: so the copy is given a moment to reach where the owner was.
    """
    try:
        heads = await body.owner(borrow.owner).heads()
    except ChimeraError:
        return False
    return bool(heads) and await _reaches(body, borrow, mode, _places(borrow, heads), time.monotonic() + COMPARE_S)


async def behind(body: Body, borrow: Borrow[Any], mode: Mode, positions: Sequence[Position]) -> list[Position]:
    """Where the mode's copy is in those partitions in which it has not reached a position."""
    at = await body.views.checkpoints(copy_name(borrow, mode))
    reached = {place: checkpoint.number for place, checkpoint in at.items()}
    here = [msgspec.structs.replace(each, number=reached.get((each.source, each.partition), 0)) for each in positions]
    return [now for now, wanted in zip(here, positions, strict=True) if now.number < wanted.number]


async def _reaches(body: Body, borrow: Borrow[Any], mode: Mode, positions: Sequence[Position], until: float) -> bool:
    """Whether the mode's copy reaches these positions before it is `until`."""
    while await behind(body, borrow, mode, positions):
        if time.monotonic() > until:
            return False
        await body.moved.wait(LOOK_AGAIN_S)
    return True


def _places(borrow: Borrow[Any], heads: Mapping[int, int]) -> list[Position]:
    return [Position(borrow.owner, partition, number) for partition, number in heads.items()]


class CopyAge:
    """How old a copy may be: the time since which it is known to have had everything that its owner had.

    Heads are asked for, and the copy is as of that moment once its checkpoints have reached them.
    """

    def __init__(self, body: Body, borrow: Borrow[Any]) -> None:
        self._body = body
        self._borrow = borrow
        self._as_of: dict[Mode, float] = {}
        self._comparing: dict[Mode, tuple[float, Mapping[int, int]]] = {}

    def seconds(self, mode: Mode) -> float | None:
        """The copy's age; None when nothing is known about it yet."""
        as_of = self._as_of.get(mode)
        return None if as_of is None else time.monotonic() - as_of

    def begin(self, mode: Mode, as_of: float) -> None:
        """The copy is not read before it has everything that its owner had at that time (monotonic seconds)."""
        self._as_of[mode] = max(as_of, self._as_of.get(mode, as_of))

    async def watch(self, mode: Mode) -> None:
        """Compare once: ask for the heads, wait a moment until the copy has reached them, else go on the next time."""
        until = time.monotonic() + COMPARE_S
        if mode not in self._comparing:
            self._comparing[mode] = await self._body.heads(self._borrow.owner).dated()
        asked, heads = self._comparing[mode]
        if await _reaches(self._body, self._borrow, mode, _places(self._borrow, heads), until):
            self.begin(mode, asked)
            del self._comparing[mode]


def copy_projection(borrow: Borrow[Any], mode: Mode) -> CopyProjection:
    """What keeps a mode's copy."""
    return CopyProjection(
        copy_name(borrow, mode), share_type(borrow.owner, borrow.share), borrow.document, keys_only=mode == "hybrid"
    )


async def _fill(body: Body, borrow: Borrow[Any], mode: Mode, held: frozenset[int]) -> None:
    projection = copy_projection(borrow, mode)
    projector = Projector(body.service.name, projection, body.views, metrics=body.metrics, moved=body.moved)
    partitions = await body.partitions_of(borrow.owner, held)
    filling = Filling(body, borrow, projection.name, projector)
    await filling.fill(partitions)
    at, heads = await projector.checkpoints(borrow.owner, partitions), partial(body.known_heads, borrow.owner)
    feed: Feed = body.feed(borrow.owner, at)
    again = asyncio.ensure_future(filling.keep_trying(partitions))
    try:
        async with body.watching(projection.name, borrow.owner, at, heads, views=True) as watch:
            await projector.run(feed, watch)
    except Trimmed as gone:
        logger.warning("%s: %s; it is filled from %s's documents", projection.name, gone, borrow.owner)
        await filling.fill(partitions, [gone.partition])
    finally:
        await stop(again)
        await feed.close()


async def _drop(body: Body, borrow: Borrow[Any], mode: Mode) -> None:
    name = copy_name(borrow, mode)
    if await body.views.checkpoints(name):
        await body.views.drop(name, kept_views(name))
