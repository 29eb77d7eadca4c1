"""A fleet under steady load while one fault after the other strikes it, and what every process holds meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import aiohttp
import msgspec

from chimera.core.aio.tasks import stop
from chimera.errors import ChimeraError
from chimera_faults.driver import TIMEOUT, Driver
from chimera_faults.fleet import send_signal
from chimera_faults.points import Armed
from chimera_faults.rig import PAUSE_S, Rig, Run
from chimera_faults.scenario import Result, Scenario, Strike
from chimera_faults.scenarios import SCENARIOS
from chimera_faults.soak_curves import Curves, kind_of
from chimera_faults.strikes import OWNER, hold

Choose = Callable[[str, Sequence[int]], list[Scenario]]
"""The scenarios that may strike on a stack while these processes are spared."""

CLIENTS = 16
PER_KEY = 20
"""Commands of a key: what the services keep of a key grows with them, and nobody may take that for a leak."""
BREATH_S = (0.2, 2.0)
DEADLY_SHARE = 0.2
"""How much longer it goes on, with faults that end any process, once the curves are complete."""

END_ANY = frozenset(
    {"direct-killed", "read-head-killed-before-201"}  # the only process of its kind
    | {"heads-killed", "rolling-restart", "fleet-killed", "clock-jumps"}  # from outside
    | {"redrive-killed"}  # the operator's command is struck as well, and is spared less than the heads
)
"""The scenarios that can't strike while one head of each kind is spared."""
SLOW_AND_WANTED = frozenset({"views-down", "heads-killed", "slow-consumer"})


class Soaked(msgspec.Struct):
    """The result of a soak: the ledger's row, the curves, how often each strike struck, and what never came to pass.

    The curves' time is `seconds`; `spared` are the processes that nothing ended meanwhile.
    """

    result: Result
    curves: Curves
    seconds: float
    spared: Sequence[int]
    struck: Counter[str]
    missed: list[str]
    check_s: float = 0.0


async def soak(
    rig: Rig, *, seconds: float, rate: float, say: Callable[[str], object], choose: Choose | None = None
) -> Soaked:
    """Load and strike a fleet that serves, `rate` commands a second, then wait until it is at rest, and check."""
    curves, random = Curves(), Random(f"{rig.seed}/strikes")  # noqa: S311 - not a secret
    strikes = Strikes(rig, random, say, choose or strikes_on)
    spared = one_of_each(rig)
    async with loaded(rig, rate):
        sampling = asyncio.ensure_future(curves.keep_sampling(rig.fleet))
        try:
            await strikes.go_on(seconds, spared)
            sampled_s = curves.seconds
            await strikes.go_on(seconds * DEADLY_SHARE, ())
        finally:
            await stop(sampling)
    await rig.fleet.run("parked", "retry", OWNER, "--consumer", "commands", "--all")  # poison that a strike gave up
    result = Result("soak", rig.stack.name, fired=sum(strikes.struck.values()))
    say("checking")
    rig.ledger.recall()
    began = time.monotonic()
    await rig.conclude(result, parks=False, heal=_nothing)
    result.commands = len(rig.ledger.entries)
    result.void = "" if result.fired and result.commands else "nothing was struck, or nothing was sent"
    check_s = time.monotonic() - began - result.seconds
    result.whole_s = curves.seconds
    return Soaked(result, curves, sampled_s, spared, strikes.struck, strikes.missed, check_s)


async def _nothing() -> None: ...


def one_of_each(rig: Rig) -> list[int]:
    """The processes to spare: the fleet's own, and one head of each kind."""
    by_kind = {kind_of(pid): pid for pid in rig.fleet.heads()}
    return [rig.fleet.pid, *by_kind.values()]


@asynccontextmanager
async def loaded(rig: Rig, rate: float) -> AsyncIterator[None]:
    """Send so many commands a second, from several clients with a key each at a time, whatever becomes of them."""
    driver = Driver(f"http://127.0.0.1:{rig.client.port}", rig.workload, rig.ledger, rig.seed)
    over = asyncio.Event()
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session, asyncio.TaskGroup() as clients:
        for client in range(CLIENTS):
            clients.create_task(_send(rig, driver, session, client, CLIENTS / rate, over))
        try:
            yield
        finally:
            over.set()


