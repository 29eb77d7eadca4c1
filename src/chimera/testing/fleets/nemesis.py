"""The nemesis: does to the fleet what the plan says, when it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from chimera.borrow.modes import want_mode
from chimera.errors import ChimeraError
from chimera.testing.fleets.world import World
from chimera.testing.plans.plan import Fault, Kind
from chimera.testing.plans.words import told
from chimera.upkeep.parked import Wanted, parked_keys, retry_key
from chimera.views.rebuild import ask_for

RESTART_S = 0.2


class Nemesis:
    """Carries out a plan's faults on a world, and puts everything in order at the end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._busy: list[asyncio.Task[None]] = []
        self._moments: dict[Fault, Callable[[], None]] = {}
        self._acts: dict[Kind, Callable[[Fault], Awaitable[None]]] = {
            "killed": self._kill,
            "killed at a call": self._kill,
            "stopped": self._stop,
            "paused": self._pause,
            "upgraded": self._upgrade,
            "skewed": self._skew,
            "emptied": self._empty,
            "wiped": self._wipe,
            "restored": self._restore,
            "mode changed": self._change_mode,
            "rebuilt": self._rebuild,
            "retried": self._retry,
            "junk": self._write_junk,
            "uncarried": self._narrow,
        }

    async def run(self) -> None:
        """Do it all; ends when the last fault has begun, or later when the plan says so."""
        world = self._world
        moments = [
            (fault.at - fault.by_s, partial(self._remember, fault))
            for fault in world.plan.faults
            if fault.kind == "restored"
        ]
        strikes = [(fault.at, partial(self._strike, fault)) for fault in world.plan.faults]
        for at, act in sorted([*moments, *strikes], key=lambda each: each[0]):
            await asyncio.sleep(max(0.0, at - world.loop.now))
            act()
        await asyncio.sleep(max(0.0, world.plan.until_s - world.loop.now))

    async def heal(self) -> None:
        """Nothing is wrong any more: what was away is back, and every role is played."""
        world = self._world
        for task in self._busy:
            task.cancel()
        if self._busy:
            await asyncio.wait(self._busy)
        world.trouble.end()
        world.promises.note("everything is well again", process="nemesis")
        for role in world.roles:
            world.revive(role)

    def _strike(self, fault: Fault) -> None:
        self._world.promises.note(told(fault), process="nemesis")
        if fault.kind not in self._acts:
            self._world.trouble.begin(fault)
            return
        self._busy.append(self._world.loop.world.spawn(self._act(fault)))

    async def _act(self, fault: Fault) -> None:
        with suppress(ChimeraError):
            await self._acts[fault.kind](fault)

    def _struck(self, fault: Fault) -> None:
        self._world.trouble.struck[fault.kind] += 1

    async def _kill(self, fault: Fault) -> None:
        if fault.kind == "killed at a call":
            process = self._world.live[fault.process]
            self._world.trouble.begin(fault)
            died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            process.ended.append(partial(_resolve, died))
            await died
        elif self._world.live[fault.process].is_alive:
            self._struck(fault)
            self._world.kill(fault.process)
        await self._restart(fault)

    async def _stop(self, fault: Fault) -> None:
        if self._world.live[fault.process].is_alive:
            self._struck(fault)
            await self._world.stop(fault.process)
        await self._restart(fault)

    async def _restart(self, fault: Fault) -> None:
        await asyncio.sleep(fault.for_s)
        if not self._world.live[fault.process].is_alive:
            self._world.start(fault.process)

    async def _pause(self, fault: Fault) -> None:
        process = self._world.live[fault.process]
        if process.is_alive:
            self._struck(fault)
            process.pause()
            await asyncio.sleep(fault.for_s)
            self._world.promises.note("goes on", process=process.name)
            process.resume()

    async def _upgrade(self, fault: Fault) -> None:
        world = self._world
        if world.build[fault.process] == fault.build:
            return
        self._struck(fault)
        world.deploy(fault.process, fault.build)
        for role in reversed(world.roles) if fault.late else world.roles:
            if role.startswith(f"{fault.process}/"):
                await world.stop(role)
                await asyncio.sleep(RESTART_S)
                if not world.live[role].is_alive:
                    world.start(role)
                await asyncio.sleep(fault.for_s)

    async def _skew(self, fault: Fault) -> None:
        self._struck(fault)
        self._world.live[fault.process].skew(fault.by_s)

    async def _empty(self, fault: Fault) -> None:
        self._struck(fault)
        self._world.empty_log(fault.process)

    async def _wipe(self, fault: Fault) -> None:
        self._struck(fault)
        self._world.wipe(fault.engine)

    async def _restore(self, fault: Fault) -> None:
        self._struck(fault)
        self._moments[fault]()

    def _remember(self, fault: Fault) -> None:
        self._moments[fault] = self._world.take_moment(fault.engine)

    async def _change_mode(self, fault: Fault) -> None:
        context = self._world.plain[fault.process]
        await want_mode(context, context.service.borrows[fault.what], fault.to)  # type: ignore[arg-type]
        self._struck(fault)

    async def _rebuild(self, fault: Fault) -> None:
        await ask_for(self._world.plain[fault.process], fault.what)
        self._struck(fault)

    async def _retry(self, fault: Fault) -> None:
        context = self._world.plain[fault.process]
        for key in await parked_keys(context, Wanted()):
            self._struck(fault)
            await retry_key(context, key)

    async def _write_junk(self, fault: Fault) -> None:
        self._struck(fault)
        self._world.write_junk(fault.process)

    async def _narrow(self, fault: Fault) -> None:
        self._world.trouble.is_narrow = True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
