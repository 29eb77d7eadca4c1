"""Loading orders while something happens to the services that take them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence

from chimera_faults.fleet import command_of, descendants
from marketplace.account import Account
from marketplace.load import SERVICES, load
from marketplace.olist import Olist
from marketplace.seed import Seed
from tests.e2e.conftest import LEASE_S, Chimera, Running

SMALL = Seed(sellers=8, gigs=20, clients=20, orders=100)


async def load_all(
    chimera: Chimera,
    source: Olist | Seed = SMALL,
    *,
    at: int = 0,
    then: Callable[[], None] | None = None,
    workers: int = 32,
    patience: float = 90,
    stall: float = 60,
) -> Account:
    """Load everything; `then` is called once, in a thread, when `at` requests were sent."""
    called: list[asyncio.Future[None]] = []

    def report(account: Account) -> None:
        if then and not called and account.everything.sent >= at:
            called.append(asyncio.get_running_loop().run_in_executor(None, then))

    bases = dict.fromkeys(SERVICES, chimera.base)
    account = await load(source, bases, report, workers=workers, patience=patience, stall=stall)
    for each in called:
        await each
    assert bool(called) == bool(then)
    return account


def strike(server: Running, services: Sequence[str]) -> None:
    """Of each service's workers, kill one for good and pause one for longer than its lease."""
    paused = []
    for service in services:
        workers = [each for each in descendants(server.pid) if f"run {service} --write" in command_of(each)]
        assert len(workers) > 2, workers
        os.kill(workers[0], signal.SIGKILL)
        os.kill(workers[1], signal.SIGSTOP)
        paused.append(workers[1])
    time.sleep(2 * LEASE_S)
    for pid in paused:
        os.kill(pid, signal.SIGCONT)
