"""Status, retention, audits, modes, traces from the command line: on the engines themselves, also while heads run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console

from chimera.borrow import modes
from chimera.borrow.modes import read_mode
from chimera.cli.surveys import table_of
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.errors import ChimeraError, SettingsError
from chimera.folds import View
from chimera.forms import AnyDocument
from chimera.parts import Borrow, Mode, Share
from chimera.run.engines import opened
from chimera.run.settings import Settings
from chimera.upkeep.drift.audits import AuditReport
from chimera.upkeep.drift.copy_audit import audit_copy
from chimera.upkeep.drift.lists import LISTS, audit_lists
from chimera.upkeep.drift.share_audit import audit_share
from chimera.upkeep.recovery.trace import Trace, TraceStep, trace
from chimera.upkeep.status import retention_status, service_status

Audited = Share | Borrow[AnyDocument] | View[AnyDocument]


async def show_status(settings: Settings) -> None:
    """Print every consumer's checkpoint, head and lag, one row per consumer and source."""
    table = table_of("service", "consumer", "source", "applied", "head", "lag", "parked")
    journals = table_of("service", "events kept", "oldest", "since", "kept for", "held back by")
    held: list[str] = []
    async with opened(settings, list(settings.services), used=True) as contexts:
        for context in contexts:
            status = await service_status(context)
            for row in _summed(status["consumers"]):
                table.add_row(context.service.name, *row, str(status["parked"].get(row[0], 0)))
            journals.add_row(context.service.name, *_kept_in(status["retention"]))
            held += [each["why"] for each in status["rebuilds"] if each["why"]]
            held += [
                f"{context.service.name}: {row['consumer']} {row['diverged']}: {_put_back(row)}"
                for row in status["consumers"]
                if row["diverged"]
            ]
            held += map(_standing, status["standing"])
    console = Console()
    console.print(table)
    console.print(journals)
    for why in held:
        console.print(why, markup=False, highlight=False, soft_wrap=True)


def _put_back(row: Mapping[str, Any]) -> str:
    if row["consumer"] == COMMANDS:
        return "the log was put back or made anew, and a write head reads it from its beginning as soon as it runs"
    return (
        "its journal was put back or made anew, and nothing is taken from it until that is mended; "
        f"type: chimera recover {row['source']}"
    )


def _standing(each: Mapping[str, Any]) -> str:
    if not each["tries"]:
        return f"{each['work']}, {each['since']:%Y-%m-%d %H:%M:%S}: {each['cause']}"
    since = f"{each['since']:%Y-%m-%d %H:%M:%S}"
    return f"{each['work']} stands still since {since}, tried {each['tries']} times: {each['cause']}"


async def audit(
    settings: Settings, service: str | None, share: str | None, *, repair: bool = True, as_json: bool = False
) -> bool:
    """Compare shares with what was emitted of them, copies with their owners, lists with their documents.

    What was found is printed, and mended.

    Says whether all is well now. Raises ChimeraError, once the rest is printed, when something could not be compared.
    """
    reports: list[AuditReport] = []
    async with opened(settings, [service] if service else list(settings.services), used=True) as contexts:
        audited = [(context, what) for context in contexts for what in _to_audit(context, share)]
        if share and not audited:
            raise SettingsError(
                f"{service} neither shares nor borrows {share!r}, nor has a view of that name with lists; it has: "
                f"{_shares_of(contexts)}"
            )
        for context, what in audited:
            if (report := await _audited(context, what, repair=repair)) is not None:
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
    async with opened(settings, [service], used=True) as [context]:
        if share not in context.service.borrows:
            raise SettingsError(
                f"{service} does not borrow {share!r}; it borrows: {', '.join(context.service.borrows) or 'nothing'}"
            )
        borrow, until = context.service.borrows[share], context.clock.monotonic() + wait_s
        setting = await modes.change_mode(context, borrow, mode)
        while setting.mode != mode:
            if setting.wanted != mode:
                raise ChimeraError(f"{service} is to borrow {share} as {setting.wanted}: somebody else changed it")
            if context.clock.monotonic() > until:
                raise ChimeraError(
                    f"{service} still borrows {share} as {setting.mode} after {wait_s:g} s, and goes on until its copy "
                    f"is complete; are the write head of {service} and {borrow.owner} running? See: chimera status"
                )
            await context.clock.sleep(context.timing.watch_s)
            setting = await read_mode(context, borrow)
    Console().print(f"{service} borrows {share} as {mode}", markup=False, highlight=False)


def _to_audit(context: Context, share: str | None) -> list[Audited]:
    everything: list[Audited] = [*context.service.shares.values()]
    everything += context.service.borrows.values()
    everything += [view for view in context.service.views.values() if view.lists]
    return [each for each in everything if share in (None, each.name)]


def _shares_of(contexts: Sequence[Context]) -> str:
    return ", ".join(each.name for context in contexts for each in _to_audit(context, None)) or "nothing"


