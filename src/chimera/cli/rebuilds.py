"""Rebuilds from the command line: the write heads do the work; this asks, and watches."""

from __future__ import annotations

from typing import Literal

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from chimera.cli.surveys import table_of
from chimera.core.context import Context
from chimera.core.names import generation_name
from chimera.errors import ChimeraError, SettingsError
from chimera.journal.leases import Leases
from chimera.parts import Reaction
from chimera.ports import Checkpoint
from chimera.run.builds import build_of
from chimera.run.engines import opened
from chimera.run.settings import Settings
from chimera.upkeep.drift.unique import remake_all
from chimera.upkeep.tables.keeping import ask_for_tables, generations_of
from chimera.upkeep.tables.reports import last_table_report, why_tables_held
from chimera.upkeep.tables.state import change_state, read_generations_of
from chimera.views.comparison import Comparison
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import Generations, change, read_generations
from chimera.views.rebuild import ask_for, last_report, why_held

KINDS = ("equal", "missing", "changed", "extra", "unsaid", "over", "by_rows", "left")
Way = Literal["start", "cancel", "back", "drop-old"]


async def rebuild_view(
    settings: Settings,
    service: str,
    view: str,
    *,
    keep_old: bool = False,
    force: bool = False,
    as_json: bool = False,
) -> None:
    """Build a view, or a reaction's tables, anew beside what serves, wait until it serves, and print how rows differ.

    One that is being built already is watched, not started again. Raises ChimeraError when it can't be, is cancelled
    or does not flip by itself.
    """
    async with opened(settings, [service], used=True) as [context]:
        if reaction := _with_tables(context, view):
            if keep_old:
                raise SettingsError(f"{view} writes tables: the old ones are not kept; leave out --keep-old")
            return await _rebuild_tables(context, reaction, force=force, as_json=as_json)
        number = await ask_for(context, _known(context, view), keep_old=keep_old, force=force)
        await _watch(context, view, number, quiet=as_json)
        found = await last_report(context, view)
        if found is None or found.new_generation != number:
            raise ChimeraError(f"view {view} serves its new generation, but another rebuild has begun since")
        if as_json:
            print(msgspec.json.encode(found).decode())
        else:
            _print(context, view, found)
    return None


async def rebuild_reserved(settings: Settings, service: str, *, as_json: bool = False) -> None:
    """Make anew what is reserved, from the journal and the rows, beside handlers that go on, and print what was wrong.

    Raises ChimeraError where rows have the same, or something is still not as the journal says.
    """
    async with opened(settings, [service], used=True) as [context]:
        found = await remake_all(context)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        table = table_of(*KINDS, title=f"{service}: what is reserved")
        table.add_row(*(str(getattr(found, name)) for name in KINDS))
        Console().print(table)
    if found.left:
        raise ChimeraError(
            f"{found.left} reservations of {service} are still not as its journal says; something else than Chimera "
            "writes them; type it again once that has ended"
        )


async def steer_rebuild(settings: Settings, service: str, view: str, way: Way) -> None:
    """Cancel a rebuild, go back to the generation that was kept, or drop that one; in force at once.

    Raises ChimeraError when there is nothing of the kind.
    """
    async with opened(settings, [service], used=True) as [context]:
        if reaction := _with_tables(context, view):
            return await _cancel_tables(context, reaction, way)
        state = (await read_generations(context.views, [_known(context, view)]))[view]
        if way == "cancel" and state.building is None:
            raise ChimeraError(f"view {view} is not being rebuilt")
        if way != "cancel" and state.kept is None:
            raise ChimeraError(f"view {view} has no other generation; one is kept by: chimera rebuild --keep-old")
        if way == "back" and state.building is not None:
            raise ChimeraError(f"view {view} is being rebuilt; first: chimera rebuild {service} {view} --cancel")
        steps = {"cancel": Generations.cancelled, "back": _back, "drop-old": Generations.without_kept}
        said = {"cancel": "is not rebuilt any more", "back": "is as it was before", "drop-old": "has dropped the other"}
        after = await change(context.views, view, steps[way])
        text = f"view {view} of {service} {said[way]}; it serves generation {after.serving.number}"
        if after.serving.code != fingerprint(context.service.views[view]):
            text += ", made by other code than this: events wait until a write head with that code runs"
        Console().print(text, markup=False, highlight=False, soft_wrap=True)
    return None


async def _rebuild_tables(context: Context, reaction: Reaction, *, force: bool, as_json: bool) -> None:
    number, name, clock = await ask_for_tables(context, reaction, force=force), reaction.name, context.clock
    leases, worked_at = Leases(context, ""), clock.monotonic()
    while (state := await _tables_state(context, name)).serving.number != number:
        if state.building is None or not state.is_building(number):
            raise ChimeraError(f"the rebuild of the tables of {name} was cancelled, or another one took its place")
        if state.building.phase == "held":
            report = await last_table_report(generations_of(context).plain, name)
            raise ChimeraError(why_tables_held(context.service.name, name, report))
        if await leases.codes():
            worked_at = clock.monotonic()
        elif clock.monotonic() > worked_at + context.timing.idle_s:
            raise ChimeraError(
                f"no write head of {context.service.name} has run for {context.timing.idle_s:.0f} s; start one with: "
                f"chimera run {context.service.name} --write; the rebuild of the tables of {name} then goes on"
            )
        await clock.sleep(context.timing.watch_s)
    found = await last_table_report(generations_of(context).plain, name)
    if found is None or found.new_generation != number:
        raise ChimeraError(f"the tables of {name} serve, but another rebuild has begun since")
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(context, name, found)


