"""Deliberate bugs, put into a process by the faulty engines alone: each has a scenario that has to catch it.

A rig that finds nothing may be blind. So each of these breaks one promise of Chimera's own code or of an engine, and
`python -m chimera_faults --mutants` fails for any that its scenario lets pass.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

from chimera.commands import accept, execute, inbox, parking
from chimera.core.aio.tasks import take_exception
from chimera.core.clock import Clock
from chimera.core.names import INBOX_TABLE
from chimera.core.tables import Progress
from chimera.errors import SettingsError, Unavailable
from chimera.journal import feed, leases
from chimera.journal.checkpoints import move_checkpoints
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Move, Store, ViewStore, WriteSession
from chimera.testing.broken import (
    CarelessViews,
    ForgetfulViews,
    ForgettingStore,
    HolesStore,
    StubbornViews,
    WrappedStore,
    WrappedViews,
)
from chimera.transaction import Unit
from chimera_faults.points import FOLDER, add_line

MUTANT = "FAULTS_MUTANT"
RAN = "mutant-ran"


class Mutant(NamedTuple):
    """A bug: what it is, the scenario that catches it, and how it is made: a patch, or an engine that is wrapped."""

    what: str
    scenario: str
    patch: Callable[[], None] | None = None
    store: Callable[[Store], Store] | None = None
    views: Callable[[ViewStore], ViewStore] | None = None


def install(environment: Mapping[str, str]) -> None:
    """Patch this process with the mutant that the environment names, if any."""
    if (mutant := _chosen(environment)) and mutant.patch:
        mutant.patch()


def changed_store(store: Store, environment: Mapping[str, str]) -> Store:
    """The store as the mutant has it."""
    mutant = _chosen(environment)
    return _NotedStore(mutant.store(store)) if mutant and mutant.store else store


def changed_views(views: ViewStore, environment: Mapping[str, str]) -> ViewStore:
    """The view store as the mutant has it."""
    mutant = _chosen(environment)
    return _NotedViews(mutant.views(views)) if mutant and mutant.views else views


def has_run(folder: Path) -> bool:
    """True when any process has run a mutant's code: one that nobody runs is neither caught nor missed."""
    return (folder / RAN).exists()


@cache
def _note() -> None:
    add_line(Path(os.environ[FOLDER]) / RAN, str(os.getpid()).encode())


class _NotedStore(WrappedStore):
    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        _note()
        async with super().transaction() as session:
            yield session


class _NotedViews(WrappedViews):
    async def write(self, consumer: str, documents: Sequence[Document], moves: Sequence[Move]) -> int:
        _note()
        return await super().write(consumer, documents, moves)


def _chosen(environment: Mapping[str, str]) -> Mutant | None:
    name = environment.get(MUTANT)
    known = MUTANTS | KEEPING
    if name and name not in known:
        raise SettingsError(f"there is no mutant {name!r}; there are: {', '.join(known)}")
    return known[name] if name else None


def _replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    @wraps(function)
    def noted(*arguments: Any, **options: Any) -> Any:
        _note()
        return function(*arguments, **options)

    setattr(owner, name, noted)


def _checkpoint_first() -> None:
    together = execute.Executor._try_together  # noqa: SLF001

    async def early(self: Any, tasks: Any, moves: Any) -> Any:
        if moves:
            async with self.context.store.transaction() as session:
                unit = Unit(self.context.service, session)
                await move_checkpoints(unit, self.consumer, moves)
                await unit.flush()
        return await together(self, tasks, [])

    _replace(execute.Executor, "_try_together", early)


def _no_dedupe() -> None:
    async def nothing(self: Any, unit: Any, tasks: Any) -> dict[str, Any]:
        return {}

    _replace(execute.Executor, "_known", nothing)


def _no_check_of_checkpoints() -> None:
    async def move(unit: Unit, consumer: str, moves: Any) -> None:
        for each in moves:
            unit.put(Progress(consumer, each.source, each.partition, each.after.number, each.after.offset))

    _replace(execute, "move_checkpoints", move)


def _refusals_forgotten() -> None:
    remember = execute.Executor.remember

    def forgetful(self: Any, unit: Any, message: Any, outcome: Any) -> None:
        if outcome.state != "rejected":
            remember(self, unit, message, outcome)

    _replace(execute.Executor, "remember", forgetful)


def _failed_batch_skipped() -> None:
    async def skip(self: Any, tasks: Sequence[Any], moves: Any) -> list[Any]:
        await self._together([], moves)
        return [inbox.Outcome("failed") for _ in tasks]

    _replace(execute.Executor, "_one_by_one", skip)


def _share_not_emitted() -> None:
    async def silent(unit: Any, emitted: Any) -> list[set[int]]:
        return [{pending.partition for pending in events} for events in emitted]

    _replace(execute, "emit_changed", silent)


def _duplicates_admitted() -> None:
    admit = feed.Feed._admit  # noqa: SLF001

    def lax(self: Any, records: Any) -> list[Message]:
        messages: list[Message] = []
        for record in records:
            at = self._at.get(record.message.partition)
            known = at is not None and record.message.number <= at.number
            messages += [record.message] if known else admit(self, [record])
        return messages

    _replace(feed.Feed, "_admit", lax)


def _holes_ignored() -> None:
    def lax(self: Any, records: Any) -> list[Message]:
        messages = []
        for offset, message in records:
            at = self._at.get(message.partition)
            if at is not None and message.number > at.number:
                self._at[message.partition] = Checkpoint(message.number, offset)
                messages.append(message)
        return messages

    _replace(feed.Feed, "_admit", lax)


