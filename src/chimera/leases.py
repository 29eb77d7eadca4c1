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


class Leases:
    """Shares a service's partitions evenly among the workers that renew in time.

    A worker announces itself by a lease of its own, takes free or expired partitions up to its share,
    and gives back what it holds above it. `ttl_s` is how long a dead worker's partitions lie idle.
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
    ) -> None:
        self._service = service
        self._store = store
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._metrics = metrics or Metrics()
        self.held: frozenset[int] = frozenset()
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
            workers = {
                lease.holder for lease in leases.values() if lease.name.startswith("worker/") and lease.until > now
            }
            share = self._share(sorted(workers | {self._holder}))
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
            for name in (f"worker/{self._holder}", *(f"partition/{partition}" for partition in held)):
                unit.put(Lease(name, self._holder, now + self._ttl_s))
            await unit.flush()
        self._hold(frozenset(held))

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

    async def _leases(self, unit: Unit) -> dict[str, Lease]:
        table = table_of(Lease)
        return {lease.name: lease for lease in map(table.from_row, await unit.session.find(table, {}))}

    def _hold(self, held: frozenset[int]) -> None:
        self._metrics.held(self._service.name, len(held))
        if held != self.held:
            self.held = held
            self.changed.notify()
