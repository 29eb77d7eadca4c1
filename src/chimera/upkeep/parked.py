"""A service's parked messages, wherever they are stored: found, shown, rehearsed, tried again and dropped by key.

Keys are chosen by the first message of each; those behind it wait for it, so that their order stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from chimera.borrow.copies import copy_projection
from chimera.commands.apart.rehearse import rehearse
from chimera.commands.execute import Executor
from chimera.commands.handlers import executors_of, parking_of
from chimera.commands.inbox import Outcome
from chimera.commands.parking import message_of
from chimera.core.context import Context
from chimera.core.names import RELAY
from chimera.core.tables import Parked, ParkedPlace
from chimera.entities import table_of
from chimera.errors import SettingsError
from chimera.folds import View
from chimera.journal.consumers import Consumer, document_consumers
from chimera.journal.failures import Rehearsed
from chimera.journal.relay import forget, left_data, send_again
from chimera.messages import Message
from chimera.parts import Borrow
from chimera.views.generations import serving_name
from chimera.views.parked import ParkedEvent, first_parked, parked_events_of
from chimera.views.projections import Projection, ViewProjection
from chimera.views.projector import Projector


class Wanted(NamedTuple):
    """A choice of keys, by the first message that each has parked; what is not given does not matter.

    `cause` is a part of its cause, `since` and `until` are when it was parked.
    """

    service: str | None = None
    consumer: str | None = None
    key: str | None = None
    cause: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class ParkedMessage(NamedTuple):
    """A message that is parked, in the store or in a view store. `tries` is 0 for one that waits behind another.

    `next_at`: when it is tried again by itself, None for never. `traceback`: where it failed last, as far as is known.
    """

    service: str
    consumer: str
    message: Message
    cause: str
    tries: int
    first_at: datetime
    last_at: datetime
    traceback: str = ""
    next_at: datetime | None = None


class ParkedKey(NamedTuple):
    """The parked messages of a key: the first, and how many there are."""

    first: ParkedMessage
    waiting: int

    @property
    def place(self) -> str:
        """The key with its service and consumer, as people read it."""
        return f"{self.first.service}/{self.first.consumer} {self.first.message.key}"


class Settled(NamedTuple):
    """The outcome of trying a message again: `what` is its id or number, `state` a word and perhaps why."""

    what: str
    state: str


async def parked_keys(context: Context, wanted: Wanted) -> list[ParkedKey]:
    """The keys of a service that are wanted, each with the first message it has parked.

    Raises SettingsError for a consumer that the service does not have.
    """
    documents = document_consumers(context.service)
    known = [*executors_of(context), RELAY, *documents]
    if wanted.consumer not in (None, *known):
        raise SettingsError(
            f"{context.service.name} has no consumer {wanted.consumer!r}; there are: {', '.join(known)}"
        )
    found = await _stored_keys(context, wanted)
    for consumer in documents:
        if wanted.consumer in (None, consumer):
            firsts = first_parked(context.views, await serving_name(context, consumer))
            found += [ParkedKey(_of_event(context, consumer, event), count) async for event, count in firsts]
    return [key for key in found if _is_wanted(key.first, wanted)]


async def parked_messages(context: Context, key: ParkedKey) -> list[ParkedMessage]:
    """The parked messages of a key, in order."""
    consumer, event_key = key.first.consumer, key.first.message.key
    if consumer in document_consumers(context.service):
        events = parked_events_of(context.views, await serving_name(context, consumer), event_key)
        return [_of_event(context, consumer, event) async for event in events]
    async with context.store.snapshot() as session:
        rows = await parking_of(context, consumer).messages(session, event_key)
    if consumer == RELAY:
        rows = [msgspec.structs.replace(row, data=await left_data(context, row)) for row in rows]
    return [_of_row(context, row) for row in rows]


async def rehearse_key(context: Context, key: ParkedKey) -> list[Rehearsed]:
    """The results that a retry of each message of a key would have; nothing of it is stored."""
    consumer, event_key = key.first.consumer, key.first.message.key
    if consumer in document_consumers(context.service):
        return await (await _projector_of(context, consumer)).rehearse(event_key)
    if consumer == RELAY:
        return [Rehearsed(row.id, "applied", "it would be sent to the log") for row in await _left(context, event_key)]
    return await rehearse(_executor_of(context, consumer), parking_of(context, consumer), event_key)


async def retry_key(context: Context, key: ParkedKey) -> list[Settled]:
    """Try the messages of a key again, in order, until one fails."""
    consumer, event_key = key.first.consumer, key.first.message.key
    if consumer in document_consumers(context.service):
        return _settled(await (await _projector_of(context, consumer)).redrive(event_key))
    if consumer == RELAY:
        rows = await _left(context, event_key)
        return [Settled(row.id, await send_again(context, row) or "settled") for row in rows]
    executor = _executor_of(context, consumer)
    return _ended(await parking_of(context, consumer).redrive(executor, event_key, by_hand=True))


async def drop_key(context: Context, key: ParkedKey, ids: Sequence[str]) -> list[Settled]:
    """Drop these messages, the first of the key and those that follow it, and try what is behind them."""
    consumer, event_key = key.first.consumer, key.first.message.key
    if consumer in document_consumers(context.service):
        settled = await (await _projector_of(context, consumer)).redrive(event_key, drop=ids)
        return (
            _settled(settled, ids) if settled else [Settled(ids[0], "is not the first any more; nothing was dropped")]
        )
    if consumer == RELAY:
        rows = [row for row in await _left(context, event_key) if row.id in ids]
        for row in rows:
            await forget(context, row)
        return [Settled(row.id, "forgotten; it stays in the journal") for row in rows]
    executor, parking = _executor_of(context, consumer), parking_of(context, consumer)
    dropped: list[Settled] = []
    for message_id in ids:
        if await parking.drop(executor, event_key, message_id) is None:
            return [*dropped, Settled(message_id, "is not the first any more; it was not dropped")]
        dropped.append(Settled(message_id, "dropped"))
    return dropped + _ended(await parking.redrive(executor, event_key))


async def _left(context: Context, key: str) -> list[Parked]:
    """The events of a key that the log can't carry."""
    async with context.store.snapshot() as session:
        return await parking_of(context, RELAY).messages(session, key)


