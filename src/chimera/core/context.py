"""A service with its engines, as data: handed to the read head, the write head, and all that runs beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chimera.caller import Caller, Request
from chimera.core import names
from chimera.core.aio.coalesce import Coalescer
from chimera.core.aio.handover import HandOver
from chimera.core.aio.pace import Pace
from chimera.core.aio.resources import Resources
from chimera.core.aio.signals import Signal
from chimera.core.aio.standing import Troubles
from chimera.core.aio.tasks import take_exception
from chimera.core.aio.trust import Trust
from chimera.core.clock import Clock
from chimera.core.keys.seals import Seals
from chimera.core.keys.subjects import SubjectKeys
from chimera.core.metrics import Metrics
from chimera.core.tables import framework_tables
from chimera.core.timing import Limits, PerCaller, Retention, Retry, Timing
from chimera.entities import table_of
from chimera.errors import ChimeraError
from chimera.parts import Handling, Mode
from chimera.ports import LastKnownStore, Log, Owner, Store, ViewStore, WriteSession, wakes
from chimera.service import Service
from chimera.transaction import Unit

ROOM = 3
"""Handlers that run alone and use the store at once; a pool has connections for more than them."""


class Process:
    """This process, as it signs what it writes down. `alone` is held while a message is handled alone.

    `suspected`: by consumer, source and partition, up to which number there are suspects, once there were any.
    `setting_aside`: the views and copies that are known to have parked events.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.name = (clock or Clock()).random_bytes(16).hex()
        self.alone = asyncio.Lock()
        self.suspected: dict[tuple[str, str, int], int] = {}
        self.setting_aside: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Who may reach what. `is_open`: all of `/_chimera/` is for anyone, as where a service runs without settings.

    `fleet`: keys by which services know each other, the first one is used; `operators`: keys of operators; `role`: of
    those callers who are operators too. `dev`: this machine needs no key. `rules`: without them, this
    machine may do all that is declared.
    """

    is_open: bool = True
    fleet: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    role: str = "operator"
    dev: bool = False
    rules: bool = True


class Callers(Protocol):
    """Who asks, as the fleet has it in its settings, for services that do not tell themselves.

    `challenge` is for `WWW-Authenticate`.
    """

    challenge: str

    async def __call__(self, request: Request) -> Caller | None:
        """Who asks; None for nobody. Raises Rejected for what is shown and wrong, Unavailable where none can tell."""

    def login(self, request: Request) -> str:
        """Where a browser that asks for a page is sent to log in; empty for all else."""


class Holding:
    """The partitions that this process's write head works on; none where there is no write head."""

    def __init__(self) -> None:
        self.partitions: frozenset[int] = frozenset()


class SharedHeads:
    """An owner's heads, asked for at most every `every_s` seconds however many in this process want them."""

    def __init__(self, owner: Owner, clock: Clock, every_s: float) -> None:
        self._owner = owner
        self._clock = clock
        self._every_s = every_s
        self._asking: asyncio.Future[Mapping[int, int]] | None = None
        self._asked_at = float("-inf")
        self.partitions = 0
        """Those of the owner's journal, once it has answered."""
        self._calls: Coalescer[None, Mapping[int, int]] = Coalescer(self._call)

    async def __call__(self) -> Mapping[int, int]:
        """As `Owner.heads`, at most `every_s` old. Raises Unavailable."""
        return (await self.dated())[1]

    async def dated(self) -> tuple[float, Mapping[int, int]]:
        """The heads, and when the owner was asked for them (monotonic seconds). Raises Unavailable."""
        if self._asking is None or self._clock.monotonic() >= self._asked_at + self._every_s:
            self._asked_at = self._clock.monotonic()
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(take_exception)
        asked_at, asking = self._asked_at, self._asking
        return asked_at, await asyncio.shield(asking)

    async def anew(self) -> Mapping[int, int]:
        """The heads as the owner has them from now on: all who ask while a call is under way share the next one."""
        return await self._calls.submit(None)

    async def _call(self, callers: list[None]) -> Sequence[Mapping[int, int]]:
        return [await self._ask()] * len(callers)

    async def _ask(self) -> Mapping[int, int]:
        heads = await self._owner.heads()
        self.partitions = len(heads)
        return heads


