"""Leases: which process works on which partitions. They only save work; checkpoints keep it right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chimera.core import names
from chimera.core.aio.signals import Signal
from chimera.core.context import Context
from chimera.core.tables import Lease
from chimera.entities import table_of
from chimera.ports import wakes
from chimera.transaction import Unit

SKEW_S = 60.0
"""Seconds that the clocks of workers may be apart. A lease that ends later was written by a clock that was wrong."""
FORGET_S = 60.0
"""A worker that has not renewed for so many seconds is forgotten."""


class Worker(NamedTuple):
    """A worker that lives, as it says: its name, and the code that it runs, empty where it does not say."""

    holder: str
    code: str


class Leases:
    """Shares a service's partitions evenly among the workers that renew in time.

    A worker announces itself by a lease of its own, takes free or expired partitions up to its share,
    and gives back what it holds above it. `Timing.lease_s` is how long a dead worker's partitions lie idle.

    A worker that is alone renews ever more rarely, for as much longer, where it is told what others commit: a second
    one that comes is answered by a renewal. Where such a long lease is not renewed within `Timing.lease_s`, its holder
    is dead, whatever it says.

    Workers say which `code` they run. While not all of them run the same, each kind shares all partitions among its
    own as well (`held_alike`), for work that only that code can do; then several may do the same, which is safe. What a
    code can read, its `Build` tells.
    """

    def __init__(self, context: Context, holder: str, *, code: str = "") -> None:
        self._context = context
        self._service = context.service
        self._store = context.store
        self._holder = holder
        self._ttl_s = context.timing.lease_s
        self._clock = context.clock
        self._code = code
        self._long: dict[str, tuple[float, float]] = {}
        self._pace = context.pace(self._ttl_s / 3, context.store)
        self._may_rest = wakes(context.store)
        self.held: frozenset[int] = frozenset()
        self.held_alike: frozenset[int] = frozenset()
        self.all_alike = True
        self.changed = Signal()

    async def keep(self) -> None:
        """Renew until cancelled. Raises Unavailable when the store can't be reached."""
        while True:
            alone = await self.renew(self._pace.next_s)
            await self._pace.pause(quiet=alone and self._may_rest)

    async def renew(self, pause_s: float = 0.0) -> bool:
        """Renew for as long as a pause and `Timing.lease_s`, take and give back, in one transaction.

        Says whether this worker is alone, and has nothing left to take.
        """
        now = self._clock.time()
        async with self._store.transaction() as session:
            unit = self._context.unit(session)
            leases = await self._leases(unit)
            alive = {
                lease.name: lease.holder
                for lease in leases.values()
                if lease.name.startswith(names.WORKER) and lease.until > now
            } | {self._name(self._holder): self._holder}
            share = self._share(sorted(set(alive.values())))
            alone = set(alive.values()) == {self._holder}
            until = now + self._ttl_s + (pause_s if alone and self._may_rest and pause_s > self._ttl_s / 3 else 0.0)
            mine, free = [], []
            for partition in range(self._service.partitions):
                lease = leases.get(names.partition_lease(partition))
                if lease is None or lease.until <= now or not lease.holder:
                    free.append(partition)
                elif lease.holder == self._holder:
                    mine.append(partition)
            held = (mine + free)[:share]
            for partition in [each for each in mine if each not in held]:
                unit.put(Lease(names.partition_lease(partition), "", 0.0))
            for lease in leases.values():
                if lease.name.startswith(names.WORKER) and lease.until <= now - FORGET_S:
                    unit.forget(lease)
            for name in (self._name(self._holder), *map(names.partition_lease, held)):
                unit.put(Lease(name, self._holder, until))
            await unit.flush()
        alike = sorted(holder for name, holder in alive.items() if name == self._name(holder))
        are_alike = len(alike) == len(alive)
        self._hold(frozenset(held), None if are_alike else self._part(alike))
        return alone and len(mine) == self._service.partitions

    def _name(self, holder: str) -> str:
        """The name of a worker's own lease, if it runs the same code as this one."""
        return names.worker_lease(holder, self._code)

    def _part(self, workers: Sequence[str]) -> frozenset[int]:
        """This worker's partitions if they are shared among these, without asking anybody."""
        return frozenset(range(workers.index(self._holder), self._service.partitions, len(workers)))

    def _share(self, workers: Sequence[str]) -> int:
        """The number of this worker's partitions: the same for all, but that the first ones take the remainder."""
        each, left = divmod(self._service.partitions, len(workers))
        return each + (workers.index(self._holder) < left)

    async def give_back(self) -> None:
        """Let others take over at once."""
        async with self._store.transaction() as session:
            unit = self._context.unit(session)
            for lease in (await self._leases(unit)).values():
                if lease.holder == self._holder:
                    unit.forget(lease)
            await unit.flush()
        self._hold(frozenset())

    async def codes(self) -> set[str]:
        """The code that the workers run that live now: one name for each kind, empty for those that do not say."""
        return {worker.code for worker in await self.workers()}

    async def workers(self) -> list[Worker]:
        """The workers that live now. Raises Unavailable."""
        now, table = self._clock.time(), table_of(Lease)
        async with self._store.snapshot() as session:
            leases: list[Lease] = list(map(table.from_row, await session.find(table, {})))
        alive = [lease for lease in leases if now < lease.until < self._too_far()]
        named = [lease for lease in alive if lease.name.startswith(names.WORKER)]
        return [Worker(each.holder, names.code_in(each.name, each.holder)) for each in named]

    async def _leases(self, unit: Unit) -> dict[str, Lease]:
        table, too_far = table_of(Lease), self._too_far()
        leases: list[Lease] = list(map(table.from_row, await unit.session.find(table, {})))
        return {lease.name: self._believed(lease) for lease in leases if lease.until < too_far}

    def _believed(self, lease: Lease) -> Lease:
        """A lease as it is to be believed: a long one of somebody else for `lease_s` after it was first seen."""
        if lease.holder == self._holder or lease.until <= self._clock.time() + self._ttl_s:
            self._long.pop(lease.name, None)
            return lease
        until, since = self._long.get(lease.name, (0.0, 0.0))
        if until != lease.until:
            self._long[lease.name] = (lease.until, self._clock.monotonic())
        elif self._clock.monotonic() >= since + self._ttl_s:
            return Lease(lease.name, lease.holder, 0.0)
        return lease

    def _too_far(self) -> float:
        return self._clock.time() + self._ttl_s + SKEW_S

    def _hold(self, held: frozenset[int], held_alike: frozenset[int] | None = None) -> None:
        self._context.metrics.held(self._service.name, len(held))
        self._context.held.partitions = held
        before, self.held, self.all_alike = (self.held, self.held_alike, self.all_alike), held, held_alike is None
        self.held_alike = held if held_alike is None else held_alike
        if before != (self.held, self.held_alike, self.all_alike):
            self.changed.notify()


async def partitions_of(context: Context, source: str, held: frozenset[int]) -> list[int]:
    """The partitions of a source that belong to the leases held. Raises Unavailable before the source exists.

    A topic may have more of them than its owner's journal: as far as the owner tells, those are left out.
    """
    ends = await context.log.ends(names.events_topic(source))
    heads = await context.owners.known_heads(source)
    theirs = [partition for partition in ends if partition in heads or not heads]
    return [partition for partition in theirs if partition % context.service.partitions in held]
