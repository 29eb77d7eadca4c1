"""The events of one source, gapless and in order, whatever the log does to them (invariant 2).

Each journal partition's numbers have no holes, so what a log loses, doubles or delays shows: a number
at or before the checkpoint is dropped, a number too far ahead is a hole. Holes are filled from the
owner's journal, page by page. Because heads are compared now and then, a lost tail is found as well.
A new consumer, a repaired one and a rebuild are therefore the same thing: a feed from where it stands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from chimera.errors import ChimeraError, Trimmed
from chimera.messages import Message
from chimera.ports import Checkpoint, Log, Move, Owner, Record
from chimera.tasks import take_exception

logger = logging.getLogger("chimera")

Heads = Callable[[], Awaitable[Mapping[int, int]]]


class Batch(NamedTuple):
    """Events that follow the checkpoints without a hole, and the checkpoints' moves over them."""

    messages: Sequence[Message]
    moves: Sequence[Move]


class FeedOptions(NamedTuple):
    """`audit_s`: how often heads are compared; `patience_s`: the pause after a failure.

    `limit`: events per page of the log, which are folded into one write; `repair_limit`: per page of the journal.
    """

    audit_s: float = 1.0
    limit: int = 2_000
    repair_limit: int = 500
    patience_s: float = 0.2


