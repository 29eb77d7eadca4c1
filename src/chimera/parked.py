"""What operators do with work that is set aside, from the command line.

What is wanted is said of the first message of each key; those behind it wait for it, so that their order is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chimera.body import COMMANDS, Body, reaction_sources
from chimera.copies import COPYING, copy_name, copy_projection
from chimera.entities import table_of, to_utc
from chimera.errors import SettingsError
from chimera.execution import Executor
from chimera.messages import Message
from chimera.operations import bodies_of
from chimera.parking import Parking, message_of
from chimera.projections import Projection, ViewProjection
from chimera.projector import Projector
from chimera.records import Parked, ParkedPlace
from chimera.rehearsal import Rehearsed, rehearse
from chimera.setaside import failures_of, first_failures
from chimera.settings import Settings
from chimera.status import document_consumers

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Wanted(NamedTuple):
    """Which keys are meant, by the first message that each has set aside; what is not given does not matter.

    `cause` is a part of its cause, `since` and `until` are when it was set aside.
    """

    service: str | None = None
    consumer: str | None = None
    key: str | None = None
    cause: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Aside(NamedTuple):
    """A message that is set aside, wherever it is kept. `tries` is 0 for one that waits behind another."""

    service: str
    consumer: str
    message: Message
    cause: str
    tries: int
    first_at: datetime
    last_at: datetime


class Line(NamedTuple):
    """The messages of a key that are set aside: the first, and how many there are."""

    first: Aside
    waiting: int

    @property
    def place(self) -> str:
        return f"{self.first.service}/{self.first.consumer} {self.first.message.key}"


def wanted_of(
    *, since: str | None = None, until: str | None = None, everything: bool | None = None, **names: str | None
) -> Wanted:
    """What is wanted, as it was typed. Raises SettingsError for a time that is none.

    Where `everything` is given, the command changes parked work: it is told which, or that all is meant.
    """
    now = datetime.now(UTC)
    since_at, until_at = (None if text is None else moment(text, now) for text in (since, until))
    wanted = Wanted(**names, since=since_at, until=until_at)
    if everything is False and (wanted.key, wanted.cause, wanted.since, wanted.until) == (None,) * 4:
        raise SettingsError("say which: --key, --cause, --since or --until; or --all")
    return wanted


def moment(text: str, now: datetime) -> datetime:
    """A time: in ISO 8601, in UTC unless it says otherwise, or as long ago as `30m`, `2h ago`. Raises SettingsError."""
    ago = re.fullmatch(r"(\d{1,9})\s*([smhd])(\s+ago)?", text.strip())
    try:
        if ago:
            return now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        return to_utc(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"{text!r} is no time; write 2026-01-31T08:00, or how long ago: 30m, 2h, 7d") from error


async def list_parked(settings: Settings, wanted: Wanted, *, as_json: bool = False) -> None:
    """Print what is set aside, the first of each key with how many wait in its line."""
    found: list[Line] = []
    async with _bodies(settings, wanted) as bodies:
        for body in bodies:
            found += await lines(body, wanted)
    if as_json:
        _print_json([{**_facts(line.first), "waiting": line.waiting} for line in found])
        return
    table = Table("service", "consumer", "key", "type", "waiting", "tries", "first", "last", "cause")
    for (service, consumer, message, cause, tries, first_at, last_at), waiting in found:
        names = (service, consumer, escape(message.key), escape(message.type))
        table.add_row(*names, str(waiting), str(tries), _time(first_at), _time(last_at), escape(cause))
    Console().print(table if found else "nothing is parked")


async def show_parked(settings: Settings, wanted: Wanted, *, as_json: bool = False) -> None:
    """Print every message that is set aside of these keys, as it came."""
    shown: list[dict[str, Any]] = []
    async with _bodies(settings, wanted) as bodies:
        for body in bodies:
            for line in await lines(body, wanted):
                for aside in await messages_of(body, line):
                    shown.append(_facts(aside))
                    if not as_json:
                        _say(_shown(aside))
    _finish(shown, as_json)


async def try_parked(settings: Settings, wanted: Wanted, *, as_json: bool = False) -> None:
    """Print what a retry would do with each message of these keys. Nothing of it is kept."""
    shown: list[dict[str, Any]] = []
    async with _bodies(settings, wanted) as bodies:
        for body in bodies:
            for line in await lines(body, wanted):
                for each in await rehearsed(body, line):
                    writes = [{"type": type_, "key": key, **_data(data)} for type_, key, data in each.writes]
                    about = {"message": each.id, "result": each.result, "detail": each.detail, "writes": writes}
                    shown.append({**_place(line.first), **about})
                    if not as_json:
                        _say(f"{line.place}: {each.id}: {each.result} {each.detail}".rstrip())
                        for type_, key, data in each.writes:
                            _say(f"  {type_} {key}: {_text(data)}")
    _finish(shown, as_json)


async def retry_parked(settings: Settings, wanted: Wanted, *, as_json: bool = False) -> None:
    """Try again what is set aside of these keys, each in order until one fails again."""
    shown: list[dict[str, Any]] = []
    async with _bodies(settings, wanted) as bodies:
        for body in bodies:
            for line in await lines(body, wanted):
                for what, state in await _redrive(body, line):
                    shown.append({**_place(line.first), "message": what, "state": state})
                    if not as_json:
                        _say(f"{line.place}: {what}: {state}")
    _finish(shown, as_json)


async def drop_parked(
    settings: Settings, wanted: Wanted, *, confirm: Callable[[str], bool], all_of_key: bool = False
) -> None:
    """Give up the first message of each of these keys, or all of them; say which, and `confirm` it, before.

    Those behind are tried next. Nothing else is dropped: where the first is another one by then, it stays.
    """
    async with _bodies(settings, wanted) as bodies:
        doomed: list[tuple[Body, Line, list[Aside]]] = []
        for body in bodies:
            doomed += [
                (body, line, await messages_of(body, line) if all_of_key else [line.first])
                for line in await lines(body, wanted)
            ]
        for _, line, asides in doomed:
            behind = line.waiting - len(asides)
            for aside in asides:
                _say(f"{line.place}: {aside.message.type} {aside.message.id}: {aside.cause}")
            _say(f"  {behind} behind it will be tried" if behind else "  nothing is behind it")
        count = sum(len(asides) for _, _, asides in doomed)
        if doomed and confirm(f"{count} of what is parked is given up for good. Go on?"):
            for body, line, asides in doomed:
                for what, state in await _drop(body, line, [aside.message.id for aside in asides]):
                    _say(f"{line.place}: {what}: {state}")
    _finish(doomed, as_json=False)


async def lines(body: Body, wanted: Wanted) -> list[Line]:
    """The keys of a service that are wanted, each with the first message it has set aside."""
    known = _parkings(body)
    if wanted.consumer not in (None, *known, *document_consumers(body)):
        raise SettingsError(
            f"{body.service.name} has no consumer {wanted.consumer!r}; "
            f"there are: {', '.join([*known, *document_consumers(body)])}"
        )
    found = await _stored_lines(body, wanted)
    for consumer in document_consumers(body):
        if wanted.consumer in (None, consumer):
            found += await _view_lines(body, consumer)
    return [line for line in found if _is_wanted(line.first, wanted)]


async def messages_of(body: Body, line: Line) -> list[Aside]:
    """The messages of a key that are set aside, in order."""
    consumer, key = line.first.consumer, line.first.message.key
    if consumer in document_consumers(body):
        name = await body.generations.name(consumer)
        return [_of_failure(body, consumer, each) async for each in failures_of(body.views, name, key)]
    async with body.store.snapshot() as session:
        return [_of_row(body, row) for row in await Parking(consumer).messages(session, key)]


async def rehearsed(body: Body, line: Line) -> list[Rehearsed]:
    """What a retry would do with each message of a key."""
    consumer, key = line.first.consumer, line.first.message.key
    if consumer in document_consumers(body):
        return await (await _projector_of(body, consumer)).rehearse(key)
    return await rehearse(*_parking_of(body, consumer), key)


async def _stored_lines(body: Body, wanted: Wanted) -> list[Line]:
    table, places = table_of(Parked), table_of(ParkedPlace)
    where = {"consumer": [wanted.consumer]} if wanted.consumer else {}
    async with body.store.snapshot() as session:
        found: list[ParkedPlace] = [places.from_row(row) for row in await session.find(places, where)]
        first: dict[tuple[str, str], ParkedPlace] = {}
        waiting: dict[tuple[str, str], int] = {}
        for place in sorted(found, key=lambda place: (place.number, place.partition)):
            first.setdefault((place.consumer, place.key), place)
            waiting[place.consumer, place.key] = waiting.get((place.consumer, place.key), 0) + 1
        keys = [(place.consumer, place.key, place.partition, place.number) for place in first.values()]
        rows: list[Parked] = [table.from_row(row) for row in await session.load(table, keys)]
    rows.sort(key=lambda row: (row.consumer, row.first_at, row.key))
    return [Line(_of_row(body, row), waiting[row.consumer, row.key]) for row in rows]


async def _view_lines(body: Body, consumer: str) -> list[Line]:
    firsts = first_failures(body.views, await body.generations.name(consumer))
    return [Line(_of_failure(body, consumer, failure), count) async for failure, count in firsts]


def _is_wanted(first: Aside, wanted: Wanted) -> bool:
    return (
        wanted.key in (None, first.message.key)
        and (wanted.cause is None or wanted.cause in first.cause)
        and (wanted.since is None or first.first_at >= wanted.since)
        and (wanted.until is None or first.first_at <= wanted.until)
    )


async def _redrive(body: Body, line: Line) -> list[tuple[str, str]]:
    """What became of each message that was tried: (its id or number, its state)."""
    consumer, key = line.first.consumer, line.first.message.key
    if consumer in document_consumers(body):
        return _settled(await (await _projector_of(body, consumer)).redrive(key))
    executor, parking = _parking_of(body, consumer)
    return _became(await parking.redrive(executor, key, by_hand=True))


async def _drop(body: Body, line: Line, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Drop these messages, the first of the key and those that follow it, and try what is behind them."""
    consumer, key = line.first.consumer, line.first.message.key
    if consumer in document_consumers(body):
        settled = await (await _projector_of(body, consumer)).redrive(key, drop=ids)
        return _settled(settled, ids) if settled else [(ids[0], "is not the first any more; nothing was dropped")]
    executor, parking = _parking_of(body, consumer)
    dropped: list[tuple[str, str]] = []
    for message_id in ids:
        if await parking.drop(executor, key, message_id) is None:
            return [*dropped, (message_id, "is not the first any more; it was not dropped")]
        dropped.append((message_id, "dropped"))
    return dropped + _became(await parking.redrive(executor, key))


