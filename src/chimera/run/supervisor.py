"""Every read and write head in a process of its own, started again with growing pauses when one dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing, suppress

import msgspec

from chimera.core.clock import Clock
from chimera.core.timing import pause_s
from chimera.errors import SettingsError
from chimera.run.engines import admit_all, load_named, opened, reach_of
from chimera.run.front.chain import check_certificate, in_front
from chimera.run.front.gateway import Gateway
from chimera.run.front.issuing import issuing_at, variables_of
from chimera.run.front.keys import FleetKeys
from chimera.run.hosting import stop_all
from chimera.run.serving import answering, base_of, listen_as_set, stop_signal, until
from chimera.run.settings import Settings
from chimera.web.permission.groups import standing
from chimera.web.permission.passages import who_may

logger = logging.getLogger("chimera")

RESTART_FIRST_S = 0.1
RESTART_LONGEST_S = 5.0
STEADY_S = 10.0
STOP_S = 14.0
WRONG_SETTINGS = 2


class Head:
    """One child process, a read or write head: `chimera run SERVICE --read` or `--write`.

    `ready` is set once it has said that it serves; `base` is its base URL.
    """

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.base = ""
        self._command = command
        self._environment = environment
        self._process: Process | None = None

    async def keep(self) -> None:
        """Run the child, and again whenever it ends, until cancelled; then stop it.

        Raises SettingsError when it can't start because of its settings.
        """
        failures = 0
        try:
            while True:
                started = asyncio.get_running_loop().time()
                code = await self._run()
                if code == WRONG_SETTINGS and not self.ready.is_set():
                    raise SettingsError(f"the {self.name} head can't start; the line above says why")
                if asyncio.get_running_loop().time() - started > STEADY_S:
                    failures = 0
                failures += 1
                pause = pause_s(failures, RESTART_FIRST_S, RESTART_LONGEST_S)
                logger.warning("%s ended with %s; started again in %.1f s", self.name, code, pause)
                await asyncio.sleep(pause)
        finally:
            await self._stop()

    async def _run(self) -> int:
        """Start the child in a session of its own, so that a Ctrl-C comes to us first; returns its exit status."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        reading = asyncio.ensure_future(self._read(process))
        try:
            return await process.wait()
        finally:
            reading.cancel()

    async def _read(self, process: Process) -> None:
        """Wait for the child's word that it is ready; what else it prints goes to our standard error."""
        assert process.stdout is not None
        rest = b""
        while chunk := await process.stdout.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"ready "):
                    self.base = line.removeprefix(b"ready ").decode().strip()
                    self.ready.set()
                else:
                    sys.stderr.write(f"{self.name}: {line.decode(errors='replace')}\n")
            rest = rest[-(1 << 16) :]

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
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def supervise(settings: Settings, config: str, ready: Callable[[str], None], *, workers: int = 1) -> None:
    """Run every read and write head in its own process, and a gateway on the one port, until SIGTERM or SIGINT.

    A service has one read head and `workers` write heads, which share its partitions by leases.
    """
    if settings.port == 0:
        raise SettingsError("port 0 is for a single process; with --processes name a port, as in: --port 8000")
    stop, http = stop_signal(), settings.http
    check_certificate(http)
    async with opened(settings, list(settings.services), fleet=True) as contexts:
        await admit_all(settings, contexts)  # what is wrong is said once, not by every process
    settings = with_fleet_key(settings)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(closing(await listen_as_set(http, settings.host, settings.port)))
        settings, beside = issuing_at(settings, base_of(settings.host, listener, http), Clock())
        _say_who_may(settings)
        heads = _heads(settings, config, workers)
        gateway = Gateway(
            settings, processes=lambda: {head.name: head.base for head in heads if head.base}, beside=beside
        )
        stack.push_async_callback(gateway.close)
        works = {f"the {head.name} head's keeper": asyncio.ensure_future(head.keep()) for head in heads}
        stack.push_async_callback(stop_all, list(works.values()), STOP_S + 1)
        app = await stack.enter_async_context(in_front(http, gateway.site(), proves=settings.identity.proves))
        works["the gateway"] = await stack.enter_async_context(answering(app, listener, gateway.doors, http))
        works["the announcer"] = asyncio.ensure_future(_announce(heads, base_of(settings.host, listener, http), ready))
        stack.callback(works["the announcer"].cancel)
        await until(stop, works)


async def _announce(heads: Sequence[Head], base: str, ready: Callable[[str], None]) -> None:
    for head in heads:
        await head.ready.wait()
    ready(base)
    await asyncio.Event().wait()


def with_fleet_key(settings: Settings) -> Settings:
    """The settings, with a key of the fleet: where none is set, one that lives as long as these processes."""
    if settings.fleet.keys:
        return settings
    return msgspec.structs.replace(settings, fleet=FleetKeys(passing=Clock().random_bytes(32).hex()))


def _say_who_may(settings: Settings) -> None:
    reach = reach_of(settings)
    told = [who_may([load_named(settings, name) for name in settings.services], reach)]
    logger.warning("who may: %s", "; ".join(filter(None, [*told, standing(reach, is_alone=True)])))


def _heads(settings: Settings, config: str, workers: int) -> list[Head]:
    environment = {
        **os.environ,
        "CHIMERA_PORT": str(settings.port),
        "CHIMERA_STATE": settings.state,
        "CHIMERA_FLEET__PASSING": settings.fleet.passing,
        "CHIMERA_DEV": str(settings.dev).lower(),
        "CHIMERA_OPEN": str(settings.open).lower(),
        **variables_of(settings),
    }
    command = [sys.executable, "-m", "chimera", "--config", config, "run"]
    heads = []
    for name in settings.services:
        heads.append(Head(f"{name} read", [*command, name, "--read", "--with-parent"], environment))
        for number in range(1, workers + 1):
            named = f"{name} write" if workers == 1 else f"{name} write {number}"
            heads.append(Head(named, [*command, name, "--write", "--with-parent"], environment))
    return heads
