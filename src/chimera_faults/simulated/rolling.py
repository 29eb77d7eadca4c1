"""Words that one build can say and another can't read; what must hold of them, and mistakes about that."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from chimera import Command
from chimera.commands.parking import Parking
from chimera.testing.fleets.state import State
from chimera_faults.patching import Mistake, Patching
from chimera_faults.simulated.builds.echo import Remembered, Say
from chimera_faults.simulated.builds.next_echo import SayMore, Whisper

ACCOUNTS = 2
SAID = "echo.Said"


def draw_say(chance: Random) -> Say:
    """A word that both builds take."""
    return Say(_account(chance), _word(chance))


def draw_more(chance: Random) -> SayMore:
    """A word with what only the next build takes."""
    return SayMore(_account(chance), _word(chance), chance.choice(("plain", "glad")), "by the way")


def draw_whisper(chance: Random) -> Whisper:
    """A word in a way that only the next build has."""
    return Whisper(_account(chance), _word(chance))


def _account(chance: Random) -> str:
    return f"k-{chance.randint(1, ACCOUNTS)}"


def _word(chance: Random) -> str:
    return f"w{chance.randrange(10**9):09d}"


def remembered_in_order(state: State) -> None:
    """What is remembered of an account is what was said to it, each word once and in order, as far as it is."""
    said: dict[str, list[str]] = {}
    for event in state.events("echo"):
        if event.type == SAID:
            said.setdefault(event.key, []).append(msgspec.json.decode(event.data)["word"])
    for row in state.rows(Remembered):
        words = said.get(row.account_id, [])
        assert row.words == words[: len(row.words)], f"{row} has other words than were said: {words}"


def said_as_sent(state: State) -> None:
    """Each word that was accepted was said once, unless it waits for a build that can read it.

    A word that one read head took before it was killed, and another, of the build before, refused, may be said.
    """
    sent = [each for each in state.commands if "word" in each.sending.body]
    done = {each.sending.body["word"] for each in sent if each.state == "done"}
    perhaps = {each.sending.body["word"] for each in sent if each.state == "unknown" and len(each.statuses) > 1}
    said = [msgspec.json.decode(each.data)["word"] for each in state.events("echo") if each.type == SAID]
    assert len({*said}) == len(said), f"said twice: {sorted({each for each in said if said.count(each) > 1})}"
    wrong = ({*said} ^ done) - perhaps
    assert not wrong, f"done or said, and not both: {sorted(wrong)}"


def _never_read_again(at: Patching) -> None:
    is_due = Parking._is_due  # noqa: SLF001

    def never(self: Any, row: Any, now: Any) -> bool:
        is_due_now = is_due(self, row, now)
        return is_due_now and not (row.state == "unread" and at.wrong())

    at.replace(Parking, "_is_due", never)


ROLLING = {
    "left-for-ever": Mistake(
        "what another build could not read is not tried again by the one that can", "", _never_read_again
    ),
}
Draws = dict[type[Command], Callable[[Random], Command] | None]
DRAWS: Draws = {Say: draw_say, SayMore: draw_more, Whisper: draw_whisper}
