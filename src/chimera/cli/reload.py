"""Services that are started again whenever their files are saved: for those who write them."""

from __future__ import annotations

import asyncio
import signal
import tomllib
from asyncio.subprocess import Process
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from chimera.errors import SettingsError
from chimera.run.serving import stop_signal

WATCHED = (".py", ".toml")
LEFT_S = 14.0
"""Seconds in which whoever runs services, in one process or in many, has stopped in order."""


async def keep_reloading(command: Sequence[str], folder: Path) -> None:
    """Run a command, and anew whenever a file below a folder was saved, until SIGTERM or SIGINT.

    The command ends when its standard input closes. A file that can't be read is told, and what runs goes on. Raises
    SettingsError where no library is installed that watches files.
    """
    try:
        from watchfiles import DefaultFilter, awatch
    except ModuleNotFoundError as error:
        raise SettingsError(
            "--reload needs watchfiles, which is not installed; type: pip install 'chimera-kit[reload]'"
        ) from error
    stop, running, usual = stop_signal(), Running(command), DefaultFilter()
    await running.start()
    try:
        async for changes in awatch(
            folder,
            watch_filter=lambda change, path: path.endswith(WATCHED) and usual(change, path),
            stop_event=stop,
            raise_interrupt=False,
        ):
            paths = sorted(Path(path) for _, path in changes)
            if wrong := what_is_broken(paths):
                _say(f"{wrong}; waiting for the next save")
                continue
            _say(f"{', '.join(path.name for path in paths)} changed; starting again")
            await running.stop()
            await running.start()
    finally:
        await running.stop()


def what_is_broken(paths: Iterable[Path]) -> str:
    """The first of these files that can't be read, and where; empty where all can. What is gone is passed over."""
    for path in paths:
        try:
            if path.suffix == ".py":
                compile(path.read_bytes(), path, "exec", dont_inherit=True)
            else:
                tomllib.loads(path.read_text())
        except SyntaxError as error:
            return f"{path.name}:{error.lineno}: {error.msg}"
        except (tomllib.TOMLDecodeError, ValueError) as error:
            return f"{path.name}: {error}"
        except OSError:
            continue
    return ""


class Running:
    """A command that runs, or has ended and says so. It is in a session of its own: a Ctrl-C comes to us first."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: Process | None = None
        self._telling: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start it. Where it ends by itself, that is told."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        self._telling = asyncio.ensure_future(self._tell(self._process))

    async def stop(self) -> None:
        """Stop it in order, or at last by force."""
        if self._telling is not None:
            self._telling.cancel()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), LEFT_S + 1)
        except TimeoutError:
            _say(f"it did not stop within {LEFT_S + 1:.0f} s and is killed")
            process.kill()
            await process.wait()

    async def _tell(self, process: Process) -> None:
        status = await process.wait()
        _say(f"it ended with status {status}; waiting for the next save")


def _say(text: str) -> None:
    click.echo(f"chimera: {text}", err=True)
