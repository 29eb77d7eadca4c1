"""Direct commands: those that are quick share a transaction, others run beside it, the commands of a key in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chimera.commands.execute import Executor, Task
from chimera.commands.inbox import APART, Outcome
from chimera.core.aio.tasks import stop, take_exception
from chimera.errors import Unavailable

Answer = Outcome | Unavailable | asyncio.Future[Outcome]
"""The outcome of a direct command, or what becomes of it, where its handler runs alone."""


class Direct:
    """Handles direct commands. At most `most` of them run alone at once."""

    def __init__(self, executor: Executor, most: int) -> None:
        self._executor = executor
        self._most = most
        self._last: dict[str, asyncio.Task[Outcome]] = {}
        self._alone: set[asyncio.Task[Outcome]] = set()

    async def run(self, tasks: Sequence[Task]) -> list[Answer]:
        """Handle commands that came together; one answer each. Raises Unavailable."""
        if not self._last:
            answers = await self._executor.run(tasks)
            if not any(isinstance(each, Outcome) and each.reason == APART for each in answers):
                return [*answers]
            return [self._answer(*each) for each in zip(tasks, answers, strict=True)]
        together = [task for task in tasks if task.message.key not in self._last]
        outcomes = await self._executor.run(together)
        found = {id(task): outcome for task, outcome in zip(together, outcomes, strict=True)}
        return [self._answer(task, found.get(id(task))) for task in tasks]

    async def drain(self) -> None:
        """Wait until none runs alone any more."""
        while self._alone:
            await asyncio.wait(self._alone)

    async def close(self) -> None:
        """Stop those that still run alone."""
        await stop(*self._alone)

    def _answer(self, task: Task, outcome: Outcome | Unavailable | None) -> Answer:
        if isinstance(outcome, Unavailable) or (outcome is not None and outcome.reason != APART):
            return outcome
        if len(self._alone) >= self._most:
            return Unavailable(f"{len(self._alone)} handlers run alone")
        key = task.message.key
        alone = asyncio.ensure_future(self._after(self._last.get(key), task))
        self._last[key] = alone
        self._alone.add(alone)
        alone.add_done_callback(lambda done: self._forget(key, done))
        return alone

    async def _after(self, before: asyncio.Task[Outcome] | None, task: Task) -> Outcome:
        if before is not None:
            await asyncio.wait((before,))
        return await self._executor.attempt_apart(task)

    def _forget(self, key: str, done: asyncio.Task[Outcome]) -> None:
        take_exception(done)
        self._alone.discard(done)
        if self._last.get(key) is done:
            del self._last[key]
