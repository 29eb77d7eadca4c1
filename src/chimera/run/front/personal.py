"""The master keys of personal values, as they are set; or the one that `--dev` makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chimera.core.clock import Clock
from chimera.run.front.keys import kept_secret
from chimera.run.settings import Settings

DEV_KEY = "dev-personal.key"


def master_keys(settings: Settings, *, used: bool = False) -> Sequence[str]:
    """The keys that are set. Where none is, `--dev` makes one, in a file of the state folder, for this machine.

    `used`: whoever looks after what has run there, such as `chimera status`, finds that one.
    """
    if settings.personal.keys or not (settings.dev or used):
        return tuple(settings.personal.keys)
    path = Path(settings.state) / DEV_KEY
    if not path.is_file() and not settings.dev:
        return ()
    return (kept_secret(path, lambda: Clock().random_bytes(32).hex().encode()).decode().strip(),)
