"""`chimera new`, and `chimera add`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from chimera.cli.main import fail, settings_of
from chimera.errors import ChimeraError
from chimera_new import pieces
from chimera_new.pieces import Addition, Maker


@click.command("new")
@click.argument("folder", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Write a project into a new FOLDER: a service that is called so, its settings, a Makefile, tests."""
    from chimera_new.project import new_project

    try:
        files = new_project(folder)
    except ChimeraError as error:
        fail(error)
    click.echo(f"{folder}: {', '.join(files)}")
    click.echo(f"type: cd {folder} && make test && make run")


@click.group("add")
def add() -> None:
    """Add code that works, and a test of it, to a service."""


_key = click.option("--key", required=True, help="The field that is its key.")
_service = click.option("--service", help="The service, where there are more.")


def _of(name: str, words: str, *, required: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, "of", required=required, default=None if required else "", help=words)


@add.command("event")
@click.argument("name")
@_key
@_service
@click.pass_obj
def add_event(config: str, name: str, key: str, service: str | None) -> None:
    """An event, such as OrderShipped."""
    _add(config, service, pieces.event, Addition(name, key))


@add.command("command")
@click.argument("name")
@_key
@_of("--emits", "An event of the service; the command takes its fields.", required=False)
@_service
@click.pass_obj
def add_command(config: str, name: str, key: str, of: str, service: str | None) -> None:
    """A command with its handler, such as ShipOrder."""
    _add(config, service, pieces.command, Addition(name, key, of))


@add.command("view")
@click.argument("name")
@_key
@_of("--of", "The event that is folded.")
@_service
@click.pass_obj
def add_view(config: str, name: str, key: str, of: str, service: str | None) -> None:
    """A view with a fold, such as shipments."""
    _add(config, service, pieces.view, Addition(name, key, of))


@add.command("list")
@click.argument("name")
@click.option("--view", required=True, help="The view that it is of, as it is called in the module.")
@click.option("--order", required=True, help="The field to order by; --order=-field from the greatest down.")
@click.option("--where", default="", help="The field whose value the list is for.")
@_service
@click.pass_obj
def add_list(config: str, name: str, view: str, order: str, where: str, service: str | None) -> None:
    """A list of a view, such as best-sellers."""
    _add(config, service, pieces.list_of_view, Addition(name, of=view, order=order, where=where))


@add.command("share")
@click.argument("name")
@_key
@_of("--changed-by", "The event that may change a document.")
@_service
@click.pass_obj
def add_share(config: str, name: str, key: str, of: str, service: str | None) -> None:
    """A share, such as top-clients."""
    _add(config, service, pieces.share, Addition(name, key, of))


@add.command("borrow")
@click.argument("name")
@_key
@click.option("--owner", required=True, help="The service that shares it.")
@click.option(
    "--mode",
    type=click.Choice(["sync", "async", "hybrid"]),
    default="sync",
    show_default=True,
    help="How it is got at.",
)
@_service
@click.pass_obj
def add_borrow(config: str, name: str, key: str, owner: str, mode: str, service: str | None) -> None:
    """A borrow of another service's share, with a page."""
    _add(config, service, pieces.borrow_of(settings_of(config)), Addition(name, key, owner=owner, mode=mode))


def _add(config: str, service: str | None, make: Maker, wanted: Addition) -> None:
    try:
        files = pieces.add(settings_of(config), Path(config).absolute().parent, service, make, wanted)
    except ChimeraError as error:
        fail(error)
    click.echo(f"written: {', '.join(files)}; type: make test")
