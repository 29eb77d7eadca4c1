"""Names from the command line: pinned in a file, and compared with the code and with what is stored."""

from __future__ import annotations

from pathlib import Path

import click

from chimera.core.declared import declared_names
from chimera.errors import ChimeraError
from chimera.run.engines import check_owners, load_named, load_service
from chimera.run.pins import check_pinned, gone, read_pinned, text_of, unpinned
from chimera.run.settings import Settings


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


def check_names(settings: Settings) -> list[str]:
    """What is wrong with names by the code and the file alone, a line each."""
    found: list[str] = []
    path = Path(settings.names)
    pinned = read_pinned(path)
    for name in settings.services:
        try:
            service = load_named(settings, name)
            check_owners(settings, service)
            found += gone(path, pinned, service) + unpinned(path, pinned, service)
        except ChimeraError as error:
            found.append(str(error))
    return found
