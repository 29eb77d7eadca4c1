"""Which mode a borrow is in, and how all read heads of a service go over to another one.

Read heads look at the setting now and then, so for a moment some follow the old mode and some the new one. Nobody
may see less from one of them than she has seen from another. So:

1. A mode is *wanted*. From when a read head sees that, it is careful: it reads its copy only once that has what the
   owner had when the read began (the read index of D. Ongaro, "Consensus: Bridging Theory and Practice", 2014, 6.4).
2. When it has been wanted for long enough that every head is careful, and its copy is complete, the mode *flips*.
3. When a head has seen the flip for so long, nobody follows the old mode any more. What the owner has then is the
   floor: what the copy must have before it is read, from then on without asking. Care is over.

Who reads in sync mode sees all that the owner has, and needs no care but for answers that are under way already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, NamedTuple

import msgspec

from chimera.body import Body
from chimera.errors import ChimeraError
from chimera.messages import Position, partition_of
from chimera.ports import Document
from chimera.service import Borrow, Mode
from chimera.tasks import take_exception

logger = logging.getLogger("chimera")

SETTINGS = "chimera.borrows"
LOOK_S = 0.5
"""Seconds between two looks at the setting."""
LATE_S = 0.75
"""A read whose head has not looked for so many seconds looks first."""
SETTLE_S = 1.0
"""Seconds after which every head has seen a setting, and finished what it read before, its budget apart."""


class ModeSetting(msgspec.Struct, frozen=True):
    """How a borrow answers now (`mode`), and how it is to answer once that is ready (`wanted`)."""

    mode: Mode
    wanted: Mode


async def read_mode(body: Body, borrow: Borrow[Any]) -> ModeSetting:
    """The mode in force: as it was last set, else as declared."""
    return (await _read(body, borrow))[0]


async def change_mode(body: Body, borrow: Borrow[Any], wanted: Mode) -> ModeSetting:
    """Ask for another mode. On return, `sync` is in force; the others are once their copy is complete."""
    setting = await want_mode(body, borrow, wanted)
    if wanted != "sync" or setting.mode == "sync":
        return setting
    await asyncio.sleep(_settle_s(borrow))
    await flip(body, borrow, setting)
    return await read_mode(body, borrow)


async def want_mode(body: Body, borrow: Borrow[Any], wanted: Mode) -> ModeSetting:
    """Ask for another mode, and leave it to the heads to put it in force."""
    while True:
        now, revision = await _read(body, borrow)
        setting = ModeSetting(now.mode, wanted)
        if await _keep(body, borrow, setting, revision):
            return setting


async def flip(body: Body, borrow: Borrow[Any], seen: ModeSetting) -> bool:
    """Put the wanted mode in force, unless the setting is another one than was seen."""
    now, revision = await _read(body, borrow)
    return now == seen and await _keep(body, borrow, ModeSetting(seen.wanted, seen.wanted), revision)


class Floor(NamedTuple):
    """Where a copy must be before it is read; there it has what the owner had at `as_of` (monotonic seconds)."""

    position: Position
    as_of: float


class Settling:
    """Knows since when a borrow's setting has been the same, as far as this process has seen."""

    def __init__(self, borrow: Borrow[Any]) -> None:
        self._settle_s = _settle_s(borrow)
        self._seen: ModeSetting | None = None
        self._since = time.monotonic()

    def see(self, setting: ModeSetting) -> bool:
        """Whether every read head follows this setting by now."""
        if setting != self._seen:
            self._seen, self._since = setting, time.monotonic()
        return time.monotonic() > self._since + self._settle_s


