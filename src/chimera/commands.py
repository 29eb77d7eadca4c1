"""What became of a command, for those who ask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from chimera.body import Body
from chimera.coalesce import Coalescer
from chimera.outcomes import Outcome, read_outcomes

SETTLED = ("done", "rejected", "parked")


class CommandState(NamedTuple):
    """`state` is pending, done, rejected, parked, or unknown to this service."""

    state: str
    reason: str = ""
    detail: str = ""
    positions: str = ""


class CommandStates:
    """Looks commands up in the inbox. One that is not there is pending as long as the log holds unread commands."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._leaving = False
        self._lookups: Coalescer[str, Outcome | None] = Coalescer(partial(look_up, body), concurrency=4)

    async def get(self, command_id: str, wait: float = 0.0) -> CommandState:
        """The state now, or as soon as it is settled, at most `wait` seconds from now."""
        until = time.monotonic() + wait
        while True:
            state = (await self.get_many([command_id]))[0]
            left = until - time.monotonic()
            if state.state != "pending" or left <= 0 or self._leaving:
                return state
            await self._body.committed.wait(min(left, self._body.store.features.poll_s))

    def leave(self) -> None:
        """Hold no answer any longer: the process is about to stop."""
        self._leaving = True

    async def get_many(self, command_ids: Sequence[str]) -> list[CommandState]:
        """The states of many commands now."""
        outcomes = await self._outcomes(command_ids)
        behind = None in outcomes and await self._is_behind()
        if None in outcomes and not behind:
            outcomes = await self._outcomes(command_ids)  # it may have been handled since
        return [_state(outcome, behind) for outcome in outcomes]

    async def _is_behind(self) -> bool:
        """Whether the log holds commands that were not handled yet."""
        ends = await self._body.log.ends(self._body.commands_topic)
        at = await self._body.commands.checkpoints(self._body.commands_topic, ends)
        return any(at[partition].number < end for partition, end in ends.items())

    async def _outcomes(self, command_ids: Sequence[str]) -> list[Outcome | None]:
        return [await future for future in [self._lookups.submit(command_id) for command_id in command_ids]]


async def look_up(body: Body, command_ids: Sequence[str]) -> list[Outcome | None]:
    """What the inbox knows of each of these commands."""
    async with body.store.snapshot(once=True) as session:
        found = await read_outcomes(session, list(dict.fromkeys(command_ids)))
    return [found.get(command_id) for command_id in command_ids]


def _state(outcome: Outcome | None, behind: bool) -> CommandState:
    if outcome is None:
        return CommandState("pending" if behind else "unknown")
    state = outcome.state if outcome.state in SETTLED else "pending"
    return CommandState(state, outcome.reason, outcome.detail, outcome.positions)
