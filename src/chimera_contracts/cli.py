"""`chimera contract`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from chimera.cli.main import fail, run, settings_of
from chimera.cli.typed import complete_services, placed
from chimera.errors import ChimeraError


@click.group("contract")
def contract() -> None:
    """Write and compare what services promise and read of each other; ask who stands against a deploy."""


_baseline = click.option(
    "--against", type=click.Path(path_type=Path), help="Another file of contracts, such as that of what is deployed."
)
_events = click.option(
    "--events",
    type=click.IntRange(0),
    default=10_000,
    show_default=True,
    help="Most events that are read of each journal, from its beginning and its end; 0 for all.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")


@contract.command("export")
@click.option(
    "--accept", multiple=True, metavar="PLACE", help="A break that is right, by its place, as check prints it."
)
@click.pass_obj
def export(config: str, accept: tuple[str, ...]) -> None:
    """Write what the services promise and read into chimera.contracts.json, to be committed.

    Nothing is written where that would break somebody, unless it is accepted.
    """
    from chimera_contracts.working import export_contracts

    settings = settings_of(config)
    try:
        well = export_contracts(settings, Path(config), accept)
    except ChimeraError as error:
        fail(error)
    if not well:
        sys.exit(1)


@contract.command("check")
@_baseline
@click.option("--offline", is_flag=True, help="Ask no engine: compare the code with the file.")
@_events
@_as_json
@placed
@click.pass_obj
def check(config: str, against: Path | None, offline: bool, events: int, as_json: bool) -> None:
    """Say whom the code as it is now would break, a line each, and which service has to be deployed first.

    It is compared with chimera.contracts.json, and with what the journals have, where their stores can be reached. The
    status is 1 when something is broken, or when the file is missing or not as the code is.
    """
    from chimera_contracts.working import check_contracts

    settings, well = settings_of(config), []

    async def work() -> None:
        most = None if offline else events
        well.append(await check_contracts(settings, Path(config), against, most_events=most, as_json=as_json))

    run(work())
    if not all(well):
        sys.exit(1)


@contract.command("can-deploy")
@click.argument("service", shell_complete=complete_services)
@click.option("--first", is_flag=True, help="It may be that nobody runs who reads what it writes.")
@_events
@_as_json
@placed
@click.pass_obj
def can_deploy(config: str, service: str, first: bool, events: int, as_json: bool) -> None:
    """Ask the fleet that runs whether this build of a service may be deployed now; the status is 1 where it may not.

    What it writes is compared with what the running builds of its consumers read; what the journals have is read by it.
    """
    from chimera_contracts.working import may_deploy

    settings, well = settings_of(config), []

    async def work() -> None:
        well.append(await may_deploy(settings, service, most_events=events, first=first, as_json=as_json))

    run(work())
    if not all(well):
        sys.exit(1)
