"""A write head that hangs is to be restarted; one that a restart would not mend, or that works, is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from chimera import Command, Handling, Service, Transaction, Unavailable
from chimera.core.context import Context
from chimera.core.names import COMMANDS, commands_topic
from chimera.core.timing import Timing
from chimera.journal.checkpoints import read_checkpoints
from chimera.journal.leases import Leases
from chimera.parts import AS_SET
from chimera.ports import Log, Record
from chimera.run.write_head import WriteHead
from chimera.testing.broken import WrappedLog
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.liveness import LIMITS, LOOKS
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import change
from chimera.web.probes import Probes
from chimera.web.wire.http import Call
from tests.support import QUICK, Ahead, Bank, Deposit, Engines, accept, consume, direct, opened, project

STUCK_S = Timing().stuck_s


async def asked(probes: Probes) -> tuple[int, str]:
    """What liveness answers: the status, and the detail."""
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any: ...

    await probes.live(Call({"query_string": b"", "headers": []}, receive, send, {}))
    return sent[0]["status"], json.loads(sent[1]["body"]).get("detail", "")


@pytest.fixture
def clock() -> Ahead:
    return Ahead()


class Think(Command, key="name"):
    name: str


def thinking(handling: Handling = AS_SET) -> Service:
    """A service that takes commands, and does nothing with them."""
    service = Service("accounts", partitions=4)

    @service.handle(handling=handling)
    async def think(command: Think, tx: Transaction) -> None: ...

    return service


async def hung(service: Service, engines: Engines, clock: Ahead) -> Context:
    """A context in which every partition is held, and nothing works: as if all works hung."""
    context = await opened(service, engines, clock=clock, timing=Timing(heads_kept_s=0.0))
    await Leases(context, "hung").renew()
    return context


@pytest.fixture
async def head(engines: Engines, clock: Ahead) -> Context:
    return await hung(thinking(), engines, clock)


async def probed(probes: Probes, clock: Ahead, seconds: float, every_s: float = 10.0) -> tuple[int, str]:
    """What is answered at last, where liveness is asked for so long."""
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        await asked(probes)
        await looked(probes)
        clock.ahead_s += every_s
    return await asked(probes)


async def looked(probes: Probes) -> None:
    if probes._liveness._looking is not None:
        await asyncio.wait([probes._liveness._looking])


async def test_commands_that_nobody_takes_though_all_engines_answer_end_in_a_restart(
    head: Context, clock: Ahead
) -> None:
    await accept(head, Think("a"))
    probes = Probes(head)
    assert await probed(probes, clock, STUCK_S - 30) == (200, "")
    status, told = await probed(probes, clock, 90)
    assert status == 503
    assert told.startswith("accounts commands hangs: it has stood at 0 in partition ")
    assert told.endswith(" s, with more to do, and has not failed")


async def test_every_kind_of_work_of_its_own_is_looked_at(bank: Bank, engines: Engines, clock: Ahead) -> None:
    head = await hung(bank.service, engines, clock)
    for view in head.service.views.values():  # as a write head does that has begun to keep them
        await project(head, view)
    await adopt(head)
    await direct(head, Deposit("a", 1))
    probes = Probes(head)
    status, told = await probed(probes, clock, STUCK_S + 60)
    assert status == 503
    assert told.startswith("accounts relay hangs: ")
    assert told.endswith("; so have balance, enter:accounts, thank:accounts, total")


async def adopt(context: Context) -> None:
    """Have the views' generations be those of this code."""
    for name, view in context.service.views.items():
        code = fingerprint(view)
        await change(context.views, name, lambda state, code=code: state.adopted(code))  # type: ignore[misc]


async def test_who_moves_lives(head: Context, clock: Ahead) -> None:
    probes = Probes(head)
    for number in range(8):
        await accept(head, Think(f"a{number}"), Think(f"b{number}"))
        assert (await probed(probes, clock, STUCK_S * 0.75))[0] == 200
        await consume(head)


async def test_who_has_nothing_to_do_lives(head: Context, clock: Ahead) -> None:
    assert await probed(Probes(head), clock, 3 * STUCK_S) == (200, "")


async def test_what_others_hold_says_nothing_about_this_process(engines: Engines, clock: Ahead) -> None:
    context = await opened(thinking(), engines, clock=clock)
    await accept(context, Think("a"))
    assert await probed(Probes(context), clock, 3 * STUCK_S) == (200, "")


