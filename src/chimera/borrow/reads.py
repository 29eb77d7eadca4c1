"""Borrowed reads: a value and its state within a budget, whatever the owner does (invariant 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from chimera.borrow.copies import CopyAge, behind
from chimera.borrow.fetch import GARBAGE, Fetches
from chimera.borrow.modes import ModeFollower
from chimera.borrowed import Borrowed
from chimera.core.context import Context
from chimera.core.names import copy_name
from chimera.journal.checkpoints import reach
from chimera.messages import Position
from chimera.reader import Missed
from chimera.service import Borrow, Mode
from chimera.views.documents import Documents

logger = logging.getLogger("chimera")

Doc = TypeVar("Doc", bound=msgspec.Struct)

WAITED = 0.9
"""The part of a budget that may be waited; the rest is for what is done afterwards, by many who waited together."""


class BorrowedReads(Generic[Doc]):
    """One borrow at work in a read head.

    `documents` reads a view's document by key, many at once.
    """

    def __init__(self, context: Context, borrow: Borrow[Doc], documents: Documents) -> None:
        self._context = context
        self._timing = context.timing
        self._borrow = borrow
        self._documents = documents
        self._decoder: msgspec.json.Decoder[Doc] = msgspec.json.Decoder(borrow.document)
        self._fetches = Fetches(context, borrow)
        self._follower = ModeFollower(context, borrow)
        self._age = CopyAge(context, borrow)

    @property
    def mode(self) -> Mode:
        """The mode in force, as this process knows it."""
        return self._follower.mode

    async def look(self) -> None:
        """Look for a changed mode, once."""
        await self._follower.look()

    async def keep_looking(self) -> None:
        """Follow the mode, and the age of the copy that it reads, until cancelled.

        Each by itself: a slow owner does not hold up the looks, or reads would have to look.
        """
        await asyncio.gather(self._keep(self._follower.follow), self._keep(self._watch_age))

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - whatever an owner does, it never ends a read head
                logger.debug("borrow %s: %r", self._borrow.name, error)
            await self._context.clock.sleep(self._timing.switch_look_s)

    async def _watch_age(self) -> None:
        if self.mode != "sync":
            await self._age.watch(self.mode)

    async def get(
        self, key: str, after: Sequence[Position] = (), missed: Missed = lambda positions: None
    ) -> Borrowed[Doc]:
        """The borrowed value of a key; one that is `fresh` has what the owner did up to its positions `after`.

        Where a value has not, `missed` is told of the positions that it has instead: in sync mode, 0 in all.

        Never raises for the owner's sake, never takes longer than the budget for it.
        """
        until = self._context.clock.monotonic() + WAITED * self._borrow.budget
        if not self._follower.looked_within(self._timing.switch_valid_s):
            await self._follower.catch_up(until)
        mode = self.mode
        if mode == "sync":
            anew = bool(after) or self._follower.is_careful
            found = await self._ask(key, until, anew=anew, otherwise=lambda: self._left_copy(key))
            if after and found.age != 0.0:
                missed([msgspec.structs.replace(each, number=0) for each in after])
        elif after or self._follower.may_have_floor:
            found = await self._reached(key, after, missed, mode, until)
        else:
            found = await self._kept(key, mode, until)
        self._context.metrics.borrowed(self._context.service.name, self._borrow.name, mode, found.state)
        return found

    async def get_many(
        self, keys: Sequence[str], after: Sequence[Position] = (), missed: Missed = lambda positions: None
    ) -> dict[str, Borrowed[Doc]]:
        """As `get`, of each of these keys, within one budget."""
        wanted = list(dict.fromkeys(keys))
        found = await asyncio.gather(*(self.get(key, after, missed) for key in wanted))
        return dict(zip(wanted, found, strict=True))

    async def _reached(
        self, key: str, after: Sequence[Position], missed: Missed, mode: Mode, until: float
    ) -> Borrowed[Doc]:
        """The value once the copy is where it must be, or the owner's."""
        if self._follower.may_have_floor and (floor := await self._follower.floor(key, until)):
            # Rather not from the owner, who might show more than the floor, and the copy less after that.
            if not await self._reach(mode, [floor.position], (self._context.clock.monotonic() + until) / 2):
                return await self._ask(
                    key, until, anew=True, otherwise=lambda: self._late_copy(key, after, missed, mode)
                )
            self._age.begin(mode, floor.as_of)
            self._follower.reached(floor)
        if after and await behind(self._context, self._borrow, mode, after):
            return await self._ask(
                key, until, anew=True, otherwise=lambda: self._copied_after(key, after, missed, mode, until)
            )
        return await self._kept(key, mode, until, after=after)

    async def _kept(self, key: str, mode: Mode, until: float, *, after: Sequence[Position] = ()) -> Borrowed[Doc]:
        """The copy's value, or the owner's where the copy may be old: from now on, if it is to be `after` something."""
        found = await self._copied(key, mode)
        may_be_dropped = not self._follower.looked_within(self._timing.switch_grace_s)
        if found.state == "stale" or (found.state == "absent" and may_be_dropped):
            anew = bool(after) or may_be_dropped or self._follower.is_careful
            return await self._ask(key, until, anew=anew, otherwise=lambda: _ready(found))
        return found

    async def _late_copy(self, key: str, after: Sequence[Position], missed: Missed, mode: Mode) -> Borrowed[Doc]:
        """The copy's value, marked stale: the copy has not what it should. That it has none does not say much."""
        if after and (reached := await behind(self._context, self._borrow, mode, after)):
            missed(reached)
        found = await self._copied(key, mode)
        return found._replace(age=None) if found.state == "absent" else found._replace(state="stale")

    async def _left_copy(self, key: str) -> Borrowed[Doc] | None:
        """The value of the copy that was read until a moment ago and is not dropped yet, marked stale; else None."""
        if not self._follower.left_within(self._timing.switch_grace_s, "async"):
            return None
        found = await self._copied(key, "async")
        return found._replace(state="stale") if found.value is not None else None

    async def _copied_after(
        self, key: str, after: Sequence[Position], missed: Missed, mode: Mode, until: float
    ) -> Borrowed[Doc]:
        """The copy's value once it has reached the positions; when the time is over, as it is then."""
        if await self._reach(mode, after, until):
            return await self._copied(key, mode)
        return await self._late_copy(key, after, missed, mode)

    async def _reach(self, mode: Mode, positions: Sequence[Position], until: float) -> bool:
        """Wait until the copy has reached these positions, but not beyond `until`; says whether it has."""
        floor = {(each.source, each.partition): each.number for each in positions}
        left = until - self._context.clock.monotonic()
        return not await reach(self._context, copy_name(self._borrow.name, mode), floor, left)

    async def _copied(self, key: str, mode: Mode) -> Borrowed[Doc]:
        """The copy's value. In hybrid mode none: `absent` when the key has no document, `stale` when it has one."""
        document = await self._documents(copy_name(self._borrow.name, mode), key)
        age = self._age.seconds(mode)
        if document is None:
            return Borrowed(None, "absent", age)
        if mode == "hybrid":
            return Borrowed(None, "stale", age)
        try:
            value = self._decoder.decode(document)
        except GARBAGE as error:
            logger.warning("the copy of %r in %s can't be read: %s", key, copy_name(self._borrow.name, mode), error)
            return Borrowed(None, "stale", None)
        fresh = age is not None and age <= self._borrow.max_age
        return Borrowed(value, "fresh" if fresh else "stale", age)

    async def _ask(
        self, key: str, until: float, *, anew: bool, otherwise: Callable[[], Awaitable[Borrowed[Doc] | None]]
    ) -> Borrowed[Doc]:
        """The owner's answer, or, when it does not come in time, the copy's value or the last known good one."""
        try:
            value = await self._fetches.get(key, until, anew=anew)
        except Exception as error:  # noqa: BLE001 - whatever an owner does, it never breaks a page
            logger.debug("borrow %s of %r: %r", self._borrow.name, key, error)
        else:
            return Borrowed(value, "fresh" if value is not None else "absent", 0.0)
        copied = await otherwise()
        if copied is not None and (copied.value is not None or (copied.state == "absent" and copied.age is not None)):
            return copied
        known = await self._fetches.last_known(key)
        return Borrowed(None, "absent", None) if known is None else Borrowed(known[0], "stale", known[1])


async def _ready(found: Borrowed[Doc]) -> Borrowed[Doc]:
    return found
