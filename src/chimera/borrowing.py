"""Borrowed reads: a value and its state within a budget, whatever the owner does (invariant 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from chimera.body import Body
from chimera.borrowed import Borrowed
from chimera.coalesce import Coalescer
from chimera.copies import CopyAge, ModeSetting, copy_name, read_mode
from chimera.errors import ChimeraError, Unavailable
from chimera.lastknown import Known
from chimera.service import Borrow, Mode

logger = logging.getLogger("chimera")

Doc = TypeVar("Doc", bound=msgspec.Struct)
Documents = Callable[[str, str], Awaitable[bytes | None]]

CALLS = 4
LOOK_S = 0.5
GARBAGE = (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError)


class BorrowedReads(Generic[Doc]):
    """One borrow at work in a read head.

    `documents` reads a view's document by key, many at once.
    """

    def __init__(self, body: Body, borrow: Borrow[Doc], documents: Documents) -> None:
        self._body = body
        self._borrow = borrow
        self._documents = documents
        self._decoder: msgspec.json.Decoder[Doc] = msgspec.json.Decoder(borrow.document)
        self._fetches: Coalescer[str, Doc | None] = Coalescer(self._fetch, concurrency=CALLS)
        self._recalls: Coalescer[str, Known | None] = Coalescer(self._recall, concurrency=CALLS)
        self._keeps: Coalescer[tuple[str, bytes | None], None] = Coalescer(self._keep)
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

    async def get(self, key: str) -> Borrowed[Doc]:
        """The borrowed value of a key. Never raises for the owner's sake, never takes longer than the budget for it."""
        mode = self.mode
        if mode == "sync":
            found = await self._ask(key)
        else:
            document = await self._documents(copy_name(self._borrow, mode), key)
            if document is None:
                found = Borrowed(None, "absent", self._age.seconds(mode))
            else:
                found = await self._ask(key) if mode == "hybrid" else self._copied(document)
        self._body.metrics.borrowed(self._body.service.name, self._borrow.name, mode, found.state)
        return found

    def _copied(self, document: bytes) -> Borrowed[Doc]:
        age = self._age.seconds("async")
        try:
            value = self._decoder.decode(document)
        except GARBAGE as error:
            logger.warning(
                "the copy %s holds something else than %s; switch to sync and back to fill it anew: %s",
                copy_name(self._borrow, "async"),
                self._borrow.document.__name__,
                error,
            )
            return Borrowed(None, "absent", None)
        fresh = age is not None and age <= self._borrow.max_age
        return Borrowed(value, "fresh" if fresh else "stale", age)

    async def _ask(self, key: str) -> Borrowed[Doc]:
        """The owner's answer, or the last known good one when it does not come in time."""
        asked = self._fetches.submit(key)
        try:
            await asyncio.wait([asked], timeout=max(0.0, self._borrow.budget - self._body.last_known.wait_s))
        finally:
            asked.cancel()
        if not asked.cancelled() and asked.exception() is None:
            value = asked.result()
            return Borrowed(value, "fresh" if value is not None else "absent", 0.0)
        known = await self._recalls.submit(key)
        value = None if known is None else self._decoded(known.data, "what was last known of", key)
        if known is None or value is None:
            return Borrowed(None, "absent", None)
        return Borrowed(value, "stale", known.age_s)

    async def _fetch(self, keys: list[str]) -> Sequence[Doc | BaseException | None]:
        """One call for all keys; every good answer is remembered, garbage never."""
        wanted = list(dict.fromkeys(keys))
        service, share = self._body.service.name, self._borrow.share
        try:
            async with asyncio.timeout(max(1.0, self._borrow.budget)):
                documents = await self._body.owner(self._borrow.owner).fetch(share, wanted)
        except TimeoutError as error:
            self._body.metrics.owner_called(service, share, "timeout")
            raise Unavailable(f"{self._borrow.owner} did not answer in time") from error
        except ChimeraError:
            self._body.metrics.owner_called(service, share, "failed")
            raise
        self._body.metrics.owner_called(service, share, "answered")
        answers = {key: self._checked(key, documents.get(key)) for key in wanted}
        return [answers[key] for key in keys]

    def _checked(self, key: str, document: bytes | None) -> Doc | BaseException | None:
        """The owner's document, if it is one; it is remembered, or that there is none. Nobody waits for that."""
        value = None
        if (
            document is not None
            and (value := self._decoded(document, f"{self._borrow.owner}'s answer for", key)) is None
        ):
            return Unavailable(f"{self._borrow.owner} answered garbage")
        self._keeps.submit((key, document))
        return value

    def _decoded(self, document: bytes, what: str, key: str) -> Doc | None:
        try:
            return self._decoder.decode(document)
        except GARBAGE as error:
            logger.warning("%s %r is not a %s: %s", what, key, self._borrow.document.__name__, error)
            return None

    async def _recall(self, keys: list[str]) -> Sequence[Known | None]:
        known = await self._body.last_known.get_many([self._name(key) for key in keys])
        return [known.get(self._name(key)) for key in keys]

    async def _keep(self, documents: list[tuple[str, bytes | None]]) -> Sequence[None]:
        await self._body.last_known.put_many({self._name(key): document for key, document in documents})
        return [None] * len(documents)

    def _name(self, key: str) -> str:
        return f"{self._body.service.name}/{self._borrow.name}/{key}"
