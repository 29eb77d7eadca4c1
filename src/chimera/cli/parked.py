"""Parked work from the command line: listed, shown, rehearsed, tried again, dropped.

Keys are chosen by the first message of each; those behind it wait for it, so that their order stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import msgspec
from rich.console import Console
from rich.markup import escape

from chimera.cli.surveys import table_of
from chimera.core.context import Context
from chimera.entities import to_utc
from chimera.errors import SettingsError
from chimera.run.engines import opened
from chimera.run.settings import Settings
from chimera.upkeep.parked import (
    ParkedKey,
    ParkedMessage,
    Wanted,
    drop_key,
    parked_keys,
    parked_messages,
    rehearse_key,
    retry_key,
)

Facts = dict[str, object]
"""The facts of a message or a try, by name, as they are printed as JSON."""

WIDE = 120
"""Columns that the table of what is parked needs."""

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def wanted_of(
    *, since: str | None = None, until: str | None = None, everything: bool | None = None, **names: str | None
) -> Wanted:
    """The choice of keys, as it was typed. Raises SettingsError for a time that is none.

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
    """Print what is parked, the first of each key with how many wait, itself among them."""
    found: list[ParkedKey] = []
    async with _opened(settings, wanted) as contexts:
        for context in contexts:
            found += await parked_keys(context, wanted)
    if as_json:
        _print_json([{**_facts(key.first), "waiting": key.waiting} for key in found])
        return
    console = Console()
    if not found:
        console.print("nothing is parked")
        return
    if console.width < WIDE:
        for key in found:
            _print_narrow(console, key)
        return
    table = table_of("service", "consumer", "key", "type", "waiting", "tries", "first", "last", "next try", "cause")
    for first, waiting in found:
        names = (first.service, first.consumer, escape(first.message.key), escape(first.message.type))
        at = (_time(first.first_at), _time(first.last_at), _next(first))
        table.add_row(*names, str(waiting), str(first.tries), *at, escape(first.cause))
    console.print(table)


def _print_narrow(console: Console, key: ParkedKey) -> None:
    first = key.first
    lines = (
        f"{key.place}: {first.message.type}, {key.waiting} waiting, tries {first.tries}",
        f"  first {_time(first.first_at)}, last {_time(first.last_at)}, next try {_next(first)}",
        f"  {first.cause}",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False)


async def show_parked(settings: Settings, wanted: Wanted, *, as_json: bool = False) -> None:
    """Print every parked message of these keys, as it came."""
    shown: list[Facts] = []
    async with _opened(settings, wanted) as contexts:
        for context in contexts:
            for key in await parked_keys(context, wanted):
                for parked in await parked_messages(context, key):
                    shown.append(_facts(parked))
                    if not as_json:
                        _say(_shown(parked))
    _finish(shown, as_json)


async def try_parked(settings: Settings, wanted: Wanted, *, as_json: bool = False) -> None:
    """Print what a retry would do with each message of these keys. Nothing of it is stored."""
    shown: list[Facts] = []
    async with _opened(settings, wanted) as contexts:
        for context in contexts:
            for key in await parked_keys(context, wanted):
                for each in await rehearse_key(context, key):
                    writes = [{"type": type_, "key": of, **_data(data)} for type_, of, data in each.writes]
                    about = {"message": each.id, "result": each.result, "detail": each.detail, "writes": writes}
                    shown.append({**_whose(key.first), **about})
                    if not as_json:
                        _say(f"{key.place}: {each.id}: {each.result} {each.detail}".rstrip())
                        for type_, of, data in each.writes:
                            _say(f"  {type_} {of}: {_text(data)}")
    _finish(shown, as_json)


async def retry_parked(settings: Settings, wanted: Wanted, *, as_json: bool = False) -> None:
    """Try again what is parked of these keys, each in order until one fails again."""
    shown: list[Facts] = []
    async with _opened(settings, wanted) as contexts:
        for context in contexts:
            for key in await parked_keys(context, wanted):
                for what, state in await retry_key(context, key):
                    shown.append({**_whose(key.first), "message": what, "state": state})
                    if not as_json:
                        _say(f"{key.place}: {what}: {state}")
    _finish(shown, as_json)


async def drop_parked(
    settings: Settings, wanted: Wanted, *, confirm: Callable[[str], bool], all_of_key: bool = False
) -> None:
    """Give up the first message of each of these keys, or all of them; say which, and `confirm` it, before.

    Those behind are tried next. Nothing else is dropped: where the first is another one by then, it stays.
    """
    async with _opened(settings, wanted) as contexts:
        doomed: list[tuple[Context, ParkedKey, list[ParkedMessage]]] = []
        for context in contexts:
            doomed += [
                (context, key, await parked_messages(context, key) if all_of_key else [key.first])
                for key in await parked_keys(context, wanted)
            ]
        for _, key, messages in doomed:
            behind = key.waiting - len(messages)
            for parked in messages:
                _say(f"{key.place}: {parked.message.type} {parked.message.id}: {parked.cause}")
            _say(f"  {behind} behind it will be tried" if behind else "  nothing is behind it")
        count = sum(len(messages) for _, _, messages in doomed)
        if doomed and confirm(f"{count} of what is parked is given up for good. Go on?"):
            for context, key, messages in doomed:
                for what, state in await drop_key(context, key, [parked.message.id for parked in messages]):
                    _say(f"{key.place}: {what}: {state}")
    _finish(doomed, as_json=False)


def _opened(settings: Settings, wanted: Wanted) -> AbstractAsyncContextManager[list[Context]]:
    return opened(settings, [wanted.service] if wanted.service else list(settings.services), used=True)


def _whose(parked: ParkedMessage) -> Facts:
    return {"service": parked.service, "consumer": parked.consumer, "key": parked.message.key}


def _facts(parked: ParkedMessage) -> Facts:
    """A message with all that is known of it, for programs; data that is no text is in base64."""
    message = parked.message
    came = {name: getattr(message, name) for name in ("id", "source", "type", "time", "partition", "number")}
    names = ("cause", "tries", "first_at", "last_at", "next_at", "traceback")
    tried = {name: getattr(parked, name) for name in names}
    return {**_whose(parked), **came, "traceparent": message.traceparent, **_data(message.data), **tried}


def _data(data: bytes | None) -> Facts:
    try:
        return {"data": None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {"data_base64": data}


def _text(data: bytes | None) -> str:
    shown = _data(data)
    return str(shown["data"]) if "data" in shown else f"base64 {msgspec.to_builtins(data)}"


def _shown(parked: ParkedMessage) -> str:
    message = parked.message
    return (
        f"{message.type} {message.id}  key {message.key}  of {message.source}  {message.time}  "
        f"{f'traceparent {message.traceparent}  ' if message.traceparent else ''}"
        f"tries {parked.tries}  first {_time(parked.first_at)}  last {_time(parked.last_at)}  next {_next(parked)}\n"
        f"  {parked.service}/{parked.consumer}: {parked.cause}\n  {_text(message.data)}"
        + "".join(f"\n  | {line}" for line in parked.traceback.rstrip().splitlines())
    )


def _next(parked: ParkedMessage) -> str:
    """When it is tried again by itself."""
    return "by hand" if parked.next_at is None else _time(parked.next_at)


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _finish(found: Sequence[object], as_json: bool) -> None:
    if as_json:
        _print_json(found)
    elif not found:
        _say("nothing of that is parked")


def _print_json(found: Sequence[object]) -> None:
    print(msgspec.json.encode(found).decode())


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
