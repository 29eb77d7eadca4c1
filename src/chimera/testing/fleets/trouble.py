"""What is wrong at the moment: the faults in force, whom they strike, and how often each kind has struck."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from zlib import crc32

from chimera.errors import Unavailable
from chimera.messages import Message
from chimera.testing.plans.plan import Fault, Kind
from chimera.testing.virtual.loop import PROCESS, SimLoop, SimProcess

CUT_S = 0.01
"""What it takes to find out that an engine can't be reached."""
WRITES = frozenset({"log.append", "store.commit", "views.write", "views.drop"})


class Trouble:
    """The faults in force. `struck` counts, by kind, what was struck: a fault that met nobody counts nothing."""

    def __init__(self, loop: SimLoop, seed: object) -> None:
        self.struck: Counter[Kind] = Counter()
        self.is_narrow = False
        self.delayed = 0.0
        self.latency_s = 0.0
        self.network_s = 0.0
        self._loop = loop
        self._chance = Random(f"{seed}/trouble")
        self._active: list[tuple[float, Fault]] = []
        self._armed: list[Fault] = []

    def begin(self, fault: Fault) -> None:
        """A fault is in force from now on, for as long as it says; one at a call, until then."""
        if fault.kind == "killed at a call":
            self._armed.append(fault)
        else:
            self._active.append((self._loop.now + fault.for_s, fault))

    def end(self) -> None:
        """Nothing is wrong any more, nor slow."""
        self._active.clear()
        self._armed.clear()
        self.delayed = 0.0

    def hit(self, kind: Kind, engine: str, process: SimProcess) -> Fault | None:
        """The fault of this kind that strikes a call now, counted; None where there is none."""
        if not self._active:
            return None
        now = self._loop.now
        self._active = [each for each in self._active if each[0] > now]
        role = process.role
        for _, fault in self._active:
            if (
                fault.kind == kind
                and fault.engine in ("", engine)
                and fault.process in ("", role)
                and (fault.share >= 1.0 or self._chance.random() < fault.share)
            ):
                self.struck[kind] += 1
                return fault
        return None

    def carries(self, message: Message) -> bool:
        """Whether the log takes an event. One that it does not take it never takes, also once nothing is wrong."""
        if not self.is_narrow or crc32(message.id.encode()) % 3:
            return True
        self.struck["uncarried"] += 1
        return False

    def exponential(self, mean_s: float) -> float:
        return self._chance.expovariate(1 / mean_s) if mean_s else 0.0

    def chance(self) -> float:
        return self._chance.random()

    def killed_at(self, point: str, process: SimProcess, *, late: bool) -> bool:
        """Whether the process dies at this call, before or after its effect."""
        role = process.role
        for fault in self._armed:
            if fault.process == role and fault.point == point and fault.late == late:
                self._armed.remove(fault)
                self.struck[fault.kind] += 1
                return True
        return False


class Way:
    """The way of one process to one engine, such as `store tally`."""

    def __init__(self, trouble: Trouble, engine: str) -> None:
        self.trouble = trouble
        self.engine = engine

    async def before(self, point: str) -> None:
        """A call is about to be made. Raises Unavailable where it can't be."""
        trouble = self.trouble
        if trouble.delayed and trouble.chance() < trouble.delayed:
            await asyncio.sleep(trouble.exponential(trouble.latency_s))
        if not trouble._active and not trouble._armed:  # noqa: SLF001 - the quick way, taken most of the time
            return
        process = PROCESS.get()
        if trouble.hit("cut", self.engine, process):
            await asyncio.sleep(CUT_S)
            raise Unavailable(f"{self.engine} is cut off")
        if point in WRITES and trouble.hit("full", self.engine, process):
            raise Unavailable(f"the disk of {self.engine} is full")
        if slow := trouble.hit("slow", self.engine, process):
            await asyncio.sleep(trouble.exponential(slow.by_s))
        if trouble.hit("refused", self.engine, process):
            raise Unavailable(f"{self.engine} refuses {point}")
        await self._perhaps_die(point, late=False)

    async def after(self, point: str) -> None:
        """A call has had its effect. Raises Unavailable where its answer is lost."""
        trouble = self.trouble
        if not trouble._active and not trouble._armed:  # noqa: SLF001
            return
        await self._perhaps_die(point, late=True)
        if trouble.hit("unanswered", self.engine, PROCESS.get()):
            raise Unavailable(f"{self.engine} did {point}, and its answer is lost")

    async def _perhaps_die(self, point: str, *, late: bool) -> None:
        process = PROCESS.get()
        if self.trouble.killed_at(point, process, late=late):
            process.kill()
            await asyncio.get_running_loop().create_future()
