"""Borrowed reads: a value and its state within a budget, whatever the owner does (invariant 7)."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from chimera.borrow.ahead import ahead_of
from chimera.borrow.copies import CopyAge
from chimera.borrow.fetch import GARBAGE, Fetches
from chimera.borrow.modes import ModeFollower
from chimera.core.aio.again import cause_of_all
from chimera.core.context import Context
from chimera.core.names import copy_name, filling_view, start_key
from chimera.forms import AnyDocument, Decodes, decoder_of
from chimera.journal.checkpoints import Place, floor_of, numbers_of, reach, short_of
from chimera.messages import Position, partition_of
from chimera.parts import Borrow, Borrowed, Mode
from chimera.reader import Notes
from chimera.views.documents import Documents

logger = logging.getLogger("chimera")

Doc = TypeVar("Doc", bound=AnyDocument)

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
        self._decoder: Decodes[Doc] = decoder_of(borrow.document)
        self._fetches = Fetches(context, borrow)
        self._follower = ModeFollower(context, borrow)
        self._age = CopyAge(context, borrow)
        self._ahead: OrderedDict[str, Position] = OrderedDict()

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
        await asyncio.gather(self._keep("mode", self._follower.follow), self._keep("age", self._watch_age))

    async def _keep(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        troubles, name = self._context.troubles, f"{self._context.service.name} borrow {self._borrow.name}'s {what}"
        while True:
            try:
                await work()
                troubles.gets_on(name)
            except Exception as error:  # noqa: BLE001 - whatever an owner does, it never ends a read head
                logger.debug("borrow %s: %r", self._borrow.name, error)
                troubles.failed(name, cause_of_all(error), self._context.clock)
            await self._context.clock.sleep(self._timing.switch_look_s)

    async def _watch_age(self) -> None:
        if self.mode != "sync":
            await self._age.watch(self.mode)

    async def get(self, key: str, notes: Notes | None = None) -> Borrowed[Doc]:
        """The borrowed value of a key, and what is to be noted about it.

        One that is `fresh` has what the owner did up to the positions that the reader has seen before. Of one that has
        not, or of which nobody can say, it is noted what it has instead, if need be that it has nothing.

        Never raises for the owner's sake, never takes longer than the budget for it.
        """
        notes = notes or Notes()
        until = self._context.clock.monotonic() + WAITED * self._borrow.budget
        if not self._follower.looked_within(self._timing.switch_valid_s):
            await self._follower.catch_up(until)
        mode = self.mode
        if mode == "sync":
            anew = bool(notes.after(self._borrow.owner)) or self._follower.is_careful
            left: Mode | None = "async" if self._follower.left_within(self._timing.switch_grace_s, "async") else None
            found = await self._ask(key, until, notes, anew=anew) or await self._remembered(key, left, notes)
        elif key in self._ahead or self._follower.may_have_floor or notes.after(self._borrow.owner):
            found = await self._reached(key, mode, until, notes)
        else:
            found = await self._kept(key, mode, until, notes)
        self._context.metrics.borrowed(self._context.service.name, self._borrow.name, mode, found.state)
        return found

    async def get_many(self, keys: Sequence[str], notes: Notes | None = None) -> dict[str, Borrowed[Doc]]:
        """As `get`, of each of these keys, within one budget."""
        wanted = list(dict.fromkeys(keys))
        found = await asyncio.gather(*(self.get(key, notes) for key in wanted))
        return dict(zip(wanted, found, strict=True))

    async def ask(self, keys: Sequence[str]) -> dict[str, Doc]:
        """The owner's documents as it has them now; keys without one are left out. Raises Unavailable."""
        wanted = list(dict.fromkeys(keys))
        until = self._context.clock.monotonic() + self._timing.call_s
        answers = await asyncio.gather(*(self._fetches.get(key, until, anew=True) for key in wanted))
        return {key: each.value for key, each in zip(wanted, answers, strict=True) if each.value is not None}

    async def _reached(self, key: str, mode: Mode, until: float, notes: Notes) -> Borrowed[Doc]:
        """The value once the copy is where it must be, or the owner's."""
        if self._follower.may_have_floor and (floor := await self._follower.floor(key, until)):
            # Rather not from the owner, who might show more than the floor, and the copy less after that.
            if not await self._reach(mode, [floor.position], (self._context.clock.monotonic() + until) / 2):
                return await self._ask(key, until, notes, anew=True, mode=mode) or await self._remembered(
                    key, mode, notes
                )
            self._age.reached(mode, floor)
            self._follower.reached(floor)
        ahead = self._ahead.get(key)
        wanted = [*notes.after(self._borrow.owner), *([ahead] if ahead else [])]
        if wanted and short_of(await self._documents.reached(self._name(mode)), floor_of(wanted)):
            found = await self._ask(key, until, notes, anew=True, mode=mode)
            if found is None and await self._reach(mode, wanted, until):
                found = await self._shown(key, mode, notes)
            return found or await self._remembered(key, mode, notes)
        if ahead and self._ahead.get(key) == ahead:
            del self._ahead[key]
        return await self._kept(key, mode, until, notes)

    async def _kept(self, key: str, mode: Mode, until: float, notes: Notes) -> Borrowed[Doc]:
        """The copy's value, or the owner's where the copy may be old: from now on, for who has seen something."""
        name = self._name(mode)
        lacks = await self._documents.lacks(name, key, now=notes.follows)
        found = await self._copied(key, mode)
        if lacks:  # the owner has what is set aside here
            found = Borrowed(found.value, "stale", None)
        may_be_dropped = not self._follower.looked_within(self._timing.switch_grace_s)
        is_known = found.age is not None and found.age <= self._borrow.max_age
        if found.state == "absent" and is_known and not may_be_dropped:
            # A copy that was lost has no keys either, and may have been filled again since: so it is read once more.
            is_known = self._age.holds(mode, await self._documents.reached(name))
            found = await self._copied(key, mode)
        if found.state == "stale" or (found.state == "absent" and (may_be_dropped or not is_known)):
            anew = bool(notes.after(self._borrow.owner)) or may_be_dropped or self._follower.is_careful
            return await self._ask(key, until, notes, anew=anew, mode=mode) or await self._remembered(key, mode, notes)
        await self._cover(key, mode, notes)
        return found

    async def _remembered(self, key: str, mode: Mode | None, notes: Notes) -> Borrowed[Doc]:
        """What is shown while the owner does not answer: the last known value or the copy's, whichever is newer.

        `mode` is that of a copy that may be read. That it has no document does not say much.
        """
        after = floor_of(notes.after(self._borrow.owner))
        at = numbers_of(await self._documents.reached(self._name(mode))) if mode else {}
        lacks = await self._documents.lacks(self._name(mode), key, now=notes.follows) if mode else []
        copied = await self._copied(key, mode) if mode else Borrowed[Doc](None, "absent", None)
        known = await self._fetches.last_known(key)
        if known is not None and (copied.value is None or _is_beyond(known.position, at)):
            self._note(known.position, notes)
            return Borrowed(known.value, "stale", known.age)
        if mode is None or copied.value is None:
            notes.missed(Position(*place, 0) for place in after)
            return Borrowed(None, "absent", None)
        notes.missed(Position(*place, at.get(place, 0)) for place in after if at.get(place, 0) < after[place])
        notes.lacks(lacks)
        await self._cover(key, mode, notes)
        return copied._replace(state="stale")

    def _note(self, position: Position | None, notes: Notes) -> bool:
        """Note of a value the position that it is of, if that is known; says whether it has all that is wanted.

        Only the events of the key's own partition change it.
        """
        after = floor_of(notes.after(self._borrow.owner))
        if position is None:
            notes.missed(Position(*place, 0) for place in after)
            return not after
        notes.saw([position])
        if after.get((position.source, position.partition), 0) <= position.number:
            return True
        notes.missed([position])
        return False

    async def _cover(self, key: str, mode: Mode, notes: Notes) -> None:
        """Note where the copy is that was read just now, for a reader who follows."""
        if notes.follows:
            name, owner = self._name(mode), self._borrow.owner
            at = numbers_of(await self._documents.shown(name))
            partitions = self._context.owners.heads(owner).partitions
            own = (owner, partition_of(key, partitions)) if partitions else None
            places = [place for place in at if own in (None, place)] or ([own] if own else [])
            marks = [ahead_of(await self._documents(filling_view(name), start_key(*place))) for place in places]
            notes.saw(
                Position(*place, max(at.get(place, 0), mark.through)) for place, mark in zip(places, marks, strict=True)
            )

    async def _reach(self, mode: Mode, positions: Sequence[Position], until: float) -> bool:
        """Wait until the copy has reached these positions, but not beyond `until`; says whether it has."""
        left, look = until - self._context.clock.monotonic(), partial(self._documents.reached, self._name(mode))
        return not await reach(self._context, self._name(mode), floor_of(positions), left, look)

    async def _shown(self, key: str, mode: Mode, notes: Notes) -> Borrowed[Doc] | None:
        """The value of a copy that has what it must, or that there is none; None where it does not know all of it."""
        lacks = await self._documents.lacks(self._name(mode), key, now=notes.follows)
        found = await self._copied(key, mode)
        if lacks or (found.value is None and found.state == "stale"):
            return None
        await self._cover(key, mode, notes)
        return found

    async def _copied(self, key: str, mode: Mode) -> Borrowed[Doc]:
        """The copy's value. In hybrid mode none: `absent` when the key has no document, `stale` when it has one."""
        document = await self._documents(self._name(mode), key)
        age = self._age.seconds(mode, key)
        if document is None:
            return Borrowed(None, "absent", age)
        if mode == "hybrid":
            return Borrowed(None, "stale", age)
        try:
            value = self._decoder.decode(document)
        except GARBAGE as error:
            logger.warning("the copy of %r in %s can't be read: %s", key, self._name(mode), error)
            return Borrowed(None, "stale", None)
        fresh = age is not None and age <= self._borrow.max_age
        return Borrowed(value, "fresh" if fresh else "stale", age)

    async def _ask(
        self, key: str, until: float, notes: Notes, *, anew: bool, mode: Mode | None = None
    ) -> Borrowed[Doc] | None:
        """The owner's answer; None when it does not come in time. `mode` is that of a copy which is read otherwise."""
        try:
            answer = await self._fetches.get(key, until, anew=anew)
        except Exception as error:  # noqa: BLE001 - whatever an owner does, it never breaks a page
            logger.debug("borrow %s of %r: %r", self._borrow.name, key, error)
            return None
        if mode and answer.position:
            self._shown_ahead(key, answer.position)
        if answer.position and not self._note(answer.position, notes):
            return Borrowed(answer.value, "stale", answer.age)  # the owner itself has not what she has seen
        return Borrowed(answer.value, "fresh" if answer.value is not None else "absent", answer.age)

    def _shown_ahead(self, key: str, position: Position) -> None:
        """The owner's value is shown, perhaps before the copy has it: until then the copy must not be."""
        self._ahead.pop(key, None)
        self._ahead[key] = position
        if len(self._ahead) > self._context.limits.ahead_keys:
            self._ahead.popitem(last=False)

    def _name(self, mode: Mode) -> str:
        return copy_name(self._borrow.name, mode)


def _is_beyond(position: Position | None, at: Mapping[Place, int]) -> bool:
    """True when a position is known, and a copy at these numbers has not reached it."""
    return position is not None and at.get((position.source, position.partition), 0) < position.number
