"""Names from the command line: pinned in a file, and compared with the code and with what is stored."""

from __future__ import annotations

from pathlib import Path

import click

from chimera.core.declared import declared_names
from chimera.errors import DeclarationError, SettingsError
from chimera.run.engines import check_owners, load_service, opened
from chimera.run.pins import check_pinned, gone, read_pinned, text_of, unpinned
from chimera.run.settings import Settings
from chimera.upkeep.naming import misfits


def write_names(settings: Settings) -> None:
    """Write the names of all services into the file. Raises SettingsError where one would be lost from it."""
    services = [load_service(each.app) for each in settings.services.values()]
    path = Path(settings.names)
    check_pinned(path, services)
    before, after = path.read_text() if path.exists() else "", text_of(services)
    if after != before:
        path.write_text(after)
    count = sum(len(declared_names(service)) for service in services)
    done = "is as it was" if after == before else "is written; commit it"
    click.echo(f"{path} {done} ({count} names)")


async def check_names(settings: Settings, *, offline: bool) -> bool:
    """Print what is wrong with names, a line each, and whether all is well.

    `offline`: without any engine, by the code and the file alone.
    """
    found, services = [], []
    path = Path(settings.names)
    pinned = read_pinned(path)
    for name, each in settings.services.items():
        try:
            service = load_service(each.app)
            check_owners(settings, service)
            found += gone(path, pinned, service) + unpinned(path, pinned, service)
            services.append(name)
        except (DeclarationError, SettingsError) as error:
            found.append(str(error))
    if not offline and services:
        async with opened(settings, services) as contexts:
            for context in contexts:
                found += [line for line in await misfits(context) if line not in found]
    for line in found:
        click.echo(f"chimera: {line}", err=True)
    if not found:
        more = "" if pinned else f"; chimera names pins them in {path.name}"
        click.echo(f"all names are well{'' if offline else ', and as stored'}{more}")
    return not found
