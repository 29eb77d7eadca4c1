"""What operators do about rebuilds, from the command line. The write heads do the work; this asks, and watches."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from chimera import operations
from chimera.body import Body
from chimera.comparing import Comparison
from chimera.errors import ChimeraError, SettingsError, Trimmed
from chimera.fingerprints import fingerprint, fingerprint_of_all
from chimera.generations import Generations, change, generation_name, read_generations
from chimera.leases import Leases
from chimera.ports import Checkpoint
from chimera.rebuilding import can_be_built, last_report
from chimera.settings import Settings

Way = Literal["start", "cancel", "back", "drop-old"]

IDLE_S = 10.0
LOOK_S = 0.1


async def rebuild_view(
    settings: Settings,
    service: str,
    view: str,
    *,
    keep_old: bool = False,
    force: bool = False,
    as_json: bool = False,
) -> None:
    """Build a view anew beside the one that serves, wait until it serves, and print what has become of its rows.

    One that is being built already is watched, not started again. Raises ChimeraError when it can't be, is cancelled
    or does not flip by itself.
    """
    async with operations.bodies_of(settings, [service]) as [body]:
        number = await _ask(body, _known(body, view), keep_old=keep_old, force=force)
        await _watch(body, view, number, quiet=as_json)
        found = await last_report(body, view)
        if found is None or found.new_generation != number:
            raise ChimeraError(f"view {view} serves its new generation, but another rebuild has begun since")
        if as_json:
            print(msgspec.json.encode(found).decode())
        else:
            _print(body, view, found)


async def steer_rebuild(settings: Settings, service: str, view: str, way: Way) -> None:
    """Cancel a rebuild, go back to the generation that was kept, or drop that one; in force at once.

    Raises ChimeraError when there is nothing of the kind.
    """
    async with operations.bodies_of(settings, [service]) as [body]:
        state = (await read_generations(body.views, [_known(body, view)]))[view]
        if way == "cancel" and state.building is None:
            raise ChimeraError(f"view {view} is not being rebuilt")
        if way != "cancel" and state.kept is None:
            raise ChimeraError(f"view {view} has no other generation; one is kept by: chimera rebuild --keep-old")
        if way == "back" and state.building is not None:
            raise ChimeraError(f"view {view} is being rebuilt; first: chimera rebuild {service} {view} --cancel")
        steps = {"cancel": Generations.cancelled, "back": _back, "drop-old": Generations.without_kept}
        said = {"cancel": "is not rebuilt any more", "back": "is as it was before", "drop-old": "has dropped the other"}
        after = await change(body.views, view, steps[way])
        text = f"view {view} of {service} {said[way]}; it serves generation {after.serving.number}"
        if after.serving.code != fingerprint(body.service.views[view]):
            text += ", made by other code than this: events wait until a write head with that code runs"
        Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _back(now: Generations) -> Generations:
    return now if now.building else now.gone_back()


def _known(body: Body, view: str) -> str:
    if view not in body.service.views:
        names = ", ".join(body.service.views) or "none"
        raise SettingsError(f"{body.service.name} has no view {view!r}; its views: {names}")
    return view


async def _ask(body: Body, view: str, *, keep_old: bool, force: bool) -> int:
    """The number of the generation that is being built, after it was asked for."""
    declared = body.service.views[view]
    code = fingerprint(declared)

    def step(now: Generations) -> Generations:
        if now.building is None:
            adopted = now if now.serving.code else now.adopted(code)
            return adopted.started(code, keep_old=keep_old, force=force)
        return now.wished(keep_old=keep_old, force=force) if now.building.generation.code == code else now

    state = (await read_generations(body.views, [view]))[view]
    if state.building is None:
        try:
            await can_be_built(body, declared)
        except Trimmed as error:
            raise ChimeraError(f"view {view} can't be built anew: {error}") from error
    after = await change(body.views, view, step)
    if after.building is None or after.building.generation.code != code:
        raise ChimeraError(
            f"view {view} is being rebuilt with other code; first: chimera rebuild {body.service.name} {view} --cancel"
        )
    return after.building.generation.number


async def _watch(body: Body, view: str, number: int, *, quiet: bool) -> None:
    """Show how far it is, until it serves."""
    name, loop = body.service.name, asyncio.get_running_loop()
    leases, code = Leases(body.service, body.store, ""), fingerprint_of_all(body.service)
    with Progress(disable=quiet) as progress:
        bar = progress.add_task(f"rebuilding {view}", total=None)
        worked_at = loop.time()
        while True:
            state = (await read_generations(body.views, [view]))[view]
            if state.serving.number == number or (state.kept and state.kept.number == number):
                return
            if state.building is None or not state.is_building(number):
                raise ChimeraError(f"the rebuild of view {view} was cancelled, or another one took its place")
            if state.building.phase == "held":
                raise ChimeraError(await _why_held(body, view))
            done, total = await _progress(body, view, number)
            progress.update(bar, completed=done, total=total, description=_stage(view, state, done, total))
            if code in await leases.codes():
                worked_at = loop.time()
            elif loop.time() > worked_at + IDLE_S:
                raise ChimeraError(
                    f"no write head of {name} with this code has run for {IDLE_S:.0f} s; start one with: "
                    f"chimera run {name} --write; the rebuild of {view} then goes on"
                )
            await asyncio.sleep(LOOK_S)


def _stage(view: str, state: Generations, done: int, total: int) -> str:
    if state.is_flipping:
        return f"flipping {view}"
    return f"rebuilding {view}" if done < total else f"comparing {view}"


async def _progress(body: Body, view: str, number: int) -> tuple[int, int]:
    """How many events the new generation has, and how many there are."""
    sources = body.service.views[view].sources
    at = await body.views.checkpoints(generation_name(view, number))
    heads = {
        (source, partition): head for source in sources for partition, head in (await body.known_heads(source)).items()
    }
    return sum(min(at.get(place, Checkpoint()).number, head) for place, head in heads.items()), sum(heads.values())


async def _why_held(body: Body, view: str) -> str:
    found = await last_report(body, view)
    causes = "; ".join(found.causes) if found else ""
    return (
        f"view {view} is built anew, but has set aside events of {found.aside if found else '?'} keys "
        f"({found.aside_before if found else '?'} before), and does not flip: {causes}. Mend its code, or: "
        f"chimera rebuild {body.service.name} {view} --cancel, or --force"
    )


def _print(body: Body, view: str, found: Comparison) -> None:
    console = Console()
    title = f"{body.service.name} {view}: generation {found.old_generation} to {found.new_generation}"
    table = Table("equal", "changed", "missing", "new", "in flight", "set aside", title=title)
    figures = (found.equal, found.changed, found.missing, found.new, found.in_flight, found.aside)
    table.add_row(*map(str, figures))
    console.print(table)
    if found.samples:
        samples = Table("", "key", "before", "after")
        for each in found.samples:
            samples.add_row(each.kind, escape(each.key), _text(each.old), _text(each.new))
        console.print(samples)


def _text(document: msgspec.Raw) -> str:
    return escape(bytes(document).decode(errors="replace"))
