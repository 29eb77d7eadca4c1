"""Where a log and a journal part: the events that were sent and are not in the journal any more.

The log is read record by record beside the journal. An event of the log whose chain is not the journal's at its number
was lost; the number before the first of them is the last that all have in common.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, cast

from chimera.core.context import Context
from chimera.core.keys.seals import Seal
from chimera.errors import ChimeraError, Trimmed
from chimera.journal.history import Epochs
from chimera.messages import Message
from chimera.ports import Record, Store

PAGE, GROWTH = 1000, 10
QUIET_S = 2.0
"""Seconds without a record after which a log has none there: it was cut behind them."""
MOST_LOST = 100_000
"""Lost events of one partition that are looked at one by one."""


class Fork(NamedTuple):
    """A partition whose log has events that its journal lost.

    `common`: the last number that both have, `chain` its chain there (empty: not known); `end`: where the log ended.
    `is_new`: some of what was lost is not told of by an epoch yet; `common` is before those then.
    """

    partition: int
    common: int
    chain: str
    end: int
    lost: Sequence[Message]
    is_new: bool


class JournalChains:
    """The chains of a partition of a journal by number, read page by page."""

    def __init__(self, store: Store, partition: int, head: int) -> None:
        self._store = store
        self._partition = partition
        self._head = head
        self._page: dict[int, str] = {}

    async def at(self, number: int) -> str | None:
        """The chain at a number; empty where the journal has none there, None where it does not know any more."""
        if number > self._head:
            return ""
        if number == 0:
            return (await self._store.chain({self._partition: 0})).get(self._partition)
        if number not in self._page:
            try:
                events = await self._store.journal(self._partition, number - 1, PAGE)
            except Trimmed:
                return None
            self._page = {event.number: event.chain for event in events}
        return self._page.get(number, "")


async def led_to(fork: Fork, number: int, chain: str, journal: JournalChains, seal: Seal) -> list[Message] | None:
    """The lost events up to one at a number, oldest first; None where the log does not have all of them any more."""
    by_number: dict[int, list[Message]] = {}
    for each in fork.lost:
        by_number.setdefault(each.number, []).append(each)
    last = [each for each in by_number.get(number, ()) if each.chain == chain or not chain]
    found = last[:1] if len(last) == 1 else []
    while found:
        number -= 1
        in_common = await journal.at(number)
        if in_common and seal.may_follow(found[-1], in_common):
            return found[::-1]
        before = next((each for each in by_number.get(number, ()) if seal.may_follow(found[-1], each.chain)), None)
        if before is None:
            return None
        found.append(before)
    return None


async def find_fork(context: Context, partition: int, began: Epochs, *, whole: bool = False) -> Fork | None:
    """Where the log of a partition of the service's events and its journal part; None where they don't.

    `began` are the epochs that are told of. The log is read block by block from its end, back to the first that has
    nothing of what was lost, or `whole`. Raises ChimeraError where more was lost than can be looked at.
    """
    topic, store = context.events_topic, context.store
    chains = JournalChains(store, partition, (await store.heads())[partition])
    end = last = (await context.log.ends(topic)).get(partition, 0)
    lost, untold, size = list[Message](), list[int](), 1
    while last > 0:
        first, size = max(0, last - size), min(GROWTH * size, PAGE)
        records = [each async for each in _records(context, partition, first, last)]
        found = [each for each in records if await _is_lost(context, each.message, chains)]
        lost[:0] = [message for _, message in found]
        untold += [message.number for offset, message in found if not began.is_over(partition, message.number, offset)]
        if len(lost) > MOST_LOST:
            raise ChimeraError(
                f"{topic}/{partition} has more than {MOST_LOST:,} events that the journal of {context.service.name} "
                "does not have: is it the topic of another installation?"
            )
        if not records or not (found or whole):  # what there was before is gone, or is the journal's
            break
        last = first
    if not lost:
        return None
    common = min(untold or (message.number for message in lost)) - 1
    chain = (await store.chain({partition: common})).get(partition, "")
    return Fork(partition, common, chain, end, lost, bool(untold))


async def _is_lost(context: Context, message: Message, chains: JournalChains) -> bool:
    """True for an event of the service that is not in its journal any more."""
    if message.source != context.service.name or message.number < 1 or not message.chain:
        return False
    known = await chains.at(message.number)
    return known is not None and known != message.chain


async def _records(context: Context, partition: int, first: int, last: int) -> AsyncGenerator[Record, None]:
    reading = cast("AsyncGenerator[Sequence[Record], None]", context.log.read(context.events_topic, {partition: first}))
    async with aclosing(reading):
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    batch = await anext(reading)
            except TimeoutError:  # what there was up to there is gone
                return
            for record in batch:
                if record.offset <= last:
                    yield record
            if batch and batch[-1].offset >= last:
                return
