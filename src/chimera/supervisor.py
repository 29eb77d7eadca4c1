"""Every head in a process of its own, started again with growing pauses when one dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress

import aiohttp

from chimera.gateway import Gateway
from chimera.serving import listening, stop_signal
from chimera.settings import Settings

logger = logging.getLogger("chimera")

PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_S = 10.0
STOP_S = 15.0


class Head:
    """One child process: `chimera run SERVICE --read` or `--write`."""

    def __init__(self, service: str, kind: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self.name = f"{service} {kind}"
        self._command = command
        self._environment = environment
        self._process: Process | None = None

    async def keep(self) -> None:
        """Run the child, and again whenever it ends, until cancelled; then stop it."""
        failures = 0
        try:
            while True:
                started = asyncio.get_running_loop().time()
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    env=self._environment,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                )
                code = await self._process.wait()
                if asyncio.get_running_loop().time() - started > STEADY_S:
                    failures = 0
                pause = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
                failures += 1
                logger.warning("%s ended with %s; started again in %.1f s", self.name, code, pause)
                await asyncio.sleep(pause)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            logger.warning("%s did not stop within %.0f s and is killed", self.name, STOP_S)
            process.kill()
            await process.wait()


async def supervise(settings: Settings, config: str, ready: Callable[[str], None]) -> None:
    """Run every head of every service in its own process, and a gateway on the one port, until SIGTERM or SIGINT."""
    stop = stop_signal()
    gateway = Gateway(settings)
    tasks = [asyncio.ensure_future(head.keep()) for head in _heads(settings, config)]
    try:
        async with listening(gateway.site(), settings.host, settings.port) as base:
            waiting = asyncio.ensure_future(_all_ready(settings))
            stopped = asyncio.ensure_future(stop.wait())
            await asyncio.wait([waiting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                ready(base)
            await stopped
            waiting.cancel()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.close()


def _heads(settings: Settings, config: str) -> list[Head]:
    environment = {**os.environ, "CHIMERA_PORT": str(settings.port), "CHIMERA_STATE": settings.state}
    return [
        Head(
            name,
            kind,
            [sys.executable, "-m", "chimera", "--config", config, "run", name, f"--{kind}", "--with-parent"],
            environment,
        )
        for name in settings.services
        for kind in ("read", "write")
    ]


async def _all_ready(settings: Settings) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
        for name in settings.services:
            ready = f"{settings.base(name, fleet=True)}/_chimera/{name}/health/ready"
            while not await _is_ready(session, ready):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
