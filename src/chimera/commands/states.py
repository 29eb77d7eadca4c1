"""The states of commands, for those who ask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from chimera.commands.inbox import Outcome, read_outcomes
from chimera.core import names
from chimera.core.aio.coalesce import Coalescer
from chimera.core.context import Context
from chimera.journal.checkpoints import read_checkpoints

SETTLED = ("done", "rejected", "parked")


class CommandState(NamedTuple):
    """The state of a command: pending, done, rejected, parked, or unknown to this service, the rest as in `Outcome`."""

    state: str
    reason: str = ""
    detail: str = ""
    positions: str = ""


class CommandStates:
    """Looks commands up in the inbox. One that is not there is pending as long as the log holds unread commands."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leaving = False
        self._lookups: Coalescer[str, Outcome | None] = Coalescer(partial(look_up, context), concurrency=4)

    async def get(self, command_id: str, wait: float = 0.0) -> CommandState:
        """The state now, or as soon as it is settled, at most `wait` seconds from now."""
        until = self._context.clock.monotonic() + wait
        while True:
            state = (await self.get_many([command_id]))[0]
            left = until - self._context.clock.monotonic()
            if state.state != "pending" or left <= 0 or self._leaving:
                return state
            await self._context.committed.wait(min(left, self._context.store.features.poll_s))

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
        """True as long as the log holds commands that were not handled yet, or was put back: then it is read again."""
        topic = self._context.commands_topic
        at = await read_checkpoints(self._context.store, names.COMMANDS, topic, range(self._context.service.partitions))
        ends = await self._context.log.ends(topic)
        return any(end != (at[partition].number if partition in at else 0) for partition, end in ends.items())

    async def _outcomes(self, command_ids: Sequence[str]) -> list[Outcome | None]:
        return [await future for future in [self._lookups.submit(command_id) for command_id in command_ids]]


async def look_up(context: Context, command_ids: Sequence[str]) -> list[Outcome | None]:
    """The outcome that the inbox has of each of these commands, in their order."""
    async with context.store.snapshot(once=True) as session:
        found = await read_outcomes(session, list(dict.fromkeys(command_ids)))
    return [found.get(command_id) for command_id in command_ids]


def _state(outcome: Outcome | None, behind: bool) -> CommandState:
    if outcome is None:
        return CommandState("pending" if behind else "unknown")
    state = outcome.state if outcome.state in SETTLED else "pending"
    return CommandState(state, outcome.reason, outcome.detail, outcome.positions)
