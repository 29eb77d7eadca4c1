"""Events that a reaction has handled and their owner has lost since: what was done stays, and is not done again.

An owner that was put back to an earlier moment may do again what it had done, such as execute a command that is still
in its log; then it emits the same event, at another number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from chimera.core.context import Context
from chimera.core.tables import KeptEvent
from chimera.entities import table_of
from chimera.messages import Message, chain_of
from chimera.transaction import Transaction


def content_of(event: Message) -> str:
    """The digest of an event without its place: what is emitted again has the same one."""
    return chain_of("", event.type, event.key, event.time, event.data)


class KeptEvents:
    """The kept events of a reaction on one source, looked up when they are needed first."""

    def __init__(self, context: Context, consumer: str) -> None:
        self._context = context
        self._consumer = consumer
        self._known: Collection[str] | None = None

    def look_again(self) -> None:
        """Look them up when they are needed next: an operator may have decided which to keep."""
        self._known = None

    async def new_of(self, events: Sequence[Message], tx: Transaction) -> list[Message]:
        """The events that are to be handled: those that are kept are used up."""
        if self._known is None:
            self._known = await self._look()
        return [event for event in events if not (self._known and await self._use_up(content_of(event), tx))]

    async def _use_up(self, digest: str, tx: Transaction) -> bool:
        if self._known is None or digest not in self._known:
            return False
        kept = await tx.load(KeptEvent, self._consumer, digest)
        if kept is None:
            return False
        if kept.times > 1:
            tx.save(KeptEvent(kept.consumer, kept.digest, kept.times - 1))
        else:
            tx.delete(kept)
        return True

    async def _look(self) -> set[str]:
        table = table_of(KeptEvent)
        async with self._context.store.snapshot(once=True) as session:
            rows = await session.find(table, {"consumer": [self._consumer]})
        return {row.digest for row in map(table.from_row, rows)}