@pytest.mark.parametrize("fewer", [(), (3,)])
async def test_what_came_from_somebody_else_a_moment_ago_has_not_hung_here(
    head: Context, clock: Ahead, fewer: Sequence[int]
) -> None:
    [message] = await accept(head, Think("a"))
    assert message.partition == 3
    every, probes = head.held.partitions, Probes(head)
    for turn in range(4):
        head.held.partitions = frozenset(fewer) if turn % 2 else every
        assert (await probed(probes, clock, STUCK_S * 0.75))[0] == 200


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_engine_that_is_away_is_no_reason_for_a_restart(head: Context, clock: Ahead, hangs: bool) -> None:
    await accept(head, Think("a"))
    away = replace(head, log=Away(head.log, hangs), timing=Timing(heads_kept_s=0.0, check_s=0.001))
    assert await probed(Probes(away), clock, 3 * STUCK_S) == (200, "")


async def test_an_engine_that_was_away_counts_for_nothing_once_it_is_back(head: Context, clock: Ahead) -> None:
    await accept(head, Think("a"))
    log = Away(head.log, False)
    probes = Probes(replace(head, log=log))
    log.is_away = False
    assert (await probed(probes, clock, STUCK_S * 0.75))[0] == 200
    log.is_away = True
    assert (await probed(probes, clock, 30))[0] == 200
    log.is_away = False
    assert (await probed(probes, clock, STUCK_S * 0.75))[0] == 200


async def test_what_fails_and_is_tried_again_does_not_hang(head: Context, clock: Ahead) -> None:
    await accept(head, Think("a"))
    probes = Probes(head)
    for _ in range(8):
        head.troubles.failed("accounts relay", "the log is away", clock)
        assert (await probed(probes, clock, STUCK_S * 0.75))[0] == 200


async def test_a_process_that_was_paused_has_not_hung_meanwhile(head: Context, clock: Ahead) -> None:
    await accept(head, Think("a"))
    probes = Probes(head)
    assert (await probed(probes, clock, STUCK_S / 2))[0] == 200
    clock.ahead_s += 86_400
    assert (await probed(probes, clock, STUCK_S / 4))[0] == 200


async def test_handlers_have_the_time_that_they_declare(engines: Engines, clock: Ahead) -> None:
    context = await hung(thinking(Handling(limit_s=STUCK_S)), engines, clock)
    await accept(context, Think("a"))
    probes = Probes(context)
    assert (await probed(probes, clock, LIMITS * STUCK_S - 30))[0] == 200
    assert (await probed(probes, clock, 90))[0] == 503


async def test_a_view_whose_generation_other_code_keeps_says_nothing(
    bank: Bank, engines: Engines, clock: Ahead
) -> None:
    head = await hung(bank.service, engines, clock)
    await direct(head, Deposit("a", 1))
    told = (await probed(Probes(head), clock, 3 * STUCK_S))[1]
    assert told.endswith("; so have enter:accounts, thank:accounts")


async def test_a_lane_that_hangs_in_a_real_write_head_is_told_and_gone_after_a_restart() -> None:
    timing = msgspec.structs.replace(QUICK, stuck_s=0.5, lease_s=1.0, restart_first_s=0.01)
    context = await opened(thinking(Handling(limit_s=0.1)), memory_engines(), timing=timing)
    deaf = replace(context, log=Deaf(context.log))
    probes = Probes(deaf)
    async with running(WriteHead(deaf, "deaf").run()):
        assert await asked(probes) == (200, "")
        await accept(context, Think("a"))
        await eventually(lambda: is_told(probes, "accounts commands hangs"), 20)
    async with running(WriteHead(context, "new").run()):
        probes = Probes(context)
        await eventually(lambda: is_done(context), 20)
        for _ in range(2 * LOOKS):
            assert (await asked(probes))[0] == 200
            await asyncio.sleep(timing.stuck_s / LOOKS)


async def is_told(probes: Probes, what: str) -> bool:
    status, told = await asked(probes)
    return status == 503 and told.startswith(what)


async def is_done(context: Context) -> bool:
    ends = await context.log.ends(context.commands_topic)
    at = await read_checkpoints(context.store, COMMANDS, context.commands_topic, ends)
    return all(at[each].number == end for each, end in ends.items())


class Away(WrappedLog):
    """A log that fails, or never answers, while it is away."""

    def __init__(self, log: Log, hangs: bool) -> None:
        super().__init__(log)
        self.is_away = True
        self._hangs = hangs

    async def ends(self, topic: str) -> Mapping[int, int]:
        if self.is_away and self._hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise Unavailable("the log is away")
        return await super().ends(topic)


class Deaf(WrappedLog):
    """A log whose reader of commands never hears of any, as after a lost wake-up."""

    async def read(self, topic: str, after: Mapping[int, int], limit: int = 500) -> AsyncIterator[Sequence[Record]]:
        if topic == commands_topic("accounts"):
            await asyncio.Event().wait()
        async for batch in super().read(topic, after, limit):
            yield batch
