"""Keeping handlers within their time: what takes longer is stopped, and told apart from what is stopped in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from chimera.core.aio.tasks import take_exception
from chimera.core.clock import Clock

Result = TypeVar("Result")

OFTEN = 0.5
WEIGHT = 0.3
"""The weight of the last handler among those of its type."""
PATIENCE_S = 0.25
"""Seconds that a handler which is stopped may take to clean up; then nobody waits for it any more."""
LATE_S = 0.1
"""A look that comes so many seconds late shows that the process stood still meanwhile, or that its loop was held."""
LOOKS = 4
"""Looks within a limit."""


class Overdue(Exception):  # noqa: N818 - what happened
    """A handler was not done in time, and was stopped.

    `in_store`: it was waiting for the store at that moment. `written`: it had written to the database.
    """

    def __init__(self, *, in_store: bool) -> None:
        super().__init__("a handler was not done in time, and was stopped")
        self.in_store = in_store
        self.written = False


class SlowTypes:
    """The types of messages whose handlers have taken long, more often than not, of late; `any`: there are some.

    Only those count that came to an end: one that hangs says nothing about others.
    """

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}
        self.any = False

    def __contains__(self, type_: str) -> bool:
        return self._shares.get(type_, 0.0) > OFTEN

    def learn(self, type_: str, *, took_long: bool) -> None:
        """A handler of this type has ended."""
        if took_long or type_ in self._shares:
            share = self._shares.get(type_, 0.0)
            self._shares[type_] = share + WEIGHT * (took_long - share)
            self.any = max(self._shares.values()) > OFTEN


class TimeLimit:
    """Watches the handlers that one work runs, one after another: each may take so long, none keeps the work waiting.

    `limit_s`: what a handler may take; `store_s`: what it may take while it waits for its store, as `in_store` tells.
    """

    def __init__(self, clock: Clock, limit_s: float, store_s: float, in_store: Callable[[], bool]) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._store_s = store_s
        self._in_store = in_store
        self._began: float | None = None
        self._stopped: float | None = None
        self._due = 0.0
        self._stood_s = 0.0
        self._was_in_store = False
        self.at_work = ""
        self._work: asyncio.Task[Any] | None = None
        self._is_stuck: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, message_id: str) -> None:
        """The handler of a message begins; it is `at_work`."""
        self.at_work = message_id
        self._began = self._clock.monotonic()
        self._stood_s = 0.0

    def end(self) -> None:
        """The handler has ended."""
        self._began = None

    def stopped(self) -> Overdue | None:
        """What to raise if the handler was stopped for having taken too long; None if it was not."""
        if self._stopped is None:
            return None
        self._stopped = None
        if self._work is not None:
            self._work.uncancel()
        self._look_in(self._limit_s / LOOKS)
        return Overdue(in_store=self._was_in_store)

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do the work. Raises Overdue when a handler does not even stop: it is left behind."""
        loop = asyncio.get_running_loop()
        self._work = working = asyncio.ensure_future(work)
        self._is_stuck = stuck = loop.create_future()
        self._look_in(self._limit_s / LOOKS)
        try:
            await asyncio.wait((working, stuck), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Overdue(in_store=self._was_in_store)
            return working.result()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            stuck.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait((working,), timeout=0.0 if stuck.done() and not stuck.cancelled() else PATIENCE_S)
                working.add_done_callback(take_exception)

    def _look(self) -> None:
        """Stop the handler that has taken too long; see to it that nobody waits for one that does not stop."""
        now, next_s = self._clock.monotonic(), self._limit_s / LOOKS
        if (
            self._began is not None
            and (late_s := now - max(self._due, self._began)) > LATE_S
            and self._stood_s < self._limit_s
        ):
            self._began, self._stood_s = self._began + late_s, self._stood_s + late_s  # it could not work meanwhile
        if self._stopped is not None:
            next_s = self._stopped + PATIENCE_S - now
            if next_s <= 0 and self._is_stuck is not None and not self._is_stuck.done():
                self._is_stuck.set_result(None)
                return
        elif self._began is not None:
            limit_s = self._store_s if self._in_store() else self._limit_s
            next_s = min(self._began + limit_s - now, limit_s / LOOKS)
            if next_s <= 0 and self._work is not None:
                self._stopped, self._was_in_store, next_s = now, self._in_store(), PATIENCE_S
                self._work.cancel()
        self._look_in(max(next_s, 0.001))

    def _look_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._clock.monotonic() + seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)
