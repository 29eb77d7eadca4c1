"""The rig: a fleet, its ledger, and one scenario after the other on it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from chimera.core.context import Context
from chimera.core.timing import Timing
from chimera.errors import ChimeraError, SettingsError
from chimera.run.engines import load_service, opened
from chimera.run.settings import read_settings
from chimera.testing.kit.balance import pending
from chimera_faults.checks import Found, check, labels_aside
from chimera_faults.driver import Driver
from chimera_faults.fleet import RunningFleet, send_signal, state_of
from chimera_faults.history import write_history
from chimera_faults.ledger import Ledger
from chimera_faults.mutants import Mutant
from chimera_faults.points import FOLDER, Armed, Fired, PointFolder
from chimera_faults.proxy import Proxy
from chimera_faults.scenario import Result, Scenario
from chimera_faults.stacks import Stack
from chimera_faults.workload import Workload

BOUND_S = 90.0
FIRING_S = 60.0
STRIKING_S = 240.0
LOOK_S = 0.05
SETTLING_S = Timing().heads_kept_s + 0.1
"""Between two looks whether all is done: the second must not rest on heads that were known at the first."""
PAUSE_S = 7.0
"""How long a process stands still that has to lose its leases: twice their time, and a second."""
GOING_ON_S = 1.0
"""How long there is still traffic then: what the process has in hand has to meet what others do."""


class Rig:
    """A fleet on a stack, in a folder of its own.

    `mutant` is a deliberate bug that its processes have. There are `rows` old events before it starts.
    """

    def __init__(
        self,
        stack: Stack,
        workload: Workload,
        path: Path,
        *,
        seed: str = "1",
        workers: int = 2,
        mutant: Mutant | None = None,
        rows: int = 0,
    ) -> None:
        self.stack = stack
        self.workload = workload
        self.seed = seed
        self.folder = PointFolder(path / "faults")
        self.folder.arm([])
        self.ledger = Ledger(path / "ledger.jsonl")
        environment = {FOLDER: str(self.folder.path), **stack.environment(faulty=True)}
        if mutant:
            environment |= mutant.environment()
        self.fleet = RunningFleet(workload.config, path / "state", environment, workers=workers)
        self.client = Proxy("127.0.0.1", self.fleet.port)
        self.database = _proxy_to(stack.urls["store"])
        self.bound_s = BOUND_S
        self.rows = rows
        self._known: set[str] = set()
        self._known_aside: set[str] = set()

    async def start(self) -> None:
        """Returns once everything serves. Raises NotReady."""
        if self.database is not None:
            await self.database.start()
            behind = self.stack.through(self.database.port)
            self.fleet.environment.update(behind.environment(faulty=True))
        if self.rows:
            async with self.contexts() as contexts:
                await write_history(contexts, next(iter(contexts)), self.rows)
        await self.fleet.start()
        await self.client.start()

    async def stop(self) -> None:
        """Stop the fleet; its files stay."""
        await self.client.close()
        with suppress(ProcessLookupError, AssertionError):
            await self.fleet.stop()
        if self.database is not None:
            await self.database.close()

    @asynccontextmanager
    async def contexts(self) -> AsyncIterator[dict[str, Context]]:
        """The services with plain engines, in this process."""
        environment = {**self.stack.environment(faulty=False), "CHIMERA_STATE": str(self.fleet.state)}
        settings = read_settings(self.workload.config, environment, {"port": self.fleet.port})
        async with opened(settings, list(settings.services), fleet=True) as contexts:
            yield {context.service.name: context for context in contexts}

    def partitions(self) -> dict[str, int]:
        """The services, with how many partitions each has."""
        apps = read_settings(self.workload.config, {}).services
        return {name: load_service(settings.app).partitions for name, settings in apps.items()}

    async def run(self, scenario: Scenario, turn: int = 0) -> Result:
        """Strike, heal, wait, check."""
        run = Run(self, scenario, f"s{turn}")
        result = Result(scenario.name, self.stack.name)
        sent_before = len(self.ledger.entries)
        began_all = time.monotonic()
        try:
            await run.strike()
        except SettingsError as error:
            result.skipped = str(error)
        except (ChimeraError, TimeoutError) as error:
            result.void = str(error) or "it took too long"
        if not scenario.keep_armed:
            await run.heal()
        if scenario.settles:
            await self.conclude(result, parks=scenario.parks, heal=run.heal)
        result.findings += [f"wrong: {text}" for text in run.wrong]
        result.other += len(run.wrong)
        result.commands = len(self.ledger.entries) - sent_before
        result.fired = len(run.fired())
        result.void = result.void or run.unfired()
        result.notes = run.notes
        result.reached = sorted(self.folder.reached())
        result.whole_s = time.monotonic() - began_all
        return result

    async def conclude(self, result: Result, *, parks: bool, heal: Callable[[], Awaitable[None]]) -> None:
        """Wait until nothing is under way, heal, and write down what is wrong now and was not before."""
        began = time.monotonic()
        left = await self._converged()
        result.seconds = time.monotonic() - began
        await heal()
        found = await self._found(parks)
        if left:
            found.wrong += [f"stuck: {each}" for each in left]
        self._note(result, found)

    async def _converged(self) -> list[str]:
        """Wait until nothing is under way; what is still, when it takes too long."""
        until, left = time.monotonic() + self.bound_s, ["the services can't be opened"]
        while time.monotonic() < until:
            with suppress(ChimeraError):
                async with self.contexts() as contexts:
                    left = await _left(contexts, until)
                if not left:
                    return []
            await asyncio.sleep(LOOK_S)
        return left

    async def _found(self, parks: bool) -> Found:
        async with self.contexts() as contexts:
            try:
                found = await check(self.workload, contexts, self.ledger.entries)
            except ChimeraError as error:
                return Found(wrong=[f"what is kept can't be read: {error}"])
            aside = {
                f"{label or 'a message without a label'} at {consumer}"
                for consumer, labels in (await labels_aside(self.workload, contexts)).items()
                for label in labels
            }
        if not parks:
            found.wrong += [f"{each} is set aside" for each in sorted(aside - self._known_aside)]
        self._known_aside |= aside
        return found

    def _note(self, result: Result, found: Found) -> None:
        """Count what is wrong now and was not before."""
        new = {
            kind: [text for text in getattr(found, kind) if text not in self._known]
            for kind in ("lost", "doubled", "out_of_order", "unasked", "wrong")
        }
        result.lost, result.doubled = len(new["lost"]), len(new["doubled"])
        result.out_of_order, result.other = len(new["out_of_order"]), len(new["unasked"]) + len(new["wrong"])
        result.findings = [f"{kind.replace('_', ' ')}: {text}" for kind, texts in new.items() for text in texts]
        self._known.update(text for texts in new.values() for text in texts)


def _proxy_to(url: str) -> Proxy | None:
    """A proxy before the server of a URL; None for an embedded engine."""
    place = urlsplit(url)
    return Proxy(place.hostname, place.port) if place.hostname and place.port else None


async def _left(contexts: Mapping[str, Context], until: float) -> list[str]:
    """Wait until nothing is under way, and nothing was added while that was looked at; what is still under way."""
    before: object = None
    while time.monotonic() < until:
        left = await pending(contexts)
        heads = {name: await context.store.heads() for name, context in contexts.items()}
        if not left and heads == before:
            return []
        before = heads
        await asyncio.sleep(SETTLING_S)
    return left or ["the journals grow"]


class Run:
    """A scenario under way: what strikes are given."""

    def __init__(self, rig: Rig, scenario: Scenario, tag: str) -> None:
        self.rig = rig
        self.tag = tag
        self.notes: list[str] = []
        self.wrong: list[str] = []
        self.driver = Driver(f"http://127.0.0.1:{rig.client.port}", rig.workload, rig.ledger, rig.seed)
        self._scenario = scenario
        self._armed = [
            Armed(f"{tag}-{index}", each.point, each.action, each.nth, each.times, each.seconds, each.where)
            for index, each in enumerate(scenario.armed)
        ]
        self._outside: set[str] = set()
        self._log_began = rig.fleet.output.stat().st_size if rig.fleet.output.exists() else 0
        self._looked_at = 0.0
        self._all_fired = False

    async def strike(self) -> None:
        """Send the traffic and strike meanwhile. Raises ChimeraError, or TimeoutError, when a strike fails."""
        (self.rig.folder.path / "antidote").unlink(missing_ok=True)
        self.rig.folder.arm(self._armed)
        done = asyncio.Event()
        strikes: list[Coroutine[Any, Any, None]] = [self._resume()]
        if self._scenario.strike is not None:
            strikes.append(self._scenario.strike(self))
        striking = asyncio.gather(*strikes)
        striking.add_done_callback(lambda _: done.set())
        try:
            await self.driver.send(self.tag, self._scenario.traffic, lambda: done.is_set() and self._has_fired())
            async with asyncio.timeout(STRIKING_S):
                await striking
        finally:
            striking.cancel()

    async def heal(self) -> None:
        """End every fault."""
        self.rig.folder.arm([])
        for proxy in filter(None, (self.rig.client, self.rig.database)):
            proxy.make("none")
        stopped = [pid for pid in self.rig.fleet.heads() if state_of(pid) == "T"]
        await send_signal(stopped, signal.SIGCONT)

    def struck(self, what: str) -> None:
        """Record that something was struck from outside; call it when that is certain."""
        self._outside.add(what)
        self.rig.folder.record(Fired(f"{self.tag}-outside", what, "outside", os.getpid(), "", time.monotonic()))

    def arm(self, *faults: Armed) -> None:
        """Arm more, or in place of what was: with no faults nothing is armed any more."""
        self.rig.folder.arm(faults)

    def fired(self) -> list[Fired]:
        """The faults that have struck in this run, in order."""
        return [each for each in self.rig.folder.fired() if each.name.startswith(f"{self.tag}-")]

    def unfired(self) -> str:
        """The faults that were to fire and did not, in words; empty when all did."""
        fired = {each.name for each in self.fired()}
        missing = [f"{each.action} at {each.point}" for each in self._armed if each.name not in fired]
        if self._scenario.strike is not None and not self._armed and not self._outside:
            missing.append("nothing was struck")
        return ", ".join(missing) and f"did not fire: {', '.join(missing)}"

    async def until(
        self, condition: Callable[[], Any], what: str, within_s: float = FIRING_S, look_s: float = LOOK_S
    ) -> Any:
        """Wait until a condition holds, and return its value. Raises TimeoutError that says `what` never came.

        It is looked at every `look_s` seconds: what asks an engine takes that from the fleet.
        """
        give_up_at = time.monotonic() + within_s
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"it never came to this: {what}")
            await asyncio.sleep(look_s)

    async def must(
        self, condition: Callable[[], Any], what: str, within_s: float = FIRING_S, look_s: float = LOOK_S
    ) -> None:
        """As `until`, but what never comes is wrong."""
        try:
            await self.until(condition, what, within_s, look_s)
        except TimeoutError as error:
            self.wrong.append(str(error))

    async def ask(self, path: str) -> tuple[int, Any]:
        """The status and the JSON that the fleet answers to a GET; 0 and nothing where it does not."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as session,
                session.get(self.rig.fleet.base + path) as response,
            ):
                return response.status, await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return 0, None

    def logged(self, *words: str) -> bool:
        """True where the fleet has logged a line with these words since this began."""
        with self.rig.fleet.output.open("rb") as output:
            output.seek(self._log_began)
            lines = output.read().decode(errors="replace").splitlines()
        return any(all(word in line for word in words) for line in lines)

    def _has_fired(self) -> bool:
        """True when everything armed has fired; looked at now and then, because many ask."""
        if not self._all_fired and time.monotonic() - self._looked_at > LOOK_S:
            self._looked_at = time.monotonic()
            self._all_fired = {each.name for each in self._armed} <= {each.name for each in self.fired()}
        return self._all_fired

    async def _resume(self) -> None:
        """Let each process that a fault has stopped stand still until its leases are over, and then go on.

        Not all of them at once: one that stands still may hold a lock that another one needs to get to its fault.
        """
        pauses = sum(each.action == "pause" for each in self._armed)
        done = 0
        while done < pauses:
            pids = await self.until(partial(self._paused, done), "a process was paused")
            done += len(pids)
            await send_signal(pids, signal.SIGSTOP)
            await asyncio.sleep(PAUSE_S)
            await send_signal(pids, signal.SIGCONT)
            await asyncio.sleep(GOING_ON_S)

    def _paused(self, after: int) -> list[int]:
        """The processes that were paused, but for the first so many."""
        return [each.pid for each in self.fired() if each.action == "pause"][after:]
