"""Many scenarios: on each stack one fleet that they share, and one of its own for each that asks for it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from chimera.errors import SettingsError
from chimera_faults.mistakes import MISTAKES
from chimera_faults.mutants import Mutant, void_because
from chimera_faults.own_user import drop_user, make_user
from chimera_faults.rig import Rig
from chimera_faults.scenario import EMBEDDED, Result, Scenario
from chimera_faults.scenarios import SCENARIOS, scenario_named
from chimera_faults.stacks import Stack, stack_of
from chimera_faults.sweeping import drop_mongodb, take_away
from chimera_faults.workload import Workload

logger = logging.getLogger("chimera")

Say = Callable[[str], object]


def end_in_order_on_sigterm() -> None:
    """As on Ctrl-C, so that no fleet outlives the rig that has started it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class CampaignPlan(NamedTuple):
    """The plan of a campaign. `names` are scenarios, none means all; `keep` is a folder for what is left of a run.

    Scenarios are spread over `fleets` that run at the same time; each fleet's take turns. With `long`, or by their
    names, also those that take many minutes. `own`: the URLs of the stack `own`, by the kind of engine.
    """

    stacks: Sequence[str]
    names: Sequence[str]
    seed: str
    quick: bool
    keep: Path | None
    workload: Workload
    fleets: int = 1
    long: bool = False
    own: Mapping[str, str] = MappingProxyType({})

    def scenarios(self, stack: str) -> list[Scenario]:
        """The scenarios to run on a stack."""
        return [
            scenario
            for scenario in SCENARIOS
            if scenario.strikes(stack)
            and (scenario.name in self.names or not self.names)
            and not (self.quick and scenario.slow)
            and (self.long or not scenario.long or scenario.name in self.names)
        ]


class Caught(NamedTuple):
    """The outcome of a mutant: the worst that its scenario found, empty for nothing, or why that proves nothing.

    `control`: its code ran, and did not make the mistake; so nothing is to be found.
    """

    mutant: str
    scenario: str
    finding: str
    void: str
    seconds: float
    control: bool = False

    @property
    def state(self) -> str:
        """In a word: `caught`, `void` where it proves nothing, or `MISSED`; of a control `clean` or `FOUND`."""
        if self.void:
            return "void"
        if self.control:
            return "FOUND" if self.finding else "clean"
        return "caught" if self.finding else "MISSED"


async def run_scenarios(plan: CampaignPlan, say: Say) -> list[Result]:
    """Run what is planned, one stack after the other; says each result as it comes."""
    results: list[Result] = []
    for name in plan.stacks:
        scenarios = plan.scenarios(name)
        groups = fleets_of(scenarios, plan.fleets)
        by_group = await asyncio.gather(*(_run_group(plan, name, group, say) for group in groups if not group[0].last))
        by_group += [await _run_group(plan, name, group, say) for group in groups if group[0].last]
        found = {result.scenario: result for group in by_group for result in group}
        results += [found[scenario.name] for scenario in scenarios]
    return results


def fleets_of(scenarios: Sequence[Scenario], count: int) -> list[list[Scenario]]:
    """Which scenarios share a fleet: those that name the same, and the others spread over so many."""
    named: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        if scenario.fleet:
            named.setdefault(scenario.fleet, []).append(scenario)
    others = [scenario for scenario in scenarios if not scenario.fleet]
    return [group for group in (others[start::count] for start in range(count)) if group] + list(named.values())


async def _run_group(plan: CampaignPlan, stack: str, group: Sequence[Scenario], say: Say) -> list[Result]:
    """Run scenarios one after another on one fleet; where one can't be run to its end, those behind it get another."""
    results: list[Result] = []
    while left := group[len(results) :]:
        try:
            async with fleet(plan, stack, left[0]) as rig:
                for turn, scenario in enumerate(left):
                    results.append(await rig.run(scenario, turn))
                    say(said(results[-1]))
        except Exception as error:  # whatever it is, that one proves nothing, and the others are run
            if len(results) == len(group):
                raise
            why, skips = str(error) or repr(error), isinstance(error, SettingsError)
            results.append(
                Result(group[len(results)].name, stack, skipped=why if skips else "", void="" if skips else why)
            )
            say(said(results[-1]))
    return results


