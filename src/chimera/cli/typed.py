"""What is typed: commands found when they are needed, where engines are, completion, mistakes said in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from chimera.service import Service

Function = TypeVar("Function", bound=Callable[..., None])

ENTRY_POINTS = "chimera.commands"
"""The group of entry points by which other packages add commands: a name, and a click command."""


class Commands(click.Group):
    """Chimera's commands, and those that other packages add; those are found only when they are needed.

    What was typed wrong is said in one line.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in order."""
        return sorted({*super().list_commands(ctx), *_added().names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name; None where there is none."""
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        return _added()[cmd_name].load() if cmd_name in _added().names else None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As `click.Command.main`."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            ended = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            asked = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "chimera"
            click.echo(f"chimera: {error.format_message().rstrip('.')}; see: {asked} --help", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("chimera: nothing was done", err=True)
            sys.exit(1)
        sys.exit(ended if isinstance(ended, int) else 0)


def _added() -> EntryPoints:
    from importlib.metadata import entry_points  # it loads much, which `chimera up` does not need

    return entry_points(group=ENTRY_POINTS)


PLACE = "chimera.place"
"""Where the engines are as it was typed, among what click keeps of a command: variables, and their values."""
ENGINES = ("log", "store", "views", "last_known")


def placed(command: Function) -> Function:
    """The options of a command that works on engines: where those are, over the settings."""
    state = click.option(
        "--state", metavar="FOLDER", expose_value=False, callback=_put_state, help="The folder of the embedded engines."
    )
    url = click.option(
        "--url",
        metavar="ENGINE=URL",
        multiple=True,
        expose_value=False,
        callback=_put_urls,
        help="Where an engine is: store=…, log=…, views=…; of one service: shop.store=…",
    )
    return state(url(command))


def typed_place() -> Mapping[str, str]:
    """The variables that say where the engines are, as it was typed."""
    context = click.get_current_context(silent=True)
    found: Mapping[str, str] = context.meta.get(PLACE, {}) if context else {}
    return found


def _put_state(context: click.Context, option: click.Parameter, folder: str | None) -> None:
    if folder is not None:
        context.meta.setdefault(PLACE, {})["CHIMERA_STATE"] = folder


def _put_urls(context: click.Context, option: click.Parameter, urls: Iterable[str]) -> None:
    for typed in urls:
        name, _, url = typed.partition("=")
        service, _, engine = name.rpartition(".")
        if engine not in ENGINES or not url:
            raise click.BadParameter(f"{typed}: it looks like --url store=postgresql://…, or --url shop.store=…")
        within = f"SERVICES__{service.replace('-', '_')}__" if service else ""
        context.meta.setdefault(PLACE, {})[f"CHIMERA_{within}{engine}".upper()] = url


Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def complete_services(context: click.Context, option: click.Parameter, begun: str) -> list[str]:
    """The services of the settings that begin so."""
    try:
        return _beginning(_settings(context).services, begun)
    except Exception:  # noqa: BLE001 - whatever is wrong is said when the command is typed
        return []


def completer(names_of: Callable[[Service], Iterable[str]]) -> Completer:
    """Names of the service that was typed before, or of all services."""

    def complete(context: click.Context, option: click.Parameter, begun: str) -> list[str]:
        from chimera.run.engines import load_service

        found: dict[str, None] = {}
        try:
            settings = _settings(context)
            for name in [context.params["service"]] if context.params.get("service") else settings.services:
                found |= dict.fromkeys(names_of(load_service(settings.services[name].app)))
        except Exception:  # noqa: BLE001 - as above
            return []
        return _beginning(found, begun)

    return complete


def _settings(context: click.Context) -> Any:
    from chimera.run.settings import read_settings

    path = Path(context.find_root().params.get("config") or "chimera.toml")
    sys.path.insert(0, str(path.absolute().parent))
    return read_settings(path, {})


def _beginning(names: Iterable[str], begun: str) -> list[str]:
    return [name for name in names if name.startswith(begun)]


def views_of(service: Service) -> Iterable[str]:
    """The names of a service's views, and of its reactions with tables that can be built anew."""
    return [*service.views, *(each.name for each in service.reactions.values() if each.tables)]


def borrows_of(service: Service) -> Iterable[str]:
    """The names of what a service borrows."""
    return service.borrows


def shares_of(service: Service) -> Iterable[str]:
    """The names of what a service shares and borrows."""
    return [*service.shares, *service.borrows]


def consumers_of(service: Service) -> Iterable[str]:
    """The names of a service's consumers that may have parked something."""
    return [
        "commands",
        *service.views,
        *(f"{each.name}:{source}" for each in service.reactions.values() for source in each.sources),
    ]
