"""An orderly stop: what was taken is finished, its checkpoint moves, and others take over at once."""

import asyncio
import time

import pytest

from chimera import tasks as ending
from chimera.body import Body
from chimera.execution import read_checkpoints
from chimera.leases import TTL_S, Leases
from chimera.records import Lease
from chimera.relay import CONSUMER as RELAY
from chimera.tasks import finish
from chimera.write_head import WriteHead
from tests.support import (
    PARTITIONS,
    Bank,
    Engines,
    Open,
    accept,
    all_of,
    balances,
    eventually,
    opened,
    read_all,
    running,
)

ALL = range(PARTITIONS)


class Slow:
    """A handler of the bank that waits until it is let go."""

    def __init__(self, bank: Bank) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        handler = bank.service.handlers["Open"]
        handle = handler.function

        async def slowly(command: Open, tx: object) -> None:
            self.begun.set()
            await self.go_on.wait()
            await handle(command, tx)

        bank.service.handlers["Open"] = handler._replace(function=slowly)


@pytest.fixture
def slow(bank: Bank) -> Slow:
    return Slow(bank)


@pytest.fixture
async def body(bank: Bank, slow: Slow, engines: Engines) -> Body:
    return await opened(bank.service, engines)


async def test_the_batch_that_was_taken_is_committed_and_its_checkpoint_moves(
    body: Body, slow: Slow, bank: Bank
) -> None:
    await accept(body, Open("a"), Open("b"))
    head = asyncio.ensure_future(WriteHead(body, "first").run())
    await slow.begun.wait()
    head.cancel()
    for _ in range(50):
        await asyncio.sleep(0)  # so that the stop has reached the handler, if it does
    assert not head.done()
    slow.go_on.set()
    await asyncio.wait([head], timeout=5)
    assert head.cancelled()
    assert len(bank.handled) == 2
    assert set(await balances(body)) == {"a", "b"}
    at = await body.commands.checkpoints(body.commands_topic, ALL)
    assert {p: each.number for p, each in at.items()} == dict(await body.log.ends(body.commands_topic))


async def test_what_takes_too_long_is_rolled_back_and_left_to_the_next(
    body: Body, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "__defaults__", (0.05,))
    await accept(body, Open("a"))
    head = asyncio.ensure_future(WriteHead(body, "first").run())
    await slow.begun.wait()
    head.cancel()
    await asyncio.wait([head], timeout=5)
    assert head.cancelled()
    assert await balances(body) == {}
    slow.go_on.set()
    async with running(WriteHead(body, "second").run()):
        await eventually(lambda: _has(body, {"a"}))


async def _has(body: Body, keys: set[str]) -> bool:
    return set(await balances(body)) == keys


async def test_leases_are_given_back_so_that_another_takes_over_at_its_next_look(body: Body, slow: Slow) -> None:
    slow.go_on.set()
    first = asyncio.ensure_future(WriteHead(body, "first").run())
    await accept(body, Open("a"))
    await slow.begun.wait()
    other = Leases(body.service, body.store, "second")
    await other.renew()
    assert len(other.held) < PARTITIONS
    began = time.monotonic()
    first.cancel()
    await asyncio.wait([first], timeout=5)
    assert {lease.holder for lease in await all_of(body.store, Lease)} <= {"second"}
    await other.renew()
    assert other.held == frozenset(ALL)
    assert time.monotonic() - began < TTL_S


async def test_what_was_relayed_is_remembered(body: Body, slow: Slow) -> None:
    slow.go_on.set()
    head = asyncio.ensure_future(WriteHead(body, "first").run())
    await accept(body, *(Open(f"k{n}") for n in range(20)))
    await eventually(lambda: _all_relayed(body))
    head.cancel()
    await asyncio.wait([head], timeout=5)
    at = await read_checkpoints(body.store, RELAY, "accounts", ALL)
    assert {p: each.number for p, each in at.items()} == dict(await body.store.heads())


async def _all_relayed(body: Body) -> bool:
    relayed = await read_all(body.log, body.events_topic, dict.fromkeys(ALL, 0))
    return 0 < sum((await body.store.heads()).values()) == len({each.message.id for each in relayed}) >= 40


async def test_a_whole_stop_fits_in_the_time_that_is_stated() -> None:
    from chimera.deploy.kubernetes import GRACE_S, LEAVE_S
    from chimera.read_head import DRAIN_S
    from chimera.serving import STOP_S
    from chimera.supervisor import STOP_S as HEAD_S

    assert ending.FINISH_S < STOP_S
    assert HEAD_S > 2 * STOP_S + DRAIN_S
    assert GRACE_S > LEAVE_S + HEAD_S
