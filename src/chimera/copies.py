"""What a borrower keeps of an owner's share, which mode is in force, and how it changes while serving.

`async` keeps copies of the documents, `hybrid` only the keys that have one; both are projections of the
owner's events, named after the mode. They start from what the owner has now where it can tell, else from its
first event. To leave `sync`, the copy is first filled and caught up while the
old mode goes on answering; then the mode flips. What a mode does not need is dropped afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from chimera.batchfold import parked_view
from chimera.body import Body
from chimera.errors import ChimeraError
from chimera.feed import Feed
from chimera.filling import Filling
from chimera.ports import Checkpoint, Document
from chimera.projections import CopyProjection
from chimera.projector import Projector
from chimera.service import Borrow, Mode
from chimera.sharing import share_type
from chimera.tasks import stop

SETTINGS = "chimera.borrows"
COPYING: tuple[Mode, ...] = ("async", "hybrid")
LOOK_S = 0.25
GRACE_S = 2.0
COMPARE_S = 0.25
LOOK_AGAIN_S = 0.02


class ModeSetting(msgspec.Struct, frozen=True):
    """How a borrow answers now (`mode`), and how it is to answer once that is ready (`wanted`)."""

    mode: Mode
    wanted: Mode


def copy_name(borrow: Borrow[Any], mode: Mode) -> str:
    """The name of the projection that a mode reads."""
    return f"borrow.{borrow.name}.{mode}"


async def read_mode(body: Body, borrow: Borrow[Any]) -> ModeSetting:
    """The mode in force: as it was last set, else as declared."""
    stored = (await body.views.get(SETTINGS, [borrow.name])).get(borrow.name)
    if stored is None or stored.data is None:
        declared = body.modes.get(borrow.name, borrow.mode)
        return ModeSetting(declared, declared)
    return msgspec.json.decode(stored.data, type=ModeSetting)


async def want_mode(body: Body, borrow: Borrow[Any], wanted: Mode) -> ModeSetting:
    """Ask for another mode. `sync` needs nothing and is in force at once; the others once they have caught up."""
    while True:
        stored = (await body.views.get(SETTINGS, [borrow.name])).get(borrow.name)
        now = await read_mode(body, borrow)
        setting = ModeSetting("sync" if wanted == "sync" else now.mode, wanted)
        if await _keep(body, borrow, setting, stored.revision if stored else 0):
            return setting


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

    async def run(self) -> None:
        """Keep the copies until cancelled. Raises Unavailable when an engine can't be reached."""
        try:
            while True:
                setting = await read_mode(self._body, self._borrow)
                await self._fill_or_drop({setting.mode, setting.wanted})
                if setting.wanted != setting.mode and await caught_up(self._body, self._borrow, setting.wanted):
                    await _flip(self._body, self._borrow, setting)
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._filling.values():
                await stop(task)

    async def _fill_or_drop(self, modes: set[Mode]) -> None:
        for mode in COPYING:
            if mode in modes:
                self._unneeded_since.pop(mode, None)
                if mode not in self._filling:
                    self._filling[mode] = asyncio.ensure_future(_fill(self._body, self._borrow, mode, self._held))
                elif self._filling[mode].done():
                    await self._filling.pop(mode)
            elif mode in self._filling:
                await stop(self._filling.pop(mode))
            elif time.monotonic() > self._unneeded_since.setdefault(mode, time.monotonic()) + GRACE_S:
                await _drop(self._body, self._borrow, mode)


async def caught_up(body: Body, borrow: Borrow[Any], mode: Mode) -> bool:
    """Whether the mode's copy soon has everything that the owner has now. False when the owner can't be asked.

    An owner that is busy is always a little ahead: so the copy is given a moment to reach where the owner was.
    """
    try:
        heads = await body.owner(borrow.owner).heads()
    except ChimeraError:
        return False
    return bool(heads) and await _reaches(body, borrow, mode, heads, time.monotonic() + COMPARE_S)


async def _reaches(body: Body, borrow: Borrow[Any], mode: Mode, heads: Mapping[int, int], until: float) -> bool:
    """Whether the mode's copy has applied the owner's events up to these heads before it is `until`."""
    while not await has_reached(body, borrow, mode, heads):
        if time.monotonic() > until:
            return False
        await body.moved.wait(LOOK_AGAIN_S)
    return True


async def has_reached(body: Body, borrow: Borrow[Any], mode: Mode, heads: Mapping[int, int]) -> bool:
    """Whether the mode's copy has applied the owner's events up to these heads."""
    at = await body.views.checkpoints(copy_name(borrow, mode))
    return all(at.get((borrow.owner, partition), Checkpoint()).number >= number for partition, number in heads.items())


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
        self._as_of[mode] = as_of

    async def watch(self, mode: Mode) -> None:
        """Compare once: ask for the heads, wait a moment until the copy has reached them, else go on the next time."""
        until = time.monotonic() + COMPARE_S
        if mode not in self._comparing:
            asked = time.monotonic()
            self._comparing[mode] = asked, await self._body.heads(self._borrow.owner)()
        asked, heads = self._comparing[mode]
        if await _reaches(self._body, self._borrow, mode, heads, until):
            self._as_of[mode] = asked
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
    feed: Feed = body.feed(borrow.owner, await projector.checkpoints(borrow.owner, partitions))
    again = asyncio.ensure_future(filling.keep_trying(partitions))
    try:
        await projector.run(feed)
    finally:
        await stop(again)
        await feed.close()


async def _flip(body: Body, borrow: Borrow[Any], seen: ModeSetting) -> None:
    stored = (await body.views.get(SETTINGS, [borrow.name])).get(borrow.name)
    if await read_mode(body, borrow) == seen:
        await _keep(body, borrow, ModeSetting(seen.wanted, seen.wanted), stored.revision if stored else 0)


async def _keep(body: Body, borrow: Borrow[Any], setting: ModeSetting, revision: int) -> bool:
    document = Document(SETTINGS, borrow.name, msgspec.json.encode(setting), revision)
    return await body.views.write(SETTINGS, [document], [])


async def _drop(body: Body, borrow: Borrow[Any], mode: Mode) -> None:
    name = copy_name(borrow, mode)
    if await body.views.checkpoints(name):
        await body.views.drop(name, [name, parked_view(name)])
