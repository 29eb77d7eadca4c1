"""An orderly stop: what was taken is finished, its checkpoint moves, and others take over at once."""

import asyncio
import time
from dataclasses import replace

import msgspec
import pytest

from chimera.commands.handlers import commands_executor
from chimera.core.context import Context
from chimera.core.names import RELAY
from chimera.core.tables import Lease
from chimera.core.timing import Timing
from chimera.journal.checkpoints import read_checkpoints
from chimera.journal.leases import Leases
from chimera.run.serving import STOP_S
from chimera.run.supervisor import STOP_S as HEAD_S
from chimera.run.write_head import WriteHead
from chimera.testing.waiting import eventually, running
from chimera_deploy.kubernetes import GRACE_S, LEAVE_S
from tests.support import PARTITIONS, Bank, Engines, Open, accept, all_of, balances, opened, read_all

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

        bank.service.handlers["Open"] = handler._replace(signature=handler.signature._replace(function=slowly))


@pytest.fixture
def slow(bank: Bank) -> Slow:
    return Slow(bank)


@pytest.fixture
async def context(bank: Bank, slow: Slow, engines: Engines) -> Context:
    return await opened(bank.service, engines)


async def test_the_batch_that_was_taken_is_committed_and_its_checkpoint_moves(
    context: Context, slow: Slow, bank: Bank
) -> None:
    await accept(context, Open("a"), Open("b"))
    head = asyncio.ensure_future(WriteHead(context, "first").run())
    await slow.begun.wait()
    head.cancel()
    for _ in range(50):
        await asyncio.sleep(0)  # so that the stop has reached the handler, if it does
    assert not head.done()
    slow.go_on.set()
    await asyncio.wait([head], timeout=60)
    assert head.cancelled()
    assert len(bank.handled) == 2
    assert set(await balances(context)) == {"a", "b"}
    at = await commands_executor(context).checkpoints(context.commands_topic, ALL)
    assert {p: each.number for p, each in at.items()} == dict(await context.log.ends(context.commands_topic))


async def test_what_takes_too_long_is_rolled_back_and_left_to_the_next(context: Context, slow: Slow) -> None:
    hurried = replace(context, timing=msgspec.structs.replace(context.timing, finish_s=0.05))
    await accept(context, Open("a"))
    head = asyncio.ensure_future(WriteHead(hurried, "first").run())
    await slow.begun.wait()
    head.cancel()
    await asyncio.wait([head], timeout=60)
    assert head.cancelled()
    assert await balances(context) == {}
    slow.go_on.set()
    async with running(WriteHead(context, "second").run()):
        await eventually(lambda: _has(context, {"a"}))


async def _has(context: Context, keys: set[str]) -> bool:
    return set(await balances(context)) == keys


async def test_leases_are_given_back_so_that_another_takes_over_at_its_next_look(context: Context, slow: Slow) -> None:
    slow.go_on.set()
    first = asyncio.ensure_future(WriteHead(context, "first").run())
    await accept(context, Open("a"))
    await slow.begun.wait()
    other = Leases(context, "second")
    await other.renew()
    assert len(other.held) < PARTITIONS
    began = time.monotonic()
    first.cancel()
    await asyncio.wait([first], timeout=60)
    assert {lease.holder for lease in await all_of(context.store, Lease)} <= {"second"}
    await other.renew()
    assert other.held == frozenset(ALL)
    assert time.monotonic() - began < context.timing.lease_s


async def test_what_was_relayed_is_remembered(context: Context, slow: Slow) -> None:
    slow.go_on.set()
    head = asyncio.ensure_future(WriteHead(context, "first").run())
    await accept(context, *(Open(f"k{n}") for n in range(20)))
    await eventually(lambda: _all_relayed(context))
    head.cancel()
    await asyncio.wait([head], timeout=60)
    at = await read_checkpoints(context.store, RELAY, "accounts", ALL)
    assert {p: each.number for p, each in at.items()} == dict(await context.store.heads())


async def _all_relayed(context: Context) -> bool:
    relayed = await read_all(context.log, context.events_topic, dict.fromkeys(ALL, 0))
    return 0 < sum((await context.store.heads()).values()) == len({each.message.id for each in relayed}) >= 40


async def test_a_whole_stop_fits_in_the_time_that_is_stated() -> None:
    assert Timing().finish_s < STOP_S
    assert 2 * STOP_S + Timing().drain_s < HEAD_S
    assert GRACE_S > LEAVE_S + HEAD_S
