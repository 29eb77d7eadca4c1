"""Running messages through handlers: many in one transaction, one by one only after a failure.

This is the one place where effects happen: the inbox, the state, the journal and the checkpoint are
committed together (invariant 3). Commands from the log, direct commands and reactions to events all
come through here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

from chimera.caller import Request
from chimera.commands.apart.announced import Announced
from chimera.commands.apart.detached import detached
from chimera.commands.apart.limits import Overdue, SlowTypes, TimeLimit
from chimera.commands.apart.rules import rules_of
from chimera.commands.inbox import (
    APART,
    FINAL,
    Outcome,
    done,
    fingerprint_of,
    kept_outcome,
    read_outcomes,
    refused,
    repeated,
)
from chimera.commands.prefetch import Prefetch
from chimera.core import names
from chimera.core.aio.signals import Signal
from chimera.core.context import Context
from chimera.errors import Conflict, CutShort, OutOfService, Rejected, Unavailable, Unreadable
from chimera.journal.checkpoints import Moved, again_on_conflict, move_checkpoints, read_checkpoints
from chimera.journal.crash_loop import MessageAt, Watch
from chimera.journal.failures import ProcessEnded, TookTooLong, text_of
from chimera.messages import Message
from chimera.ports import Checkpoint, Move, Session, WriteSession
from chimera.share.changes import emit_changed, record_changes
from chimera.transaction import Pending, Transaction, Unit

logger = logging.getLogger("chimera")

Invoke = Callable[[Sequence[Message], Transaction], Awaitable[object]]
"""Runs a handler on messages; gives what it returns."""


class Task(NamedTuple):
    """A message to be handled, and the checkpoint after it (see `Checkpoint`) where it has one.

    `chain`: the checkpoint's; None for the message's own. `request`: the one inside which it is handled.
    """

    message: Message
    number: int = 0
    offset: int = 0
    chain: str | None = None
    request: Request | None = None

    @property
    def stands_on(self) -> str:
        """The checkpoint's chain."""
        return self.message.chain if self.chain is None else self.chain


class LeftBehind(Exception):  # noqa: N818 - what happens next
    """A handler kept others waiting after it had written to the database, or would not stop."""

    def __init__(self, message_id: str) -> None:
        super().__init__(message_id)
        self.message_id = message_id


