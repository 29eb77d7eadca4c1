"""Whoever keeps the event loop is named in the log: service, handler, how long, where."""

import asyncio
import re
import time

import pytest

from chimera import Command, Service, Transaction
from chimera.core.clock import Clock
from chimera.run.watchdog import watched
from chimera.testing.waiting import eventually


class Think(Command, key="name"):
    name: str


async def test_a_handler_that_keeps_the_loop_is_named_with_how_long_and_where(caplog: pytest.LogCaptureFixture) -> None:
    shop = Service("shop")

    @shop.handle()
    async def think(command: Think, tx: Transaction) -> None:
        time.sleep(0.6)  # noqa: ASYNC251 - that is the fault

    def told_of() -> list[str]:
        return [said for said in caplog.messages if said.startswith("shop: ") and "waiting for" in said]

    async with watched([shop], Clock()):
        await asyncio.sleep(0.25)
        await think(Think("a"), None)  # type: ignore[arg-type]
        await eventually(told_of)
    [told] = told_of()
    assert told.startswith("shop: the handler think did not let go at test_watchdog.py, line ")
    assert re.search(r" for \d+\.\d", told)
