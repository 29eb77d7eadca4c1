"""What is typed: commands that are found when they are needed, and mistakes that are said in one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

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
