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
from chimera.copies import CopyAge, ModeSetting, copy_name, read_mode
from chimera.errors import ChimeraError
from chimera.fetching import GARBAGE, Fetches
from chimera.messages import Position
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

    @property
    def mode(self) -> Mode:
        """The mode in force, as this process knows it."""
        return self._setting.mode

    async def look(self) -> None:
        """Look for a changed mode, once."""
        self._setting = await read_mode(self._body, self._borrow)

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

    async def get(self, key: str, after: Sequence[Position] = ()) -> Borrowed[Doc]:
        """The borrowed value of a key; one that is `fresh` has what the owner did up to its positions `after`.

        Never raises for the owner's sake, never takes longer than the budget for it.
        """
        mode = self.mode
        if mode == "sync":
            found = await self._ask(key, anew=bool(after))
        elif after and await self.missing(after):
            until = time.monotonic() + self._borrow.budget
            found = await self._ask(key, anew=True, otherwise=lambda: self._copied_after(key, mode, after, until))
        else:
            found = await self._copied(key, mode)
            if found.state == "stale":
                copied = found
                found = await self._ask(key, otherwise=lambda: _ready(copied))
        self._body.metrics.borrowed(self._body.service.name, self._borrow.name, mode, found.state)
        return found

    async def missing(self, after: Sequence[Position]) -> list[Position]:
        """Where the copy is in those partitions in which it has not reached a position; in sync mode, at 0 in all."""
        mode = self.mode
        at = {} if mode == "sync" else await self._body.views.checkpoints(copy_name(self._borrow, mode))
        reached = {place: checkpoint.number for place, checkpoint in at.items()}
        here = [Position(each.source, each.partition, reached.get((each.source, each.partition), 0)) for each in after]
        return [now for now, wanted in zip(here, after, strict=True) if now.number < wanted.number]

    async def _copied_after(self, key: str, mode: Mode, after: Sequence[Position], until: float) -> Borrowed[Doc]:
        """What the copy has once it has reached the positions, or when the time is over."""
        while await self.missing(after) and (left := until - time.monotonic()) > 0:
            await self._body.moved.wait(min(left, self._body.views.features.poll_s))
        return await self._copied(key, mode)

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
        self, key: str, *, anew: bool = False, otherwise: Callable[[], Awaitable[Borrowed[Doc]]] | None = None
    ) -> Borrowed[Doc]:
        """The owner's answer, or, when it does not come in time, the copy's value or the last known good one."""
        try:
            value = await self._fetches.get(key, anew=anew)
        except Exception as error:  # noqa: BLE001 - whatever an owner does, it never breaks a page
            logger.debug("borrow %s of %r: %r", self._borrow.name, key, error)
        else:
            return Borrowed(value, "fresh" if value is not None else "absent", 0.0)
        copied = None if otherwise is None else await otherwise()
        if copied is not None and (copied.value is not None or copied.state == "absent"):
            return copied
        known = await self._fetches.last_known(key)
        return Borrowed(None, "absent", None) if known is None else Borrowed(known[0], "stale", known[1])


async def _ready(found: Borrowed[Doc]) -> Borrowed[Doc]:
    return found
