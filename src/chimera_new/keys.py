"""Keys of programs: made here, shown once; what is kept of them is a digest."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys

import click

from chimera.run.front.identity import RESERVED


@click.group()
def key() -> None:
    """Make API keys, by which programs are known."""


@key.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="A role that the program has; may be given several times.")
def new(name: str, roles: tuple[str, ...]) -> None:
    """Make a key for a program, print it, and print what goes into the settings: its digest."""
    if not name or name in RESERVED or not name.isprintable() or '"' in name or "\\" in name:
        click.echo(f"chimera: {name!r} is no name of a program", err=True)
        sys.exit(2)
    made = f"chimera_{secrets.token_urlsafe(32)}"
    click.echo(made)
    click.echo("\nKeep it where the program finds it; it is shown once. In the settings:\n", err=True)
    lines = ["[[identity.api_keys]]", f'name = "{name}"', f'digest = "{hashlib.sha256(made.encode()).hexdigest()}"']
    if roles:
        lines.append(f"roles = {json.dumps(roles)}")
    click.echo("\n".join(lines))