async def _cancel_tables(context: Context, reaction: Reaction, way: Way) -> None:
    if way != "cancel":
        raise SettingsError(f"{reaction.name} writes tables: the old ones are not kept; there is --cancel and --force")
    if (await _tables_state(context, reaction.name)).building is None:
        raise ChimeraError(f"the tables of {reaction.name} are not being rebuilt")
    plain = generations_of(context).plain
    after = await change_state(plain, context.clock, reaction.name, Generations.cancelled)
    text = f"the tables of {reaction.name} are not rebuilt any more; generation {after.serving.number} serves"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


async def _tables_state(context: Context, reaction: str) -> Generations:
    return await read_generations_of(generations_of(context).plain, reaction)


def _with_tables(context: Context, name: str) -> Reaction | None:
    found = context.service.reactions.get(name)
    return found if found is not None and found.tables else None


def _back(now: Generations) -> Generations:
    return now if now.building else now.gone_back()


def _known(context: Context, view: str) -> str:
    if view not in context.service.views:
        service, names = context.service, ", ".join(context.service.views) or "none"
        tables = ", ".join(each.name for each in service.reactions.values() if each.tables)
        if view in service.reactions:
            raise SettingsError(
                f"{view} of {service.name} has no tables that can be built anew; say which where it is declared: "
                'project(…, tables=["…"])'
            )
        more = f"; with tables: {tables}" if tables else ""
        raise SettingsError(f"{service.name} has no view {view!r}; its views: {names}{more}")
    return view


async def _watch(context: Context, view: str, number: int, *, quiet: bool) -> None:
    """Show its progress until it serves."""
    name, clock, idle_s = context.service.name, context.clock, context.timing.idle_s
    leases, code = Leases(context, ""), build_of(context.service)
    with Progress(disable=quiet) as progress:
        bar = progress.add_task(f"rebuilding {view}", total=None)
        worked_at = clock.monotonic()
        while True:
            state = (await read_generations(context.views, [view]))[view]
            if state.serving.number == number or (state.kept and state.kept.number == number):
                return
            if state.building is None or not state.is_building(number):
                raise ChimeraError(f"the rebuild of view {view} was cancelled, or another one took its place")
            if state.building.phase == "held":
                raise ChimeraError(await _why_held(context, view))
            done, total = await _progress(context, view, number)
            progress.update(bar, completed=done, total=total, description=_stage(view, state, done, total))
            if code in await leases.codes():
                worked_at = clock.monotonic()
            elif clock.monotonic() > worked_at + idle_s:
                raise ChimeraError(
                    f"no write head of {name} with this code has run for {idle_s:.0f} s; start one with: "
                    f"chimera run {name} --write; the rebuild of {view} then goes on"
                )
            await clock.sleep(context.timing.watch_s)


def _stage(view: str, state: Generations, done: int, total: int) -> str:
    if state.is_flipping:
        return f"flipping {view}"
    return f"rebuilding {view}" if done < total else f"comparing {view}"


async def _progress(context: Context, view: str, number: int) -> tuple[int, int]:
    """The number of events that the new generation has, and of those that there are."""
    sources = context.service.views[view].sources
    at = await context.views.checkpoints(generation_name(view, number))
    heads = {
        (source, partition): head
        for source in sources
        for partition, head in (await context.owners.known_heads(source)).items()
    }
    return sum(min(at.get(place, Checkpoint()).number, head) for place, head in heads.items()), sum(heads.values())


async def _why_held(context: Context, view: str) -> str:
    return why_held(context.service.name, view, await last_report(context, view))


def _print(context: Context, view: str, found: Comparison) -> None:
    console = Console()
    title = f"{context.service.name} {view}: generation {found.old_generation} to {found.new_generation}"
    table = table_of("equal", "changed", "missing", "new", "in flight", "parked", title=title)
    figures = (found.equal, found.changed, found.missing, found.new, found.in_flight, found.aside)
    table.add_row(*map(str, figures))
    console.print(table)
    for which, lists in (("old", found.lists_before), ("new", found.lists)):
        if lists is not None and lists.found:
            mended = f"; {lists.mended} mended" if lists.mended else ""
            text = f"the lists of the {which} generation were not as its documents: {lists.told}{mended}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    if found.samples:
        samples = table_of("", "key", "before", "after")
        for each in found.samples:
            samples.add_row(each.kind, escape(each.key), _text(each.old), _text(each.new))
        console.print(samples)


def _text(document: msgspec.Raw) -> str:
    return escape(bytes(document).decode(errors="replace"))
