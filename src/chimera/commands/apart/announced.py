"""What the write heads of a service can read that live now, as they announce it by their leases and their builds."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import msgspec

from chimera.commands.apart.contracts import UPGRADED, CanRead, code_of
from chimera.commands.apart.fitting import misfit_of
from chimera.core.aio.tasks import take_exception
from chimera.core.context import Context
from chimera.core.tables import Build
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.journal.leases import Leases
from chimera.versions import base_of

LOOK_S = 1.0
"""Seconds for which a look is believed, by those who accept commands."""

Kind = Literal["commands", "events", "folded"]


class _Other(NamedTuple):
    """A build of other code: the digest of that (see `code_of`), and what it can read."""

    code: str
    reads: CanRead


class _Announcement(NamedTuple):
    """What was announced: whether a write head runs this very code, or may for all that is known; and other builds."""

    is_alike: bool = True
    others: Sequence[_Other] = ()


class Announced:
    """The builds that a service's write heads run now.

    A worker that does not say what it can read, because it is of an earlier release, may read whatever comes.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leases = Leases(context, "")
        self._known: dict[str, _Other] = {}
        self._looking: asyncio.Future[_Announcement] | None = None
        self._look_at = float("-inf")

    async def misfit(self, type_: str, data: bytes) -> str:
        """Why no write head can read a command; empty where one can or may, where none lives, or where nobody tells.

        As it was a second ago at most.
        """
        look = await self._lately()
        if look.is_alike or not look.others:
            return ""
        found = [_misfit(other, "commands", type_, data) for other in look.others]
        return "" if "" in found else found[0]

    async def was_read_elsewhere(self, type_: str, data: bytes) -> bool:
        """True where a write head takes a body as the newest version of a command that it knows; False if nobody tells.

        As it was a second ago at most.
        """
        return any(
            not misfit_of(data, schema)
            for other in (await self._lately()).others
            for name, schema in other.reads.commands.items()
            if base_of(name) == base_of(type_) and UPGRADED not in schema
        )

    async def is_read_elsewhere(self, kind: Kind, name: str, data: bytes, *, not_by: Collection[str] = ()) -> bool:
        """True where a write head says that it can read what this code can't. Raises Unavailable.

        `not_by`: the codes that were found unable to.
        """
        others = [other for other in (await self._look()).others if other.code not in not_by]
        return any(not _misfit(other, kind, name, data) for other in others)

    async def reacts_elsewhere(self, reaction: str) -> set[str]:
        """The types of events that a reaction handles in other builds, as it was a second ago. Raises Unavailable."""
        start = f"{reaction}/"
        look = await asyncio.shield(self._looked())
        names = [name for other in look.others for name in other.reads.events]
        return {name.removeprefix(start) for name in names if name.startswith(start)}

    def _looked(self) -> asyncio.Future[_Announcement]:
        now = self._context.clock.monotonic()
        if self._looking is None or now >= self._look_at:
            self._look_at = now + LOOK_S
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(take_exception)
        return self._looking

    async def _lately(self) -> _Announcement:
        looking = self._looked()
        try:
            if looking.done():
                return looking.result()
            async with asyncio.timeout(self._context.timing.reuse_look_s):
                return await asyncio.shield(looking)
        except (ChimeraError, TimeoutError):
            return _Announcement()

    async def _look(self) -> _Announcement:
        codes, own = await self._leases.codes(), code_of(self._context.service)
        if unknown := codes - self._known.keys():
            table = table_of(Build)
            async with self._context.store.snapshot(once=True) as session:
                rows = await session.load(table, [(code,) for code in sorted(unknown)])
            for build in map(table.from_row, rows):
                reads = msgspec.json.decode(build.reads, type=CanRead)
                self._known[build.code] = _Other(reads.code, reads)
        found = [self._known[code] for code in sorted(codes & self._known.keys())]
        is_alike = len(found) < len(codes) or any(each.code == own for each in found)
        return _Announcement(is_alike, [each for each in found if each.code != own])


def _misfit(other: _Other, kind: Kind, name: str, data: bytes) -> str:
    schema = getattr(other.reads, kind).get(name)
    return f"it knows no {name}" if schema is None else misfit_of(data, schema)