async def _send(
    rig: Rig, driver: Driver, session: aiohttp.ClientSession, client: int, every_s: float, over: asyncio.Event
) -> None:
    """One command after the other, a key's at a time; what was answered is in the ledger's file alone."""
    random, turn = Random(f"{rig.seed}/{client}"), 0  # noqa: S311 - not a secret
    due = time.monotonic() + every_s * client / CLIENTS
    while not over.is_set():
        requests = [rig.workload.request(random, f"c{client}-{turn}", number) for number in range(PER_KEY)]
        sent = []
        for request in requests:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if over.is_set():
                break
            await driver.deliver(session, request)
            sent.append(request.label)
            due = max(due + every_s, time.monotonic() - 1.0)
        rig.ledger.forget(sent)
        turn += 1


class Strikes:
    """One strike after the other: all that there are in a random order, then all of them again."""

    def __init__(self, rig: Rig, random: Random, say: Callable[[str], object], choose: Choose) -> None:
        self.struck: Counter[str] = Counter()
        self.missed: list[str] = []
        self._rig = rig
        self._random = random
        self._say = say
        self._choose = choose
        self._turn = 0

    async def go_on(self, seconds: float, spared: Sequence[int]) -> None:
        """Strike until the time is over, and end none of the processes that are spared."""
        self._rig.folder.spare(spared)
        until, left = time.monotonic() + seconds, list[Scenario]()
        known = self._choose(self._rig.stack.name, spared)
        while time.monotonic() < until:
            left = left or self._random.sample(known, len(known))
            await self._strike(left.pop())
            await asyncio.sleep(self._random.uniform(*BREATH_S))

    async def _strike(self, scenario: Scenario) -> None:
        """With little traffic of the strike's own: the load is there."""
        self._turn += 1
        little = scenario.traffic._replace(keys=4, commands=2, pause_s=0.5)
        run = Run(self._rig, scenario._replace(traffic=little), f"k{self._turn}")
        missed = ""
        try:
            await run.strike()
        except (ChimeraError, TimeoutError) as error:
            missed = str(error) or "it took too long"
        await run.heal()
        (self._rig.folder.path / "antidote").touch()
        if missed := missed or run.unfired():
            self.missed.append(f"{scenario.name}: {missed}")
        self.struck[scenario.name] += len(run.fired())
        self._say(f"{len(run.fired()):>3} fired  {scenario.name} {missed}")
        labels = [entry.label for entry in self._rig.ledger.entries.values() if entry.key.startswith(f"{run.tag}-")]
        self._rig.ledger.forget(labels)


def strikes_on(stack: str, spared: Sequence[int]) -> list[Scenario]:
    """The scenarios that may strike on a stack while these processes are spared."""
    of_scenarios = [
        each
        for each in SCENARIOS
        if stack in each.stacks
        and not (each.parks or each.fleet or each.long)
        and not (each.slow and each.name not in SLOW_AND_WANTED)
        and not (spared and each.name in END_ANY)
    ]
    clock = Armed("", "leases.commit.before", "clock", times=0, seconds=600.0)
    return [
        *of_scenarios,
        Scenario("a-head-killed", "a head is killed with SIGKILL", strike=one_head(signal.SIGKILL, spared)),
        Scenario("a-head-stopped", "a head is stopped with SIGTERM", strike=one_head(signal.SIGTERM, spared)),
        Scenario("a-head-paused", "a head stands still past its lease", strike=one_head(signal.SIGSTOP, ())),
        Scenario("clocks-ahead", "every clock is ten minutes ahead for a while", [clock], hold(3.0)),
    ]


def one_head(number: signal.Signals, spared: Sequence[int]) -> Strike:
    """Send a signal to a head that is not spared; one that was stopped goes on later."""

    async def strike(run: Run) -> None:
        random = Random(f"{run.rig.seed}/{run.tag}")  # noqa: S311 - not a secret
        heads = await run.until(lambda: sorted({*run.rig.fleet.heads()} - {*spared}), "there is a head to strike")
        pid = random.choice(heads)
        kind = kind_of(pid)
        await send_signal([pid], number)
        run.struck(f"{number.name} to {kind}")
        if number is signal.SIGSTOP:
            await asyncio.sleep(PAUSE_S)
            await send_signal([pid], signal.SIGCONT)

    return strike
