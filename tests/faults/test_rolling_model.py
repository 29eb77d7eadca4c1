"""What must hold of words that one build can say and another can't read."""

from __future__ import annotations

import msgspec
import pytest

from chimera.messages import Message
from chimera.testing.fleets.state import SettledCommand, State
from chimera.testing.memory import MemoryStore
from chimera.testing.memory.store import StoreState
from chimera.testing.plans.plan import Sending
from chimera_faults.simulated.fleet import fleet
from chimera_faults.simulated.rolling import SAID, said_as_sent


def stored(word: str, number: int) -> Message:
    data = msgspec.json.encode({"word": word})
    return Message(f"0-{number}", "echo", SAID, "k-1", "2026-01-01T00:00:00Z", data, 0, number)


def state_of(said: list[str], *commands: tuple[str, tuple[int, ...], str]) -> State:
    store = MemoryStore()
    events = tuple(stored(word, at) for at, word in enumerate(said, start=1))
    store.state = StoreState(events={0: events})
    state = State(fleet(), {"echo": store}, {})
    state.commands = [
        SettledCommand(Sending(0.0, "client", "echo", "Say", {"word": word}, "label"), statuses, became)
        for word, statuses, became in commands
    ]
    return state


def test_a_word_is_said_once_where_it_is_done() -> None:
    said_as_sent(state_of(["a"], ("a", (202,), "done"), ("b", (404,), "unknown"), ("c", (202,), "parked")))


def test_a_word_may_be_said_where_an_unanswered_try_came_before_the_refusal() -> None:
    for said in ([], ["a"]):
        said_as_sent(state_of(said, ("a", (0, 404), "unknown")))


@pytest.mark.parametrize(
    ("said", "statuses", "became"),
    [
        pytest.param([], (0, 202), "done", id="done and not said"),
        pytest.param(["a"], (404,), "unknown", id="refused and said"),
        pytest.param(["a"], (0, 202), "parked", id="parked and said"),
        pytest.param(["a", "a"], (202,), "done", id="said twice"),
        pytest.param(["a", "a"], (0, 404), "unknown", id="said twice after a refusal"),
    ],
)
def test_a_word_that_is_not_said_as_sent_is_told(said: list[str], statuses: tuple[int, ...], became: str) -> None:
    with pytest.raises(AssertionError, match="said"):
        said_as_sent(state_of(said, ("a", statuses, became)))
