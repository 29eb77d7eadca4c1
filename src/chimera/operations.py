"""What operators do from the command line. It works on the engines themselves, also while the heads run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from chimera import modes
from chimera.announce import audit_share
from chimera.body import Body
from chimera.drift import Report, audit_copy
from chimera.errors import ChimeraError, SettingsError
from chimera.modes import read_mode
from chimera.service import Borrow, Mode, Share
from chimera.serving import opened
from chimera.settings import Settings
from chimera.status import service_status

LOOK_S = 0.1


async def show_status(settings: Settings) -> None:
    """Print where every consumer is, one row per consumer and source."""
    table = Table("service", "consumer", "source", "applied", "head", "lag", "parked")
    kept = Table("service", "events kept", "oldest", "since", "kept for", "held back by")
    async with bodies_of(settings, list(settings.services)) as bodies:
        for body in bodies:
            status = await service_status(body)
            for row in _summed(status["consumers"]):
                table.add_row(body.service.name, *row, str(status["parked"].get(row[0], 0)))
            kept.add_row(body.service.name, *_kept(status["retention"]))
    console = Console()
    console.print(table)
    console.print(kept)


async def audit(
    settings: Settings, service: str | None, share: str | None, *, repair: bool = True, as_json: bool = False
) -> bool:
    """Compare shares with what was emitted of them, and copies with their owners; print what was found, and mend it.

    Says whether all is well now. Raises ChimeraError, once the rest is printed, when something could not be compared.
    """
    reports: list[Report] = []
    async with bodies_of(settings, [service] if service else list(settings.services)) as bodies:
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
    async with bodies_of(settings, [service]) as [body]:
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


def _kept(retention: Mapping[str, Any]) -> tuple[str, ...]:
    """What is kept of a journal, all partitions together; `oldest` is the one with the earliest time."""
    journal = retention["journal"]
    first = min((each for each in journal if each["since"]), key=lambda each: each["since"], default=None)
    holders = dict.fromkeys(each["held_back_by"] for each in journal if each["held_back_by"])
    return (
        str(sum(each["kept"] for each in journal)),
        f"{first['partition']}@{first['oldest']}" if first else "",
        first["since"] if first else "",
        f"{retention['journal_days']:g} days" if retention["journal_days"] else "ever",
        ", ".join(holders),
    )


@asynccontextmanager
async def bodies_of(settings: Settings, names: Sequence[str]) -> AsyncIterator[list[Body]]:
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
