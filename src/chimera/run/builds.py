"""The builds of a service: what each is called, and what it can read, written down before its write heads work."""

from __future__ import annotations

import msgspec

from chimera.commands.apart.contracts import CanRead, can_read
from chimera.core.context import Context
from chimera.core.tables import Build
from chimera.entities import table_of
from chimera.journal.checkpoints import again_on_conflict
from chimera.service import Service
from chimera.share.digests import digest_of
from chimera.views.fingerprints import fingerprint_of_all


def build_of(service: Service) -> str:
    """The name of a build: a digest of its views' code and of all that it can read."""
    return digest_of(f"{fingerprint_of_all(service)} ".encode() + _json(can_read(service)))


async def keep_build(context: Context) -> None:
    """Write down what this build can read, unless it is known. Raises Unavailable."""
    table, build = table_of(Build), Build(build_of(context.service), _json(can_read(context.service)).decode())

    async def write() -> None:
        async with context.store.transaction() as session:
            await session.save(table, [table.to_row(build)])

    async with context.store.snapshot(once=True) as session:
        known = await session.load(table, [(build.code,)])
    if not known:
        await again_on_conflict(write, context.clock)


def _json(reads: CanRead) -> bytes:
    return msgspec.json.encode(reads, order="sorted")
