"""The reuse of an Idempotency-Key for another payload, found out before a command is accepted."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from chimera.commands.inbox import Outcome
from chimera.commands.states import look_up
from chimera.core.aio.coalesce import Coalescer
from chimera.core.context import Context
from chimera.errors import Invalid, Unavailable


class Reuse:
    """Finds out whether an Idempotency-Key was used for another payload before, as far as that is known here.

    It is known of what this process accepted lately, and of what is executed. A command that slips through, because
    another process has just accepted the first one, has no effect: the write head leaves the first one's.
    """

    def __init__(self, context: Context) -> None:
        self._limits = context.limits
        self._timing = context.timing
        self._clock = context.clock
        self._lately: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lookups: Coalescer[str, Outcome | None] = Coalescer(partial(look_up, context), concurrency=4)

    async def claimed(self, command_id: str, fingerprint: str) -> AbstractContextManager[None]:
        """Accept the command inside: if that fails, its key is free again. Raises Invalid if it was used before."""
        self._forget()
        stored = None if command_id in self._lately else await self._stored(command_id)
        known, _ = self._lately.get(command_id, (stored, 0.0))
        if known not in (None, fingerprint):
            raise key_reused()
        return self._claim(command_id, fingerprint)

    @contextmanager
    def _claim(self, command_id: str, fingerprint: str) -> Iterator[None]:
        is_first = command_id not in self._lately
        self._lately.setdefault(command_id, (fingerprint, self._clock.monotonic()))
        try:
            yield
        except BaseException:
            if is_first:
                self._lately.pop(command_id, None)
            raise

    def _forget(self) -> None:
        oldest = self._clock.monotonic() - self._timing.reuse_s
        while self._lately and (
            len(self._lately) >= self._limits.reuse_keys or next(iter(self._lately.values()))[1] < oldest
        ):
            self._lately.popitem(last=False)

    async def _stored(self, command_id: str) -> str | None:
        """The fingerprint that the inbox has, if it tells in time."""
        if len(self._lookups) >= self._limits.reuse_looks:
            return None
        try:
            async with asyncio.timeout(self._timing.reuse_look_s):
                outcome = await self._lookups.submit(command_id)
        except (Unavailable, TimeoutError):
            return None
        return outcome.fingerprint if outcome else None


def key_reused() -> Invalid:
    """The refusal of an Idempotency-Key that was used for another payload."""
    return Invalid(
        "this Idempotency-Key was used with another payload before; send another key, or the same payload",
        field="header.Idempotency-Key",
        status=409,
    )
