"""The ledger: what was sent and what was answered, kept outside of the system that is struck."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from chimera_faults.points import add_line
from chimera_faults.workload import Delivery

NO_ANSWER = 0
"""The status of an attempt that broke off."""


class LedgerEntry(msgspec.Struct):
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


class Sent(msgspec.Struct, tag_field="kind", tag="sent"):
    """A line of the ledger's file: this command is about to be sent, as the `sent_at`-th of all."""

    label: str
    key: str
    direct: bool
    sent_at: int
    kept_none: bool
    path: str
    body: Mapping[str, Any]


class Answered(msgspec.Struct, tag_field="kind", tag="answered"):
    """A line of the ledger's file: what was answered to an attempt."""

    label: str
    status: int
    command_id: str


class Ledger:
    """Entries by label, each line of them in a file before whoever writes goes on."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, LedgerEntry] = {}
        self._path = path
        self._sent = 0

    def send(self, request: Delivery, *, kept_none: bool = False) -> LedgerEntry:
        """Note that a command is about to be sent."""
        entry = LedgerEntry(request.label, request.key, request.direct, self._sent, kept_none)
        self._sent += 1
        self.entries[request.label] = entry
        sent = Sent(entry.label, entry.key, entry.direct, entry.sent_at, kept_none, request.path, request.body)
        self._write(sent)
        return entry

    def answer(self, entry: LedgerEntry, status: int, command_id: str = "") -> None:
        """Note what was answered; NO_ANSWER where the connection broke."""
        entry.statuses.append(status)
        entry.command_id = command_id or entry.command_id
        self._write(Answered(entry.label, status, command_id))

    def forget(self, labels: Iterable[str]) -> None:
        """Keep these in the file alone, so that a long run's memory holds only what is under way."""
        for label in labels:
            del self.entries[label]

    def recall(self) -> None:
        """Read every entry from the file again."""
        decoder = msgspec.json.Decoder(Sent | Answered)
        self.entries = {}
        with self._path.open("rb") as lines:
            for line in map(decoder.decode, lines):
                if isinstance(line, Sent):
                    entry = LedgerEntry(line.label, line.key, line.direct, line.sent_at, line.kept_none)
                    self.entries[line.label] = entry
                else:
                    entry = self.entries[line.label]
                    entry.statuses.append(line.status)
                    entry.command_id = line.command_id or entry.command_id

    def _write(self, line: object) -> None:
        add_line(self._path, msgspec.json.encode(line))
