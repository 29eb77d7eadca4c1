"""Deliberate mistakes in Chimera's own code or in an engine: each breaks one promise, and has to be found.

A mistake is written as "if it is to be made: do wrong, else as it was". So the same code that makes it is its own
control: installed with nothing to be made, it must not be found. Whenever one is made, it says so; and one whose code
fails by itself, with a TypeError, is no mistake at all, and says that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from chimera.commands import accept, execute, inbox, parking
from chimera.core.aio.tasks import take_exception
from chimera.core.clock import Clock
from chimera.core.names import INBOX_TABLE
from chimera.core.tables import Progress
from chimera.errors import Unavailable
from chimera.journal import feed, leases, relay
from chimera.journal.checkpoints import move_checkpoints
from chimera.messages import Message
from chimera.ports import Checkpoint, Store, WriteSession
from chimera.share.changes import emit_changed
from chimera.testing.broken import (
    CarelessViews,
    ForgetfulViews,
    ForgettingStore,
    HolesStore,
    StubbornViews,
    WrappedStore,
    Wrong,
)
from chimera.transaction import Unit
from chimera_faults.oversights import (
    lost_history_not_noticed,
    never_stopped,
    no_number_written,
    offsets_trusted,
    old_topic_read_on,
    passed_over_untold,
    too_large_waited_at,
)
from chimera_faults.patching import Mistake, Patching


def _checkpoint_first(at: Patching) -> None:
    together = execute.Executor._try_together  # noqa: SLF001

    async def early(self: Any, tasks: Any, moves: Any, apart: Any) -> Any:
        if not moves or not at.wrong():
            return await together(self, tasks, moves, apart)
        async with self.context.store.transaction() as session:
            unit = self.context.unit(session)
            await move_checkpoints(unit, self.consumer, moves)
            await unit.flush()
        return await together(self, tasks, [], apart)

    at.replace(execute.Executor, "_try_together", early)


def _no_dedupe(at: Patching) -> None:
    known = execute.Executor._known  # noqa: SLF001

    async def nothing(self: Any, unit: Any, tasks: Any) -> dict[str, Any]:
        found = await known(self, unit, tasks)
        return {} if found and at.wrong() else found

    at.replace(execute.Executor, "_known", nothing)


def _no_check_of_checkpoints(at: Patching) -> None:
    async def move(unit: Unit, consumer: str, moves: Any) -> None:
        if not moves or not at.wrong():
            await move_checkpoints(unit, consumer, moves)
            return
        for each in moves:
            unit.put(Progress.of(consumer, each.source, each.partition, each.after))

    at.replace(execute, "move_checkpoints", move)


def _refusals_forgotten(at: Patching) -> None:
    remember = execute.Executor.remember

    def forgetful(self: Any, unit: Any, message: Any, outcome: Any, when: Any = None) -> None:
        if outcome.state != "rejected" or not at.wrong():
            remember(self, unit, message, outcome, when)

    at.replace(execute.Executor, "remember", forgetful)


def _failed_batch_skipped(at: Patching) -> None:
    one_by_one = execute.Executor._one_by_one  # noqa: SLF001

    async def skip(self: Any, tasks: Sequence[Any], moves: Any) -> list[Any]:
        if not at.wrong():
            return await one_by_one(self, tasks, moves)
        await self._together([], moves)
        return [inbox.Outcome("failed") for _ in tasks]

    at.replace(execute.Executor, "_one_by_one", skip)


def _share_not_emitted(at: Patching) -> None:
    emit = emit_changed

    async def silent(calling: Any, unit: Any, emitted: Any) -> list[set[int]]:
        if not at.wrong():
            return await emit(calling, unit, emitted)
        return [{pending.partition for pending in events} for events in emitted]

    at.replace(execute, "emit_changed", silent)


def _duplicates_admitted(at: Patching) -> None:
    admit = feed.Feed._admit  # noqa: SLF001

    def lax(self: Any, records: Any) -> list[Message]:
        messages: list[Message] = []
        for record in records:
            known = self._at.get(record.message.partition)
            is_old = known is not None and record.message.number <= known.number
            messages += [record.message] if is_old and at.wrong() else admit(self, [record])
        return messages

    at.replace(feed.Feed, "_admit", lax)


def _holes_ignored(at: Patching) -> None:
    admit = feed.Feed._admit  # noqa: SLF001

    def lax(self: Any, records: Any) -> list[Message]:
        messages: list[Message] = []
        for record in records:
            known = self._at.get(record.message.partition)
            is_beyond = known is not None and record.message.number > known.number + 1
            if is_beyond and at.wrong():
                self._at[record.message.partition] = Checkpoint(record.message.number, record.offset)
                messages.append(record.message)
            else:
                messages += admit(self, [record])
        return messages

    at.replace(feed.Feed, "_admit", lax)


def _junk_ends_reading(at: Patching) -> None:
    pass_over = feed.Feed._pass_over  # noqa: SLF001

    def strict(self: Any, offset: int, message: Message) -> None:
        if at.wrong():
            raise Unavailable(f"the record at {offset} can't be read")
        pass_over(self, offset, message)

    at.replace(feed.Feed, "_pass_over", strict)


def _relay_waits(at: Patching) -> None:
    leave = relay.Relay._leave  # noqa: SLF001

    async def stubborn(self: Any, event: Message, error: Exception, tries: int) -> None:
        if at.wrong():
            raise Unavailable(f"{event.id} can't be sent")
        await leave(self, event, error, tries)

    at.replace(relay.Relay, "_leave", stubborn)


def _tail_not_compared(at: Patching) -> None:
    compare = feed.Feed._compare  # noqa: SLF001

    def blind(self: Any) -> bool:
        if at.wrong():
            self._compared = {}
        return compare(self)

    at.replace(feed.Feed, "_compare", blind)


def _answered_before_confirmed(at: Patching) -> None:
    append = accept.Intake.append

    async def hasty(self: Any, message: Message) -> None:
        if not at.wrong():
            await append(self, message)
            return
        self._appends.submit(message).add_done_callback(take_exception)
        await asyncio.sleep(0)

    at.replace(accept.Intake, "append", hasty)


def _failed_append_confirmed(at: Patching) -> None:
    append = accept.Intake._append  # noqa: SLF001

    async def hopeful(self: Any, messages: Any) -> Sequence[BaseException | None]:
        try:
            return await append(self, messages)
        except Unavailable:
            if not at.wrong():
                raise
        return [None] * len(messages)

    at.replace(accept.Intake, "_append", hopeful)


def _key_ignored(at: Patching) -> None:
    command_id = accept.CommandDecoder._command_id  # noqa: SLF001

    def fresh(self: Any, idempotency_key: str | None, subject: str) -> str:
        return command_id(self, None if idempotency_key is not None and at.wrong() else idempotency_key, subject)

    at.replace(accept.CommandDecoder, "_command_id", fresh)


def _later_ones_pass(at: Patching) -> None:
    blocked = parking.Parking.blocked

    async def none(self: Any, unit: Any, keys: Any) -> dict[str, int]:
        found = await blocked(self, unit, keys)
        return {} if found and at.wrong() else found

    at.replace(parking.Parking, "blocked", none)


def _failed_ones_forgotten(at: Patching) -> None:
    park = parking.Parking.park

    class Nowhere:
        def put(self, entity: Any) -> None: ...

    def forgetful(self: Any, unit: Any, task: Any, error: Any) -> Any:
        nowhere: Any = Nowhere()
        return park(self, nowhere if at.wrong() else unit, task, error)

    at.replace(parking.Parking, "park", forgetful)


def _last_one_first(at: Patching) -> None:
    waiting = parking.Parking._waiting  # noqa: SLF001

    async def reversed_(self: Any, session: Any, key: str) -> list[Any]:
        found = await waiting(self, session, key)
        return found[::-1] if len(found) > 1 and at.wrong() else found

    at.replace(parking.Parking, "_waiting", reversed_)


def _leases_for_ever(at: Patching) -> None:
    class Stopped(Clock):
        def __init__(self, clock: Clock) -> None:
            self._clock = clock

        def time(self) -> float:
            return 0.0 if at.wrong() else self._clock.time()

        async def sleep(self, seconds: float) -> None:
            await self._clock.sleep(seconds)

    create = leases.Leases.__init__

    def timeless(self: Any, *arguments: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        self._clock = Stopped(self._clock)

    at.replace(leases.Leases, "__init__", timeless)


class _SwallowingStore(WrappedStore):
    """Breaks "leaving commits": a commit that fails looks like one that does not."""

    def __init__(self, store: Store, wrong: Wrong) -> None:
        super().__init__(store)
        self._wrong = wrong

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        try:
            async with self._store.transaction() as session:
                yield session
        except Unavailable:
            if not self._wrong():
                raise


class _KeepingStore(WrappedStore):
    """Keeps something of every transaction in memory."""

    def __init__(self, store: Store, wrong: Wrong) -> None:
        super().__init__(store)
        self._wrong = wrong
        self._kept: list[bytes] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        if self._wrong():
            self._kept.append(bytes(KEPT_BYTES))
        async with super().transaction() as session:
            yield session


KEPT_BYTES = 4000
KEEPING = {
    "transactions-kept": Mistake("something of every transaction stays in memory", "soak", store=_KeepingStore),
}
"""Bugs that lose nothing, and that only a soak can find."""

MISTAKES = {
    "checkpoint-first": Mistake(
        "the checkpoint of commands moves in a transaction before their effect's",
        "worker-killed-after-commit",
        _checkpoint_first,
    ),
    "no-dedupe": Mistake("the inbox is not asked", "read-head-killed-before-201", _no_dedupe),
    "idempotency-key-ignored": Mistake(
        "a command gets a new id each time it is sent", "read-head-killed-before-201", _key_ignored
    ),
    "answered-before-confirmed": Mistake(
        "the 201 does not wait for the log", "append-fails", _answered_before_confirmed
    ),
    "failed-append-confirmed": Mistake(
        "an append that fails is answered 201", "append-fails", _failed_append_confirmed
    ),
    "failed-commit-confirmed": Mistake(
        "a commit that fails is taken for done", "transactions-roll-back", store=_SwallowingStore
    ),
    "numbers-before-commit": Mistake(
        "a transaction that rolls back has used up its numbers", "transactions-roll-back", store=HolesStore
    ),
    "inbox-not-kept": Mistake(
        "what became of commands is not written down",
        "worker-killed-after-commit",
        store=lambda store, wrong: ForgettingStore(store, INBOX_TABLE, wrong),
    ),
    "refusals-forgotten": Mistake("a refusal is not recorded", "confirm-lost", _refusals_forgotten),
    "failed-batch-skipped": Mistake(
        "a batch with a command that fails is skipped", "parked-redriven-twice", _failed_batch_skipped
    ),
    "failed-ones-forgotten": Mistake("what fails is not set aside", "parked-redriven-twice", _failed_ones_forgotten),
    "later-ones-pass": Mistake(
        "later commands of a key do not wait behind one that is set aside", "parked-redriven-twice", _later_ones_pass
    ),
    "last-one-first": Mistake(
        "what waits behind a command is tried last one first", "parked-redriven-twice", _last_one_first
    ),
    "stale-worker-commits": Mistake(
        "a checkpoint is written without a look at where it is",
        "consumers-paused-past-their-leases",
        _no_check_of_checkpoints,
    ),
    "duplicates-admitted": Mistake(
        "events before the checkpoint are not dropped", "delivered-five-times", _duplicates_admitted
    ),
    "holes-ignored": Mistake("a hole in the numbers is not noticed", "missing-from-the-middle", _holes_ignored),
    "junk-ends-reading": Mistake(
        "a record that is no event ends the reading of its topic", "junk-in-the-log", _junk_ends_reading
    ),
    "relay-waits": Mistake(
        "the relay waits at an event that the log can't carry", "event-too-large-for-the-broker", _relay_waits
    ),
    "tail-not-audited": Mistake("heads are not compared", "missing-from-the-tail", _tail_not_compared),
    "views-overwrite": Mistake(
        "documents are written without a look at their revision", "view-writers-collide", views=CarelessViews
    ),
    "views-without-checkpoints": Mistake(
        "documents are written, and their checkpoints are not", "view-writer-killed", views=ForgetfulViews
    ),
    "stale-views-written": Mistake(
        "documents are written though the checkpoint has moved",
        "consumers-paused-past-their-leases",
        views=lambda views, wrong: CarelessViews(StubbornViews(views, wrong), wrong),
    ),
    "lost-history-not-noticed": Mistake(
        "nobody looks whether a checkpoint stands on its owner's history", "owner-put-back", lost_history_not_noticed
    ),
    "old-topic-read-on": Mistake(
        "a topic that was made anew is read on from where the old one was, and heads are not compared",
        "events-topic-made-anew",
        old_topic_read_on,
    ),
    "offsets-trusted": Mistake(
        "a log of commands is read on from its checkpoint, whatever stands there", "commands-put-back", offsets_trusted
    ),
    "passed-over-untold": Mistake(
        "a record that is no event is passed over without a word", "junk-in-the-log", passed_over_untold
    ),
    "hanging-ones-waited-for": Mistake("a handler that never returns is waited for", "handler-hangs", never_stopped),
    "no-number-written": Mistake(
        "a float that is no number is written as null", "no-number-emitted", no_number_written
    ),
    "too-large-waited-at": Mistake(
        "a view waits at an event that makes a document too large", "document-too-large", too_large_waited_at
    ),
    "share-not-emitted": Mistake("changes of a share are not emitted", "confirm-lost", _share_not_emitted),
    "leases-for-ever": Mistake("a lease never ends", "worker-killed-before-commit", _leases_for_ever),
}
