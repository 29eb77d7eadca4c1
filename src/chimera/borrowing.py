"""Borrowed reads: a value and its state within a budget, whatever the owner does (invariant 7)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from chimera.body import Body
from chimera.borrowed import Borrowed
from chimera.copies import GRACE_S, CopyAge, ModeSetting, copy_name, read_mode
from chimera.errors import ChimeraError
from chimera.fetching import GARBAGE, Fetches
from chimera.messages import Position, partition_of
from chimera.service import Borrow, Mode

logger = logging.getLogger("chimera")

Doc = TypeVar("Doc", bound=msgspec.Struct)
Documents = Callable[[str, str], Awaitable[bytes | None]]

LOOK_S = 0.5


class BorrowedReads(Generic[Doc]):
    """One borrow at work in a read head.

    `documents` reads a view's document by key, many at once.
    """

    def __init__(self, body: Body, borrow: Borrow[Doc], documents: Documents) -> None:
        self._body = body
        self._borrow = borrow
        self._documents = documents
        self._decoder: msgspec.json.Decoder[Doc] = msgspec.json.Decoder(borrow.document)
        self._fetches = Fetches(body, borrow)
        declared = body.modes.get(borrow.name, borrow.mode)
        self._setting = ModeSetting(declared, declared)
        self._age = CopyAge(body, borrow)
        self._floor: dict[int, int] = {}
        self._owner_partitions = 0
        self._left_copy_at = float("-inf")
        self._looked_at = time.monotonic()
        self._reading = 0
        self._nobody_reads = asyncio.Event()
        self._gate: asyncio.Future[None] | None = None

    @property
    def mode(self) -> Mode:
        """The mode in force, as this process knows it."""
        return self._setting.mode

    async def look(self) -> None:
        """Look for a changed mode, once, and change over to it."""
        looked_at = time.monotonic()
        setting = await read_mode(self._body, self._borrow)
        if setting.mode != self.mode:
            if setting.mode == "sync":
                self._left_copy_at = time.monotonic()
            else:
                await self._learn_floor(setting.mode)
        self._setting, self._looked_at = setting, looked_at

    async def keep_looking(self) -> None:
        """Follow the mode, and the age of the copy that it reads, until cancelled."""
        while True:
            try:
                await self.look()
                if self.mode != "sync":
                    await self._age.watch(self.mode)
            except ChimeraError as error:
                logger.debug("borrow %s: %s", self._borrow.name, error)
            await asyncio.sleep(LOOK_S)

    async def _learn_floor(self, mode: Mode) -> None:
        """Learn what the copy must have before it is read: all that the owner could have shown anybody until now.

        So nobody sees less after a change of mode than before. Reads wait meanwhile, no longer than the budget; where
        the owner does not answer in that time, the copy is read as it is.
        """
        gate = self._gate = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._borrow.budget):
                while self._reading:
                    self._nobody_reads.clear()
                    await self._nobody_reads.wait()
                asked_at = time.monotonic()
                self._floor = dict(await self._body.owner(self._borrow.owner).heads())
                self._age.begin(mode, asked_at)
                self._owner_partitions = len(self._floor)
        except (ChimeraError, TimeoutError) as error:
            logger.warning("%s did not say where it is as its share is borrowed anew: %s", self._borrow.owner, error)
        finally:
            self._gate = None
            gate.set_result(None)

    async def get(self, key: str, after: Sequence[Position] = ()) -> Borrowed[Doc]:
        """The borrowed value of a key; one that is `fresh` has what the owner did up to its positions `after`.

        Never raises for the owner's sake, never takes longer than the budget for it.
        """
        while self._gate is not None:
            await asyncio.wait([self._gate])
        self._reading += 1
        try:
            found = await self._get(key, after, self.mode)
        finally:
            self._reading -= 1
            if not self._reading:
                self._nobody_reads.set()
        self._body.metrics.borrowed(self._body.service.name, self._borrow.name, self.mode, found.state)
        return found

    async def _get(self, key: str, after: Sequence[Position], mode: Mode) -> Borrowed[Doc]:
        if mode == "sync":
            return await self._ask(key, anew=bool(after), otherwise=lambda: self._left_copy(key))
        until = time.monotonic() + self._borrow.budget
        if self._floor and (floor := self._floor_of(key)):
            # Not from the owner, who might show more than the floor, and the copy less in the next moment.
            await self._reach(floor, until)
            if not await self.missing(floor):
                self._floor.pop(floor[0].partition, None)
        if after and await self.missing(after):
            return await self._ask(key, anew=True, otherwise=lambda: self._copied_after(key, mode, after, until))
        found = await self._copied(key, mode)
        may_be_dropped = time.monotonic() > self._looked_at + GRACE_S
        if found.state == "stale" or (found.state == "absent" and may_be_dropped):
            return await self._ask(key, anew=may_be_dropped, otherwise=lambda: _ready(found))
        return found

    def _floor_of(self, key: str) -> list[Position]:
        partition = partition_of(key, self._owner_partitions)
        return [Position(self._borrow.owner, partition, self._floor[partition])] if partition in self._floor else []

    async def _left_copy(self, key: str) -> Borrowed[Doc] | None:
        """What the copy has that was read until a moment ago, and is not dropped yet."""
        if time.monotonic() > self._left_copy_at + GRACE_S:
            return None
        found = await self._copied(key, "async")
        return found._replace(state="stale") if found.value is not None else None

    async def missing(self, after: Sequence[Position]) -> list[Position]:
        """Where the copy is in those partitions in which it has not reached a position; in sync mode, at 0 in all."""
        mode = self.mode
        at = {} if mode == "sync" else await self._body.views.checkpoints(copy_name(self._borrow, mode))
        reached = {place: checkpoint.number for place, checkpoint in at.items()}
        here = [Position(each.source, each.partition, reached.get((each.source, each.partition), 0)) for each in after]
        return [now for now, wanted in zip(here, after, strict=True) if now.number < wanted.number]

    async def _copied_after(self, key: str, mode: Mode, after: Sequence[Position], until: float) -> Borrowed[Doc]:
        """What the copy has once it has reached the positions, or when the time is over."""
        await self._reach(after, until)
        return await self._copied(key, mode)

    async def _reach(self, positions: Sequence[Position], until: float) -> None:
        while await self.missing(positions) and (left := until - time.monotonic()) > 0:
            await self._body.moved.wait(min(left, self._body.views.features.poll_s))

    async def _copied(self, key: str, mode: Mode) -> Borrowed[Doc]:
        """What the copy has: in hybrid mode, only whether there is something."""
        document = await self._documents(copy_name(self._borrow, mode), key)
        age = self._age.seconds(mode)
        if document is None:
            return Borrowed(None, "absent", age)
        if mode == "hybrid":
            return Borrowed(None, "stale", age)
        try:
            value = self._decoder.decode(document)
        except GARBAGE as error:
            logger.warning("the copy of %r in %s can't be read: %s", key, copy_name(self._borrow, mode), error)
            return Borrowed(None, "stale", None)
        fresh = age is not None and age <= self._borrow.max_age
        return Borrowed(value, "fresh" if fresh else "stale", age)

    async def _ask(
        self, key: str, *, anew: bool = False, otherwise: Callable[[], Awaitable[Borrowed[Doc] | None]]
    ) -> Borrowed[Doc]:
        """The owner's answer, or, when it does not come in time, the copy's value or the last known good one."""
        try:
            value = await self._fetches.get(key, anew=anew)
        except Exception as error:  # noqa: BLE001 - whatever an owner does, it never breaks a page
            logger.debug("borrow %s of %r: %r", self._borrow.name, key, error)
        else:
            return Borrowed(value, "fresh" if value is not None else "absent", 0.0)
        copied = await otherwise()
        if copied is not None and (copied.value is not None or copied.state == "absent"):
            return copied
        known = await self._fetches.last_known(key)
        return Borrowed(None, "absent", None) if known is None else Borrowed(known[0], "stale", known[1])


async def _ready(found: Borrowed[Doc]) -> Borrowed[Doc]:
    return found
