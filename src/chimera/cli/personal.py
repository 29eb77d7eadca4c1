"""Forgetting a person, and giving her what is kept of her, from the command line."""

from __future__ import annotations

import getpass
from collections.abc import Sequence

import click
import msgspec

from chimera.cli.main import run, settings_of
from chimera.cli.typed import placed
from chimera.core.context import Context
from chimera.core.keys.personal import is_personal_in
from chimera.errors import ChimeraError
from chimera.run.engines import opened
from chimera.run.settings import Settings
from chimera.upkeep.forgetting.export import export_of
from chimera.upkeep.forgetting.forget import ForgettingStatus, ask, go_on, status_of


@click.command()
@click.argument("subject")
@click.option("--status", "only_status", is_flag=True, help="Only say how far it has come, and who has not got it yet.")
@click.option("--by", default="", help="Who asked for it, for the audit; whoever types it unless given.")
@click.option("--wait", "wait_s", default=60.0, show_default=True, help="Seconds to wait for everybody.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@placed
@click.pass_obj
def forget(config: str, subject: str, only_status: bool, by: str, wait_s: float, yes: bool) -> None:
    """Forget a person: destroy the keys of what is personal of her, in all services."""
    settings = settings_of(config)
    if only_status:
        run(show_forgetting(settings, subject))
        return
    if not yes and not click.confirm(f"Forget {subject}? Nobody can read again what is personal of her."):
        raise click.Abort
    run(forget_everywhere(settings, subject, by or getpass.getuser(), wait_s=wait_s))


@click.command()
@click.argument("subject")
@placed
@click.pass_obj
def export(config: str, subject: str) -> None:
    """Print what is kept of a person, as JSON."""
    run(print_export(settings_of(config), subject))


async def forget_everywhere(settings: Settings, subject: str, by: str, *, wait_s: float) -> None:
    """Forget a person in every service, and wait for every consumer. Raises ChimeraError where some are not there yet.

    It is written down in all services before a key is destroyed in one.
    """
    async with opened(settings, list(settings.services), used=True) as contexts:
        some = personal_among(contexts)
        for context in some:
            await ask(context, subject, by)
        found = [await go_on(context, subject) for context in some]
        until = some[0].clock.monotonic() + wait_s
        while any(each.stage != "done" for each in found) and some[0].clock.monotonic() < until:
            await some[0].clock.sleep(some[0].timing.watch_s)
            found = [await go_on(context, subject) for context in some]
    _print(found)
    if late := [each.service for each in found if each.stage != "done"]:
        raise ChimeraError(
            f"the keys are destroyed; {', '.join(late)} still waits, and goes on by itself where its write head runs: "
            f"chimera forget {subject} --status"
        )


async def show_forgetting(settings: Settings, subject: str) -> None:
    """Print how far it has come in each service."""
    async with opened(settings, list(settings.services), used=True) as contexts:
        _print([await status_of(context, subject) for context in personal_among(contexts)])


async def print_export(settings: Settings, subject: str) -> None:
    """Print what all services keep of a person, as one JSON object."""
    async with opened(settings, list(settings.services), used=True) as contexts:
        found = [await export_of(context, subject) for context in personal_among(contexts)]
    click.echo(msgspec.json.format(msgspec.json.encode({"subject": subject, "services": found}), indent=2).decode())


def personal_among(contexts: Sequence[Context]) -> list[Context]:
    """The services that have personal values to do with. Raises ChimeraError where there are none."""
    if found := [context for context in contexts if is_personal_in(context.service)]:
        return found
    raise ChimeraError("no service has personal fields; one is declared so: email: Personal[str], see docs/personal.md")


def _print(found: Sequence[ForgettingStatus]) -> None:
    for each in found:
        click.echo(f"{each.service}: {_said(each)}")
        for name in each.waiting:
            click.echo(f"  waits for {name}")


def _said(status: ForgettingStatus) -> str:
    if status.stage == "unknown":
        return "nobody has asked for it"
    if status.stage == "asked":
        return "asked for, and the key is still there"
    if status.proof is None:
        return f"the key is destroyed, told by {status.position}"
    kept = ", ".join(f"{count} in {place}" for place, count in sorted(status.proof.concealed.items()))
    told, opens = status.position, status.proof.opens
    return f"forgotten, told by {told}; concealed values that are left: {kept or 'none'}; {opens} of them open"
