"""Parking: a message that fails is stored with its cause, and behind it every later one of its key.

A failed message is first tried again by itself, with growing pauses (`retrying`); when its tries are used up it waits
for a person (`parked`), and so does one at which the process ended again and again, or that a reaction refuses. One
that the code can't read waits for other code, or for a person (`unread`). Either way the checkpoint moves on and other
keys go ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta

import msgspec

from chimera.commands.apart.contracts import code_of
from chimera.commands.apart.rules import Rules
from chimera.commands.execute import Executor, RefusedLate, Task
from chimera.commands.inbox import APART, Outcome, State, refused
from chimera.core.context import Context
from chimera.core.names import kept_key
from chimera.core.tables import Parked, ParkedPlace
from chimera.entities import table_of
from chimera.errors import ChimeraError, Conflict, CutShort, Rejected, Unavailable, Unfit, Unreadable
from chimera.journal.checkpoints import again_on_conflict
from chimera.journal.failures import ProcessEnded, cause_of, traceback_of
from chimera.messages import MAX_KEY, Message
from chimera.ports import Session
from chimera.transaction import Unit

logger = logging.getLogger("chimera")

LEFT_S = 5.0
"""What is left to a write head of another build is looked at again after so many seconds: that one may be gone."""
CODES = 1_000
"""Characters of the digests that are remembered of code that could not read a message."""


class Parking:
    """The messages that one consumer has parked, in the service's own store."""

    def __init__(self, consumer: str, rules: Rules, context: Context) -> None:
        self.consumer = consumer
        self._rules = rules
        self._ends = context.retry.ends
        self._service = context.service
        self._clock = context.clock
        self.is_retrying = False

    async def blocked(self, unit: Unit, keys: Sequence[str]) -> dict[str, int]:
        kept = {kept_key(key): key for key in keys}
        rows = await self._rows(unit.session, {"key": list(kept)})
        return {kept[row.key]: row.number for row in rows}

    def queue(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        """Its number is the next, also where a log that was made anew counts from 1 again."""
        now, key = self._clock.now(), task.message.key
        blocked[key] = max(task.number, blocked[key] + 1)
        cause = task.message.fault or "waits behind an earlier message of its key"
        unit.put(_parked(self.consumer, task._replace(number=blocked[key]), "behind", cause, 0, now, None))
        return Outcome("behind", "behind", "an earlier message of the same key is parked")

    def set_apart(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        """Its turn is now, but apart from the others."""
        now, cause = self._clock.now(), "its handler takes longer than others may wait, so it runs alone"
        blocked[task.message.key] = task.number
        unit.put(_parked(self.consumer, task, "retrying", cause, 0, now, now))
        return Outcome("retrying", APART, cause)

    def park(self, unit: Unit, task: Task, error: Exception) -> Outcome:
        now = self._clock.now()
        tries = error.times if isinstance(error, ProcessEnded) else 0
        row = _parked(self.consumer, task, "behind", "", tries, now, None)
        failed, outcome = self._failed(row, error)
        unit.put(failed)
        return outcome

    async def due(
        self,
        executor: Executor,
        now: datetime,
        partitions: Collection[int] | None = None,
        alike: Collection[int] | None = None,
    ) -> list[str]:
        """The keys whose first message is to be tried again by now, in these partitions, or all.

        What other code could not read is for any build that can: `alike` are the partitions that are this worker's
        among those that run the same.
        """
        async with executor.context.store.snapshot(once=True) as session:
            rows = await self._rows(session, {"state": ["retrying", "unread"]})
        self.is_retrying = any(row.state == "retrying" or row.due for row in rows)
        count = self._service.partitions
        here = [
            row
            for row in rows
            if (
                alike is None or row.partition % count in alike
                if row.state == "unread"
                else partitions is None or row.partition in partitions
            )
        ]
        return list({row.key: None for row in here if self._is_due(row, now)})

    def _is_due(self, row: ParkedPlace, now: datetime) -> bool:
        if row.state == "unread":
            is_new = code_of(self._service) not in (row.unread_by or "").split()
            return is_new or (row.due is not None and row.due <= now)
        return row.due is None or row.due <= now

    async def redrive(self, executor: Executor, key: str, *, by_hand: bool = False) -> list[Outcome]:
        """Try the parked messages of a key, in order, until one fails again; returns the outcome of each.

        One at which the process ended too often is tried only `by_hand`.
        """
        outcomes: list[Outcome] = []
        while rows := await self._waiting(executor, key):
            for row, following in zip(rows, [*rows[1:], None], strict=True):
                if (outcome := await self._try_alone(executor, row, following, by_hand)) is None:
                    continue
                outcomes.append(outcome)
                if outcome.state in ("retrying", "parked"):
                    return outcomes
        return outcomes

    async def drop(
        self, executor: Executor, key: str, message_id: str | None = None, *, why: str = "by hand"
    ) -> Parked | None:
        """Give up the first message of a key; those behind it are tried next. Returns what was dropped.

        With `message_id` only if that is the first one's. `why` is remembered with its outcome.
        """
        rows = await self._waiting(executor, key)
        return (
            await again_on_conflict(lambda: self._drop(executor, rows[0], message_id, why), self._clock)
            if rows
            else None
        )

    async def messages(self, session: Session, key: str) -> list[Parked]:
        """The parked messages of a key, in order."""
        table = table_of(Parked)
        rows = await session.find(table, {"consumer": [self.consumer], "key": [kept_key(key)]})
        return sorted(map(table.from_row, rows), key=_order)

    async def _drop(self, executor: Executor, row: ParkedPlace, message_id: str | None, why: str) -> Parked | None:
        async with executor.context.store.transaction() as session:
            unit = executor.context.unit(session)
            first, following = await self._hold(session, row, None)
            if first is None or message_id not in (None, first.id):
                return None
            outcome = Outcome("rejected", "dropped", f"dropped {why}; it had failed with: {first.cause}")
            self._close(executor, unit, first, following, outcome)
            await unit.flush()
        return first

    async def _try_alone(
        self, executor: Executor, row: ParkedPlace, following: ParkedPlace | None, by_hand: bool
    ) -> Outcome | None:
        """Try a message, announced, because it may be one at which the process ends; alone where one has ended."""
        process = executor.context.process
        is_suspect = bool(row.ends) or row.tried_by not in (None, process.name)
        async with process.alone if is_suspect else nullcontext():
            ended = await again_on_conflict(lambda: self._announce(executor, row, by_hand), self._clock)
            if ended is not None:
                return ended
            try:
                return await again_on_conflict(lambda: self._try_first(executor, row, following), self._clock)
            except BaseException:
                with suppress(ChimeraError):
                    await again_on_conflict(lambda: self._withdraw(executor, row), self._clock)
                raise

    async def _announce(self, executor: Executor, row: ParkedPlace, by_hand: bool) -> Outcome | None:
        """Write down that this process tries a message; the outcome when too many have ended doing so."""
        async with executor.context.store.transaction() as session:
            unit = executor.context.unit(session)
            first, _ = await self._hold(session, row, row)
            if first is None:
                return None
            ends = (first.ends or 0) + (first.tried_by not in (None, executor.context.process.name))
            if ends >= self._ends and not by_hand:
                first, outcome = self._failed(first, ProcessEnded(ends))
                executor.remember(unit, message_of(first), outcome)
            else:
                outcome = None
                first = msgspec.structs.replace(first, tried_by=executor.context.process.name, ends=ends)
            unit.put(first)
            await unit.flush()
        if outcome is not None:
            executor.committed([outcome])
        return outcome

    async def _withdraw(self, executor: Executor, row: ParkedPlace) -> None:
        """The try stopped in order: it is not to blame."""
        async with executor.context.store.transaction() as session:
            unit = executor.context.unit(session)
            first, _ = await self._hold(session, row, row)
            if first is not None and first.tried_by == executor.context.process.name:
                unit.put(msgspec.structs.replace(first, tried_by=None))
            await unit.flush()

    async def _try_first(self, executor: Executor, row: ParkedPlace, following: ParkedPlace | None) -> Outcome | None:
        first: Parked | None = None
        try:
            async with executor.apart() as session:
                unit = executor.context.unit(session)
                first, behind = await self._hold(session, row, following)
                if first is None:
                    return None
                if settled := await executor.settled(session, first.id):
                    outcome = settled._replace(duplicate=True)
                else:
                    outcome = await executor.attempt(unit, Task(message_of(first)))
                self._close(executor, unit, first, behind, outcome)
                await unit.flush()
        except (Unavailable, Conflict) as error:
            if first is None or not isinstance(error, CutShort):
                raise
            cause: Exception = error
            outcome = await again_on_conflict(lambda: self._fail_again(executor, row, following, cause), self._clock)
        except Exception as error:
            if first is None:
                raise
            cause = error
            await executor.look_elsewhere(message_of(first), cause, first.unread_by)
            outcome = await again_on_conflict(lambda: self._fail_again(executor, row, following, cause), self._clock)
        executor.committed([outcome])
        return outcome

    async def _fail_again(
        self, executor: Executor, row: ParkedPlace, following: ParkedPlace | None, error: Exception
    ) -> Outcome:
        async with executor.context.store.transaction() as session:
            unit = executor.context.unit(session)
            failed, behind = await self._hold(session, row, following)
            if failed is None:
                return Outcome("done", duplicate=True)
            if isinstance(error, RefusedLate):
                outcome = refused(error.refusal)
                self._close(executor, unit, failed, behind, outcome)
            else:
                failed, outcome = self._failed(failed, error)
                unit.put(failed)
            executor.remember(unit, message_of(failed), outcome)
            await unit.flush()
        return outcome

    def _failed(self, row: Parked, error: Exception) -> tuple[Parked, Outcome]:
        """The message once it has failed, and what becomes of it now."""
        now, cause = self._clock.now(), cause_of(error)
        if not row.type and row.cause:
            cause = row.cause  # what was wrong with the record that it came in is known only when it comes
        tries, due, unread_by = row.tries + 1, None, None
        state: State = "parked"
        if isinstance(error, ProcessEnded):
            tries = row.tries
        elif isinstance(error, Unreadable):
            codes = [each for each in (row.unread_by or "").split() if each != code_of(self._service)]
            unread_by = " ".join([*codes, code_of(self._service)])[-CODES:].strip()
            if error.elsewhere:
                state, due = "retrying", now + timedelta(seconds=LEFT_S)
        elif not isinstance(error, Rejected | Unfit):
            retry = self._rules(row.type).retry
            if isinstance(error, CutShort) and row.cause.startswith(CutShort.__name__):
                retry = retry._replace(tries=min(retry.tries, retry.cuts))
            due = retry.due(tries, now, self._clock.random())
            state = "retrying" if due else "parked"
        logger.warning(
            "%s: %s %s of key %r failed (try %d) and is %s: %s",
            self.consumer,
            row.type,
            row.id,
            row.key,
            tries,
            "left to a write head of another build, which can read it"
            if unread_by and due
            else "parked until it can be read"
            if unread_by
            else f"tried again in {(due - now).total_seconds():.1f} s"
            if due
            else "parked",
            cause,
        )
        return msgspec.structs.replace(
            row,
            state="unread" if unread_by else state,
            cause=cause,
            traceback=traceback_of(error),
            unread_by=unread_by,
            tries=tries,
            last_at=now,
            due=due,
            tried_by=None,
            ends=None,
        ), Outcome(state, "failed", cause)

    async def _waiting(self, executor: Executor, key: str) -> list[ParkedPlace]:
        async with executor.context.store.snapshot() as session:
            return await self._rows(session, {"key": [kept_key(key)]})

    async def _rows(self, session: Session, where: Mapping[str, Sequence[object]]) -> list[ParkedPlace]:
        table = table_of(ParkedPlace)
        rows = await session.find(table, {"consumer": [self.consumer], **where})
        return sorted(map(table.from_row, rows), key=_order)

    async def _hold(
        self, session: Session, row: ParkedPlace, following: ParkedPlace | None
    ) -> tuple[Parked | None, Parked | None]:
        """The message that `row` is of, and the one behind it, held until the transaction ends.

        Where none was behind it, one may have come meanwhile; once the first is held, it is seen.
        """
        table = table_of(Parked)
        keys = [(each.consumer, each.key, each.partition, each.number) for each in (row, following or row)]
        found = {(each.partition, each.number): each for each in map(table.from_row, await session.load(table, keys))}
        first = found.get((row.partition, row.number))
        if first is None or following is not None:
            return first, found.get((following.partition, following.number)) if following else None
        behind = [each for each in await self._rows(session, {"key": [row.key]}) if _order(each) > _order(row)]
        return await self._hold(session, row, behind[0]) if behind else (first, None)

    def _close(self, executor: Executor, unit: Unit, first: Parked, following: Parked | None, outcome: Outcome) -> None:
        """The first message is settled: take it out, and let the next of its key be tried."""
        unit.forget(first)
        if following is not None:
            unit.put(msgspec.structs.replace(following, state="retrying", due=self._clock.now()))
        executor.remember(unit, message_of(first), outcome)


def _order(row: ParkedPlace | Parked) -> tuple[int, int]:
    return row.number, row.partition


def message_of(row: Parked) -> Message:
    """The message as it came."""
    key = row.key if row.long_key is None else row.long_key
    return Message(
        row.id,
        row.source,
        row.type,
        key,
        row.time,
        row.data,
        row.partition,
        row.number,
        row.traceparent,
        metadata=row.metadata or "",
    )


def _parked(
    consumer: str, task: Task, state: str, cause: str, tries: int, now: datetime, due: datetime | None
) -> Parked:
    message = task.message
    return Parked(
        consumer,
        kept_key(message.key),
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
        long_key=message.key if len(message.key) > MAX_KEY else None,
        metadata=message.metadata or None,
    )
