"""Waking those who wait in this process; those in other processes poll."""

from __future__ import annotations

import asyncio

A_DAY_S = 86_400.0
"""The timeout of who waits for as long as it takes."""


class Signal:
    """Wakes everybody who waits. It carries no data: whoever wakes reads anew.

    `times` tells whoever was not waiting that there was something: it counts the notifications.
    """

    times = 0

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[bool], None] = {}

    def notify(self) -> None:
        """Wake all who wait now. Call it from the event loop's own thread."""
        self.times += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)

    async def wait(self, timeout: float, *others: Signal) -> bool:  # noqa: ASYNC109 - waiting with a limit is what it is for
        """Wait for the next `notify` of this signal or another, at most `timeout` seconds; says whether it came."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters[waiter] = None
        for other in others:
            other._waiters[waiter] = None  # noqa: SLF001 - a signal, as this is
        timer = loop.call_later(timeout, _time_out, waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)
            for other in others:
                other._waiters.pop(waiter, None)  # noqa: SLF001


def _time_out(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
