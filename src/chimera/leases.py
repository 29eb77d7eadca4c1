"""Leases: which process works on which partitions. They only save work; checkpoints keep it right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from chimera.entities import table_of
from chimera.metrics import Metrics
from chimera.ports import Store
from chimera.records import Lease
from chimera.service import Service
from chimera.signals import Signal
from chimera.transaction import Unit

TTL_S = 3.0
SKEW_S = 60.0
"""How far the clocks of workers may be apart. A lease that ends later was written by a clock that was wrong."""
FORGET_S = 60.0
"""A worker that has not renewed for so long is forgotten."""


class Leases:
    """Shares a service's partitions evenly among the workers that renew in time.

    A worker announces itself by a lease of its own, takes free or expired partitions up to its share,
    and gives back what it holds above it. `ttl_s` is how long a dead worker's partitions lie idle.

    Workers say which `code` they run. While not all of them run the same, each kind shares all partitions among its
    own as well (`held_alike`), for work that only that code can do; then several may do the same, which is safe.
    """

    def __init__(
        self,
        service: Service,
        store: Store,
        holder: str,
        *,
        ttl_s: float = TTL_S,
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
        code: str = "",
    ) -> None:
        self._service = service
        self._store = store
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._code = code
        self.held: frozenset[int] = frozenset()
        self.held_alike: frozenset[int] = frozenset()
        self.all_alike = True
        self.changed = Signal()

    async def keep(self) -> None:
        """Renew until cancelled. Raises Unavailable when the store can't be reached."""
        while True:
            await self.renew()
            await asyncio.sleep(self._ttl_s / 3)

    async def renew(self) -> None:
        """Renew, take and give back, in one transaction."""
        now = self._clock()
        async with self._store.transaction() as session:
            unit = Unit(self._service, session)
            leases = await self._leases(unit)
            alive = {
                lease.name: lease.holder
                for lease in leases.values()
                if lease.name.startswith("worker/") and lease.until > now
            } | {self._name(self._holder): self._holder}
            share = self._share(sorted(set(alive.values())))
            mine, free = [], []
            for partition in range(self._service.partitions):
                lease = leases.get(f"partition/{partition}")
                if lease is None or lease.until <= now or not lease.holder:
                    free.append(partition)
                elif lease.holder == self._holder:
                    mine.append(partition)
            held = (mine + free)[:share]
            for partition in set(mine) - set(held):
                unit.put(Lease(f"partition/{partition}", "", 0.0))
            for lease in leases.values():
                if lease.name.startswith("worker/") and lease.until <= now - FORGET_S:
                    unit.forget(lease)
            for name in (self._name(self._holder), *(f"partition/{partition}" for partition in held)):
                unit.put(Lease(name, self._holder, now + self._ttl_s))
            await unit.flush()
        alike = sorted(holder for name, holder in alive.items() if name == self._name(holder))
        self.all_alike = len(alike) == len(alive)
        self._hold(frozenset(held), None if self.all_alike else self._part(alike))

    def _name(self, holder: str) -> str:
        """The name of a worker's own lease, if it runs the same code as this one."""
        return f"worker/{holder}/{self._code}" if self._code else f"worker/{holder}"

    def _part(self, workers: Sequence[str]) -> frozenset[int]:
        """This worker's partitions if they are shared among these, without asking anybody."""
        return frozenset(range(workers.index(self._holder), self._service.partitions, len(workers)))

    def _share(self, workers: Sequence[str]) -> int:
        """How many partitions are this worker's: the same for all, but that the first ones take the remainder."""
        each, left = divmod(self._service.partitions, len(workers))
        return each + (workers.index(self._holder) < left)

    async def give_back(self) -> None:
        """Let others take over at once."""
        async with self._store.transaction() as session:
            unit = Unit(self._service, session)
            for lease in (await self._leases(unit)).values():
                if lease.holder == self._holder:
                    unit.forget(lease)
            await unit.flush()
        self._hold(frozenset())

    async def codes(self) -> set[str]:
        """What the workers that live run."""
        now, table = self._clock(), table_of(Lease)
        async with self._store.snapshot() as session:
            leases: list[Lease] = list(map(table.from_row, await session.find(table, {})))
        alive = [lease for lease in leases if now < lease.until < self._too_far()]
        named = [lease for lease in alive if lease.name.startswith("worker/")]
        return {lease.name.removeprefix(f"worker/{lease.holder}").removeprefix("/") for lease in named}

    async def _leases(self, unit: Unit) -> dict[str, Lease]:
        table, too_far = table_of(Lease), self._too_far()
        leases: list[Lease] = list(map(table.from_row, await unit.session.find(table, {})))
        return {lease.name: lease for lease in leases if lease.until < too_far}

    def _too_far(self) -> float:
        return self._clock() + self._ttl_s + SKEW_S

    def _hold(self, held: frozenset[int], held_alike: frozenset[int] | None = None) -> None:
        self._metrics.held(self._service.name, len(held))
        before, self.held = (self.held, self.held_alike), held
        self.held_alike = held if held_alike is None else held_alike
        if before != (self.held, self.held_alike):
            self.changed.notify()
