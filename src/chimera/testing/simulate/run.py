"""One run of a plan: what came of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chimera.core.names import INBOX_TABLE, PARKED_TABLE
from chimera.testing.fleets.clients import Client, SentCommands
from chimera.testing.fleets.happenings import BrokenPromise
from chimera.testing.fleets.nemesis import Nemesis
from chimera.testing.fleets.state import SettledCommand, State
from chimera.testing.fleets.world import World
from chimera.testing.kit.balance import imbalances, pending, rebuilding, unread_for_nothing
from chimera.testing.plans.fleet import Fleet
from chimera.testing.plans.plan import Plan, Sending
from chimera.testing.simulate.played import Played
from chimera.testing.virtual.fence import fenced
from chimera.testing.virtual.loop import SimLoop, SimulationError, Unraised, new_loop

BOUND_S = 120.0
"""Once nothing is wrong any more, everything is done within so much virtual time."""
LOOK_S = 0.4
MOST = 20
"""A run ends when so many promises were broken."""

Invariant = Callable[[State], object]
"""Says what must hold: raises AssertionError, or returns False, when it does not."""
SETTLED = ("done", "rejected", "parked")


def play(
    fleet: Fleet,
    plan: Plan,
    invariants: Iterable[Invariant] = (),
    in_the_end: Iterable[Invariant] = (),
    *,
    notes: bool = False,
    trace: bool = False,
    collect: bool = True,
    prepare: Callable[[World], None] = lambda world: None,
) -> Played:
    """Run a plan. The same plan gives the same outcome, whatever the machine does.

    `invariants` are looked at after every commit, `in_the_end` once nothing is under way. `prepare` may change the
    world before it begins. With `collect` false the caller sees to it that nothing is collected while a run lasts, and
    that what it leaves behind is, apart from any (`chimera.testing.simulate.sweep.collecting`).
    """
    loop = new_loop(plan.seed, shuffle=plan.shuffle)
    loop.trace = [] if trace else None
    was_enabled = gc.isenabled()
    gc.disable()  # a collector runs the `finally` of what it collects, whenever it likes
    world: World | None = None
    try:
        with fenced(loop):
            world = World(fleet, plan, loop)
            prepare(world)
            if notes:
                world.promises.notes = []
            ledger = SentCommands()
            try:
                with _listening(world.promises.logs):
                    loop.run(_Run(world, ledger, [*invariants], [*in_the_end]).play())
            except SimulationError as error:
                world.promises.breaks("the run can go on", str(error))
            return Played(
                plan,
                [*world.promises.broken, *_failures(loop)],
                f"{loop.digest:012x}",
                loop.steps,
                round(loop.now, 6),
                dict(world.trouble.struck),
                len(ledger.statuses),
                ledger.reads,
                world.promises.notes or (),
                loop.trace or (),
            )
    finally:
        loop.scrap()
        del world, loop
        if collect:
            with Unraised():
                gc.collect()
        if was_enabled:
            gc.enable()


class _Run:
    def __init__(
        self, world: World, ledger: SentCommands, invariants: Sequence[Invariant], in_the_end: Sequence[Invariant]
    ) -> None:
        self._world = world
        self._ledger = ledger
        self._in_the_end = in_the_end
        self._state = State(world.fleet, world.stores, world.views)
        if invariants:
            world.promises.on_commit = lambda: self._see(invariants, "after a commit")

    async def play(self) -> None:
        world = self._world
        for context in world.plain.values():
            await context.prepare()
        for role in world.roles:
            world.start(role)
        nemesis = Nemesis(world)
        clients: dict[str, list[Sending]] = {}
        for each in world.plan.commands:
            clients.setdefault(each.client, []).append(each)
        sending = [world.loop.world.spawn(Client(world, self._ledger, own).run()) for own in clients.values()]
        await nemesis.run()
        await nemesis.heal()
        if sending:
            done, left = await asyncio.wait(sending, timeout=BOUND_S)
            for ended in done:
                ended.result()
            if left:
                world.promises.breaks("no work is stuck", f"{len(left)} clients have no answer after {BOUND_S:.0f} s")
                return
        if await self._is_done() and len(world.promises.broken) < MOST:
            await self._check()

    async def _is_done(self) -> bool:
        """Wait until nothing is under way; false, and a promise is broken, when that takes too long."""
        world, before = self._world, None
        until = world.loop.now + BOUND_S
        while True:
            await asyncio.sleep(LOOK_S)
            heads = {name: dict(store.state.heads) for name, store in world.stores.items()}
            under_way = ["journals grow"] if heads != before else await pending(world.plain)
            under_way = under_way or await rebuilding(world.plain)
            if not under_way:
                return True
            before = heads
            if world.loop.now > until:
                for each in under_way:
                    world.promises.breaks("no work is stuck", f"{each}, {BOUND_S:.0f} s after everything is well")
                return False

    async def _check(self) -> None:
        world = self._world
        self._state.commands = [self._settled(sending) for sending in world.plan.commands]
        for settled in self._state.commands:
            self._check_command(settled)
        for name, context in world.plain.items():
            for row in await unread_for_nothing(context):
                what = f"{name}/{row.consumer} has parked {row.type} {row.id}, which its build can read: {row.cause}"
                world.promises.breaks("a build does what it can read", what, row.key)
        keys = {key for name in world.fleet.services for key in _keys(world, name)}
        for name in world.plain:
            for each in await imbalances(name, world.plain, sorted(keys)):
                world.promises.breaks("all is in balance in the end", each)
        self._see(self._in_the_end, "in the end")

    def _settled(self, sending: Sending) -> SettledCommand:
        statuses = self._ledger.statuses.get(sending.label, [])
        rows = self._world.stores[sending.service].state.tables[INBOX_TABLE]
        row = rows.get((self._ledger.ids.get(sending.label, ""),))
        return SettledCommand(sending, tuple(statuses), str(row[1]) if row else "unknown")

    def _check_command(self, settled: SettledCommand) -> None:
        sending, state = settled.sending, settled.state
        if not self._ledger.accepted(sending.label):
            return
        if state not in SETTLED or (state == "parked" and not self._is_parked(sending)):
            command = self._world.fleet.handler(sending.service, sending.command).command
            self._world.promises.breaks(
                "what was accepted is done",
                f"{sending.label} ({sending.command}) was answered {settled.statuses[-1]}, and its state is {state}",
                str(sending.body.get(command.__key_fields__[0])),
            )

    def _is_parked(self, sending: Sending) -> bool:
        rows = self._world.stores[sending.service].state.tables[PARKED_TABLE].values()
        return self._ledger.ids[sending.label] in {row[6] for row in rows}

    def _see(self, invariants: Sequence[Invariant], when: str) -> None:
        for invariant in invariants:
            name = getattr(invariant, "__name__", repr(invariant)).replace("_", " ")
            if any(each.promise == name for each in self._world.promises.broken):
                continue
            try:
                if invariant(self._state) is False:
                    raise AssertionError("it says so")
            except AssertionError as error:
                self._world.promises.breaks(name, f"{when}: {error}", getattr(error, "key", ""))


def _keys(world: World, name: str) -> Iterator[str]:
    for events in world.promises.events[name].values():
        for event in events:
            yield event.key


def _failures(loop: SimLoop) -> Iterator[BrokenPromise]:
    for each in loop.failures:
        yield BrokenPromise(loop.now, "nothing fails unseen", each)


class _Errors(logging.Handler):
    """Notes what is logged as an error, with what was raised."""

    def __init__(self, told: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        where = traceback.extract_tb(error.__traceback__)[-1:] if error else []
        at = "".join(f" in {frame.name}, line {frame.lineno} of {Path(frame.filename).name}" for frame in where)
        self._told(record.getMessage() + (f": {error!r}{at}" if error else ""))


@contextmanager
def _listening(told: Callable[[str], None]) -> Iterator[None]:
    """Errors are noted. All else that a fleet under faults logs is of no use: thousands of lines, each expected."""
    logger, handler = logging.getLogger("chimera"), _Errors(told)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
