"""Which mode a borrow is in, and how all read heads of a service go over to another one: a switch.

For a moment some read heads follow the old mode and some the new one; nobody may see less from one of them than she has
seen from another. So, as `chimera.views.switch` says:

1. A mode is *wanted*. From when a read head sees that, it is careful: it reads its copy only once that has what the
   owner had when the read began (the read index of D. Ongaro, "Consensus: Bridging Theory and Practice", 2014, 6.4).
2. When it has been wanted for long enough that every read head is careful, and its copy is complete, the mode *flips*.
3. When a read head has seen the flip for so long, nobody follows the old mode any more. What the owner has then is the
   floor: what the copy must have before it is read, from then on without asking. Care is over.

Who reads in sync mode sees all that the owner has, and needs no care but for answers that are under way already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from chimera.core import names
from chimera.core.context import Context
from chimera.errors import ChimeraError
from chimera.forms import AnyDocument
from chimera.journal.register import Register
from chimera.messages import Position, partition_of
from chimera.parts import Borrow, Mode
from chimera.views.switch import Follower, Settling

logger = logging.getLogger("chimera")


class ModeSetting(Struct, frozen=True):
    """A borrow's mode, one for all processes: `mode` is in force, `wanted` is to be as soon as it is ready."""

    mode: Mode
    wanted: Mode


async def read_mode(context: Context, borrow: Borrow[AnyDocument]) -> ModeSetting:
    """The mode in force: as it was last set, else as declared."""
    found = await _register(context).get([borrow.name])
    return found.get(borrow.name, _declared(context, borrow))


async def change_mode(context: Context, borrow: Borrow[AnyDocument], wanted: Mode) -> ModeSetting:
    """Ask for another mode. On return, `sync` is in force; the others are once their copy is complete."""
    setting = await want_mode(context, borrow, wanted)
    if wanted != "sync" or setting.mode == "sync":
        return setting
    await context.clock.sleep(settle_s(context, borrow))
    return await flip(context, borrow, setting)


async def want_mode(context: Context, borrow: Borrow[AnyDocument], wanted: Mode) -> ModeSetting:
    """Ask for another mode, and leave it to the read and write heads to put it in force."""
    return await _change(context, borrow, lambda now: ModeSetting(now.mode, wanted))


async def flip(context: Context, borrow: Borrow[AnyDocument], seen: ModeSetting) -> ModeSetting:
    """Put the wanted mode in force, unless the setting is another one than was seen; returns the setting then."""
    return await _change(context, borrow, lambda now: ModeSetting(seen.wanted, seen.wanted) if now == seen else now)


def settle_s(context: Context, borrow: Borrow[AnyDocument]) -> float:
    """Seconds after which every read head has seen a borrow's setting, and finished what it read before."""
    return context.timing.switch_settle_s + borrow.budget


class CopyFloor(NamedTuple):
    """The position that a copy must reach before it is read: what its owner had at `as_of` (monotonic seconds).

    `partitions`: how many its owner has.
    """

    position: Position
    as_of: float
    partitions: int