async def run_mutants(plan: CampaignPlan, names: Sequence[str], say: Say) -> list[Caught]:
    """Strike each mutant and its control with its scenario, on a fleet of its own; says each as it comes.

    It is an embedded one where the scenario has that.
    """
    turns = asyncio.Semaphore(plan.fleets)

    async def in_turn(name: str, *, control: bool) -> Caught:
        async with turns:
            caught = await _run_mutant(plan, name, control=control)
        of = f"{name}, control" if control else name
        say(f"{caught.state:<7} {of:<36} by {caught.scenario:<36} {(caught.void or caught.finding)[:120]}")
        return caught

    return await asyncio.gather(*(in_turn(name, control=control) for name in names for control in (False, True)))


async def _run_mutant(plan: CampaignPlan, name: str, *, control: bool) -> Caught:
    scenario, began = scenario_named(MISTAKES[name].scenario), time.monotonic()
    mutant = Mutant(name, control)
    stack = EMBEDDED if EMBEDDED in scenario.stacks else next(iter(scenario.stacks))
    try:
        async with fleet(plan, stack, scenario, mutant=mutant) as rig:
            rig.bound_s = rig.bound_s if control else MUTANT_BOUND_S
            result = await rig.run(scenario)
            void = void_because(rig.folder.path, control=control)
    except SettingsError as error:
        return Caught(name, scenario.name, "", str(error), time.monotonic() - began, control)
    finding = next(iter(result.findings), "")
    void = void or (not finding and result.void) or ""
    return Caught(name, scenario.name, finding, void, time.monotonic() - began, control)


MUTANT_BOUND_S = 15.0
PLAIN = Scenario("", "")


@asynccontextmanager
async def fleet(
    plan: CampaignPlan, stack_name: str, scenario: Scenario = PLAIN, *, mutant: Mutant | None = None
) -> AsyncIterator[Rig]:
    """A fleet that serves, as a scenario needs it, in a folder of its own. Raises SettingsError where it can't be."""
    folder = Path(tempfile.mkdtemp(prefix="chimera-faults-"))
    stack = stack_of(stack_name, f"f{uuid.uuid4().hex[:8]}", plan.own)
    if scenario.own_user:
        await make_user(stack)
        stack = stack.as_user(stack.tag)
    if scenario.views:
        stack = stack.with_views(scenario.views)
    mounted = scenario.disk_bytes and _mount(folder / "state", scenario.disk_bytes)
    rig = Rig(stack, plan.workload, folder, seed=plan.seed, mutant=mutant, rows=scenario.rows)
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()
        await _try_to_take_away(stack, rig.partitions(), scenario)
        if plan.keep is not None:
            kept = plan.keep / f"{stack_name}-{mutant.name if mutant else 'plain'}-{int(time.time())}"
            shutil.copytree(folder, kept, dirs_exist_ok=True)
        if mounted:
            subprocess.run(["umount", str(folder / "state")], check=False)  # noqa: S603, S607, ASYNC221
        shutil.rmtree(folder, ignore_errors=True)


async def _try_to_take_away(stack: Stack, services: Mapping[str, int], scenario: Scenario) -> None:
    try:
        await take_away(stack.name, stack.tag, services)
        if scenario.views == "mongodb":
            await drop_mongodb(stack.tag)
        if scenario.own_user:
            await drop_user(stack)
    except Exception as error:  # noqa: BLE001 - what a dead server keeps is no result of the scenarios
        logger.warning("what has %s in its name stays on the servers of %s: %r", stack.tag, stack.name, error)


def _mount(folder: Path, size: int) -> bool:
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise SettingsError(f"a small disk can't be mounted: {error}") from error
    if ran.returncode:
        raise SettingsError(f"a small disk can't be mounted: {ran.stderr.strip()}")
    return True


def said(result: Result) -> str:
    """A result in a line, and its findings below."""
    if result.skipped:
        return f"skipped {result.scenario} on {result.stack}: {result.skipped}"
    state = "void" if result.void else "well" if result.is_well else "WRONG"
    line = (
        f"{state:<6} {result.stack:<17} {result.scenario:<36} {result.commands:>5} sent {result.fired:>4} fired "
        f"{result.seconds:6.1f} s of {result.whole_s:.1f} s"
    )
    return "\n".join(
        [
            line,
            *(
                f"       {text}"
                for text in [
                    result.void,
                    *result.notes,
                    *sorted(result.findings, key=lambda text: "stuck" not in text)[:8],
                ]
                if text
            ),
        ]
    )
