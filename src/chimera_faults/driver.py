"""The driver: sends seeded commands over HTTP, each key's one after the other, and insists until it has an answer."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import aiohttp

from chimera_faults.ledger import NO_ANSWER, Ledger
from chimera_faults.workload import Delivery, Workload

TIMEOUT = aiohttp.ClientTimeout(total=20.0)
PATIENCE_S = 60.0
PAUSE_S = 0.05
REMEMBERED = 10_000
BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


class Traffic(NamedTuple):
    """The amount to send: commands for each of so many keys, and more of them until `more_s` seconds are over.

    These come `pause_s` seconds after the answer to the key's one before.

    With `once` each command is sent once, whatever comes back, and a 503 has to mean that nothing was kept.
    `poison` is given to one command of each of the first `poisoned` keys.
    """

    keys: int = 12
    commands: int = 4
    more_s: float = 120.0
    pause_s: float = 0.15
    once: bool = False
    poison: str = ""
    poisoned: int = 0


class Driver:
    """Sends commands; `seconds` holds how long each of the last answers took."""

    def __init__(self, base: str, workload: Workload, ledger: Ledger, seed: str) -> None:
        self._base = base
        self._workload = workload
        self._ledger = ledger
        self._seed = seed
        self.seconds: deque[float] = deque(maxlen=REMEMBERED)

    async def send(self, tag: str, traffic: Traffic, enough: Callable[[], bool]) -> None:
        """Send what the traffic asks for, and go on until it is enough or the time is over."""
        until = time.monotonic() + traffic.more_s
        keys = [f"{tag}-{index}" for index in range(traffic.keys)]
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            await asyncio.gather(
                *(self._send_all(session, key, index, traffic, enough, until) for index, key in enumerate(keys))
            )

    async def _send_all(
        self,
        session: aiohttp.ClientSession,
        key: str,
        index: int,
        traffic: Traffic,
        enough: Callable[[], bool],
        until: float,
    ) -> None:
        random, number = Random(f"{self._seed}/{key}"), 0  # noqa: S311 - not a secret
        while number < traffic.commands or (time.monotonic() < until and not enough()):
            poison = traffic.poison if number == 1 and index < 2 * traffic.poisoned and index % 2 == 0 else ""
            await self.deliver(session, self._workload.request(random, key, number, poison), traffic.once)
            number += 1
            await asyncio.sleep(0 if number < traffic.commands else traffic.pause_s)

    async def deliver(self, session: aiohttp.ClientSession, request: Delivery, once: bool = False) -> None:
        """Send a command until it is answered, or for so long that this is given up."""
        entry = self._ledger.send(request, kept_none=once)
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            began = time.monotonic()
            status, command_id = await self._attempt(session, request)
            self._ledger.answer(entry, status, command_id)
            if 200 <= status < 500:
                self.seconds.append(time.monotonic() - began)
            if 200 <= status < 500 or once or time.monotonic() > give_up_at:
                return
            await asyncio.sleep(PAUSE_S)

    async def _attempt(self, session: aiohttp.ClientSession, request: Delivery) -> tuple[int, str]:
        headers = {"Idempotency-Key": request.label}
        try:
            async with session.post(self._base + request.path, json=request.body, headers=headers) as response:
                answered = await response.json(content_type=None)
                return response.status, str(answered.get("command_id") or response.headers.get("chimera-command", ""))
        except (*BROKEN, ValueError, AttributeError):
            return NO_ANSWER, ""


def median(seconds: Sequence[float]) -> float:
    """The middle one, 0 for none."""
    return sorted(seconds)[len(seconds) // 2] if seconds else 0.0
