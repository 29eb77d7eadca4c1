"""Contracts from the command line: written, and checked."""

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
from chimera_contracts.breaks import Break, FoundBreaks
from chimera_contracts.comparing import compare
from chimera_contracts.deriving import contracts_of
from chimera_contracts.model import Contracts


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
    found = compare(before, now, whole)
    wrong = _of_file(path, before, whole, is_own=against is None) if not found.breaks or before is None else []
    if as_json:
        click.echo(_json_of(found, wrong))
    else:
        _print(found, wrong, whole)
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


def _json_of(found: FoundBreaks, wrong: Sequence[str]) -> str:
    return msgspec.json.encode(
        {
            "ok": not found.breaks and not wrong,
            "breaks": [{**each._asdict(), "line": each.line} for each in found.breaks],
            "order": [each._asdict() for each in found.order],
            "wrong": wrong,
        }
    ).decode()


def _print(found: FoundBreaks, wrong: Sequence[str], whole: Contracts) -> None:
    for first in found.order:
        click.echo(first.line)
    _say(found.breaks)
    for line in wrong:
        click.echo(f"chimera: {line}", err=True)
    if not found.breaks and not wrong:
        click.echo(f"nobody is broken ({len(whole)} services)")


def _say(breaks: Iterable[Break]) -> None:
    for each in breaks:
        click.echo(f"chimera: {each.line}", err=True)
