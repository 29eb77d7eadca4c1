"""Traces: who did what, over all services. The commands and events of one chain, from journals, inboxes and parking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Literal, NamedTuple

from chimera.caller import Origin, origin_of
from chimera.commands.inbox import read_outcomes
from chimera.commands.parking import message_of
from chimera.core.context import Context
from chimera.core.tables import Parked
from chimera.entities import Key, table_of
from chimera.messages import Message, Position

PAGE = 1000
LAST = 100_000
"""Events of each partition that are looked at, the newest ones, unless more are asked for."""
Kind = Literal["command", "event", "parked"]


class TraceStep(NamedTuple):
    """A command, an event or a parked message of a chain. `state`: how it ended, or why it waits; empty for an event.

    `type`, `key` and `time` are empty for a command: the inbox knows how it ended, and no more of it.
    """

    kind: Kind
    service: str
    id: str
    type: str
    key: str
    time: str
    origin: Origin
    state: str = ""


class Trace(NamedTuple):
    """All that was found of a chain: commands first, then in the order of journals. `looked_at`: so many events."""

    steps: list[TraceStep]
    looked_at: int
    is_whole: bool


async def trace(contexts: Sequence[Context], what: str, last: int | None = LAST) -> Trace:
    """The chain of a correlation, of a command by its id, or of an event by its position.

    `last`: so many events of each partition are looked at, the newest; None for all that there are.
    """
    chain = _Chain({what, *await _correlation_of(contexts, what)})
    known, looked_at, is_whole = -1, 0, True
    while len(chain.found) > known:  # what a batch has begun is known by the event that began it
        known, looked_at, is_whole = len(chain.found), 0, True
        for context in contexts:
            async for step in _parked(context):
                chain.take(step)
            for partition, (after, is_cut) in (await _begins(context, last)).items():
                is_whole &= not is_cut
                async for event in _events(context, partition, after):
                    looked_at += 1
                    chain.take(_step_of("event", context, event))
        if not chain.found:
            break
    return Trace([*await _commands(contexts, what, chain.found.values()), *chain.found.values()], looked_at, is_whole)


class _Chain:
    """What belongs to a chain, as far as it was found."""

    def __init__(self, wanted: set[str]) -> None:
        self._wanted = wanted
        self.found: dict[tuple[str, str, str], TraceStep] = {}

    def take(self, step: TraceStep) -> None:
        """Add what belongs to it."""
        origin = step.origin
        if step.id in self._wanted or origin.correlation in self._wanted or origin.causation in self._wanted:
            self.found[step.kind, step.service, step.id] = step
            self._wanted |= {step.id, origin.correlation}


async def _correlation_of(contexts: Sequence[Context], what: str) -> list[str]:
    """The correlation of an event, by its position; none where it is no position of one that is there."""
    try:
        at = Position.parse(what)
    except ValueError:
        return []
    for context in contexts:
        if at.source == context.service.name and at.partition < context.service.partitions:
            oldest = (await context.store.oldest())[at.partition]
            events = await context.store.journal(at.partition, at.number - 1, 1) if at.number >= oldest else []
            return [origin_of(each.id, each.metadata).correlation for each in events if each.number == at.number]
    return []


async def _begins(context: Context, last: int | None) -> dict[int, tuple[int, bool]]:
    """After which number each partition is read, and whether older events are left out."""
    heads, oldest = await context.store.heads(), await context.store.oldest()
    first = {partition: oldest[partition] - 1 for partition in heads}
    newest = {partition: head - last if last is not None else 0 for partition, head in heads.items()}
    return {each: (max(first[each], newest[each]), newest[each] > first[each]) for each in sorted(heads)}


async def _events(context: Context, partition: int, after: int) -> AsyncIterator[Message]:
    while page := await context.store.journal(partition, after, PAGE):
        for event in page:
            yield event
        after = page[-1].number


async def _parked(context: Context) -> AsyncIterator[TraceStep]:
    table = table_of(Parked)
    after: Key = ()
    while True:
        async with context.store.snapshot(once=True) as session:
            rows = [table.from_row(row) for row in await session.scan(table, after, PAGE)]
        for row in rows:
            state = f"{row.state} at {row.consumer}{': ' * bool(row.cause)}{row.cause}"
            yield _step_of("parked", context, message_of(row))._replace(state=state)
            after = table.key_of(table.to_row(row))
        if len(rows) < PAGE:
            return


def _step_of(kind: Kind, context: Context, message: Message) -> TraceStep:
    origin = origin_of(message.id, message.metadata)
    return TraceStep(kind, context.service.name, message.id, message.type, message.key, message.time, origin)


async def _commands(contexts: Sequence[Context], what: str, steps: Collection[TraceStep]) -> list[TraceStep]:
    """The commands of these steps, and how they ended; who sent them is known by what came of them."""
    events = {each.id for each in steps}
    causes = {each.origin.causation: each.origin for each in steps if each.origin.causation not in events}
    wanted = sorted(each for each in {what, *causes} if each)
    found: list[TraceStep] = []
    for context in contexts:
        async with context.store.snapshot(once=True) as session:
            outcomes = await read_outcomes(session, wanted)
        for id_, outcome in sorted(outcomes.items()):
            state = ": ".join(filter(None, (outcome.state, outcome.reason, outcome.detail)))
            origin = causes.get(id_, origin_of(id_, ""))._replace(causation="")
            found.append(TraceStep("command", context.service.name, id_, "", "", "", origin, state))
    return found
