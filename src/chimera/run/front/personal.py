"""The master keys of personal values, as they are set; or the one that `--dev` makes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chimera.core.clock import Clock
from chimera.run.settings import Settings

DEV_KEY = "dev-personal.key"


def master_keys(settings: Settings, *, used: bool = False) -> Sequence[str]:
    """The keys that are set. Where none is, `--dev` makes one, in a file of the state folder, for this machine.

    `used`: whoever looks after what has run there, such as `chimera status`, finds that one.
    """
    if settings.personal.keys or not (settings.dev or used):
        return tuple(settings.personal.keys)
    path = Path(settings.state) / DEV_KEY
    if path.is_file():
        return (path.read_text().strip(),)
    if not settings.dev:
        return ()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(f".{os.getpid()}")
    made.touch(0o600)
    made.write_text(Clock().random_bytes(32).hex())
    with suppress(FileExistsError):  # another process has just made it
        os.link(made, path)
    made.unlink()
    return (path.read_text().strip(),)
