"""The ledger: what was sent and what was answered, kept outside of the system that is struck."""

from __future__ import annotations

from pathlib import Path

import msgspec

from chimera.testing.faults.points import add_line
from chimera.testing.faults.workload import Request

NO_ANSWER = 0
"""The status of an attempt that broke off."""


class Entry(msgspec.Struct):
    """A command, and every answer that it got: statuses in order, the last one's command id.

    With `kept_none` a 503 has to mean that nothing was kept: it is not sent again.
    """

    label: str
    key: str
    direct: bool
    sent_at: int
    kept_none: bool = False
    statuses: list[int] = []
    command_id: str = ""

    @property
    def accepted(self) -> bool:
        """Answered with a 2xx: the system has promised something."""
        return bool(self.statuses) and 200 <= self.statuses[-1] < 300

    @property
    def refused(self) -> bool:
        """Answered with a 4xx: there is to be no effect."""
        return bool(self.statuses) and 400 <= self.statuses[-1] < 500


class Ledger:
    """Entries by label, each line of them in a file before whoever writes goes on."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self._path = path

    def send(self, request: Request, *, kept_none: bool = False) -> Entry:
        """Note that a command is about to be sent."""
        entry = Entry(request.label, request.key, request.direct, len(self.entries), kept_none)
        self.entries[request.label] = entry
        self._write({"send": request.label, "path": request.path, "body": request.body})
        return entry

    def answer(self, entry: Entry, status: int, command_id: str = "") -> None:
        """Note what was answered; NO_ANSWER where the connection broke."""
        entry.statuses.append(status)
        entry.command_id = command_id or entry.command_id
        self._write({"label": entry.label, "status": status, "command_id": command_id})

    def _write(self, line: object) -> None:
        add_line(self._path, msgspec.json.encode(line))
