"""What both heads of a service share: its engines, its owners, and the ways into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from chimera.commits import Commits
from chimera.endings import Ends, Process, StoredStarts, ViewStarts, Watch, watching
from chimera.entities import table_of
from chimera.errors import ChimeraError, DeclarationError
from chimera.execution import Aside, Executor, Invoke, ToldToCaller
from chimera.feed import Feed, FeedOptions
from chimera.generations import GenerationReads
from chimera.lastknown import LastKnownStore, MemoryLastKnown
from chimera.messages import Event, Message
from chimera.metrics import Metrics
from chimera.owners import OwnStore, SharedHeads
from chimera.parking import Parking, Retry
from chimera.ports import Checkpoint, Log, Owner, Store, ViewStore
from chimera.records import framework_tables
from chimera.service import Mode, Reaction, Service
from chimera.settings import Retention
from chimera.signals import Signal
from chimera.transaction import Transaction

COMMANDS = "commands"


class Body:
    """A service with its engines. Opened once per process (`process`); both heads may share it.

    `modes` sets how shares are borrowed, over what is declared. `committed` wakes when a transaction of this
    process committed, `moved` when a projection moved. `generations` is how views are read.
    """

    def __init__(
        self,
        service: Service,
        *,
        log: Log,
        store: Store,
        views: ViewStore,
        owner_of: Callable[[str], Owner],
        last_known: LastKnownStore | None = None,
        metrics: Metrics | None = None,
        feed_options: FeedOptions = FeedOptions(),
        retry: Retry = Retry(),
        process: Process | None = None,
        modes: Mapping[str, Mode] = {},
        retention: Retention | None = None,
    ) -> None:
        self.service = service
        self.log = log
        self.store = store
        self.views = views
        self.last_known = last_known or MemoryLastKnown()
        self.metrics = metrics or Metrics()
        self.modes = dict(modes)
        self.retention = retention or Retention()
        self.process = process or Process()
        self.committed = Commits()
        self.moved = Signal()
        self.generations = GenerationReads(service, views, self.moved)
        self.commands_topic = commands_topic(service.name)
        self.events_topic = events_topic(service.name)
        self.parking = Parking(COMMANDS, retry)
        self.commands = self.executor(COMMANDS, _handle_commands(service), self.parking, inbox=True)
        self.direct = self.executor("direct", _handle_commands(service), ToldToCaller(), inbox=True)
        self._retry = retry
        self._feed_options = feed_options
        self._owner_of = owner_of
        self._owners: dict[str, Owner] = {service.name: OwnStore(service, store)}
        self._heads: dict[str, SharedHeads] = {}

    async def open(self) -> None:
        """Make sure that tables and topics exist. Raises Unavailable, or SettingsError when they don't fit."""
        tables = [*framework_tables(), *(table_of(entity) for entity in self.service.entities)]
        await self.store.create(tables, self.service.partitions, self.service.statements)
        await self.views.create()
        await self.log.create(self.commands_topic, self.service.partitions)
        await self.log.create(self.events_topic, self.service.partitions)

    async def close(self) -> None:
        """Close the owners; the engines are closed by whoever opened them."""
        for owner in self._owners.values():
            await owner.close()

    def owner(self, name: str) -> Owner:
        """Another service, or this one, as an owner."""
        if name not in self._owners:
            self._owners[name] = self._owner_of(name)
        return self._owners[name]

    def heads(self, name: str) -> SharedHeads:
        """An owner's heads, shared by all that want them in this process."""
        if name not in self._heads:
            self._heads[name] = SharedHeads(self.owner(name))
        return self._heads[name]

    def executor(
        self, consumer: str, invoke: Invoke, aside: Aside, *, inbox: bool = False, batch: bool = False
    ) -> Executor:
        return Executor(
            self.service,
            self.store,
            consumer,
            invoke,
            committed=self.committed,
            metrics=self.metrics,
            aside=aside,
            process=self.process,
            inbox=inbox,
            batch=batch,
        )

    def reaction(self, reaction: Reaction, source: str) -> tuple[Executor, Parking]:
        """What runs a reaction on one source's events, and what it has set aside."""
        consumer = f"{reaction.name}:{source}"
        parking = Parking(consumer, self._retry)
        return self.executor(consumer, _handle_events(reaction), parking, batch=reaction.batch), parking

    def watching(
        self, consumer: str, source: str, at: Mapping[int, Checkpoint], ends: Ends, *, views: bool = False
    ) -> AbstractAsyncContextManager[Watch]:
        """Watch a consumer with its checkpoints in the store, or in the view store, that starts behind these."""
        kept = ViewStarts(self.views, consumer) if views else StoredStarts(self.store, consumer)
        return watching(self.process, kept, self._retry.ends, consumer, source, at, ends)

    async def known_heads(self, source: str) -> Mapping[int, int]:
        """A source's heads; none when its owner can't be asked now."""
        try:
            return await self.heads(source)()
        except ChimeraError:
            return {}

    def feed(self, source: str, checkpoints: dict[int, Checkpoint]) -> Feed:
        """A source's events after these checkpoints."""
        return Feed(
            self.log,
            events_topic(source),
            source,
            self.owner(source),
            self.heads(source),
            checkpoints,
            options=self._feed_options,
            repaired=lambda count: self.metrics.repaired(self.service.name, source, count),
        )

    async def partitions_of(self, source: str, held: frozenset[int]) -> list[int]:
        """The partitions of a source that belong to the leases held. Raises Unavailable before the source exists."""
        ends = await self.log.ends(events_topic(source))
        return [partition for partition in ends if partition % self.service.partitions in held]


def commands_topic(service: str) -> str:
    return f"{service}.commands"


def events_topic(service: str) -> str:
    return f"{service}.events"


def wire_type(service: Service, command: str) -> str:
    """The wire type of a command."""
    return f"{service.name}.{command}"


def reaction_sources(reaction: Reaction) -> list[str]:
    """The services whose events a reaction takes."""
    return sorted({event.__source__ for event in reaction.events})


def _handle_commands(service: Service) -> Invoke:
    handlers = {
        wire_type(service, name): (msgspec.json.Decoder(handler.command), handler.function)
        for name, handler in service.handlers.items()
    }

    async def invoke(messages: Sequence[Message], tx: Transaction) -> Any:
        message = messages[0]
        if message.type not in handlers:
            raise DeclarationError(f"{service.name} handles no {message.type}; it handles: {', '.join(handlers)}")
        decoder, function = handlers[message.type]
        return await function(decoder.decode(message.data), tx)

    return invoke


def _handle_events(reaction: Reaction) -> Invoke:
    decoders: dict[str, msgspec.json.Decoder[Event]] = _decoders(reaction.events)

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        events = [decoders[message.type].decode(message.data) for message in messages]
        await reaction.function(events if reaction.batch else events[0], tx)

    return invoke


def _decoders(events: Iterable[type[Event]]) -> dict[str, Any]:
    return {event.wire_type(): msgspec.json.Decoder(event) for event in events}
