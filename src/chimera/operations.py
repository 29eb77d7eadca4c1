"""What operators do from the command line. It works on the engines themselves, also while the heads run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from chimera import modes
from chimera.announce import audit_share
from chimera.batchfold import all_failures, parked_view
from chimera.body import COMMANDS, Body, reaction_sources
from chimera.copies import COPYING, copy_name, copy_projection
from chimera.drift import Report, audit_copy
from chimera.entities import table_of
from chimera.errors import ChimeraError, SettingsError
from chimera.execution import Executor
from chimera.modes import read_mode
from chimera.parking import Parking
from chimera.projections import Projection, ViewProjection
from chimera.projector import Projector
from chimera.records import Parked
from chimera.service import Borrow, Mode, Share
from chimera.serving import opened
from chimera.settings import Settings
from chimera.status import document_consumers, service_status

STALLED_S = 30.0
LOOK_S = 0.1


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


async def show_status(settings: Settings) -> None:
    """Print where every consumer is, one row per consumer and source."""
    table = Table("service", "consumer", "source", "applied", "head", "lag", "parked")
    async with _bodies(settings, list(settings.services)) as bodies:
        for body in bodies:
            status = await service_status(body)
            for row in _summed(status["consumers"]):
                table.add_row(body.service.name, *row, str(status["parked"].get(row[0], 0)))
    Console().print(table)


async def rebuild_view(settings: Settings, service: str, view: str) -> None:
    """Empty a view, and wait until its running projector has filled it again."""
    async with _bodies(settings, [service]) as [body]:
        if view not in body.service.views:
            raise SettingsError(f"{service} has no view {view!r}; its views: {', '.join(body.service.views) or 'none'}")
        await body.views.drop(view, [view, parked_view(view)])
        await _wait_for_view(body, view)


async def audit(
    settings: Settings, service: str | None, share: str | None, *, repair: bool = True, as_json: bool = False
) -> bool:
    """Compare shares with what was emitted of them, and copies with their owners; print what was found, and mend it.

    Says whether all is well now. Raises ChimeraError, once the rest is printed, when something could not be compared.
    """
    reports: list[Report] = []
    async with _bodies(settings, [service] if service else list(settings.services)) as bodies:
        audited = [(body, what) for body in bodies for what in _to_audit(body, share)]
        if share and not audited:
            raise SettingsError(f"{service} neither shares nor borrows {share!r}; it has: {_shares_of(bodies)}")
        for body, what in audited:
            if (report := await _audited(body, what, repair=repair)) is not None:
                reports.append(report)
    if as_json:
        print(msgspec.json.encode(reports).decode())
    else:
        _print_reports(reports)
    if failed := [report for report in reports if report.failed]:
        raise ChimeraError(f"{len(failed)} of {len(reports)} could not be compared; {failed[0].failed}")
    return all(report.found == report.repaired for report in reports)


async def change_mode(settings: Settings, service: str, share: str, mode: Mode, *, wait_s: float) -> None:
    """Switch how a share is borrowed, and wait until that is in force. Raises ChimeraError when it takes too long."""
    async with _bodies(settings, [service]) as [body]:
        if share not in body.service.borrows:
            raise SettingsError(
                f"{service} does not borrow {share!r}; it borrows: {', '.join(body.service.borrows) or 'nothing'}"
            )
        borrow, until = body.service.borrows[share], asyncio.get_running_loop().time() + wait_s
        setting = await modes.change_mode(body, borrow, mode)
        while setting.mode != mode:
            if setting.wanted != mode:
                raise ChimeraError(f"{service} is to borrow {share} as {setting.wanted}: somebody else changed it")
            if asyncio.get_running_loop().time() > until:
                raise ChimeraError(
                    f"{service} still borrows {share} as {setting.mode} after {wait_s:g} s, and goes on until its copy "
                    f"is complete; are the write head of {service} and {borrow.owner} running? See: chimera status"
                )
            await asyncio.sleep(LOOK_S)
            setting = await read_mode(body, borrow)
    Console().print(f"{service} borrows {share} as {mode}", markup=False, highlight=False)


async def list_parked(settings: Settings, service: str | None) -> None:
    """Print what is set aside, the first of each key with how many wait behind it."""
    table = Table("service", "consumer", "key", "type", "waiting", "tries", "first", "last", "cause")
    async with _bodies(settings, [service] if service else list(settings.services)) as bodies:
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
    async with _bodies(settings, [service]) as [body]:
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
    async with _bodies(settings, [service]) as [body]:
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
    async with _bodies(settings, [service]) as [body]:
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


def _to_audit(body: Body, share: str | None) -> list[Share | Borrow[Any]]:
    everything: list[Share | Borrow[Any]] = [*body.service.shares.values(), *body.service.borrows.values()]
    return [each for each in everything if share in (None, each.name)]


def _shares_of(bodies: Sequence[Body]) -> str:
    return ", ".join(each.name for body in bodies for each in _to_audit(body, None)) or "nothing"


async def _audited(body: Body, what: Share | Borrow[Any], *, repair: bool) -> Report | None:
    """What was found of a share or a borrow; None for a borrow that keeps nothing."""
    mode = "owner"
    try:
        if isinstance(what, Share):
            return await audit_share(body, what, repair=repair)
        mode = (await read_mode(body, what)).mode
        return await audit_copy(body, what, repair=repair)
    except ChimeraError as error:
        return Report(body.service.name, what.name, mode, failed=str(error))


def _print_reports(reports: Sequence[Report]) -> None:
    console = Console()
    for each in reports:
        figures = (
            f"{each.checked} checked, {each.changed} changed, {each.missing} missing, {each.invented} invented, "
            f"{each.repaired} repaired, {each.in_flight} in flight"
        )
        line = f"{each.service} {each.share} {each.mode}: {each.failed or figures}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        for key in each.keys:
            console.print(f"  {key}", markup=False, highlight=False, soft_wrap=True)
    if not reports:
        console.print("there is nothing to compare: nothing is shared, and no copy is kept")


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


async def _wait_for_view(body: Body, view: str) -> None:
    """Show how far the view is, until it has everything. Raises SettingsError when nothing moves."""
    with Progress() as progress:
        bar = progress.add_task(f"rebuilding {view}", total=None)
        applied, moved_at = -1, asyncio.get_running_loop().time()
        while True:
            rows = [row for row in (await service_status(body))["consumers"] if row["consumer"] == view]
            done, total = sum(row["checkpoint"] for row in rows), sum(row["head"] or 0 for row in rows)
            progress.update(bar, completed=done, total=total)
            if done >= total and all(row["head"] is not None for row in rows):
                return
            if done != applied:
                applied, moved_at = done, asyncio.get_running_loop().time()
            elif asyncio.get_running_loop().time() - moved_at > STALLED_S:
                raise ChimeraError(
                    f"view {view} has not moved for {STALLED_S:.0f} s; is the write head of "
                    f"{body.service.name} running? Start it with: chimera run {body.service.name} --write"
                )
            await asyncio.sleep(0.2)


@asynccontextmanager
async def _bodies(settings: Settings, names: Sequence[str]) -> AsyncIterator[list[Body]]:
    async with opened(settings, names, fleet=False) as bodies:
        yield bodies


def _summed(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    sums: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        total = sums.setdefault((row["consumer"], row["source"]), [0, 0, 0])
        total[0] += row["checkpoint"]
        for index, name in ((1, "head"), (2, "lag")):
            total[index] = None if row[name] is None or total[index] is None else total[index] + row[name]
    return [
        (consumer, source, *("?" if value is None else str(value) for value in total))  # type: ignore[misc]
        for (consumer, source), total in sums.items()
    ]


def _by_key(everything: Sequence[Aside]) -> dict[tuple[str, str], list[Aside]]:
    grouped: dict[tuple[str, str], list[Aside]] = {}
    for aside in everything:
        grouped.setdefault((aside.consumer, aside.key), []).append(aside)
    return grouped


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
