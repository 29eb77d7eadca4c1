"""Recovery from the command line: what an owner lost and who has seen it, then the mending, and the proof."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from chimera.borrow.copies import reaches
from chimera.borrow.modes import read_mode
from chimera.cli.surveys import events_of, print_proof, print_survey, say
from chimera.core.context import Context
from chimera.errors import ChimeraError, SettingsError
from chimera.journal.checkpoints import read_checkpoints
from chimera.messages import Position
from chimera.run.engines import opened
from chimera.run.settings import Settings
from chimera.upkeep.recovery.epochs import begin_epochs
from chimera.upkeep.recovery.mend import HandledLost, by_reaction, mend_documents, settle
from chimera.upkeep.recovery.survey import Survey, survey
from chimera.upkeep.recovery.witnesses import Witness
from chimera.views.generations import read_generations
from chimera.views.rebuild import last_report, why_held


class Wish(NamedTuple):
    """What an operator decided. `keep`: by reaction, the positions whose effects stay (None: all); `common`: where
    histories part, by partition, where the log does not tell any more."""

    keep: Mapping[str, Collection[str] | None]
    common: Mapping[int, int]


class Mending(NamedTuple):
    """What is under way: the generations of views that are built anew, and the checkpoints of reactions that go on."""

    owner: Context
    contexts: Sequence[Context]
    building: Sequence[tuple[Context, str, int]]
    going: Sequence[Witness]


def wish_of(service: str, keep: Sequence[str], common: Sequence[str]) -> Wish:
    """What was typed. Raises SettingsError that says what it should look like."""
    kept: dict[str, Collection[str] | None] = {}
    for each in keep:
        reaction, equals, what = each.partition("=")
        if not (equals and reaction and what):
            raise SettingsError(
                f"--keep {each}: it looks like --keep board.note=all, =none or ={service}/0@7,{service}/0@9"
            )
        kept[reaction] = None if what == "all" else [] if what == "none" else _positions(what)
    parts: dict[int, int] = {}
    for each in common:
        partition, at, number = each.partition("@")
        if not (at and partition.isdecimal() and number.isdecimal()):
            raise SettingsError(
                f"--common {each}: it looks like --common 0@60, partition 0 is the same up to number 60"
            )
        parts[int(partition)] = int(number)
    return Wish(kept, parts)


async def recover(settings: Settings, service: str, wish: Wish, *, yes: bool, wait_s: float) -> bool:
    """Say what an owner lost and who has seen it; with `yes` mend it, wait until it is mended, and prove it.

    Says whether all is well in the end. Raises ChimeraError.
    """
    settings.check_service(service)
    async with opened(settings, list(settings.services), used=True) as contexts:
        [owner] = [each for each in contexts if each.service.name == service]
        found, console = await survey(owner, contexts, wish.common), Console()
        _check_wish(found, wish)
        print_survey(console, found)
        if not found.is_well and not yes:
            say(console, f"nothing was changed; to mend it, type: chimera recover {service} --yes{_asked(found, wish)}")
            return False
        if not found.is_well:
            await begin_epochs(owner, found.new)
            building = await mend_documents(found.witnesses)
            going = [each.witness for each in found.handled if await _settled(console, each, wish)]
            await _until_mended(Mending(owner, contexts, building, going), wait_s)
            found = await survey(owner, contexts, wish.common)
        is_whole = await print_proof(console, found)
        return is_whole and not found.diverged


def _check_wish(found: Survey, wish: Wish) -> None:
    known = by_reaction(found.handled)
    for reaction in wish.keep:
        if reaction not in known:
            names = ", ".join(known) or "none"
            raise SettingsError(f"--keep {reaction}: no reaction of this name is held; those that are: {names}")
    for partition in wish.common:
        if partition not in found.heads:
            raise SettingsError(f"--common {partition}@…: {found.owner.service.name} has {len(found.heads)} partitions")


async def _settled(console: Console, handled: HandledLost, wish: Wish) -> bool:
    """Let a reaction go on, if an operator said what to keep; says whether it goes on."""
    title = handled.witness.title
    if title not in wish.keep or handled.common is None:
        return False
    keep = wish.keep[title]
    await settle(handled, keep)
    place = f"{handled.witness.consumer.source}/{handled.witness.partition}"
    count = len(handled.events) if keep is None else len({str(each.position) for each in handled.events} & {*keep})
    say(
        console,
        f"{title} goes on after {place}@{handled.common.number}; of {events_of(len(handled.events))} that were lost "
        f"and it has handled, {count} are kept: the same ones are not handled again",
    )
    return True


async def _until_mended(mending: Mending, wait_s: float) -> None:
    """Wait until views serve, copies are filled and reactions have gone on. Raises ChimeraError where that is long."""
    owner = mending.owner
    until = owner.clock.monotonic() + wait_s
    while left := [*await _building(mending), *await _behind(mending)]:
        if owner.clock.monotonic() > until:
            raise ChimeraError(
                f"after {wait_s:g} s {'; '.join(left)}; write heads do that work: do they run? What was begun goes on; "
                f"look again with: chimera recover {owner.service.name}"
            )
        await owner.clock.sleep(owner.timing.watch_s)


async def _building(mending: Mending) -> list[str]:
    left = []
    for context, view, number in mending.building:
        state = (await read_generations(context.views, [view]))[view]
        if state.building is not None and state.building.generation.number == number:
            if state.building.phase == "held":
                raise ChimeraError(why_held(context.service.name, view, await last_report(context, view)))
            left.append(f"view {view} of {context.service.name} is still being built anew")
    return left


async def _behind(mending: Mending) -> list[str]:
    """The copies and reactions that have not reached where their owner is."""
    left, owner, heads = [], mending.owner, await mending.owner.store.heads()
    for each in mending.going:
        at = await read_checkpoints(each.context.store, each.name, owner.service.name, [each.partition])
        if at[each.partition].number < heads[each.partition]:
            left.append(f"{each.title} has not handled all that {owner.service.name} has")
    for context in mending.contexts:
        for borrow in context.service.borrows.values():
            if borrow.owner != owner.service.name:
                continue
            mode = (await read_mode(context, borrow)).mode
            if mode != "sync" and not await reaches(context, borrow, mode, heads, owner.timing.meet_s):
                left.append(f"the copy of {borrow.name} in {context.service.name} is still being filled")
    return left


def _asked(found: Survey, wish: Wish) -> str:
    """What is still to be decided, as it is typed."""
    return "".join(
        f" --keep {title}=all"
        for title, handled in by_reaction(found.handled).items()
        if title not in wish.keep and all(each.common for each in handled)
    )


def _positions(text: str) -> list[str]:
    try:
        return [str(Position.parse(each)) for each in text.split(",")]
    except ValueError as error:
        raise SettingsError(f"--keep: {error}") from error