class ModeFollower:
    """The mode of a borrow as one read head knows it, and what the copy must have before it is read."""

    def __init__(self, body: Body, borrow: Borrow[Any]) -> None:
        declared = body.modes.get(borrow.name, borrow.mode)
        self._body = body
        self._borrow = borrow
        self._setting = ModeSetting(declared, declared)
        self._settling = Settling(borrow)
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._left: dict[Mode, float] = {}
        self._spare_until = float("-inf")
        self._floor: dict[int, int] = {}
        self._owner_partitions = 0
        self._as_of = float("-inf")
        self.is_careful = True

    @property
    def mode(self) -> Mode:
        """The mode in force, as this head knows it."""
        return self._setting.mode

    def looked_within(self, seconds: float) -> bool:
        return time.monotonic() <= self._looked_at + seconds

    def left_within(self, seconds: float, mode: Mode) -> bool:
        """Whether a mode was in force until so many seconds ago."""
        return time.monotonic() <= self._left.get(mode, float("-inf")) + seconds

    async def look(self) -> None:
        """Look at the setting, once however many want to. Raises ChimeraError when it can't be read."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(take_exception)
        await asyncio.shield(self._looking)

    async def follow(self) -> None:
        """Look, and do what is due once every head follows a setting: end the care, or flip to a mode without a copy.

        Raises ChimeraError or TimeoutError when the setting or the owner can't be asked.
        """
        await self.look()
        if not self._settling.see(self._setting):
            return
        if self._setting.wanted != self.mode:
            if self._setting.wanted == "sync" and await flip(self._body, self._borrow, self._setting):
                await self.look()
        elif self.is_careful:
            setting = self._setting
            if self.mode != "sync":
                await self._learn(self._borrow.budget)
            self.is_careful = setting != self._setting

    @property
    def may_have_floor(self) -> bool:
        """Whether `floor` is to be asked."""
        return self.is_careful or bool(self._floor)

    async def catch_up(self, until: float) -> None:
        """Look, but not beyond `until` (monotonic seconds), because the last time was long ago."""
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self.look()
        except (ChimeraError, TimeoutError) as error:
            logger.warning("how %s is borrowed can't be looked at: %s", self._borrow.name, error)

    async def floor(self, key: str, until: float) -> Floor | None:
        """Where the copy must be before the key is read, if it is not known to be there.

        Where the owner does not say in time where it is, that is where it was when it last did.
        """
        if self.is_careful and time.monotonic() > self._spare_until:
            try:
                await self._learn(until - time.monotonic())
            except Exception as error:  # noqa: BLE001 - whatever an owner does, it never breaks a page
                self._spare_until = time.monotonic() + LOOK_S
                logger.info("%s does not say where it is while a mode changes: %r", self._borrow.owner, error)
        partition = partition_of(key, self._owner_partitions) if self._floor else 0
        if partition not in self._floor:
            return None
        return Floor(Position(self._borrow.owner, partition, self._floor[partition]), self._as_of)

    def reached(self, floor: Floor) -> None:
        """The copy is there for good: it need not be looked at again."""
        if self._floor.get(floor.position.partition) == floor.position.number:
            del self._floor[floor.position.partition]

    async def _look(self) -> None:
        looked_at = time.monotonic()
        setting = await read_mode(self._body, self._borrow)
        if setting != self._setting:
            if setting.mode != self.mode:
                self._left[self.mode] = time.monotonic()
            self._setting, self.is_careful = setting, True
        self._settling.see(setting)
        self._looked_at = looked_at

    async def _learn(self, within_s: float) -> None:
        asked_at = time.monotonic()
        async with asyncio.timeout(within_s):
            heads = await self._body.heads(self._borrow.owner).anew()
        self._owner_partitions = len(heads)
        self._floor = {partition: max(number, self._floor.get(partition, 0)) for partition, number in heads.items()}
        self._as_of = max(self._as_of, asked_at)


def _settle_s(borrow: Borrow[Any]) -> float:
    return SETTLE_S + borrow.budget


async def _read(body: Body, borrow: Borrow[Any]) -> tuple[ModeSetting, int]:
    """The setting and its document's revision, 0 where it was never set."""
    stored = (await body.views.get(SETTINGS, [borrow.name])).get(borrow.name)
    if stored is None or stored.data is None:
        declared = body.modes.get(borrow.name, borrow.mode)
        return ModeSetting(declared, declared), stored.revision if stored else 0
    return msgspec.json.decode(stored.data, type=ModeSetting), stored.revision


async def _keep(body: Body, borrow: Borrow[Any], setting: ModeSetting, revision: int) -> bool:
    document = Document(SETTINGS, borrow.name, msgspec.json.encode(setting), revision)
    return bool(await body.views.write(SETTINGS, [document], []))
