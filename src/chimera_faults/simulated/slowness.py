"""Mistakes about handlers that take long: a simulated fleet in which some do, or hang, has to find them."""

from __future__ import annotations

from typing import Any

from chimera.commands.apart import detached
from chimera_faults.oversights import never_stopped
from chimera_faults.patching import Mistake, Patching


def _not_asked_again(at: Patching) -> None:
    alike = detached._alike  # noqa: SLF001

    def trusting(asked: Any, found: object) -> bool:
        is_alike = alike(asked, found)
        return is_alike or at.wrong()

    at.replace(detached, "_alike", trusting)


SLOWNESS = {
    "hanging-handlers-waited-for": Mistake("a handler that never returns is waited for", "", never_stopped),
    "what-changed-meanwhile-overwritten": Mistake(
        "what others changed while a handler waited is not noticed", "", _not_asked_again
    ),
}
