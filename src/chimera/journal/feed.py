"""The events of one source, gapless and in order, whatever the log does to them (invariant 2).

Each journal partition's numbers have no holes, so what a log loses, doubles or delays shows: a number
at or before the checkpoint is dropped, a number too far ahead is a hole. Holes are filled from the
owner's journal, page by page. Because heads are compared now and then, a lost tail is found as well.
A new consumer, a repaired one and a rebuild are therefore the same thing: a feed from where it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from chimera.core.aio.pace import APART, GROWTH
from chimera.core.aio.tasks import take_exception
from chimera.core.context import Context
from chimera.core.names import events_topic
from chimera.errors import ChimeraError, Trimmed
from chimera.journal.history import Epochs, divergences, fits
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Move, Record, wakes

logger = logging.getLogger("chimera")


HASHED = 50
"""Records read at once, at most, each of which is checked where it comes; of more, a partition's are checked together.

Without keys, of more only the first and the last of each partition are checked.
"""
EPOCHS_S = 1.0
"""Seconds that an owner is waited for, at most, to say which records of the log are of a history that is over."""
SHOWN_BYTES = 200
"""Bytes that are told of a record that is passed over."""


class Batch(NamedTuple):
    """Events that follow the checkpoints without a hole, and the checkpoints' moves over them.

    `beside`: documents that are written with what they are folded into, or nothing is.
    """

    messages: Sequence[Message]
    moves: Sequence[Move]
    beside: Sequence[Document] = ()


class Compared(NamedTuple):
    """The owner's heads, the checkpoints that were in doubt, and why some of them do not stand on its history."""

    heads: Mapping[int, int]
    doubted: Mapping[int, Checkpoint]
    diverged: Mapping[int, str]