class Owners:
    """The owners that a process knows, itself among them: each opened once, by `open_owner`, when it is asked for."""

    def __init__(
        self, own: Mapping[str, Owner], open_owner: Callable[[str], Owner], clock: Clock, timing: Timing
    ) -> None:
        self._owners = dict(own)
        self._open_owner = open_owner
        self._clock = clock
        self._heads_kept_s = timing.heads_kept_s
        self._heads: dict[str, SharedHeads] = {}

    def __getitem__(self, name: str) -> Owner:
        """A service as an owner, by its name. Raises SettingsError for one that is not known."""
        if name not in self._owners:
            self._owners[name] = self._open_owner(name)
        return self._owners[name]

    def heads(self, name: str) -> SharedHeads:
        """An owner's heads, shared by all that want them in this process."""
        if name not in self._heads:
            self._heads[name] = SharedHeads(self[name], self._clock, self._heads_kept_s)
        return self._heads[name]

    async def known_heads(self, name: str) -> Mapping[int, int]:
        """An owner's heads (partition: number), a moment old perhaps; none when it can't be asked now."""
        try:
            return await self.heads(name)()
        except ChimeraError:
            return {}

    async def close(self) -> None:
        """Close the owners that were opened."""
        for owner in self._owners.values():
            await owner.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A service with its engines. There is one in each process; a read head and a write head may share it.

    `modes` sets how shares are borrowed, over what is declared; `handling` how handlers run, by the name of a command
    or a reaction, and under the empty one for all others. `committed` wakes when a transaction of this process
    committed, `moved` when a projection moved; both also when another process may have done so. `troubles`: what
    stands still here; `held`: what is worked on here; `reach`: who may reach what. `callers`: who asks, where
    the service itself does not tell. `personal`: the keys of subjects. `room` is taken by each handler that runs alone
    while it uses the store.
    """

    service: Service
    log: Log
    store: Store
    views: ViewStore
    last_known: LastKnownStore
    owners: Owners
    resources: Resources
    personal: SubjectKeys
    modes: Mapping[str, Mode] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    clock: Clock = field(default_factory=Clock)
    timing: Timing = Timing()
    limits: Limits = Limits()
    per_caller: PerCaller = PerCaller()
    retry: Retry = Retry()
    handling: Mapping[str, Handling] = field(default_factory=dict)
    retention: Retention = Retention()
    process: Process = field(default_factory=Process)
    sent: Trust = field(default_factory=Trust)
    seals: Seals = field(default_factory=Seals)
    committed: HandOver = field(default_factory=HandOver)
    moved: Signal = field(default_factory=Signal)
    troubles: Troubles = field(default_factory=Troubles)
    held: Holding = field(default_factory=Holding)
    reach: Reach = Reach()
    callers: Callers | None = None
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ROOM))

    @property
    def commands_topic(self) -> str:
        """The topic of the service's commands."""
        return names.commands_topic(self.service.name)

    @property
    def events_topic(self) -> str:
        """The topic of the service's events."""
        return names.events_topic(self.service.name)

    def unit(self, session: WriteSession) -> Unit:
        """A unit of work on a transaction, whose events are sealed as the fleet does it."""
        return Unit(self.service, session, self.seals.of(self.service.name).after, self.personal)

    def pace(self, first_s: float, port: Store | ViewStore) -> Pace:
        """The pace at which something in the store, or the view store, is looked at: `first_s` seconds at first."""
        longest_s = self.timing.quiet_s if wakes(port) else self.timing.untold_s
        return Pace(first_s, longest_s, self.moved if port is self.views else self.committed, self.clock)

    async def prepare(self) -> None:
        """Make sure that tables and topics exist, and hear what others commit.

        Raises Unavailable, or SettingsError when they don't fit.
        """
        tables = [*framework_tables(), *(table_of(entity) for entity in self.service.entities)]
        await self.store.create(tables, self.service.partitions, self.service.statements)
        await self.views.create()
        await self.log.create(self.commands_topic, self.service.partitions)
        await self.log.create(self.events_topic, self.service.partitions)
        for port, heard in ((self.store, self.committed.notify), (self.views, self.moved.notify)):
            if wakes(port):
                port.listen(heard)