class RefusedLate(Exception):  # noqa: N818 - a refusal, not an error
    """A handler refused after it had written to the database: only a rollback of its own undoes that."""

    def __init__(self, refusal: Rejected) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class FailurePolicy(Protocol):
    """The way to go on after a message that fails, and with those behind it."""

    async def blocked(self, unit: Unit, keys: Sequence[str]) -> dict[str, int]:
        """The keys among these that have parked messages, with the number of the last one."""

    def queue(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        """Park a message behind the last of its key, and make it the last."""

    def park(self, unit: Unit, task: Task, error: Exception) -> Outcome:
        """Park a message because it failed with `error`."""

    def set_apart(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        """Have a message handled alone, because it would keep others waiting; those of its key wait for it."""


class ToldToCaller:
    """Nothing is parked: somebody waits for the answer and is told that it failed."""

    async def blocked(self, unit: Unit, keys: Sequence[str]) -> dict[str, int]:
        return {}

    def queue(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        return Outcome("apart", APART)

    def park(self, unit: Unit, task: Task, error: Exception) -> Outcome:
        if isinstance(error, Conflict):
            raise Unavailable(f"others were in the way again and again: {error}") from error
        status = 503 if isinstance(error, CutShort) else 500
        logger.error(
            "%s failed on %s of key %r; nothing of it was kept",
            task.message.type,
            task.message.id,
            task.message.key,
            exc_info=error,
        )
        return Outcome("failed", type(error).__name__, text_of(error), status=status)

    def set_apart(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        blocked[task.message.key] = 0
        return Outcome("apart", APART)


class Executor:
    """Handles messages for one consumer of a service.

    `inbox`: remember each message by its id, so that the same command is handled once however often it
    comes. `batch`: hand all messages of a transaction to `invoke` in one call.
    """

    def __init__(
        self,
        context: Context,
        consumer: str,
        invoke: Invoke,
        policy: FailurePolicy,
        *,
        inbox: bool = False,
        batch: bool = False,
    ) -> None:
        self.consumer = consumer
        self.context = context
        self._invoke = invoke
        self._policy = policy
        self._inbox = inbox
        self._batch = batch
        self._prefetch = Prefetch()
        self._announced = Announced(context)
        self._rules = rules_of(context, consumer)
        self._slow = SlowTypes()
        self.set_apart = Signal()

    async def run(self, tasks: Sequence[Task], moves: Sequence[Move] = ()) -> list[Outcome | Unavailable]:
        """Handle the tasks and move the checkpoints; one outcome per task.

        Raises Unavailable, or Moved when a checkpoint is elsewhere: the checkpoints say what was done by then.
        Of tasks without a checkpoint, those that the store was not there for have Unavailable as their outcome.
        Where the store cut the work short, each task is tried alone: one that it cuts short again has failed, if it
        can be put down that it has; else the store is away.
        """
        if not (tasks or moves):
            return []
        try:
            return await self._together(tasks, moves)
        except (Unavailable, Moved) as error:
            if not isinstance(error, CutShort) or not tasks:
                raise
            cause: Exception = error
        except Exception as error:
            if not tasks:
                raise
            cause = error
        if len(tasks) > 1:
            return await self._one_by_one(tasks, moves)
        return [await self._settle_failure(tasks[0], moves, cause)]

    async def run_watched(self, tasks: Sequence[Task], moves: Sequence[Move], watch: Watch) -> None:
        """As `run`, but messages that may have ended a process are handled apart, or parked for having done so."""

        async def work(part: Sequence[Task], over: Sequence[Move], ended: ProcessEnded | None) -> bool:
            if ended:
                await self._settle_failure(part[0], over, ended)
            else:
                await self.run(part, over)
            return True

        await watch.run(tasks, moves, _place_of, work)

    async def settled(self, session: Session, message_id: str) -> Outcome | None:
        """The outcome of a message that is parked, where the inbox knows that it was done or refused otherwise."""
        known = await read_outcomes(session, [message_id]) if self._inbox else {}
        return known[message_id] if message_id in known and known[message_id].state in FINAL else None

    async def checkpoints(self, source: str, partitions: Iterable[int]) -> dict[int, Checkpoint]:
        """The checkpoints of this consumer, by partition of the source."""
        return await read_checkpoints(self.context.store, self.consumer, source, partitions)

    async def attempt(self, unit: Unit, task: Task) -> Outcome:
        """Handle one message in a unit that the caller commits. Raises what the handler raises, but for a refusal."""
        limit_s = self._rules(task.message.type).limit_s
        limit = TimeLimit(self.context.clock, limit_s, limit_s, lambda: unit.asking > 0)
        began = self.context.clock.monotonic()
        try:
            outcome = await limit.run(self._attempt(unit, task, limit))
        except Overdue as error:
            raise TookTooLong(limit_s) from error.__cause__
        took_s = self.context.clock.monotonic() - began
        self._slow.learn(task.message.type, took_long=took_s > 4 * self.context.timing.quick_s)
        return outcome

    async def attempt_apart(self, task: Task) -> Outcome:
        """Handle one message in a transaction of its own that holds nothing while it waits for something else."""

        async def attempt() -> Outcome:
            async with self.apart() as session:
                unit = self.context.unit(session)
                known = (await self._known(unit, [task])).get(task.message.id)
                outcome = repeated(known, task.message) if known else await self.attempt(unit, task)
                await unit.flush()
            self.context.committed.give(unit.appended)
            return outcome

        try:
            outcome = await again_on_conflict(attempt, self.context.clock)
        except (Unavailable, Moved) as error:
            if not isinstance(error, CutShort):
                raise
            return await self._settle_failure(task, [], error)
        except Exception as error:  # noqa: BLE001 - whatever the handler raises is settled
            return await self._settle_failure(task, [], error)
        self.committed([outcome])
        return outcome

    def apart(self) -> AbstractAsyncContextManager[WriteSession]:
        """A transaction that holds nothing of the store while it is not used."""
        return detached(self.context.store, self.context.room, self.context.timing.let_go_s)

    def is_slow(self, type_: str) -> bool:
        """True when handlers of messages of a type have taken long, more often than not, of late."""
        return type_ in self._slow

    async def _attempt(self, unit: Unit, task: Task, limit: TimeLimit) -> Outcome:
        handled = await self._handle(unit, [task], limit)
        return (await self._conclude(unit, [task], [handled]))[0]

    def remember(self, unit: Unit, message: Message, outcome: Outcome, at: datetime | None = None) -> None:
        """Remember in the inbox how a message ended, and when: now, or `at`."""
        if self._inbox and not outcome.duplicate and outcome.state not in ("failed", "reused", "apart"):
            unit.put(kept_outcome(message, outcome, at or self.context.clock.now()))

    def committed(self, outcomes: Iterable[Outcome]) -> None:
        """Wake those who wait for new events, and count what was done."""
        self.context.committed.notify()
        states = Counter("duplicate" if outcome.duplicate else outcome.state for outcome in outcomes)
        for state, count in states.items():
            self.context.metrics.handled(self.context.service.name, self.consumer, state, count)

    async def _together(self, tasks: Sequence[Task], moves: Sequence[Move]) -> list[Outcome | Unavailable]:
        apart: set[str] = set()
        while True:
            try:
                outcomes = await again_on_conflict(lambda: self._try_together(tasks, moves, apart), self.context.clock)
                break
            except LeftBehind as left:  # only a rollback undoes what it did in the database: once more, without it
                apart.add(left.message_id)
        self.committed(outcomes)
        if any(outcome.reason == APART for outcome in outcomes):
            self.set_apart.notify()
        return [*outcomes]

    async def _try_together(
        self, tasks: Sequence[Task], moves: Sequence[Move], apart: Collection[str]
    ) -> list[Outcome]:
        timing, rule = self.context.timing, self._rules(tasks[0].message.type if tasks else "")
        async with self.apart() if self._batch and tasks else self.context.store.transaction() as session:
            unit = self.context.unit(session)
            await move_checkpoints(unit, self.consumer, moves)
            limits = (rule.limit_s, rule.limit_s) if self._batch else (timing.quick_s, timing.quick_store_s)
            limit = TimeLimit(self.context.clock, *limits, lambda: unit.asking > 0)
            try:
                outcomes = await limit.run(self._handle_all(unit, tasks, apart, limit)) if tasks else []
            except Overdue as error:
                if self._batch:
                    raise TookTooLong(rule.limit_s) from error.__cause__
                raise LeftBehind(limit.at_work) from error
            await unit.flush()
        self.context.committed.give(unit.appended)
        return outcomes

    async def _handle_all(
        self, unit: Unit, tasks: Sequence[Task], apart: Collection[str], limit: TimeLimit
    ) -> list[Outcome]:
        known: dict[str, tuple[Outcome, list[Pending]]] = {
            message_id: (outcome, []) for message_id, outcome in (await self._known(unit, tasks)).items()
        }
        blocked = await self._policy.blocked(unit, [task.message.key for task in tasks]) if tasks else {}
        came: dict[str, Message] = {}
        ready = (task.message for task in tasks if task.message.id not in known and task.message.key not in blocked)
        await self._prefetch.load(unit, ready)
        order: list[Task] = []
        handled: list[tuple[Outcome, list[Pending]]] = []
        for group in self._groups(tasks, blocked):
            message = group[0].message
            if message.id in known:
                outcome, events = known[message.id]
                if message.id in came:
                    outcome = outcome._replace(fingerprint=fingerprint_of(came[message.id]))
                again = repeated(outcome, message)
                result = again, [] if again.state == "reused" else events
            elif message.key in blocked:
                result = self._policy.queue(unit, group[0], blocked), []
            elif (apart or self._slow.any) and not self._batch and (message.id in apart or message.type in self._slow):
                result = self._policy.set_apart(unit, group[0], blocked), []
            else:
                result = await self._handle_quickly(unit, group, blocked, limit)
            if self._inbox and message.id not in known:
                known[message.id], came[message.id] = result, message
            order += group
            handled += [result] * len(group)
        return await self._conclude(unit, order, handled)

    def _groups(self, tasks: Sequence[Task], blocked: Collection[str]) -> list[list[Task]]:
        """The tasks that each call of the handler is handed: one alone, or a batch of all that are not blocked."""
        if not self._batch:
            return [[task] for task in tasks]
        ready = [task for task in tasks if task.message.key not in blocked]
        return [group for group in (ready, *([task] for task in tasks if task.message.key in blocked)) if group]

    async def _handle_quickly(
        self, unit: Unit, group: Sequence[Task], blocked: dict[str, int], limit: TimeLimit
    ) -> tuple[Outcome, list[Pending]]:
        """As `_handle`; a message that keeps the others waiting is set apart."""
        try:
            handled = await self._handle(unit, group, limit)
            self._slow.learn(group[0].message.type, took_long=False)
            return handled
        except Overdue as error:
            if self._batch or error.in_store or error.written:
                raise
            return self._policy.set_apart(unit, group[0], blocked), []

    async def _handle(self, unit: Unit, group: Sequence[Task], limit: TimeLimit) -> tuple[Outcome, list[Pending]]:
        messages = [task.message for task in group]
        first = messages[0]
        key = "" if self._batch else first.key
        tx = Transaction(unit, first, key, group[0].request, self.context.clock.now, messages)
        limit.begin(first.id)
        try:
            result = await self._invoke(messages, tx)
            await tx.settle()
            limit.stopped()  # it did not mind
        except Rejected as refusal:
            if not self._inbox:
                raise  # an event has happened: there is nobody to refuse, so this is a failure like any other
            if tx.written:
                raise RefusedLate(refusal) from refusal
            return refused(refusal), []
        except asyncio.CancelledError as error:
            if overdue := limit.stopped():
                overdue.written = tx.written
                raise overdue from error
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise RuntimeError("the handler was cancelled from within") from error
        except (CutShort, OutOfService):
            raise
        except Unavailable as error:  # whatever it is that can't be reached, others may not need it
            raise CutShort(str(error)) from error
        finally:
            limit.end()
            self._prefetch.learn(unit, messages)
        events = tx.merge()
        return done(result), events

    async def _conclude(
        self, unit: Unit, tasks: Sequence[Task], handled: Sequence[tuple[Outcome, list[Pending]]]
    ) -> list[Outcome]:
        """Number the events, tell each command its positions, and remember in the inbox how it ended."""
        outcomes = [outcome for outcome, _ in handled]
        if unit.events or unit.read_at:
            await unit.flush()
            touched = await emit_changed(self.context.resources.calling, unit, [events for _, events in handled])
            messages = await unit.number()
            record_changes(unit, messages)
            last = {each.partition: each.id for each in messages}  # an event's id is its position
            for index, partitions in enumerate(touched):
                if partitions:
                    positions = ",".join([last[partition] for partition in sorted(partitions)])
                    outcomes[index] = outcomes[index]._replace(positions=positions)
        now = self.context.clock.now()
        for task, outcome in zip(tasks, outcomes, strict=True):
            self.remember(unit, task.message, outcome, now)
        return outcomes

    async def _known(self, unit: Unit, tasks: Sequence[Task]) -> dict[str, Outcome]:
        if not self._inbox or not tasks:
            return {}
        return await read_outcomes(unit.session, [task.message.id for task in tasks])

    async def _one_by_one(self, tasks: Sequence[Task], moves: Sequence[Move]) -> list[Outcome | Unavailable]:
        """Each task in a transaction of its own, with the part of its partition's move that leads up to it."""
        left = {move.partition: move for move in moves}
        outcomes: list[Outcome | Unavailable] = []
        for task in tasks:
            move = left.get(task.message.partition)
            own = [] if move is None else [_up_to(move, task)]
            try:
                outcomes += await self.run([task], own)
            except Unavailable as error:
                if moves:
                    raise
                return outcomes + [error] * (len(tasks) - len(outcomes))
            if move is not None:
                left[move.partition] = move._replace(before=task.number)
        rest = [move for move in left.values() if move.before != move.after.number]
        if rest:
            await self._together([], rest)
        return outcomes

    async def look_elsewhere(self, message: Message, error: Exception, unread_by: str | None = None) -> None:
        """Where this code can't read a message, see whether a write head of another build can: then it waits for that.

        `unread_by`: the codes that could not either.
        """
        if isinstance(error, Unreadable) and message.type:
            is_command = self.consumer == names.COMMANDS
            name = message.type if is_command else f"{self.consumer.rpartition(':')[0]}/{message.type}"
            error.elsewhere = await self._announced.is_read_elsewhere(
                "commands" if is_command else "events", name, message.data, not_by=(unread_by or "").split()
            )

    async def _settle_failure(self, task: Task, moves: Sequence[Move], error: Exception) -> Outcome:
        """Remember a refusal that needed a rollback, or park the message, in a new transaction."""
        await self.look_elsewhere(task.message, error)
        outcome = await again_on_conflict(lambda: self._try_settle(task, moves, error), self.context.clock)
        self.committed([outcome])
        return outcome

    async def _try_settle(self, task: Task, moves: Sequence[Move], error: Exception) -> Outcome:
        async with self.context.store.transaction() as session:
            unit = self.context.unit(session)
            await move_checkpoints(unit, self.consumer, moves)
            if known := await self._known(unit, [task]):
                outcome = repeated(known[task.message.id], task.message)
            elif isinstance(error, RefusedLate):
                outcome = refused(error.refusal)
            else:
                outcome = self._policy.park(unit, task, error)
            self.remember(unit, task.message, outcome)
            await unit.flush()
        return outcome


def _place_of(task: Task) -> MessageAt:
    return MessageAt(task.message.partition, task.number, task.offset, task.stands_on)


def _up_to(move: Move, task: Task) -> Move:
    if task.number == move.after.number:
        return move
    return move._replace(after=Checkpoint(task.number, task.offset, task.stands_on))