class Feed:
    """Reads some partitions of a source's events, from the log and, for what is missing, from the owner.

    `checkpoints` say after what, by partition; `consumer` is whose they are. Of a partition in which they do not stand
    on the owner's history it reads nothing, and says so, until they do.
    """

    def __init__(
        self, context: Context, source: str, checkpoints: Mapping[int, Checkpoint], consumer: str = ""
    ) -> None:
        self._consumer = consumer
        self._context = context
        self._source = source
        self._topic = events_topic(source)
        self._work = f"{context.service.name} events of {source}"
        self._owner = context.owners[source]
        self._seal = context.seals.of(source)
        self._heads = context.owners.heads(source)
        self._page = context.limits.events_page
        self._timing = context.timing
        self._clock = context.clock
        self._at: dict[int, Checkpoint] = dict(checkpoints)
        self._known: dict[int, int] = {}
        self._epochs: Epochs | None = None
        self._doubted = set(self._at)
        self._diverged: dict[int, str] = {}
        self._compared: dict[int, tuple[int, int]] = {}
        self._compare_at = float("-inf")
        self._compare_s = context.timing.heads_s
        is_told = source == context.service.name and wakes(context.store)
        self._compare_longest_s = context.timing.quiet_s if is_told else context.timing.heads_quiet_s
        self._refetch_at = float("-inf")
        self._records: AsyncIterator[Sequence[Record]] | None = None
        self._reading: asyncio.Task[Sequence[Record]] | None = None
        self._asking: asyncio.Future[Compared] | None = None

    @property
    def source(self) -> str:
        """The service whose events it reads."""
        return self._source

    @property
    def partitions(self) -> list[int]:
        """The partitions that it reads."""
        return list(self._at)

    @property
    def is_diverged(self) -> bool:
        """True when it reads nothing of a partition, because its checkpoint is not on the owner's history."""
        return bool(self._diverged)

    def reset(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        """Go on from other checkpoints: somebody else moved them, or they were deleted."""
        if any(_is_elsewhere(checkpoint, self._at[partition]) for partition, checkpoint in checkpoints.items()):
            self._at = dict(checkpoints)
            self._epochs = None
            self._stop_reading()
            self._doubted = set(self._at)
            self._tell({})

    async def next(self) -> Batch:
        """The next events, as soon as there are some; none after a comparison with heads, to look at checkpoints.

        Raises Unavailable when the log can't be read, Trimmed when what comes next is nowhere any more.
        """
        while True:
            before = dict(self._at)
            messages = await self._repair()
            messages += self._admit(await self._read(wait=not messages))
            compared = self._compare()
            if messages:
                self._compare_s = self._timing.heads_s
                self._compare_at = min(self._compare_at, self._clock.monotonic() + self._compare_s)
            if messages or compared:
                moves = [
                    Move(self._source, partition, before[partition].number, checkpoint)
                    for partition, checkpoint in self._at.items()
                    if checkpoint.number != before[partition].number
                ]
                return Batch(messages, moves)

    async def close(self) -> None:
        """Stop what is under way, and wait until it has stopped."""
        self._context.troubles.gets_on(self._work, id(self))
        self._tell({})
        under_way: list[asyncio.Future[Any]] = [task for task in (self._reading, self._asking) if task is not None]
        self._stop_reading()
        if self._asking is not None:
            self._asking.cancel()
            self._asking.add_done_callback(take_exception)
        if under_way:
            await asyncio.wait(under_way)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading.add_done_callback(take_exception)
        self._reading = self._records = None

    async def _read(self, *, wait: bool) -> Sequence[Record]:
        """Records from the log; none when it has nothing before the next comparison or repair is due."""
        if self._records is None:
            await self._learn_epochs()
            self._records = self._context.log.read(self._topic, await self._offsets(), self._page)
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(self._records))
        under_way: list[asyncio.Future[Any]] = [self._reading]
        if self._asking is not None:
            under_way.append(self._asking)
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
        if len(page) >= self._page:  # there is more: it comes while these are worked on
            self._reading = asyncio.ensure_future(anext(self._records))
        return page

    async def _learn_epochs(self) -> None:
        """Ask the owner which records are of a history that is over; one that does not answer is asked the next time.

        What is read of such a history until then is noticed as soon as the owner has another one.
        """
        if self._source == self._context.service.name:
            await self._context.sent.wait()
        if self._epochs is None:
            with suppress(ChimeraError, TimeoutError):
                async with asyncio.timeout(EPOCHS_S):
                    self._epochs = Epochs(await self._owner.epochs())

    async def _offsets(self) -> dict[int, int]:
        """The offsets to read the log on after: the checkpoints' hints, but 0 for a partition that was made anew."""
        ends = await self._context.log.ends(self._topic)
        hints = {partition: checkpoint.offset for partition, checkpoint in self._at.items()}
        return {partition: hint if hint <= ends.get(partition, 0) else 0 for partition, hint in hints.items()}

    def _patience(self) -> float | None:
        due = [self._refetch_at] if self._behind() else []
        if self._asking is None:
            due.append(self._compare_at)
        return max(0.0, min(due) - self._clock.monotonic()) if due else None

    def _behind(self) -> list[int]:
        return [
            partition
            for partition, number in self._known.items()
            if number > self._at[partition].number and partition not in self._diverged
        ]

    def _admit(self, records: Sequence[Record]) -> list[Message]:
        """The messages of the records that come next; remembers how far ahead the others are.

        Where one of a partition's is somebody else's, or two claim one number, the owner is asked for all of them.
        """
        messages: list[Message] = []
        taken: dict[int, list[Message]] = {}
        forged: set[int] = set()
        hashed = len(records) <= HASHED
        numbers = {partition: at.number for partition, at in self._at.items() if partition not in self._diverged}
        offsets = {partition: at.offset for partition, at in self._at.items()}
        for offset, message in records:
            partition, number = message.partition, message.number
            at = numbers.get(partition)
            if at is None or (self._epochs is not None and self._epochs.is_over(partition, number, offset)):
                continue
            if number < 1 or message.source != self._source:
                self._pass_over(offset, message)
                offsets[partition] = max(offset, offsets[partition])
            elif number == at + 1 and self._fits(message, own := taken.setdefault(partition, []), hashed=hashed):
                numbers[partition], offsets[partition] = number, offset
                own.append(message)
                messages.append(message)
            elif number <= at:
                offsets[partition] = max(offset, offsets[partition])
                if not self._is_known(message, taken.get(partition, ()), at):
                    forged.update({partition} & taken.keys())
                    self._doubt(partition)
            else:
                self._known[partition] = max(number, self._known.get(partition, 0))
        forged |= {each for each, own in taken.items() if not hashed and not self._seal.all_follow(own)}
        for partition in forged:
            self._known[partition] = max(numbers[partition], self._known.get(partition, 0))
        for partition in numbers.keys() - forged:
            chain = own[-1].chain if (own := taken.get(partition, [])) else self._at[partition].chain
            self._at[partition] = Checkpoint(numbers[partition], offsets[partition], chain)
        return [each for each in messages if each.partition not in forged] if forged else messages

    def _fits(self, message: Message, taken: Sequence[Message], *, hashed: bool) -> bool:
        """False where an event is not the next one. Of many, one behind another only has to have a chain."""
        if not taken:
            return fits(message, self._at[message.partition], self._seal)
        before = taken[-1].chain
        return not before or (self._seal.follows(message, before) if hashed else bool(message.chain))

    def _is_known(self, message: Message, taken: Sequence[Message], at: int) -> bool:
        """False for another event than was taken at this number, as far as that is still known."""
        if taken and message.number >= taken[0].number:
            return message.chain == taken[message.number - taken[0].number].chain
        return message.number != at or message.chain == self._at[message.partition].chain

    def _doubt(self, partition: int) -> None:
        """Have a look soon whether the checkpoint stands on the owner's history."""
        self._doubted.add(partition)
        self._compare_at = self._clock.monotonic()

    def _tell(self, diverged: Mapping[int, str]) -> None:
        """Say which partitions are diverged from now on."""
        service = self._context.service.name
        for partition in diverged.keys() - self._diverged.keys():
            logger.error(
                "%s: %s %s: its journal was put back or made anew, and nothing is taken from it until that is mended; "
                "type: chimera recover %s",
                service,
                self._consumer,
                diverged[partition],
                self._source,
            )
        for partition in self._diverged.keys() - diverged.keys():
            logger.info("%s: %s goes on in partition %d of %s", service, self._consumer, partition, self._source)
        work, me = f"{service} {self._consumer}", id(self)
        if diverged and self._source == service:
            self._context.sent.doubt()
        if diverged:
            self._context.troubles.failed(work, "diverged: it " + "; ".join(diverged.values()), self._clock, me)
        elif self._diverged:
            self._context.troubles.gets_on(work, me)
        if diverged or self._diverged:
            self._context.metrics.diverged(service, self._consumer, self._source, len(diverged))
        self._diverged = dict(diverged)

    def _pass_over(self, offset: int, message: Message) -> None:
        """Tell of a record that somebody else has written among the events: nothing of the owner's is lost with it."""
        self._context.metrics.passed_over(self._context.service.name, self._source)
        logger.warning(
            "%s: the record at offset %d of partition %d is no event of %s and is passed over: %s: %r",
            self._topic,
            offset,
            message.partition,
            self._source,
            message.fault or f"it says that it is {message.type[:64]} {message.number} of {message.source[:64]!r}",
            message.data[:SHOWN_BYTES],
        )

    async def _repair(self) -> list[Message]:
        """A page of what is missing, from the owner's journal."""
        if self._clock.monotonic() < self._refetch_at:
            return []
        messages: list[Message] = []
        waits_since = self._refetch_at
        for partition in self._behind():
            try:
                page = await self._owner.journal(
                    partition, self._at[partition].number, self._context.limits.journal_page
                )
            except Trimmed as gone:
                raise Trimmed(partition, gone.after, f"the journal of {self._source}") from gone
            except ChimeraError as error:
                self._postpone(str(error))
                break
            if page and not fits(page[0], self._at[partition], self._seal) and not await self._is_the_owners(partition):
                continue
            taken = self._follow(partition, page)
            if not (taken or page) and await self._was_made_up(partition):
                continue
            if not taken:
                self._postpone(
                    f"its journal has nothing after {self._source}/{partition}@{self._at[partition].number}, "
                    f"though {self._known[partition]} was seen"
                )
            messages += taken
        if self._refetch_at == waits_since:
            self._context.troubles.gets_on(self._work, id(self))
        self._context.metrics.repaired(self._context.service.name, self._source, len(messages))
        return messages

    async def _is_the_owners(self, partition: int) -> bool:
        """False where the checkpoint is not on the owner's history, or where that can't be known now."""
        try:
            heads = await self._heads.anew()
            found = await divergences(self._source, self._owner, heads, {partition: self._at[partition]})
        except ChimeraError as error:
            self._postpone(str(error))
            return False
        if found:
            self._doubted.add(partition)
            self._tell({**self._diverged, **found})
        return not found

    async def _was_made_up(self, partition: int) -> bool:
        """True where the owner has never had what was seen in the log; then it is passed over."""
        try:
            head = (await self._heads.anew()).get(partition, 0)
        except ChimeraError:
            return False
        if head > self._at[partition].number:
            return False
        if head < self._at[partition].number:
            self._doubt(partition)
        logger.warning(
            "%s: a record of partition %d says that it is number %d, but %s has none after %d: it is passed over",
            self._topic,
            partition,
            self._known.pop(partition),
            self._source,
            head,
        )
        self._context.metrics.passed_over(self._context.service.name, self._source)
        return True

    def _follow(self, partition: int, page: Sequence[Message]) -> list[Message]:
        taken: list[Message] = []
        for message in page:
            at = self._at[partition]
            if message.number != at.number + 1:
                break
            self._at[partition] = Checkpoint(message.number, at.offset, message.chain)
            taken.append(message)
        return taken

    def _postpone(self, cause: str) -> None:
        self._refetch_at = self._clock.monotonic() + self._timing.refetch_s
        self._context.troubles.failed(self._work, cause, self._clock, id(self))
        logger.info("events of %s are missing and can't be fetched yet: %s", self._source, cause)

    def _compare(self) -> bool:
        """Compare with the owner's heads: where something was left the last time and nothing came since, it is missing.

        Heads are asked for in the background, so that an owner that hangs holds up nothing. Says whether it compared.
        """
        if self._asking is None:
            if self._clock.monotonic() >= self._compare_at:
                self._asking = asyncio.ensure_future(self._look({each: self._at[each] for each in self._doubted}))
            return False
        if not self._asking.done():
            return False
        asking, self._asking = self._asking, None
        try:
            heads, looked_at, diverged = asking.result()
        except ChimeraError:
            heads, looked_at, diverged = {}, {}, dict(self._diverged)
        self._tell({**{p: why for p, why in self._diverged.items() if p not in looked_at}, **diverged})
        self._doubted -= looked_at.keys() - diverged.keys()
        for partition, (head, before) in self._compared.items():
            if head > before == self._at[partition].number:
                self._known[partition] = max(head, self._known.get(partition, 0))
            if heads.get(partition, before) < before:
                self._doubt(partition)
        compared = {
            partition: (head, self._at[partition].number) for partition, head in heads.items() if partition in self._at
        }
        is_quiet = compared == self._compared and all(head == number for head, number in compared.values())
        self._compare_s = min(self._compare_s * GROWTH, self._compare_longest_s) if is_quiet else self._timing.heads_s
        self._compared = compared
        apart = 1 - APART + 2 * APART * self._clock.random() if is_quiet else 1.0
        self._compare_at = self._clock.monotonic() + self._compare_s * apart
        return True

    async def _look(self, doubted: Mapping[int, Checkpoint]) -> Compared:
        """The heads; a history is asked for only where there is a doubt."""
        if not doubted:
            return Compared(await self._heads(), {}, {})
        heads = await self._heads.anew()
        return Compared(heads, doubted, await divergences(self._source, self._owner, heads, doubted))


def _is_elsewhere(one: Checkpoint, other: Checkpoint) -> bool:
    return one.number != other.number or (one.chain != other.chain and bool(one.chain and other.chain))
