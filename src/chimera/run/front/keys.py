"""The settings of who may reach what Chimera adds below `/_chimera/`: keys of the fleet and of operators."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from chimera.errors import MAKE_KEY

SHORTEST_KEY = 32
FILE = "file:"


class Keys(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Keys of a group: each a text of 32 characters or more, or `file:` and the path of a file with some.

    The first one is used, all are known: a key is changed by putting the new one first, everywhere, and removing the
    old one after that. In a variable, or a file, they stand apart by spaces, commas or lines.
    """

    keys: list[str] | str = []

    def read(self, folder: Path) -> tuple[str, ...]:
        """The keys as they are; paths are found from a folder. Raises ValueError, and OSError."""
        found: list[str] = []
        for each in _apart(self.keys) if isinstance(self.keys, str) else self.keys:
            found += _apart((folder / each.removeprefix(FILE)).read_text()) if each.startswith(FILE) else [each]
        for each in found:
            if len(each) < SHORTEST_KEY:
                raise ValueError(
                    f"a key has {len(each)} characters; at least {SHORTEST_KEY}: one is made by: {MAKE_KEY}"
                )
        return tuple(dict.fromkeys(found))


class FleetKeys(Keys, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Keys of the fleet. `passing`: the one of the processes of one `chimera up`, where there is no other.

    It ends with them: it is for tokens, and nothing that is kept bears its mark. `unsealed`: what becomes of commands
    that are in the log without a seal; they are taken while a fleet that has none yet is given its keys.
    """

    passing: str = ""
    unsealed: Literal["refused", "taken"] = "refused"


class OperatorKeys(Keys, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Keys of operators. `role`: callers who have it are operators too, where a service tells who asks."""

    role: str = "operator"


class PersonalKeys(Keys, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The master keys of personal values, which wrap the keys of persons; the same for all services of the fleet."""


def kept_secret(path: Path, make: Callable[[], bytes]) -> bytes:
    """What a file holds, which is made where there is none: for nobody else's eyes, whole or not at all.

    Raises OSError.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(make())
        with suppress(FileExistsError):  # another process has just made it, and has read it
            os.link(made, path)
        made.unlink()
    return path.read_bytes()


def _apart(text: str) -> list[str]:
    return [each for each in re.split(r"[\s,]+", text) if each]