class ModeFollower:
    """The mode of a borrow as one read head knows it, and what the copy must have before it is read."""

    def __init__(self, context: Context, borrow: Borrow[AnyDocument]) -> None:
        self._context = context
        self._borrow = borrow
        self._clock = context.clock
        self._setting = _declared(context, borrow)
        self._follower = Follower(self._read, self._setting, context.clock)
        self._settling: Settling[ModeSetting] = Settling(settle_s(context, borrow), context.clock)
        self._left: dict[Mode, float] = {}
        self._spare_until = float("-inf")
        self._floor: dict[int, int] = {}
        self._owner_partitions = 0
        self._as_of = float("-inf")
        self.is_careful = True

    @property
    def mode(self) -> Mode:
        """The mode in force, as this read head knows it."""
        return self._setting.mode

    def looked_within(self, seconds: float) -> bool:
        """True when the newest look at the setting is at most so many seconds old."""
        return self._follower.looked_within(seconds)

    def left_within(self, seconds: float, mode: Mode) -> bool:
        """True when a mode was in force until so many seconds ago."""
        return self._clock.monotonic() <= self._left.get(mode, float("-inf")) + seconds

    async def look(self) -> None:
        """Look at the setting, once however many want to. Raises ChimeraError when it can't be read."""
        await self._follower.look()

    async def follow(self) -> None:
        """Look, and do what is due once every read head follows it: end the care, or flip to a mode without a copy.

        Raises ChimeraError or TimeoutError when the setting or the owner can't be asked.
        """
        await self.look()
        if not self._settling.see(self._setting):
            return
        if self._setting.wanted != self.mode:
            if self._setting.wanted == "sync":
                await flip(self._context, self._borrow, self._setting)
                await self.look()
        elif self.is_careful:
            setting = self._setting
            if self.mode != "sync":
                await self._learn(self._borrow.budget)
            self.is_careful = setting != self._setting

    @property
    def may_have_floor(self) -> bool:
        """True when `floor` is to be asked."""
        return self.is_careful or bool(self._floor)

    async def catch_up(self, until: float) -> None:
        """Look, but not beyond `until` (monotonic seconds), because the last time was long ago."""
        try:
            async with asyncio.timeout(until - self._clock.monotonic()):
                await self.look()
        except (ChimeraError, TimeoutError) as error:
            logger.warning("how %s is borrowed can't be looked at: %s", self._borrow.name, error)

    async def floor(self, key: str, until: float) -> CopyFloor | None:
        """The floor that the copy must reach before the key is read; None when it is known to be there.

        Where the owner does not tell its heads in time, it is the one from when it last did.
        """
        if self.is_careful and self._clock.monotonic() > self._spare_until:
            try:
                await self._learn(until - self._clock.monotonic())
            except Exception as error:  # noqa: BLE001 - whatever an owner does, it never breaks a page
                self._spare_until = self._clock.monotonic() + self._context.timing.switch_look_s
                logger.info("%s does not say where it is while a mode changes: %r", self._borrow.owner, error)
        partition = partition_of(key, self._owner_partitions) if self._floor else 0
        if partition not in self._floor:
            return None
        position = Position(self._borrow.owner, partition, self._floor[partition])
        return CopyFloor(position, self._as_of, self._owner_partitions)

    def reached(self, floor: CopyFloor) -> None:
        """The copy is there for good: it need not be compared again."""
        if self._floor.get(floor.position.partition) == floor.position.number:
            del self._floor[floor.position.partition]

    async def _read(self) -> ModeSetting:
        setting = await read_mode(self._context, self._borrow)
        if setting != self._setting:
            if setting.mode != self.mode:
                self._left[self.mode] = self._clock.monotonic()
            self._setting, self.is_careful = setting, True
        self._settling.see(setting)
        return setting

    async def _learn(self, within_s: float) -> None:
        asked_at = self._clock.monotonic()
        async with asyncio.timeout(within_s):
            heads = await self._context.owners.heads(self._borrow.owner).anew()
        self._owner_partitions = len(heads)
        self._floor = {partition: max(number, self._floor.get(partition, 0)) for partition, number in heads.items()}
        self._as_of = max(self._as_of, asked_at)


def _declared(context: Context, borrow: Borrow[AnyDocument]) -> ModeSetting:
    declared = context.modes.get(borrow.name, borrow.mode)
    return ModeSetting(declared, declared)


def _register(context: Context) -> Register[ModeSetting]:
    return Register(context.views, names.BORROWS, ModeSetting)


async def _change(
    context: Context, borrow: Borrow[AnyDocument], step: Callable[[ModeSetting], ModeSetting]
) -> ModeSetting:
    return await _register(context).change(borrow.name, _declared(context, borrow), step)