def _tail_not_compared() -> None:
    compare = feed.Feed._compare  # noqa: SLF001

    def blind(self: Any) -> bool:
        self._compared = {}
        return compare(self)

    _replace(feed.Feed, "_compare", blind)


def _answered_before_confirmed() -> None:
    async def hasty(self: Any, message: Message) -> None:
        self._appends.submit(message).add_done_callback(take_exception)
        await asyncio.sleep(0)

    _replace(accept.Intake, "append", hasty)


def _failed_append_confirmed() -> None:
    append = accept.Intake._append  # noqa: SLF001

    async def hopeful(self: Any, messages: Any) -> Sequence[None]:
        with suppress(Unavailable):
            return await append(self, messages)
        return [None] * len(messages)

    _replace(accept.Intake, "_append", hopeful)


def _key_ignored() -> None:
    _replace(accept.CommandDecoder, "_command_id", lambda self, idempotency_key: Clock().new_id())


def _later_ones_pass() -> None:
    async def none(self: Any, unit: Any, keys: Any) -> set[str]:
        return set()

    _replace(parking.Parking, "blocked", none)


def _failed_ones_forgotten() -> None:
    park = parking.Parking.park

    class Nowhere:
        def put(self, entity: Any) -> None: ...

    def forgetful(self: Any, unit: Any, task: Any, error: Any) -> Any:
        nowhere: Any = Nowhere()
        return park(self, nowhere, task, error)

    _replace(parking.Parking, "park", forgetful)


def _last_one_first() -> None:
    waiting = parking.Parking._waiting  # noqa: SLF001

    async def reversed_(self: Any, session: Any, key: str) -> list[Any]:
        return (await waiting(self, session, key))[::-1]

    _replace(parking.Parking, "_waiting", reversed_)


def _leases_for_ever() -> None:
    class Stopped(Clock):
        def time(self) -> float:
            return 0.0

    create = leases.Leases.__init__

    def timeless(self: Any, *arguments: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        self._clock = Stopped()

    _replace(leases.Leases, "__init__", timeless)


class _SwallowingStore(WrappedStore):
    """Breaks "leaving commits": a commit that fails looks like one that does not."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        with suppress(Unavailable):
            async with self._store.transaction() as session:
                yield session


class _KeepingStore(WrappedStore):
    """Keeps something of every transaction in memory."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._kept: list[bytes] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        self._kept.append(bytes(KEPT_BYTES))
        async with super().transaction() as session:
            yield session


KEPT_BYTES = 4000
KEEPING = {
    "transactions-kept": Mutant("something of every transaction stays in memory", "soak", store=_KeepingStore),
}
"""Bugs that lose nothing, and that only a soak can find."""

MUTANTS = {
    "checkpoint-first": Mutant(
        "the checkpoint of commands moves in a transaction before their effect's",
        "worker-killed-after-commit",
        _checkpoint_first,
    ),
    "no-dedupe": Mutant("the inbox is not asked", "read-head-killed-before-201", _no_dedupe),
    "idempotency-key-ignored": Mutant(
        "a command gets a new id each time it is sent", "read-head-killed-before-201", _key_ignored
    ),
    "answered-before-confirmed": Mutant(
        "the 201 does not wait for the log", "append-fails", _answered_before_confirmed
    ),
    "failed-append-confirmed": Mutant("an append that fails is answered 201", "append-fails", _failed_append_confirmed),
    "failed-commit-confirmed": Mutant(
        "a commit that fails is taken for done", "transactions-roll-back", store=_SwallowingStore
    ),
    "numbers-before-commit": Mutant(
        "a transaction that rolls back has used up its numbers", "transactions-roll-back", store=HolesStore
    ),
    "inbox-not-kept": Mutant(
        "what became of commands is not written down",
        "worker-killed-after-commit",
        store=lambda store: ForgettingStore(store, INBOX_TABLE),
    ),
    "refusals-forgotten": Mutant("a refusal is not recorded", "confirm-lost", _refusals_forgotten),
    "failed-batch-skipped": Mutant(
        "a batch with a command that fails is skipped", "parked-redriven-twice", _failed_batch_skipped
    ),
    "failed-ones-forgotten": Mutant("what fails is not set aside", "parked-redriven-twice", _failed_ones_forgotten),
    "later-ones-pass": Mutant(
        "later commands of a key do not wait behind one that is set aside", "parked-redriven-twice", _later_ones_pass
    ),
    "last-one-first": Mutant(
        "what waits behind a command is tried last one first", "parked-redriven-twice", _last_one_first
    ),
    "stale-worker-commits": Mutant(
        "a checkpoint is written without a look at where it is",
        "consumers-paused-past-their-leases",
        _no_check_of_checkpoints,
    ),
    "duplicates-admitted": Mutant(
        "events before the checkpoint are not dropped", "delivered-five-times", _duplicates_admitted
    ),
    "holes-ignored": Mutant("a hole in the numbers is not noticed", "missing-from-the-middle", _holes_ignored),
    "tail-not-audited": Mutant("heads are not compared", "missing-from-the-tail", _tail_not_compared),
    "views-overwrite": Mutant(
        "documents are written without a look at their revision", "view-writers-collide", views=CarelessViews
    ),
    "views-without-checkpoints": Mutant(
        "documents are written, and their checkpoints are not", "view-writer-killed", views=ForgetfulViews
    ),
    "stale-views-written": Mutant(
        "documents are written though the checkpoint has moved",
        "consumers-paused-past-their-leases",
        views=lambda views: CarelessViews(StubbornViews(views)),
    ),
    "share-not-emitted": Mutant("changes of a share are not emitted", "confirm-lost", _share_not_emitted),
    "leases-for-ever": Mutant("a lease never ends", "worker-killed-before-commit", _leases_for_ever),
}
