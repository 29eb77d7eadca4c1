"""Pauses that grow while nothing happens, and end when something does."""

from __future__ import annotations

import asyncio

from chimera.core.aio.signals import Signal
from chimera.core.clock import Clock

GROWTH = 2.0
APART = 0.25
"""Longer pauses are by up to this part longer or shorter, so that hundreds do not look together."""


class Pace:
    """The pauses between two looks at what rarely changes.

    Each is `first_s` seconds, and from then on longer, up to `longest_s`, while the looks find nothing new. Once
    `woken` is notified, also during a look, the next look comes as soon as `first_s` are over since the last one.
    """

    def __init__(self, first_s: float, longest_s: float, woken: Signal, clock: Clock) -> None:
        self._first_s = first_s
        self._longest_s = max(first_s, longest_s)
        self._woken = woken
        self._clock = clock
        self._heard = woken.times
        self._pause_s = self.next_s = first_s

    def quick(self) -> None:
        """Something happened: begin with the first pause again."""
        self._pause_s = self.next_s = self._first_s

    async def pause(self, *, quiet: bool, unless: Signal | None = None) -> None:
        """Pause after a look; `quiet`: it has found nothing new. It ends as soon as `unless` is notified."""
        if not quiet or self._woken.times != self._heard:
            self.quick()
        pause = self.next_s
        self._pause_s = min(self._pause_s * GROWTH, self._longest_s)
        self.next_s = self._pause_s * (1 - APART + 2 * APART * self._clock.random())
        began = self._clock.monotonic()
        before, ending = (unless.times, [unless]) if unless else (0, [])
        if pause > self._first_s and await self._woken.wait(pause, *ending):
            if unless and unless.times != before:
                return
            self.quick()
            pause = self._first_s - (self._clock.monotonic() - began)
            await asyncio.sleep(0)
        if pause <= self._first_s:
            if unless is None:
                await self._clock.sleep(max(0.0, pause))
            elif await unless.wait(max(0.0, pause)):
                return
        self._heard = self._woken.times