async def _audited(context: Context, what: Audited, *, repair: bool) -> AuditReport | None:
    """The findings of a share, a borrow or a view's lists; None for what has no copy, or is kept by other code."""
    mode = LISTS if isinstance(what, View) else "owner"
    try:
        if isinstance(what, View):
            return await audit_lists(context, what, repair=repair)
        if isinstance(what, Share):
            return await audit_share(context, what, repair=repair)
        mode = (await read_mode(context, what)).mode
        return await audit_copy(context, what, repair=repair)
    except ChimeraError as error:
        return AuditReport(context.service.name, what.name, mode, failed=str(error))


def _print_reports(reports: Sequence[AuditReport]) -> None:
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
        console.print("there is nothing to compare: nothing is shared, no copy is kept, no view has lists")


def _kept_in(retention: Mapping[str, Any]) -> tuple[str, ...]:
    """A journal's row, all partitions together; its oldest event is the one with the earliest time."""
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


async def show_retention(settings: Settings) -> None:
    """Print the journals' oldest and newest numbers, and every consumer that holds them back, or does no more."""
    journals = table_of("service", "partition", "oldest", "newest", "kept", "since", "days", "held back by")
    consumers = table_of("service", "consumer", "partition", "applied", "last heard of", "holds back")
    async with opened(settings, list(settings.services), used=True) as contexts:
        for context in contexts:
            name, found = context.service.name, await retention_status(context)
            for journal in found["journal"]:
                numbers = (str(journal[each]) for each in ("partition", "oldest", "newest", "kept"))
                journals.add_row(name, *numbers, journal["since"], _days(context, found), journal["held_back_by"])
            for consumer in found["consumers"]:
                consumers.add_row(name, *_held_back(consumer))
    console = Console()
    console.print(journals)
    console.print(consumers)


def _days(context: Context, found: Mapping[str, Any]) -> str:
    if found["journal_days"]:
        return f"{found['journal_days']:g}"
    return "for ever, entities are folded from it" if context.service.folds else "for ever"


def _held_back(consumer: Mapping[str, Any]) -> tuple[str, ...]:
    heard = consumer["heard_of"]
    return (
        consumer["consumer"],
        str(consumer["partition"]),
        str(consumer["applied"]),
        "here" if heard is None else heard.strftime("%Y-%m-%d %H:%M:%S"),
        "yes" if consumer["holds_back"] else f"no: {consumer['why_not']}",
    )


async def show_trace(settings: Settings, what: str, last: int | None, *, as_json: bool = False) -> bool:
    """Print the chain of a correlation, a command's id or an event's position. Says whether anything was found."""
    async with opened(settings, list(settings.services), used=True) as contexts:
        found = await trace(contexts, what, last)
    if as_json:
        print(msgspec.json.encode([_step_facts(step) for step in found.steps]).decode())
    else:
        _print_trace(Console(), what, found)
    return bool(found.steps)


def _step_facts(step: TraceStep) -> dict[str, object]:
    """A step as it is printed as JSON."""
    origin = step.origin
    who = {
        "actor": origin.actor,
        "by": origin.by or "caller",
        "on_behalf_of": origin.caller.on_behalf_of if origin.caller else "",
        "tenant": origin.caller.tenant if origin.caller else "",
    }
    chain = {"correlation": origin.correlation, "causation": origin.causation, "baggage": origin.baggage}
    return {name: value for name, value in step._asdict().items() if name != "origin"} | who | chain


def _print_trace(console: Console, what: str, found: Trace) -> None:
    ids = {step.id for step in found.steps}
    below: dict[str, list[TraceStep]] = {}
    for step in found.steps:
        below.setdefault(step.origin.causation if step.origin.causation in ids else "", []).append(step)
    left = [(step, 0) for step in below.get("", [])[::-1]]
    while left:
        step, depth = left.pop()
        _say(console, "  " * depth + _step_line(step))
        left += [(each, depth + 1) for each in below.pop(step.id, [])[::-1]]
    if not found.steps:
        _say(console, f"nothing is known of {what!r}: no command, no event, nothing that is parked")
    if not found.is_whole:
        _say(console, f"looked at the newest {found.looked_at:,} events; older ones with --all")


def _step_line(step: TraceStep) -> str:
    what = step.kind if step.kind != "event" else ""
    parts = (what, step.service if what else "", step.id, step.type, step.key, step.time, step.state)
    return f"{' '.join(filter(None, parts))}, {_who_did(step)}"


def _who_did(step: TraceStep) -> str:
    caller = step.origin.caller
    if caller is None:
        return f"by {step.origin.by}"
    of = f" of {caller.tenant}" if caller.tenant else ""
    return f"by {caller.subject!r}{of}{f' for {caller.on_behalf_of!r}' if caller.on_behalf_of else ''}"


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
