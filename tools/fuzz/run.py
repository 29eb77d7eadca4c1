"""Runs targets: each input within its time, none that fails otherwise than it may, and memory flat."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from random import Random
from types import FrameType

import msgspec

from chimera.web.site import Site
from fuzz.decoders import Target, decoders
from fuzz.served import HASTY, Failed, begun, gateway_targets, site_target, wire_target

SHARES = {
    "commands": 130,
    "positions": 60,
    "after": 60,
    "cursors": 60,
    "tokens": 80,
    "queries": 80,
    "requests": 60,
    "multipart": 80,
    "records": 80,
    "metadata": 60,
    "owners": 40,
    "site": 100,
    "wire": 70,
    "wire, gateway": 10,
    "gateway": 20,
    "answers": 10,
}
"""Of 1,000 inputs, those of each target."""
BLOCK = 20_000
"""Inputs after which a process begins with a new service: what it has accepted is meant to be kept."""
TOGETHER = 256
"""Connections at once."""
HANGS_S = 20.0
TOLD = 5
"""Failures that are told of each target."""


class Hangs(Exception):  # noqa: N818 - what it does
    """An input takes longer than any may."""


class Done(msgspec.Struct):
    """What a process has read of a target, in how many seconds, and what went wrong."""

    inputs: int = 0
    seconds: float = 0.0
    failures: list[str] = []


class Report(msgspec.Struct):
    """What a process has done: targets by name; its memory, in MiB, once it was warm and at the end."""

    targets: dict[str, Done]
    warm: float = 0.0
    end: float = 0.0
    tasks: int = 0


def work(inputs: int, seed: int, index: int, processes: int) -> Report:
    """Read this process's part of so many inputs."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_Worker(seed, index, processes, Path(folder)).run(inputs))


async def one(target: str, seed: int, at: int) -> None:
    """Read one input again, alone. Raises what it raises."""
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            targets, failed = await _targets(stack, Path(folder))
            await _read(targets[target], seed, target, at)
            assert not failed.told, failed.told


async def _targets(stack: AsyncExitStack, folder: Path) -> tuple[Mapping[str, Target], Failed]:
    failed = stack.enter_context(_listening())
    context, head = await stack.enter_async_context(begun())
    return {
        **decoders(context.service, context),
        "site": site_target(head),
        "wire": await stack.enter_async_context(wire_target(Site([head], doors=HASTY), str(folder / "wire.sock"))),
        **await stack.enter_async_context(gateway_targets(head, folder)),
    }, failed


async def _read(target: Target, seed: int, name: str, at: int) -> None:
    found = target(Random(f"{seed}/{name}/{at}"))  # noqa: S311 - it is to be the same again
    if inspect.isawaitable(found):
        await found


class _Worker:
    def __init__(self, seed: int, index: int, processes: int, folder: Path) -> None:
        self._seed, self._index, self._processes, self._folder = seed, index, processes, folder
        self._report = Report({name: Done() for name in SHARES})

    async def run(self, inputs: int) -> Report:
        """Read all of them, in blocks."""
        blocks = max(1, round(inputs / self._processes / BLOCK))
        signal.signal(signal.SIGALRM, _hangs)
        for block in range(blocks):
            async with AsyncExitStack() as stack:
                targets, failed = await _targets(stack, self._folder)
                for name, share in SHARES.items():
                    every = range(self._index, inputs * share // 1000, self._processes)
                    part = every[len(every) * block // blocks : len(every) * (block + 1) // blocks]
                    await self._block(name, targets[name], part, failed)
            if block == max(0, blocks // 5 - 1):
                self._report.warm = _memory()
        self._report.end = _memory()
        self._report.tasks = len(asyncio.all_tasks()) - 1
        return self._report

    async def _block(self, name: str, target: Target, part: Sequence[int], failed: Failed) -> None:
        done, began = self._report.targets[name], time.perf_counter()
        step = TOGETHER if name.startswith("wire") else 1
        for start in range(0, len(part), step):
            signal.setitimer(signal.ITIMER_REAL, HANGS_S)
            await asyncio.gather(*(self._try(name, target, at) for at in part[start : start + step]))
            if failed.told:
                self._tell(name, part[start], f"it logged: {failed.told[0]}")
                failed.told.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        done.inputs += len(part)
        done.seconds += time.perf_counter() - began

    async def _try(self, name: str, target: Target, at: int) -> None:
        try:
            await _read(target, self._seed, name, at)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            self._tell(name, at, f"{type(error).__name__}: {error}")

    def _tell(self, name: str, at: int, what: str) -> None:
        failures = self._report.targets[name].failures
        if len(failures) < TOLD:
            failures.append(f"make fuzz SEED={self._seed} ARGS='--target {name} --at {at}': {what[:2000]}")


@contextmanager
def _listening() -> Iterator[Failed]:
    """What the library and asyncio log as errors; nothing of it is printed."""
    failed, loggers = Failed(), [logging.getLogger(name) for name in ("chimera", "asyncio", "uvicorn.error")]
    for logger in loggers:
        logger.addHandler(failed)
        logger.propagate = False
    try:
        yield failed
    finally:
        for logger in loggers:
            logger.removeHandler(failed)
            logger.propagate = True


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Hangs(f"it takes longer than {HANGS_S:g} s")


def _memory() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
