"""Parking: a message that fails is set aside with its cause, and behind it every later one of its key.

A failed message is first tried again by itself, with growing pauses (`retrying`); when its tries are
used up it waits for a person (`parked`). Either way the checkpoint moves on and other keys go ahead.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from chimera.entities import table_of
from chimera.errors import Conflict, Unavailable
from chimera.execution import Executor, Outcome, RefusedLate, Task, again_on_conflict, refused, text_of
from chimera.messages import MAX_KEY, Message
from chimera.ports import Session
from chimera.records import Parked
from chimera.transaction import Unit

logger = logging.getLogger("chimera")


class Retry(NamedTuple):
    """How often a failed message is tried, and how long to wait in between, in seconds, doubling."""

    tries: int = 5
    first_s: float = 0.1
    longest_s: float = 30.0

    def due(self, tries: int, now: datetime) -> datetime | None:
        """When to try again after so many tries; None when it is a person's turn."""
        if tries >= self.tries:
            return None
        return now + timedelta(seconds=min(self.first_s * 2 ** (tries - 1), self.longest_s))


class Parking:
    """The messages that one consumer has set aside, kept in the service's own store."""

    def __init__(self, consumer: str, retry: Retry | None = None) -> None:
        self.consumer = consumer
        self._retry = retry or Retry()

    async def blocked(self, unit: Unit, keys: Sequence[str]) -> set[str]:
        table = table_of(Parked)
        kept = {_kept(key): key for key in keys}
        rows = await unit.session.find(table, {"consumer": [self.consumer], "key": list(kept)})
        return {kept[table.from_row(row).key] for row in rows}

    def queue(self, unit: Unit, task: Task) -> Outcome:
        now = datetime.now(UTC)
        unit.put(_parked(self.consumer, task, "behind", "waits behind an earlier message of its key", 0, now, None))
        return Outcome("behind", "behind", "an earlier message of the same key is parked")

    def park(self, unit: Unit, task: Task, error: Exception) -> Outcome:
        now = datetime.now(UTC)
        due = self._retry.due(1, now)
        outcome = Outcome("retrying" if due else "parked", "failed", cause_of(error))
        unit.put(_parked(self.consumer, task, outcome.state, outcome.detail, 1, now, due))
        logger.warning(
            "%s: %s %s of key %r failed and is set aside (%s): %s",
            self.consumer,
            task.message.type,
            task.message.id,
            task.message.key,
            outcome.state,
            outcome.detail,
        )
        return outcome

    async def due(self, executor: Executor, now: datetime) -> list[str]:
        """The keys whose first message is to be tried again by now."""
        table = table_of(Parked)
        async with executor.store.snapshot() as session:
            rows = await session.find(table, {"consumer": [self.consumer], "state": ["retrying"]})
        parked = [table.from_row(row) for row in rows]
        return list({row.key: None for row in parked if row.due is None or row.due <= now})

    async def redrive(self, executor: Executor, key: str) -> list[Outcome]:
        """Try the messages of a key that are set aside, in order, until one fails again; what became of each."""
        outcomes: list[Outcome] = []
        while outcome := await again_on_conflict(lambda: self._try_first(executor, key)):
            outcomes.append(outcome)
            if outcome.state in ("retrying", "parked"):
                break
        return outcomes

    async def drop(self, executor: Executor, key: str) -> Parked | None:
        """Give up the first message of a key; those behind it are tried next. Returns what was dropped."""
        return await again_on_conflict(lambda: self._drop(executor, key))

    async def _drop(self, executor: Executor, key: str) -> Parked | None:
        async with executor.store.transaction() as session:
            unit = Unit(executor.service, session)
            waiting = await self._waiting(session, key)
            if not waiting:
                return None
            outcome = Outcome("rejected", "dropped", f"dropped by hand; it had failed with: {waiting[0].cause}")
            self._close(executor, unit, waiting, outcome)
            await unit.flush()
        return waiting[0]

    async def _try_first(self, executor: Executor, key: str) -> Outcome | None:
        first: Parked | None = None
        try:
            async with executor.store.transaction() as session:
                unit = Unit(executor.service, session)
                waiting = await self._waiting(session, key)
                if not waiting:
                    return None
                first = waiting[0]
                outcome = await executor.attempt(unit, Task(_message(first)))
                self._close(executor, unit, waiting, outcome)
                await unit.flush()
        except (Unavailable, Conflict):
            raise
        except Exception as error:
            if first is None:
                raise
            failed, cause = first, error
            outcome = await again_on_conflict(lambda: self._fail_again(executor, failed, cause))
        executor.committed([outcome])
        return outcome

    async def _fail_again(self, executor: Executor, failed: Parked, error: Exception) -> Outcome:
        now = datetime.now(UTC)
        async with executor.store.transaction() as session:
            unit = Unit(executor.service, session)
            waiting = await self._waiting(session, failed.key)
            if not waiting or waiting[0].number != failed.number:
                return Outcome("done", duplicate=True)
            if isinstance(error, RefusedLate):
                outcome = refused(error.refusal)
                self._close(executor, unit, waiting, outcome)
            else:
                tries = failed.tries + 1
                due = self._retry.due(tries, now)
                outcome = Outcome("retrying" if due else "parked", "failed", cause_of(error))
                unit.put(
                    msgspec.structs.replace(
                        failed, state=outcome.state, cause=outcome.detail, tries=tries, last_at=now, due=due
                    )
                )
            executor.remember(unit, failed.id, outcome)
            await unit.flush()
        return outcome

    async def _waiting(self, session: Session, key: str) -> list[Parked]:
        table = table_of(Parked)
        rows = await session.find(table, {"consumer": [self.consumer], "key": [_kept(key)]})
        return sorted(map(table.from_row, rows), key=lambda row: row.number)

    def _close(self, executor: Executor, unit: Unit, waiting: Sequence[Parked], outcome: Outcome) -> None:
        """The first message is settled: take it out, and let the next of its key be tried."""
        unit.forget(waiting[0])
        if len(waiting) > 1:
            unit.put(msgspec.structs.replace(waiting[1], state="retrying", due=datetime.now(UTC)))
        executor.remember(unit, waiting[0].id, outcome)


def cause_of(error: Exception) -> str:
    """An error as people read it in a list of parked work."""
    return f"{type(error).__name__}: {text_of(error)}"


def _kept(key: str) -> str:
    """A key as it is kept here: one that is too long, which only a foreign writer of the log can send, by its hash."""
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{key[: MAX_KEY - len(digest) - 1]}…{digest}"


def _message(row: Parked) -> Message:
    return Message(
        row.id, row.source, row.type, row.key, row.time, row.data, row.partition, row.number, row.traceparent
    )


def _parked(
    consumer: str, task: Task, state: str, cause: str, tries: int, now: datetime, due: datetime | None
) -> Parked:
    message = task.message
    return Parked(
        consumer,
        _kept(message.key),
        message.partition,
        task.number,
        message.source,
        state,
        message.id,
        message.type,
        message.time,
        message.data,
        message.traceparent,
        cause,
        tries,
        now,
        now,
        due,
    )
