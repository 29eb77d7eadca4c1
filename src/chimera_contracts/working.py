"""Contracts from the command line: written, checked, and asked of the fleet that runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import click
import msgspec

from chimera.errors import SettingsError
from chimera.run.engines import load_named
from chimera.run.settings import Settings
from chimera.service import Service
from chimera_contracts.baseline import FILE, carried, read_contracts, text_of_contracts
from chimera_contracts.comparing import compare
from chimera_contracts.deriving import contracts_of
from chimera_contracts.journals import Journals, in_journals, look_at_journals, reachable
from chimera_contracts.model import Break, Contracts, FoundBreaks
from chimera_contracts.running import WhatRuns, ask_running, users_of


def export_contracts(settings: Settings, config: Path, accepted: Collection[str]) -> bool:
    """Write the file, unless that would break somebody; says whether it is as the code is then. Raises ChimeraError."""
    services, path = loaded(settings), config.parent / FILE
    now = contracts_of(services)
    before = read_contracts(path)
    whole = carried(before, now)
    check_any(whole)
    found = compare(before, now, whole)
    left = [each for each in found.breaks if not (each.may_be_accepted and each.place in accepted)]
    if unknown := sorted({*accepted} - {each.place for each in found.breaks}):
        raise SettingsError(f"--accept {unknown[0]}: nothing is broken there; see: chimera contract check")
    _say(left)
    if left:
        return False
    text, known = text_of_contracts(whole), path.read_text() if path.exists() else ""
    if text != known:
        path.write_text(text)
    promises = sum(_count(each.promises) for each in whole.values())
    done = "is as it was" if text == known else "is written; commit it"
    click.echo(f"{path} {done} ({promises} promises of {len(whole)} services)")
    return True


async def check_contracts(
    settings: Settings, config: Path, against: Path | None, *, most_events: int | None, as_json: bool
) -> bool:
    """Print whom the code would break; says whether it is nobody. `most_events`: of each journal; None asks no engine.

    Raises ChimeraError.
    """
    services, path = loaded(settings), against or config.parent / FILE
    now, before = contracts_of(services), read_contracts(path)
    whole = carried(before, now)
    check_any(whole)
    found, looked = compare(before, now, whole), Journals([], 0, [])
    if most_events is not None:
        looked = await in_journals(settings, services, most_events)
        found = found._replace(breaks=[*found.breaks, *looked.breaks])
    wrong = _of_file(path, before, whole, is_own=against is None) if not found.breaks or before is None else []
    if as_json:
        click.echo(_json_of(found, wrong, looked))
    else:
        _print(found, wrong, whole, looked)
    return not found.breaks and not wrong


def loaded(settings: Settings) -> list[Service]:
    """The services of the settings. Raises SettingsError, also where there is none."""
    services = [load_named(settings, name) for name in settings.services]
    if not services:
        raise SettingsError("no service is in the settings, so that there is no contract; add: [services.shop]")
    return services


def check_any(contracts: Contracts) -> None:
    """Raises SettingsError where nothing is promised and nothing read: that nothing is broken would say nothing."""
    if not any(_count(each.promises) or each.uses.events or each.uses.shares for each in contracts.values()):
        raise SettingsError(f"{', '.join(contracts)}: nothing is promised and nothing is read; is the app right?")


def _count(promises: object) -> int:
    return sum(len(getattr(promises, kind)) for kind in ("events", "commands", "shares", "views"))


def _of_file(path: Path, before: Contracts | None, whole: Contracts, *, is_own: bool) -> list[str]:
    if before is None:
        return [f"{path} is not there, so that there is nothing to compare with; type: chimera contract export"]
    if is_own and path.read_text() != text_of_contracts(whole):
        new = sorted(name for name in whole if before.get(name) != whole[name])
        whose = f" of {', '.join(new)}" if new else ""
        return [f"{path} is not as the code{whose} is; nobody is broken; type: chimera contract export"]
    return []


def _json_of(found: FoundBreaks, wrong: Sequence[str], looked: Journals) -> str:
    return msgspec.json.encode(
        {
            "ok": not found.breaks and not wrong,
            "breaks": [{**each._asdict(), "line": each.line} for each in found.breaks],
            "order": [each._asdict() for each in found.order],
            "wrong": wrong,
            "stored": {"events": looked.events, "away": looked.away},
        }
    ).decode()


def _print(found: FoundBreaks, wrong: Sequence[str], whole: Contracts, looked: Journals) -> None:
    _say_away(looked.away)
    for first in found.order:
        click.echo(first.line)
    _say(found.breaks)
    for line in wrong:
        click.echo(f"chimera: {line}", err=True)
    if not found.breaks and not wrong:
        stored = f", {looked.events:,} stored events" if looked.events else ""
        click.echo(f"nobody is broken ({len(whole)} services{stored})")


def _say_away(away: Iterable[str]) -> None:
    for line in away:
        click.echo(f"a journal was not looked at: {line}")


def _say(breaks: Iterable[Break]) -> None:
    for each in breaks:
        click.echo(f"chimera: {each.line}", err=True)


async def may_deploy(settings: Settings, name: str, *, most_events: int, first: bool, as_json: bool) -> bool:
    """Print whether this build of a service may be deployed now; says so. Raises ChimeraError.

    `first`: that nobody runs is no reason against it.
    """
    settings.check_service(name)
    services = loaded(settings)
    service = next(each for each in services if each.name == name)
    users = users_of(name, services)
    async with reachable(settings, list(settings.services)) as (contexts, away):
        found = await ask_running(service, contexts)
        breaks, events = await look_at_journals(contexts, services, most_events, types_of=[name])
    asked = {context.service.name for context in contexts}
    unknown = [each for each in users if each not in asked]
    against = [*found.against, *breaks]
    wrong = _unasked(name, users, unknown, away, found, first=first)
    if as_json:
        click.echo(
            msgspec.json.encode(
                {
                    "ok": not against and not wrong,
                    "against": [{**each._asdict(), "line": each.line} for each in against],
                    "wrong": wrong,
                    "builds": found.builds,
                    "idle": found.idle,
                    "stored": {"events": events, "away": away},
                }
            ).decode()
        )
        return not against and not wrong
    _say_away(away)
    for each in found.idle:
        click.echo(f"{each} reads what {name} writes, and does not run")
    for line in [*(each.line for each in against), *wrong]:
        click.echo(f"chimera: {line}", err=True)
    if not against and not wrong:
        click.echo(f"{name} may be deployed: {_asked(found)} asked, {events:,} stored events read")
    return not against and not wrong


def _unasked(
    name: str, users: list[str], unknown: list[str], away: list[str], found: WhatRuns, *, first: bool
) -> list[str]:
    """Why what was asked is not enough to say yes, a line each."""
    if first:
        return []
    if unknown:
        why = "; ".join(away) or "they can't be reached"
        start = f"{', '.join(unknown)} can't be asked, and reads what {name} writes ({why})"
        return [f"{start}; say where it runs: --state FOLDER, or --url store=URL; or that nobody runs yet: --first"]
    if users and len(found.idle) == len(users):
        return [
            f"nobody runs who reads what {name} writes ({', '.join(users)}), so that nobody was asked; type: --first"
        ]
    return []


def _asked(found: WhatRuns) -> str:
    builds = "1 build" if found.builds == 1 else f"{found.builds} builds"
    return f"{builds} of {found.services} services"
