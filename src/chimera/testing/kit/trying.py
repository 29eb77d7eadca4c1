"""What one command or event does, given what happened before: `await given(…).when(…).then(…)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec

from chimera.caller import Caller, metadata_of
from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor, reaction_executor
from chimera.commands.inbox import Outcome
from chimera.core.clock import stamp_of
from chimera.core.context import Context
from chimera.core.declared import own_events
from chimera.entities import Entity, to_utc
from chimera.errors import SettingsError
from chimera.forms import Decodes, form_of, readers_of
from chimera.journal.checkpoints import again_on_conflict
from chimera.messages import AnyCommand, AnyEvent, Message, partition_of
from chimera.run.engines import context_of, supplied
from chimera.service import Service
from chimera.testing.kit.balance import every_row, journal_of
from chimera.testing.kit.clock import MovedClock
from chimera.testing.kit.engines import engines_of
from chimera.testing.kit.personal import MASTERS, WHO, KnownToAll
from chimera.testing.memory import MemoryLog
from chimera.transaction import Transaction
from chimera.web.identity.ways import Untold

Stored = TypeVar("Stored", bound=Entity)


class Tried:
    """What came of it: the events in order, and the outcome, which is None after an event."""

    def __init__(
        self, events: Sequence[AnyEvent], outcome: Outcome | None, kept: Mapping[type[Entity], Sequence[Any]]
    ) -> None:
        self.events = list(events)
        self.outcome = outcome
        self._kept = kept

    @property
    def status(self) -> int:
        """The HTTP status of a direct command's answer, or of a refusal; 0 where the handler says none."""
        assert self.outcome is not None, "an event is never answered"
        return self.outcome.status

    @property
    def answer(self) -> Any:
        """What the handler returned, as JSON has it; None where that was nothing."""
        assert self.outcome is not None, "an event is never answered"
        return msgspec.json.decode(self.outcome.body) if self.outcome.body else None

    def rows(self, entity: type[Stored]) -> list[Stored]:
        """The rows of an entity of the service afterwards, in no order that may be relied on."""
        if entity not in self._kept:
            raise SettingsError(f"{entity.__name__} is no entity of this service: service.entity({entity.__name__})")
        return list(self._kept[entity])

    def emitted(self, *events: AnyEvent) -> None:
        """Fail unless it was done and these were emitted, in this order, and no others."""
        assert self.outcome is None or self.outcome.state == "done", f"it was {_told(self.outcome)}"
        assert self.events == list(events), f"emitted were {self.events}"

    def rejected(self, reason: str) -> None:
        """Fail unless it was refused for this reason."""
        assert self.outcome is not None, "an event is never refused"
        assert (self.outcome.state, self.outcome.reason) == ("rejected", reason), f"it was {_told(self.outcome)}"


class Given:
    """A service and what it has: rows, and its own events. `when` tries something once, and forgets it again."""

    def __init__(self, service: Service, facts: Sequence[Entity | AnyEvent]) -> None:
        self.service = service
        self.facts = facts

    def when(self, what: AnyCommand | AnyEvent, *, caller: Caller | None = None, at: datetime | None = None) -> When:
        """The command that is handled, or the event that the service reacts to.

        `caller` asked for it; `at` is when it was accepted, or happened: `tx.now`. Now, where it is left out.
        """
        return When(self, what, caller, at)


class When:
    """One command or event, to be tried: `await given(…).when(…)` is what came of it."""

    def __init__(self, given: Given, what: AnyCommand | AnyEvent, caller: Caller | None, at: datetime | None) -> None:
        self._service = given.service
        self._facts = given.facts
        self._what = what
        self._caller = caller
        self._at = at

    async def then(self, *events: AnyEvent) -> Tried:
        """Fail unless it is done and emits these, and no others."""
        tried = await self.tried()
        tried.emitted(*events)
        return tried

    async def rejected(self, reason: str) -> Tried:
        """Fail unless it is refused for this reason."""
        tried = await self.tried()
        tried.rejected(reason)
        return tried

    async def tried(self) -> Tried:
        """What comes of it, whatever that is. Raises what the handler raises, but for a refusal."""
        async with _context(self._service) as context:
            await _write(context, self._facts)
            before = len(await journal_of(context))
            outcome = await self._run(context)
            readers: dict[str, Decodes[AnyEvent]] = {}
            for event in own_events(self._service):
                readers |= readers_of(event, self._service.name)
            happened = [each for each in (await journal_of(context))[before:] if each.type in readers]
            events = [readers[each.type].decode(each.data) for each in happened]
            kept = {entity: list(await every_row(context, entity)) for entity in self._service.entities}
            return Tried(events, outcome, kept)

    async def _run(self, context: Context) -> Outcome | None:
        if isinstance(self._what, AnyCommand):
            type_ = type(self._what).types_in(self._service.name)[0]
            return await _attempt(context, commands_executor(context), self._message(context, type_))
        found = [each for each in self._service.reactions.values() if isinstance(self._what, each.events)]
        if not found:
            raise SettingsError(f"{self._service.name} reacts to no {type(self._what).__name__}")
        for reaction in found:
            source = type(self._what).__source__
            message = self._message(context, type(self._what).wire_type())
            await _attempt(context, reaction_executor(context, reaction, source), message)
        return None

    def _message(self, context: Context, type_: str) -> Message:
        key, data = self._what.key, form_of(type(self._what)).encode(self._what)
        source = type(self._what).__source__ if isinstance(self._what, AnyEvent) else self._service.name
        partition = partition_of(key, self._service.partitions)
        written = metadata_of(self._caller)
        time = stamp_of(to_utc(self._at)) if self._at else context.clock.stamp()
        return Message("tried", source, type_, key, time, data, partition, 1, metadata=written)


def given(service: Service, *facts: Entity | AnyEvent) -> Given:
    """A service that has these rows, and to which these events of its own have happened, in order."""
    return Given(service, facts)


@asynccontextmanager
async def _context(service: Service) -> AsyncIterator[Context]:
    async with engines_of(service, MemoryLog()) as engines:
        more: dict[str, Any] = {"callers": Untold(), "masters": MASTERS}
        context = supplied(context_of(service, *engines, _nobody, clock=MovedClock(), **more))
        await context.prepare()
        try:
            yield context
        finally:
            await context.resources.close()


def _nobody(name: str) -> Any:
    if name == WHO:
        return KnownToAll()
    raise SettingsError(f"{name!r} is not here; what is borrowed is tested with running(…, owners=[…])")


async def _write(context: Context, facts: Sequence[Entity | AnyEvent]) -> None:
    for number, fact in enumerate(facts):
        await again_on_conflict(partial(_write_one, context, number, fact), context.clock)


async def _write_one(context: Context, number: int, fact: Entity | AnyEvent) -> None:
    async with context.store.transaction() as session:
        unit = context.unit(session)
        cause = Message(f"given-{number}", context.service.name, "", "given", context.clock.stamp(), b"", 0)
        tx = Transaction(unit, cause, "given")
        tx.save(fact) if isinstance(fact, Entity) else tx.emit(fact)
        await tx.settle()
        tx.merge()
        await unit.flush()
        await unit.number()


async def _attempt(context: Context, executor: Any, message: Message) -> Outcome:
    async def work() -> Outcome:
        async with context.store.transaction() as session:
            unit = context.unit(session)
            outcome: Outcome = await executor.attempt(unit, Task(message))
            await unit.flush()
        return outcome

    return await again_on_conflict(work, context.clock)


def _told(outcome: Outcome) -> str:
    return f"{outcome.state}: {outcome.reason} {outcome.detail}".rstrip(": ")
