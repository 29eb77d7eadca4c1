"""Running messages through handlers: many in one transaction, one by one only after a failure.

This is the one place where effects happen: the inbox, the state, the journal and the checkpoint are
committed together (invariant 3). Commands from the log, direct commands and reactions to events all
come through here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from chimera.commits import Commits
from chimera.endings import Process, Watch
from chimera.entities import table_of
from chimera.errors import Conflict, Rejected, Unavailable
from chimera.messages import Message, Position
from chimera.metrics import Metrics
from chimera.outcomes import FINAL, Outcome, fingerprint_of, kept_outcome, read_outcomes, refused, repeated, text_of
from chimera.ports import Checkpoint, Move, Session, Store
from chimera.prefetch import Prefetch
from chimera.records import Progress
from chimera.service import Reply, Service
from chimera.sharing import emit_changed, record_changes
from chimera.transaction import Pending, Transaction, Unit

logger = logging.getLogger("chimera")

Result = TypeVar("Result")
Invoke = Callable[[Sequence[Message], Transaction], Awaitable[Any]]
CONFLICT_TRIES = 10
CONFLICT_PAUSE_S = 0.01


class Task(NamedTuple):
    """A message to be handled, and the checkpoint after it (see `Checkpoint`) where it has one."""

    message: Message
    number: int = 0
    offset: int = 0


class Moved(Conflict):
    """The checkpoint is not where this consumer believed: somebody else did the work, or it was reset."""


class RefusedLate(Exception):  # noqa: N818 - a refusal, not an error
    """A handler refused after it had written to the database: only a rollback of its own undoes that."""

    def __init__(self, refusal: Rejected) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Aside(Protocol):
    """What an executor does with a message that fails, and with those behind it."""

    async def blocked(self, unit: Unit, keys: Sequence[str]) -> dict[str, int]:
        """Those of the keys with messages set aside, and the number of the last."""

    def queue(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        """Set a message aside behind the last of its key, and make it the last."""

    def park(self, unit: Unit, task: Task, error: Exception) -> Outcome:
        """Set a message aside because it failed with `error`."""


class ToldToCaller:
    """Nothing is set aside: somebody waits for the answer and is told that it failed."""

    async def blocked(self, unit: Unit, keys: Sequence[str]) -> dict[str, int]:
        return {}

    def queue(self, unit: Unit, task: Task, blocked: dict[str, int]) -> Outcome:
        raise AssertionError("nothing is ever blocked here")

    def park(self, unit: Unit, task: Task, error: Exception) -> Outcome:
        if isinstance(error, Conflict):
            raise Unavailable(f"others were in the way again and again: {error}") from error
        logger.error(
            "%s failed on %s of key %r; nothing of it was kept",
            task.message.type,
            task.message.id,
            task.message.key,
            exc_info=error,
        )
        return Outcome("failed", type(error).__name__, text_of(error), status=500)


class Executor:
    """Handles messages for one consumer of a service.

    `inbox`: remember each message by its id, so that the same command is handled once however often it
    comes. `batch`: hand all messages of a transaction to `invoke` in one call.
    """

    def __init__(
        self,
        service: Service,
        store: Store,
        consumer: str,
        invoke: Invoke,
        *,
        committed: Commits,
        metrics: Metrics,
        aside: Aside,
        process: Process,
        inbox: bool = False,
        batch: bool = False,
    ) -> None:
        self.consumer = consumer
        self.store = store
        self.service = service
        self.process = process
        self._invoke = invoke
        self._committed = committed
        self._metrics = metrics
        self._aside = aside
        self._inbox = inbox
        self._batch = batch
        self._prefetch = Prefetch()

    async def run(self, tasks: Sequence[Task], moves: Sequence[Move] = ()) -> list[Outcome | Unavailable]:
        """Handle the tasks and move the checkpoints; one outcome per task.

        Raises Unavailable, or Moved when a checkpoint is elsewhere: the checkpoints say what was done by then.
        Of tasks without a checkpoint, those that the store was not there for have Unavailable as their outcome.
        """
        if not (tasks or moves):
            return []
        try:
            return await self._together(tasks, moves)
        except (Unavailable, Moved):
            raise
        except Exception as error:
            if len(tasks) > 1:
                return await self._one_by_one(tasks, moves)
            if not tasks:
                raise
            return [await self._settle_failure(tasks[0], moves, error)]

    async def run_watched(self, tasks: Sequence[Task], moves: Sequence[Move], watch: Watch) -> None:
        """As `run`, but messages that may have ended a process are handled apart, or set aside for having done so."""
        careful = watch.careful(moves)
        apart = {move.partition for move in careful}
        await self.run(
            [task for task in tasks if task.message.partition not in apart],
            [move for move in moves if move.partition not in apart],
        )
        for suspected in careful:
            move = suspected
            left = [task for task in tasks if task.message.partition == move.partition]
            while left:
                count = watch.together(move.partition)
                part, left = left[:count], left[count:]
                step = watch.up_to(move, part[-1].number, part[-1].offset)
                async with watch.alone(step, len(part)) as ended:
                    if ended:
                        await self._settle_failure(part[0], [step], ended)
                    else:
                        await self.run(part, [step])
                move = move._replace(before=step.after.number)
            if move.before != move.after.number:
                await self.run([], [move])

    async def settled(self, session: Session, message_id: str) -> Outcome | None:
        """What became of a message that is set aside, where the inbox knows that it was done or refused otherwise."""
        known = await read_outcomes(session, [message_id]) if self._inbox else {}
        return known[message_id] if message_id in known and known[message_id].state in FINAL else None

    async def checkpoints(self, source: str, partitions: Iterable[int]) -> dict[int, Checkpoint]:
        """Where this consumer is, by partition of the source."""
        return await read_checkpoints(self.store, self.consumer, source, partitions)

    async def attempt(self, unit: Unit, task: Task) -> Outcome:
        """Handle one message in a unit that the caller commits. Raises what the handler raises, but for a refusal."""
        handled = await self._handle(unit, [task])
        return (await self._conclude(unit, [task], [handled]))[0]

    def remember(self, unit: Unit, message: Message, outcome: Outcome, at: datetime | None = None) -> None:
        """Keep in the inbox what became of a message, and when: now, or `at`."""
        if self._inbox and not outcome.duplicate and outcome.state not in ("failed", "reused"):
            unit.put(kept_outcome(message, outcome, at or datetime.now(UTC)))

    def committed(self, outcomes: Iterable[Outcome]) -> None:
        """Wake those who wait for new events, and count what was done."""
        self._committed.notify()
        states = Counter("duplicate" if outcome.duplicate else outcome.state for outcome in outcomes)
        for state, count in states.items():
            self._metrics.handled(self.service.name, self.consumer, state, count)

    async def _together(self, tasks: Sequence[Task], moves: Sequence[Move]) -> list[Outcome | Unavailable]:
        outcomes = await again_on_conflict(lambda: self._try_together(tasks, moves))
        self.committed(outcomes)
        return [*outcomes]

    async def _try_together(self, tasks: Sequence[Task], moves: Sequence[Move]) -> list[Outcome]:
        async with self.store.transaction() as session:
            unit = Unit(self.service, session)
            await self._move(unit, moves)
            outcomes = await self._handle_all(unit, tasks)
            await unit.flush()
        self._committed.give(unit.appended)
        return outcomes

    async def _handle_all(self, unit: Unit, tasks: Sequence[Task]) -> list[Outcome]:
        known: dict[str, tuple[Outcome, list[Pending]]] = {
            message_id: (outcome, []) for message_id, outcome in (await self._known(unit, tasks)).items()
        }
        blocked = await self._aside.blocked(unit, [task.message.key for task in tasks]) if tasks else {}
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
                result = self._aside.queue(unit, group[0], blocked), []
            else:
                result = await self._handle(unit, group)
            if self._inbox and message.id not in known:
                known[message.id], came[message.id] = result, message
            order += group
            handled += [result] * len(group)
        return await self._conclude(unit, order, handled)

    def _groups(self, tasks: Sequence[Task], blocked: Collection[str]) -> list[list[Task]]:
        """What is handed to one call of the handler: each task alone, or a batch of all that are not blocked."""
        if not self._batch:
            return [[task] for task in tasks]
        ready = [task for task in tasks if task.message.key not in blocked]
        return [group for group in (ready, *([task] for task in tasks if task.message.key in blocked)) if group]

    async def _handle(self, unit: Unit, group: Sequence[Task]) -> tuple[Outcome, list[Pending]]:
        messages = [task.message for task in group]
        tx = Transaction(unit, messages[0].id, messages[0].time, messages[0].traceparent)
        try:
            result = await self._invoke(messages, tx)
        except Rejected as refusal:
            if not self._inbox:
                raise  # an event has happened: there is nobody to refuse, so this is a failure like any other
            if tx.written:
                raise RefusedLate(refusal) from refusal
            return refused(refusal), []
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise RuntimeError("the handler was cancelled from within") from error
        finally:
            self._prefetch.learn(unit, messages)
        events = tx.merge()
        status, body = (result.status, result.body) if isinstance(result, Reply) else (0, result)
        return Outcome("done", status=status, body=b"" if body is None else msgspec.json.encode(body)), events

    async def _conclude(
        self, unit: Unit, tasks: Sequence[Task], handled: Sequence[tuple[Outcome, list[Pending]]]
    ) -> list[Outcome]:
        """Number the events, tell each command its positions, and remember in the inbox what became of it."""
        outcomes = [outcome for outcome, _ in handled]
        if unit.events:
            await unit.flush()
            touched = await emit_changed(unit, [events for _, events in handled])
            messages = await unit.number()
            record_changes(unit, messages)
            last = {message.partition: message.number for message in messages}
            for index, partitions in enumerate(touched):
                positions = [
                    str(Position(self.service.name, partition, last[partition])) for partition in sorted(partitions)
                ]
                outcomes[index] = outcomes[index]._replace(positions=",".join(positions) or outcomes[index].positions)
        now = datetime.now(UTC)
        for task, outcome in zip(tasks, outcomes, strict=True):
            self.remember(unit, task.message, outcome, now)
        return outcomes

    async def _move(self, unit: Unit, moves: Sequence[Move]) -> None:
        if not moves:
            return
        table = table_of(Progress)
        rows = await unit.session.load(table, [(self.consumer, move.source, move.partition) for move in moves])
        at = {(row.source, row.partition): row.number for row in map(table.from_row, rows)}
        for move in moves:
            number = at.get((move.source, move.partition), 0)
            if number != move.before:
                raise Moved(f"{self.consumer}: {move.source}/{move.partition} is at {number}, not {move.before}")
            unit.put(Progress(self.consumer, move.source, move.partition, move.after.number, move.after.offset))

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

    async def _settle_failure(self, task: Task, moves: Sequence[Move], error: Exception) -> Outcome:
        """Record a refusal that needed a rollback, or set the message aside, in a new transaction."""
        outcome = await again_on_conflict(lambda: self._try_settle(task, moves, error))
        self.committed([outcome])
        return outcome

    async def _try_settle(self, task: Task, moves: Sequence[Move], error: Exception) -> Outcome:
        async with self.store.transaction() as session:
            unit = Unit(self.service, session)
            await self._move(unit, moves)
            if known := await self._known(unit, [task]):
                outcome = repeated(known[task.message.id], task.message)
            elif isinstance(error, RefusedLate):
                outcome = refused(error.refusal)
            else:
                outcome = self._aside.park(unit, task, error)
            self.remember(unit, task.message, outcome)
            await unit.flush()
        return outcome


async def again_on_conflict(work: Callable[[], Awaitable[Result]]) -> Result:
    """Do the work, again after a random pause that grows when others were in its way. Raises the last Conflict."""
    for attempt in range(1, CONFLICT_TRIES):
        try:
            return await work()
        except Moved:
            raise
        except Conflict:
            await asyncio.sleep(random.random() * CONFLICT_PAUSE_S * 2 ** min(attempt, 6))  # noqa: S311 - not a secret
    return await work()


def _up_to(move: Move, task: Task) -> Move:
    if task.number == move.after.number:
        return move
    return move._replace(after=Checkpoint(task.number, task.offset))


async def read_checkpoints(
    store: Store, consumer: str, source: str, partitions: Iterable[int]
) -> dict[int, Checkpoint]:
    """Where a consumer with its checkpoints in this store is, by partition of the source."""
    table, wanted = table_of(Progress), list(partitions)
    async with store.snapshot(once=True) as session:
        rows = await session.load(table, [(consumer, source, partition) for partition in wanted])
    at = {row.partition: Checkpoint(row.number, row.offset) for row in map(table.from_row, rows)}
    return {partition: at.get(partition, Checkpoint()) for partition in wanted}
