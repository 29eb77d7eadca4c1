"""Owners in the same process, which a test may take down."""

from __future__ import annotations

from typing import Any

from chimera.errors import Unavailable
from chimera.share.owner import OwnStore


class OwnerInReach:
    """An owner beside its borrowers; `is_down`: nobody reaches it."""

    def __init__(self, name: str, owner: OwnStore) -> None:
        self._name = name
        self._owner = owner
        self.is_down = False

    def __getattr__(self, asked: str) -> Any:
        found = getattr(self._owner, asked)
        if not callable(found) or asked == "close":
            return found

        async def ask(*arguments: Any) -> Any:
            if self.is_down:
                raise Unavailable(f"{self._name} is down, as the test wants it")
            return await found(*arguments)

        return ask
