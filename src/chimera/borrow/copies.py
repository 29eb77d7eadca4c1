"""The copies of an owner's share: filled, kept up, put in force when complete, and dropped.

`async` copies the documents, `hybrid` only the keys that have one; both are projections of the
owner's events, named after the mode. They start from what the owner has now where it can tell, else from its
first event. A wanted mode's copy is filled and caught up while the old mode goes on answering. What neither needs
is dropped a while later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from chimera.borrow.bootstrap import Bootstrap
from chimera.borrow.modes import CopyFloor, ModeSetting, flip, read_mode, settle_s
from chimera.core.aio.tasks import stop
from chimera.core.context import Context
from chimera.core.names import all_of, copy_name, filling_view, share_type
from chimera.errors import ChimeraError, Trimmed
from chimera.forms import AnyDocument
from chimera.journal.checkpoints import Place, reach, short_of
from chimera.journal.consumers import COPYING
from chimera.journal.crash_loop import watching
from chimera.journal.feed import Feed
from chimera.journal.history import known_divergences
from chimera.journal.leases import partitions_of
from chimera.messages import partition_of
from chimera.parts import Borrow, Mode
from chimera.ports import Checkpoint
from chimera.views.projections import CopyProjection
from chimera.views.projector import Projector
from chimera.views.switch import Settling

logger = logging.getLogger("chimera")


class CopyKeeper:
    """Keeps what the modes in force and wanted need, drops what they don't, and flips when it is time.

    It fills the copy's part that comes from the partitions `held`.
    """

    def __init__(self, context: Context, borrow: Borrow[AnyDocument], held: frozenset[int]) -> None:
        self._context = context
        self._borrow = borrow
        self._held = held
        self._filling: dict[Mode, asyncio.Task[None]] = {}
        self._unneeded_since: dict[Mode, float] = {}
        self._timing = context.timing
        self._clock = context.clock
        self._settling: Settling[ModeSetting] = Settling(settle_s(context, borrow), context.clock)

    async def run(self) -> None:
        """Keep the copies until cancelled. Raises Unavailable when an engine can't be reached."""
        try:
            while True:
                setting = await read_mode(self._context, self._borrow)
                await self._fill_or_drop({setting.mode, setting.wanted})
                if self._settling.see(setting) and setting.wanted != setting.mode and await self._is_ready(setting):
                    await flip(self._context, self._borrow, setting)
                await self._clock.sleep(self._timing.keep_s)
        finally:
            await stop(*self._filling.values())

    async def _is_ready(self, setting: ModeSetting) -> bool:
        return setting.wanted == "sync" or await caught_up(self._context, self._borrow, setting.wanted)

    async def _fill_or_drop(self, modes: set[Mode]) -> None:
        for mode in COPYING:
            if mode in modes:
                self._unneeded_since.pop(mode, None)
                if mode not in self._filling:
                    self._filling[mode] = asyncio.ensure_future(_fill(self._context, self._borrow, mode, self._held))
                elif self._filling[mode].done():
                    await self._filling.pop(mode)
            elif self._has_passed(mode):
                # Until now read heads that had not seen the change might have read it, and waited for it to move.
                if mode in self._filling:
                    await stop(self._filling.pop(mode))
                await _drop(self._context, self._borrow, mode)

    def _has_passed(self, mode: Mode) -> bool:
        """True when the mode's copy has been unneeded for so long that nobody reads it any more."""
        now = self._clock.monotonic()
        return now > self._unneeded_since.setdefault(mode, now) + self._timing.switch_grace_s


async def keep_copies(context: Context, borrow: Borrow[AnyDocument], held: frozenset[int]) -> None:
    """Keep a borrow's copies, the part that comes from the partitions that are held, until cancelled."""
    await CopyKeeper(context, borrow, held).run()


async def caught_up(context: Context, borrow: Borrow[AnyDocument], mode: Mode) -> bool:
    """True when the mode's copy soon has everything that the owner has now. False when the owner can't be asked.

    An owner that is busy is always a little ahead: so the copy is given a moment to reach where the owner was.
    """
    try:
        heads = await context.owners[borrow.owner].heads()
    except ChimeraError:
        return False
    return bool(heads) and await reaches(context, borrow, mode, heads, context.timing.meet_s)


async def reaches(
    context: Context, borrow: Borrow[AnyDocument], mode: Mode, heads: Mapping[int, int], within_s: float
) -> bool:
    """True when the mode's copy reaches these numbers, by partition of its owner, in so many seconds."""
    floor = {(borrow.owner, partition): number for partition, number in heads.items()}
    return not await reach(context, copy_name(borrow.name, mode), floor, within_s)


