"""`python -m marketplace`: the marketplace in the foreground, filled with a seeded sample or with real data."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from chimera.cli.main import run, say_ready
from chimera.run.hosting import serve
from chimera.run.settings import Settings, read_settings
from chimera.run.supervisor import supervise
from chimera_issuer.cli import one_of
from marketplace.callers import OPERATOR

CONFIG = Path(__file__).parent.parent / "chimera.toml"


@click.command()
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="The port that serves everything."
)
@click.option("--state", default=".state", show_default=True, help="The folder where everything is kept.")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The folder with the Olist files."
)
@click.option("--processes", is_flag=True, help="A process for each head.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Write heads of each service, with --processes.")
@click.option("--open", "is_open", is_flag=True, help="No rule is asked, and nobody logs in, on this machine.")
def main(port: int, state: str, data: Path | None, processes: bool, workers: int, is_open: bool) -> None:
    """Run the reference marketplace: with its rules, and an issuer by which one logs in; or open to this machine."""
    opened = {"dev": True, "open": True} if is_open else {}
    settings = read_settings(CONFIG, os.environ, {"port": port, "state": state, **opened})
    if not settings.open:
        settings.issuer = msgspec.structs.replace(settings.issuer, serve=True)
    run(serve_and_fill(settings, data, processes=processes or workers > 1, workers=workers))


async def serve_and_fill(settings: Settings, data: Path | None, *, processes: bool, workers: int) -> None:
    """Serve until told to stop; once ready, send the data from a process of its own."""
    filling: list[asyncio.Task[None]] = []

    def ready(base: str) -> None:
        say_ready(base)
        filling.append(asyncio.ensure_future(_fill(_load_command(settings, base, data, processes=processes))))

    try:
        if processes:
            await supervise(settings, str(CONFIG), ready, workers=workers)
        else:
            await serve(settings, list(settings.services), read=True, write=True, fleet=False, ready=ready)
    finally:
        for task in filling:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _load_command(settings: Settings, base: str, data: Path | None, *, processes: bool) -> list[str]:
    command = [sys.executable, "-m", "marketplace.load", "--base", base]
    if settings.issuer.serve:
        command += ["--as", one_of(settings.issuer, OPERATOR).subject]
    if data is not None:
        command += ["--data", str(data)]
    if processes:
        for name in settings.services:
            command += ["--service-base", f"{name}={settings.base(name, fleet=True)}"]
    return command


async def _fill(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    main()