async def _stored_keys(context: Context, wanted: Wanted) -> list[ParkedKey]:
    messages, parked = table_of(Parked), table_of(ParkedPlace)
    where = {"consumer": [wanted.consumer]} if wanted.consumer else {}
    async with context.store.snapshot() as session:
        found: list[ParkedPlace] = [parked.from_row(row) for row in await session.find(parked, where)]
        first: dict[tuple[str, str], ParkedPlace] = {}
        waiting: dict[tuple[str, str], int] = {}
        for each in sorted(found, key=lambda each: (each.number, each.partition)):
            first.setdefault((each.consumer, each.key), each)
            waiting[each.consumer, each.key] = waiting.get((each.consumer, each.key), 0) + 1
        keys = [(each.consumer, each.key, each.partition, each.number) for each in first.values()]
        rows: list[Parked] = [messages.from_row(row) for row in await session.load(messages, keys)]
    rows.sort(key=lambda row: (row.consumer, row.first_at, row.key))
    return [ParkedKey(_of_row(context, row), waiting[row.consumer, row.key]) for row in rows]


def _is_wanted(first: ParkedMessage, wanted: Wanted) -> bool:
    return (
        wanted.key in (None, first.message.key)
        and (wanted.cause is None or wanted.cause in first.cause)
        and (wanted.since is None or first.first_at >= wanted.since)
        and (wanted.until is None or first.first_at <= wanted.until)
    )


def _ended(outcomes: Sequence[Outcome]) -> list[Settled]:
    return [
        Settled(f"message {index}", f"{outcome.state} {outcome.reason} {outcome.detail}".strip())
        for index, outcome in enumerate(outcomes, 1)
    ]


def _settled(settled: Sequence[tuple[ParkedEvent, bool]], dropped: Sequence[str] = ()) -> list[Settled]:
    ids = [(event.message.id, done) for event, done in settled]
    return [Settled(each, "dropped" if each in dropped else "settled" if done else "parked") for each, done in ids]


async def _projector_of(context: Context, consumer: str) -> Projector:
    return Projector(context, await projection_of(context, document_consumers(context.service)[consumer]))


def _executor_of(context: Context, consumer: str) -> Executor:
    known = executors_of(context)
    if consumer not in known:
        raise SettingsError(
            f"{context.service.name} has parked work of {consumer!r}, which it does not declare any more; "
            f"it has: {', '.join(known)}"
        )
    return known[consumer]


def _of_row(context: Context, row: Parked) -> ParkedMessage:
    at, where = (row.first_at, row.last_at), row.traceback or ""
    next_at = row.due if row.state in ("retrying", "unread") else None
    return ParkedMessage(context.service.name, row.consumer, message_of(row), row.cause, row.tries, *at, where, next_at)


def _of_event(context: Context, consumer: str, event: ParkedEvent) -> ParkedMessage:
    at = event.first_at, event.last_at
    return ParkedMessage(context.service.name, consumer, event.message, event.cause, event.tries, *at, event.traceback)


async def projection_of(context: Context, consumer: Consumer) -> Projection:
    """The projection that keeps a consumer's documents: of a view, its generation that serves."""
    if isinstance(consumer.declared, View):
        return ViewProjection(consumer.declared, await serving_name(context, consumer.name))
    assert isinstance(consumer.declared, Borrow), f"{consumer.name} keeps no documents"
    assert consumer.mode is not None
    return copy_projection(consumer.declared, consumer.mode)