def _became(outcomes: Sequence[Any]) -> list[tuple[str, str]]:
    return [
        (f"message {index}", f"{outcome.state} {outcome.reason} {outcome.detail}".strip())
        for index, outcome in enumerate(outcomes, 1)
    ]


def _settled(settled: Sequence[tuple[Any, bool]], dropped: Sequence[str] = ()) -> list[tuple[str, str]]:
    ids = [(failure.message.id, done) for failure, done in settled]
    return [(each, "dropped" if each in dropped else "settled" if done else "parked") for each, done in ids]


async def _projector_of(body: Body, consumer: str) -> Projector:
    projection = _projection_of(body, consumer, await body.generations.name(consumer))
    return Projector(body.service.name, projection, body.views, metrics=body.metrics, moved=body.moved)


def _projection_of(body: Body, consumer: str, name: str) -> Projection:
    if consumer in body.service.views:
        return ViewProjection(body.service.views[consumer], name)
    return next(
        copy_projection(borrow, mode)
        for borrow in body.service.borrows.values()
        for mode in COPYING
        if copy_name(borrow, mode) == consumer
    )


def _parking_of(body: Body, consumer: str) -> tuple[Executor, Parking]:
    known = _parkings(body)
    if consumer not in known:
        raise SettingsError(
            f"{body.service.name} has parked work of {consumer!r}, which it does not declare any more; "
            f"it has: {', '.join(known)}"
        )
    return known[consumer]


