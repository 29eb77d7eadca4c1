"""What stands still is known: by readiness, by the status, in whichever process, with its cause."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from chimera.borrow.reads import BorrowedReads
from chimera.core.aio.again import persist
from chimera.core.aio.standing import Troubles
from chimera.core.clock import Clock
from chimera.core.context import Context
from chimera.core.timing import Timing
from chimera.errors import Unavailable
from chimera.journal.consumers import consumers_of
from chimera.journal.feed import Feed
from chimera.ports import Checkpoint
from chimera.testing.engines import memory_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.standing import Unmoved, keep_telling, standing_works
from chimera.upkeep.status import consumer_rows, service_status
from chimera.views.documents import Documents
from chimera.views.generations import GenerationReads
from chimera.web.probes import Probes
from chimera.web.wire.http import Call
from tests.support import QUICK, Ahead, Bank, Deposit, Engines, Shop, direct, opened, project

SOON = msgspec.structs.replace(QUICK, stands_s=0.05, lease_s=0.05, restart_first_s=0.005, restart_longest_s=0.02)


@pytest.fixture
async def standing(bank: Bank, engines: Engines) -> Context:
    return await opened(bank.service, engines, timing=SOON)


async def fail() -> None:
    raise Unavailable("the views are away")


async def works(context: Context) -> dict[str, str]:
    return {each.work: each.cause for each in await standing_works(context)}


async def test_a_work_that_fails_again_and_again_is_told_until_it_gets_on(standing: Context) -> None:
    told = "accounts view balance"
    failing = persist(told, fail, standing.clock, SOON, standing.troubles)
    async with running(keep_telling(standing)):
        async with running(failing):
            await eventually(lambda: works(standing))
            assert await works(standing) == {told: "the views are away"}
            [shown] = (await service_status(standing))["standing"]
            assert (shown["work"], shown["cause"], shown["tries"] > 1) == (told, "the views are away", True)
        await eventually(lambda: no_works(standing))


async def no_works(context: Context) -> bool:
    return not await works(context)


async def test_a_work_that_fails_now_and_then_does_not_stand_still() -> None:
    clock, troubles = Clock(), Troubles()
    for _ in range(3):
        troubles.failed("a", "now and then", clock)
        troubles.gets_on("a")
    assert troubles.standing(clock, 0.0) == []


async def test_a_process_that_died_stands_still_no_more(standing: Context) -> None:
    """What it had said is true for a moment only."""
    telling, failing = keep_telling(standing), persist("accounts relay", fail, standing.clock, SOON, standing.troubles)
    async with running(telling, failing):
        await eventually(lambda: works(standing))
    await eventually(lambda: no_works(standing))


async def test_events_that_are_missing_and_can_not_be_fetched_are_told(standing: Context) -> None:
    await direct(standing, Deposit("a", 1), Deposit("a", 2))
    [partition] = [each for each, head in (await standing.store.heads()).items() if head]
    events = await standing.store.journal(partition, 0, 10)
    await standing.log.append("accounts.events", events[-1:])
    borrower = replace(standing, owners=standing.owners)
    borrower.owners._owners["accounts"] = Away(standing)  # type: ignore[assignment]
    feed = Feed(borrower, "accounts", {partition: Checkpoint()})
    async with running(drain(feed)):
        await eventually(lambda: standing.troubles.standing(standing.clock, 0.05))
        [found] = standing.troubles.standing(standing.clock, 0.05)
        assert (found.work, found.cause) == ("accounts events of accounts", "the owner is away")
    await feed.close()
    assert standing.troubles.standing(standing.clock, 0.0) == []


async def drain(feed: Feed) -> None:
    while True:
        await feed.next()


class Away:
    """An owner whose journal can't be had."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[object]:
        raise Unavailable("the owner is away")

    async def heads(self) -> Mapping[int, int]:
        return await self._context.store.heads()

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        return await self._context.store.chain(at)

    async def epochs(self) -> Sequence[object]:
        return []


async def test_a_view_that_nobody_moves_is_told_by_whoever_reads_it(bank: Bank, engines: Engines) -> None:
    clock = Ahead()
    context = await opened(bank.service, engines, clock=clock, timing=Timing(heads_kept_s=0.0))
    await direct(context, Deposit("a", 5))
    unmoved, probes = Unmoved(context), Probes(context)

    async def seen() -> dict[str, str]:
        rows = await consumer_rows(context, consumers_of(bank.service))
        return {each.work: each.cause for each in unmoved.see(rows)}

    assert await seen() == {}
    await answered(probes)
    clock.ahead_s += context.timing.stands_s + 1
    await project(context, bank.balance)
    found = await seen()
    assert "accounts balance accounts" not in found
    assert found["accounts total accounts"] == "it is 2 events behind accounts and does not move"
    [shown] = (await answered(probes))["standing"]
    assert shown["work"] == "accounts total accounts"
    await project(context, bank.total)
    assert "accounts total accounts" not in await seen()


async def answered(probes: Probes) -> dict[str, Any]:
    """What readiness answers."""
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any: ...

    await probes.ready(Call({"query_string": b"", "headers": []}, receive, send, {}))
    assert sent[0]["status"] == 200
    found: dict[str, Any] = json.loads(sent[1]["body"])
    return found


async def test_a_borrow_whose_owner_does_not_answer_is_told_by_its_read_head() -> None:
    shop = Shop(mode="async")
    context = await opened(shop.service, memory_engines(), timing=msgspec.structs.replace(SOON, switch_look_s=0.01))
    reads = BorrowedReads(context, shop.cards, Documents(context, GenerationReads(context)))
    async with running(reads.keep_looking()):
        await eventually(lambda: context.troubles.standing(context.clock, 0.05))
    [stuck] = context.troubles.standing(context.clock, 0.05)
    assert stuck.work == "shop borrow cards's age"
    assert "the owner is down" in stuck.cause


async def test_what_stands_on_a_lost_history_is_told_at_once_by_who_only_reads(standing: Context) -> None:
    """Its lag is not known, and it does not move."""
    row = {"consumer": "balance", "source": "accounts", "partition": 0, "checkpoint": 5, "head": 3, "lag": None}
    unmoved = Unmoved(standing)
    assert unmoved.see([{**row, "diverged": ""}]) == []
    [found] = unmoved.see([{**row, "diverged": "stands at accounts/0@5, but accounts ends at 3"}])
    assert found.work == "accounts balance accounts"
    assert found.cause == "diverged: it stands at accounts/0@5, but accounts ends at 3"
