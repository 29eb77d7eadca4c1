"""Mistakes about what a reader is shown: the clients of a simulated fleet have to find them, by what they see."""

from __future__ import annotations

from typing import Any

from chimera.borrow import copies, reads
from chimera.reader import Notes
from chimera.views import documents
from chimera_faults.mistakes import MISTAKES
from chimera_faults.patching import Mistake, Patching
from chimera_faults.simulated.naming import NAMING
from chimera_faults.simulated.rolling import ROLLING
from chimera_faults.simulated.seating import SEATING
from chimera_faults.simulated.slowness import SLOWNESS


def _behind_not_said(at: Patching) -> None:
    missed = Notes.missed

    def silent(self: Any, positions: Any) -> None:
        positions = list(positions)
        missed(self, [] if positions and at.wrong() else positions)

    at.replace(Notes, "missed", silent)


def _positions_not_given(at: Patching) -> None:
    saw = Notes.saw

    def silent(self: Any, positions: Any) -> None:
        positions = list(positions)
        saw(self, [] if positions and at.wrong() else positions)

    at.replace(Notes, "saw", silent)


def _last_known_has_all(at: Patching) -> None:
    note = reads.BorrowedReads._note  # noqa: SLF001

    def hopeful(self: Any, position: Any, notes: Any) -> bool:
        has_all = note(self, position, Notes(notes.after(self._borrow.owner)))
        return note(self, position, Notes() if not has_all and at.wrong() else notes)

    at.replace(reads.BorrowedReads, "_note", hopeful)


def _look_after_the_value(at: Patching) -> None:
    kept = documents.Waiting.reach

    async def later(self: Any, consumer: str, sources: Any) -> None:
        if not self.notes.follows or not at.wrong():
            await kept(self, consumer, sources)

    at.replace(documents.Waiting, "reach", later)


def _lost_copies_believed(at: Patching) -> None:
    holds = copies.CopyAge.holds

    def believing(self: Any, mode: Any, where: Any) -> bool:
        found = holds(self, mode, where)
        return found or at.wrong()

    at.replace(copies.CopyAge, "holds", believing)


READING = {
    "behind-not-said": Mistake("an answer does not say that it is behind", "", _behind_not_said),
    "positions-not-given": Mistake(
        "a reader is not given the positions of what she is shown", "", _positions_not_given
    ),
    "last-known-has-all": Mistake(
        "a value that lacks what its reader has seen is shown without a word", "", _last_known_has_all
    ),
    "positions-not-waited-for": Mistake("a view is read without a look at where it is", "", _look_after_the_value),
    "lost-copies-believed": Mistake("a copy that was lost is asked for what there is not", "", _lost_copies_believed),
}
ON_ENGINES = {
    "lost-history-not-noticed",
    "old-topic-read-on",
    "offsets-trusted",
    "passed-over-untold",
    "hanging-ones-waited-for",
    "no-number-written",
    "too-large-waited-at",
}
"""Mistakes that only show on engines: simulated ones hold documents of any size, and no store is put back there."""
SIMULATED = {name: each for name, each in MISTAKES.items() if name not in ON_ENGINES}
SIMULATED |= READING | NAMING | ROLLING | SEATING | SLOWNESS
"""Every mistake that has to be found in simulated fleets."""