def _parkings(body: Body) -> dict[str, tuple[Executor, Parking]]:
    known = {COMMANDS: (body.commands, body.parking)}
    for reaction in body.service.reactions.values():
        for source in reaction_sources(reaction):
            executor, parking = body.reaction(reaction, source)
            known[executor.consumer] = (executor, parking)
    return known


def _bodies(settings: Settings, wanted: Wanted) -> Any:
    return bodies_of(settings, [wanted.service] if wanted.service else list(settings.services))


def _of_row(body: Body, row: Parked) -> Aside:
    return Aside(body.service.name, row.consumer, message_of(row), row.cause, row.tries, row.first_at, row.last_at)


def _of_failure(body: Body, consumer: str, failure: Any) -> Aside:
    at = failure.first_at, failure.last_at
    return Aside(body.service.name, consumer, failure.message, failure.cause, failure.tries, *at)


def _place(aside: Aside) -> dict[str, Any]:
    return {"service": aside.service, "consumer": aside.consumer, "key": aside.message.key}


def _facts(aside: Aside) -> dict[str, Any]:
    """A message with all that is known of it, for programs; data that is no text is in base64."""
    message = aside.message
    came = {name: getattr(message, name) for name in ("id", "source", "type", "time", "partition", "number")}
    tried = {"cause": aside.cause, "tries": aside.tries, "first_at": aside.first_at, "last_at": aside.last_at}
    return {**_place(aside), **came, "traceparent": message.traceparent, **_data(message.data), **tried}


def _data(data: bytes | None) -> dict[str, Any]:
    try:
        return {"data": None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": data}


def _text(data: bytes | None) -> str:
    shown = _data(data)
    return str(shown["data"]) if "data" in shown else f"base64 {msgspec.to_builtins(data)}"


def _shown(aside: Aside) -> str:
    message = aside.message
    return (
        f"{message.type} {message.id}  key {message.key}  of {message.source}  {message.time}  "
        f"{f'traceparent {message.traceparent}  ' if message.traceparent else ''}"
        f"tries {aside.tries}  first {_time(aside.first_at)}  last {_time(aside.last_at)}\n"
        f"  {aside.service}/{aside.consumer}: {aside.cause}\n  {_text(message.data)}"
    )


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _finish(found: Sequence[Any], as_json: bool) -> None:
    if as_json:
        _print_json(found)
    elif not found:
        _say("nothing of that is parked")


def _print_json(found: Sequence[Any]) -> None:
    print(msgspec.json.encode(found).decode())


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
