"""What operators do with work that is set aside, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chimera.batchfold import all_failures
from chimera.body import COMMANDS, Body, reaction_sources
from chimera.copies import COPYING, copy_name, copy_projection
from chimera.entities import table_of
from chimera.errors import SettingsError
from chimera.execution import Executor
from chimera.operations import bodies_of
from chimera.parking import Parking
from chimera.projections import Projection, ViewProjection
from chimera.projector import Projector
from chimera.records import Parked
from chimera.settings import Settings
from chimera.status import document_consumers


class Aside(NamedTuple):
    """A message that is set aside, wherever it is kept. `tries` is 0 for one that waits behind another."""

    service: str
    consumer: str
    key: str
    id: str
    type: str
    data: bytes
    cause: str
    tries: int
    first_at: datetime
    last_at: datetime


async def list_parked(settings: Settings, service: str | None) -> None:
    """Print what is set aside, the first of each key with how many wait behind it."""
    table = Table("service", "consumer", "key", "type", "waiting", "tries", "first", "last", "cause")
    async with bodies_of(settings, [service] if service else list(settings.services)) as bodies:
        for body in bodies:
            for waiting in _by_key(await everything_aside(body)).values():
                first = waiting[0]
                table.add_row(
                    first.service,
                    first.consumer,
                    escape(first.key),
                    escape(first.type),
                    str(len(waiting)),
                    str(first.tries),
                    _time(first.first_at),
                    _time(first.last_at),
                    escape(first.cause),
                )
    Console().print(table if table.row_count else "nothing is parked")


async def show_parked(settings: Settings, service: str, consumer: str, key: str) -> None:
    """Print every message of a key that is set aside, as it came."""
    async with bodies_of(settings, [service]) as [body]:
        found = [aside for aside in await everything_aside(body) if (aside.consumer, aside.key) == (consumer, key)]
    console = Console()
    for aside in found:
        console.print(
            f"{aside.type} {aside.id}  tries {aside.tries}  first {_time(aside.first_at)}  "
            f"last {_time(aside.last_at)}\n  {aside.cause}\n  {aside.data.decode(errors='replace')}",
            markup=False,
            highlight=False,
        )
    if not found:
        console.print(f"{service}/{consumer} has nothing parked under {key!r}", markup=False)


async def retry_parked(settings: Settings, service: str, consumer: str, key: str | None) -> None:
    """Try again what is set aside of a key, or of every key of the consumer."""
    async with bodies_of(settings, [service]) as [body]:
        keys = (
            [key]
            if key
            else sorted({aside.key for aside in await everything_aside(body) if aside.consumer == consumer})
        )
        for each in keys:
            for what, state in await _redrive(body, consumer, each, drop=False):
                Console().print(f"{each}: {what}: {state}", markup=False, highlight=False)
        if not keys:
            Console().print(f"{service}/{consumer} has nothing parked")


async def drop_parked(settings: Settings, service: str, consumer: str, key: str) -> None:
    """Give up the first message of a key, and try those behind it."""
    async with bodies_of(settings, [service]) as [body]:
        for what, state in await _redrive(body, consumer, key, drop=True):
            Console().print(f"{key}: {what}: {state}", markup=False, highlight=False)


async def everything_aside(body: Body) -> list[Aside]:
    """All messages of a service that are set aside, in order within each key."""
    name, table = body.service.name, table_of(Parked)
    async with body.store.snapshot() as session:
        rows: list[Parked] = sorted(map(table.from_row, await session.find(table, {})), key=lambda row: row.number)
    found = [
        Aside(name, row.consumer, row.key, row.id, row.type, row.data, row.cause, row.tries, row.first_at, row.last_at)
        for row in rows
    ]
    for consumer in document_consumers(body):
        for failure in await all_failures(body.views, consumer):
            message = failure.to_message()
            found.append(
                Aside(
                    name,
                    consumer,
                    message.key,
                    message.id,
                    message.type,
                    message.data,
                    failure.cause,
                    failure.tries,
                    failure.first_at,
                    failure.last_at,
                )
            )
    return found


async def _redrive(body: Body, consumer: str, key: str, *, drop: bool) -> list[tuple[str, str]]:
    """What became of each message that was tried: (its id or number, its state)."""
    if consumer in document_consumers(body):
        projector = Projector(
            body.service.name, _projection_of(body, consumer), body.views, metrics=body.metrics, moved=body.moved
        )
        settled = await projector.redrive(key, drop_first=drop)
        return [(failure.to_message().id, "settled" if done else "parked") for failure, done in settled]
    executor, parking = _parking_of(body, consumer)
    tried: list[tuple[str, str]] = []
    if drop and (dropped := await parking.drop(executor, key)):
        tried.append((dropped.id, "dropped"))
    outcomes = await parking.redrive(executor, key)
    return tried + [
        (f"message {index}", f"{outcome.state} {outcome.reason} {outcome.detail}".strip())
        for index, outcome in enumerate(outcomes, 1)
    ]


def _projection_of(body: Body, consumer: str) -> Projection:
    if consumer in body.service.views:
        return ViewProjection(body.service.views[consumer])
    return next(
        copy_projection(borrow, mode)
        for borrow in body.service.borrows.values()
        for mode in COPYING
        if copy_name(borrow, mode) == consumer
    )


def _parking_of(body: Body, consumer: str) -> tuple[Executor, Parking]:
    known = {COMMANDS: (body.commands, body.parking)}
    for reaction in body.service.reactions.values():
        for source in reaction_sources(reaction):
            executor, parking = body.reaction(reaction, source)
            known[executor.consumer] = (executor, parking)
    if consumer not in known:
        raise SettingsError(
            f"{body.service.name} has no consumer {consumer!r}; "
            f"there are: {', '.join([*known, *document_consumers(body)])}"
        )
    return known[consumer]


def _by_key(everything: Sequence[Aside]) -> dict[tuple[str, str], list[Aside]]:
    grouped: dict[tuple[str, str], list[Aside]] = {}
    for aside in everything:
        grouped.setdefault((aside.consumer, aside.key), []).append(aside)
    return grouped


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