class CopyAge:
    """The age of a copy: the time since which it is known to have had everything that its owner had.

    Heads are asked for, and the copy is as of that moment once its checkpoints have reached them. The part of it that
    comes from one partition may be known to be newer, because it has reached a floor.
    """

    def __init__(self, context: Context, borrow: Borrow[AnyDocument]) -> None:
        self._context = context
        self._borrow = borrow
        self._as_of: dict[Mode, float] = {}
        self._floors: dict[Mode, dict[int, float]] = {}
        self._partitions = 0
        self._stood: dict[tuple[Mode, int], Checkpoint] = {}
        self._heads: dict[Mode, Mapping[int, int]] = {}
        self._comparing: dict[Mode, tuple[float, Mapping[int, int]]] = {}

    def seconds(self, mode: Mode, key: str) -> float | None:
        """The age of what the copy says of a key; None when nothing is known about it yet."""
        as_of = self._as_of.get(mode)
        if (floors := self._floors.get(mode)) and (own := floors.get(partition_of(key, self._partitions))) is not None:
            as_of = own if as_of is None else max(as_of, own)
        return None if as_of is None else self._context.clock.monotonic() - as_of

    def begin(self, mode: Mode, as_of: float, heads: Mapping[int, int]) -> None:
        """The copy has these numbers, all that its owner had at that time (monotonic seconds)."""
        self._as_of[mode] = max(as_of, self._as_of.get(mode, as_of))
        self._has(mode, heads)

    def reached(self, mode: Mode, floor: CopyFloor) -> None:
        """The copy has reached a floor: so old, or newer, is its part that comes from that partition."""
        floors, partition = self._floors.setdefault(mode, {}), floor.position.partition
        floors[partition] = max(floor.as_of, floors.get(partition, floor.as_of))
        self._partitions = floor.partitions
        self._has(mode, {partition: floor.position.number})

    def _has(self, mode: Mode, heads: Mapping[int, int]) -> None:
        if (known := self._heads.get(mode)) is not None:
            self._heads[mode] = {**known, **{each: max(n, known.get(each, 0)) for each, n in heads.items()}}

    def _lost(self, mode: Mode) -> None:
        self._as_of.pop(mode, None)
        self._floors.pop(mode, None)

    def holds(self, mode: Mode, at: Mapping[Place, Checkpoint]) -> bool:
        """True when a copy with these checkpoints is still where it was compared; a copy that was lost is not.

        Nor is one that was not compared yet: what it may be as old as says nothing about what it has.
        """
        heads = self._heads.get(mode)
        return heads is not None and not short_of(at, {(self._borrow.owner, each): n for each, n in heads.items()})

    async def watch(self, mode: Mode) -> None:
        """Compare once: ask for the heads, wait a moment until the copy has reached them, else go on the next time.

        A copy that is not any more where it once was has no age.
        """
        at = await self._context.views.checkpoints(copy_name(self._borrow.name, mode))
        if mode in self._heads and not self.holds(mode, at):
            self._lost(mode)
            self._heads.pop(mode, None)
        if mode not in self._comparing:
            self._comparing[mode] = await self._context.owners.heads(self._borrow.owner).dated()
        asked, heads = self._comparing[mode]
        if await reaches(self._context, self._borrow, mode, heads, self._context.timing.meet_s):
            self._heads.setdefault(mode, heads)
            if await self._stands(mode, heads):
                self.begin(mode, asked, heads)
            else:
                self._lost(mode)
            del self._comparing[mode]

    async def _stands(self, mode: Mode, heads: Mapping[int, int]) -> bool:
        """False when a copy that has reached its owner's heads did so on another history."""
        name, owner = copy_name(self._borrow.name, mode), self._borrow.owner
        stored = await self._context.views.checkpoints(name)
        at = {
            partition: checkpoint
            for (source, partition), checkpoint in stored.items()
            if source == owner
            and checkpoint.number >= heads.get(partition, 0)
            and checkpoint != self._stood.get((mode, partition))
        }
        if at and await known_divergences(self._context, owner, at):
            return False
        self._stood.update({(mode, partition): checkpoint for partition, checkpoint in at.items()})
        return True


def copy_projection(borrow: Borrow[AnyDocument], mode: Mode) -> CopyProjection:
    """The projection that keeps a mode's copy: of documents, or of keys alone in hybrid mode."""
    return CopyProjection(
        copy_name(borrow.name, mode),
        share_type(borrow.owner, borrow.share),
        borrow.document,
        keys_only=mode == "hybrid",
    )


async def _fill(context: Context, borrow: Borrow[AnyDocument], mode: Mode, held: frozenset[int]) -> None:
    projection = copy_projection(borrow, mode)
    projector = Projector(context, projection)
    partitions = await partitions_of(context, borrow.owner, held)
    filling = Bootstrap(context, borrow, projection.name, projector)
    await filling.fill(partitions)
    await projector.redrive_unread()
    at, heads = await projector.checkpoints(borrow.owner, partitions), partial(context.owners.known_heads, borrow.owner)
    feed = Feed(context, borrow.owner, at, projection.name)
    again = asyncio.ensure_future(filling.keep_trying(partitions))
    try:
        async with watching(context, projection.name, borrow.owner, at, heads, in_views=True) as watch:
            await projector.run(feed, watch)
    except Trimmed as gone:
        logger.warning("%s: %s; it is filled from %s's documents", projection.name, gone, borrow.owner)
        await filling.fill(partitions, [gone.partition])
    finally:
        await stop(again)
        await feed.close()


async def _drop(context: Context, borrow: Borrow[AnyDocument], mode: Mode) -> None:
    name = copy_name(borrow.name, mode)
    if await context.views.checkpoints(name) or await context.views.scan(filling_view(name), limit=1):
        await context.views.drop(name, all_of(name))