class Feed:
    """Reads some partitions of a source's events, from the log and, for what is missing, from the owner.

    `heads` answers as `Owner.heads`; it is apart so that many feeds of a process can share one answer.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        source: str,
        owner: Owner,
        heads: Heads,
        checkpoints: Mapping[int, Checkpoint],
        *,
        options: FeedOptions = FeedOptions(),
        repaired: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._log = log
        self._topic = topic
        self._source = source
        self._owner = owner
        self._heads = heads
        self._options = options
        self._repaired = repaired
        self._at: dict[int, Checkpoint] = dict(checkpoints)
        self._known: dict[int, int] = {}
        self._last_audit: dict[int, tuple[int, int]] = {}
        self._next_audit = 0.0
        self._retry_at = 0.0
        self._records: AsyncIterator[Sequence[Record]] | None = None
        self._reading: asyncio.Task[Sequence[Record]] | None = None
        self._auditing: asyncio.Future[Mapping[int, int]] | None = None

    @property
    def source(self) -> str:
        return self._source

    @property
    def partitions(self) -> list[int]:
        return list(self._at)

    def reset(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        """Go on from other checkpoints: somebody else moved them, or they were deleted."""
        if any(checkpoint.number != self._at[partition].number for partition, checkpoint in checkpoints.items()):
            self._at = dict(checkpoints)
            self._stop_reading()

    async def next(self) -> Batch:
        """The next events, as soon as there are some; none after an audit, for who wants to look at its checkpoints.

        Raises Unavailable when the log can't be read, Trimmed when what comes next is kept nowhere any more.
        """
        while True:
            before = dict(self._at)
            messages = await self._repair()
            messages += self._admit(await self._read(wait=not messages))
            audited = self._audit()
            if messages or audited:
                moves = [
                    Move(self._source, partition, before[partition].number, checkpoint)
                    for partition, checkpoint in self._at.items()
                    if checkpoint.number != before[partition].number
                ]
                return Batch(messages, moves)

    async def close(self) -> None:
        under_way: list[asyncio.Future[Any]] = [task for task in (self._reading, self._auditing) if task is not None]
        self._stop_reading()
        if self._auditing is not None:
            self._auditing.cancel()
            self._auditing.add_done_callback(take_exception)
        if under_way:
            await asyncio.wait(under_way)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading.add_done_callback(take_exception)
        self._reading = self._records = None

    async def _read(self, *, wait: bool) -> Sequence[Record]:
        """Records from the log; none when it has nothing before the next audit or repair is due."""
        if self._records is None:
            self._records = self._log.read(self._topic, await self._offsets(), self._options.limit)
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._records))
        under_way: list[asyncio.Future[Any]] = [self._reading]
        if self._auditing is not None:
            under_way.append(self._auditing)
        patience = self._patience() if wait else 0.0
        await asyncio.wait(under_way, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not self._reading.done():
            return ()
        reading, self._reading = self._reading, None
        try:
            page = reading.result()
        except BaseException:
            self._records = None
            raise
        if len(page) >= self._options.limit:  # there is more: it comes while these are worked on
            self._reading = asyncio.ensure_future(anext(self._records))
        return page

    async def _offsets(self) -> dict[int, int]:
        """Where to read the log on: after the checkpoints' hints, but from the beginning of one that was made anew."""
        ends = await self._log.ends(self._topic)
        hints = {partition: checkpoint.offset for partition, checkpoint in self._at.items()}
        return {partition: hint if hint <= ends.get(partition, 0) else 0 for partition, hint in hints.items()}

    def _patience(self) -> float | None:
        due = [self._retry_at] if self._behind() else []
        if self._auditing is None:
            due.append(self._next_audit)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _behind(self) -> list[int]:
        return [partition for partition, number in self._known.items() if number > self._at[partition].number]

    def _admit(self, records: Sequence[Record]) -> list[Message]:
        """Those records that come next; remembers how far ahead the others are."""
        messages: list[Message] = []
        numbers = {partition: at.number for partition, at in self._at.items()}
        offsets = {partition: at.offset for partition, at in self._at.items()}
        for offset, message in records:
            partition, number = message.partition, message.number
            at = numbers.get(partition)
            if at is None:
                continue
            if number == at + 1:
                numbers[partition], offsets[partition] = number, offset
                messages.append(message)
            elif number <= at:
                offsets[partition] = max(offset, offsets[partition])
            else:
                self._known[partition] = max(number, self._known.get(partition, 0))
        self._at = {partition: Checkpoint(number, offsets[partition]) for partition, number in numbers.items()}
        return messages

    async def _repair(self) -> list[Message]:
        """A page of what is missing, from the owner's journal."""
        if time.monotonic() < self._retry_at:
            return []
        messages: list[Message] = []
        for partition in self._behind():
            try:
                page = await self._owner.journal(partition, self._at[partition].number, self._options.repair_limit)
            except Trimmed as gone:
                raise Trimmed(partition, gone.after, f"the journal of {self._source}") from gone
            except ChimeraError as error:
                self._postpone(str(error))
                break
            taken = self._follow(partition, page)
            if not taken:
                self._postpone(
                    f"its journal has nothing after {self._source}/{partition}@{self._at[partition].number}, "
                    f"though {self._known[partition]} was seen"
                )
            messages += taken
        self._repaired(len(messages))
        return messages

    def _follow(self, partition: int, page: Sequence[Message]) -> list[Message]:
        taken: list[Message] = []
        for message in page:
            at = self._at[partition]
            if message.number != at.number + 1:
                break
            self._at[partition] = Checkpoint(message.number, at.offset)
            taken.append(message)
        return taken

    def _postpone(self, cause: str) -> None:
        self._retry_at = time.monotonic() + self._options.patience_s
        logger.info("events of %s are missing and can't be fetched yet: %s", self._source, cause)

    def _audit(self) -> bool:
        """Compare with the owner's heads: where something was left an audit ago, and nothing came since, it is missing.

        Heads are asked for in the background, so that an owner that hangs holds up nothing. Says whether it compared.
        """
        if self._auditing is None:
            if time.monotonic() >= self._next_audit:
                self._auditing = asyncio.ensure_future(self._heads())
            return False
        if not self._auditing.done():
            return False
        auditing, self._auditing = self._auditing, None
        try:
            heads = auditing.result()
        except ChimeraError:
            heads = {}
        for partition, (head, before) in self._last_audit.items():
            if head > before == self._at[partition].number:
                self._known[partition] = max(head, self._known.get(partition, 0))
        self._last_audit = {
            partition: (head, self._at[partition].number) for partition, head in heads.items() if partition in self._at
        }
        self._next_audit = time.monotonic() + self._options.audit_s
        return True
