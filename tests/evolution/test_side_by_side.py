"""Builds of two versions of an event and a command, side by side: what one can't read waits for the one that can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest

from chimera import Service
from chimera.commands.states import CommandStates
from chimera.core.clock import Clock
from chimera.core.context import Context, Process
from chimera.run.write_head import WriteHead
from chimera.testing.fleets.network import HttpAnswer, served
from chimera.testing.waiting import eventually, running
from chimera.upkeep.parked import Wanted, parked_keys
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.builds import build, forget_all
from tests.evolution.shop import Written, append
from tests.evolution.texts import FIRST, SECOND
from tests.run.test_rolling import QUICK
from tests.support import Engines, opened, rows


def first() -> Service:
    return build(text=FIRST, keep=True)


def second() -> Service:
    return build(text=SECOND, keep=True)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    forget_all()


class Fleet:
    """Heads of both builds on the same engines."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._clock = Clock()
        self._sites: dict[Callable[[], Service], Site] = {}

    async def head(self, of: Callable[[], Service]) -> Context:
        return await opened(of(), self._engines, timing=QUICK, process=Process(), clock=self._clock)

    @asynccontextmanager
    async def writes(self, of: Callable[[], Service]) -> AsyncIterator[Context]:
        context = await self.head(of)
        head = WriteHead(context, f"{of.__name__}-{context.process.name[:4]}")
        async with running(head.run()):
            await eventually(lambda: bool(head._leases.held), 10)
            yield context

    async def ask(self, of: Callable[[], Service], method: str, path: str, key: str = "", **body: Any) -> HttpAnswer:
        if of not in self._sites:
            self._sites[of] = Site([ReadHead(await self.head(of))])
        headers = {"idempotency-key": key} if key else {}
        return await served(self._sites[of], method, path, msgspec.json.encode(body), headers)


@pytest.fixture
def fleet(engines: Engines) -> Fleet:
    return Fleet(engines)


async def mailed(context: Context, key: str, *amounts: int) -> bool:
    [mail] = [each for each in context.service.entities if each.__name__ == "Mail"]
    found = [row for row in (await rows(context.store, mail)).values() if row.order_id == key]
    return [row.amounts for row in found] == [list(amounts)]


async def shown(fleet: Fleet, of: Callable[[], Service], key: str, *amounts: int) -> bool:
    answer = await fleet.ask(of, "GET", f"/sales/{key}")
    return answer.status == 200 and msgspec.json.decode(answer.body)["amounts"] == list(amounts)


async def nothing_is_parked(context: Context) -> bool:
    return not await parked_keys(context, Wanted())


async def state_of(context: Context, answer: HttpAnswer) -> str:
    return (await CommandStates(context).get(msgspec.json.decode(answer.body)["command_id"])).state


async def test_a_version_that_this_build_does_not_know_is_held_and_not_guessed(fleet: Fleet) -> None:
    async with fleet.writes(first) as old:
        await append(old, "shop", "Placed", [Written(2, {"order_id": "o1", "cents": 700, "euros": 1})])
        await append(old, "shop", "Placed", [Written(1, {"order_id": "o1", "euros": 2})])
        await append(old, "shop", "Placed", [Written(1, {"order_id": "o2", "euros": 3})])
        await eventually(partial(shown, fleet, first, "o2", 300), 10)
        await eventually(partial(mailed, old, "o2", 300), 10)

        async def both_are_held() -> bool:
            found = await parked_keys(old, Wanted())
            return {(each.waiting, "up to version 1" in each.first.cause) for each in found} == {(2, True)} and len(
                found
            ) == 2

        await eventually(both_are_held, 10)
        assert not await shown(fleet, first, "o1")
    async with fleet.writes(second) as new:
        await eventually(partial(shown, fleet, second, "o1", 700, 200), 20)
        await eventually(partial(mailed, new, "o1", 700, 200), 10)
        await eventually(lambda: nothing_is_parked(new), 10)


async def test_a_command_that_needs_events_of_a_newer_version_is_left_to_the_build_that_reads_them(
    fleet: Fleet,
) -> None:
    async with fleet.writes(first) as old, fleet.writes(second) as new:
        keys = [f"o{number}" for number in range(6)]
        await append(new, "shop", "Placed", [Written(2, {"order_id": key, "cents": 50}) for key in keys])
        answers = [await fleet.ask(first, "POST", "/checks", order_id=key) for key in keys]
        assert {answer.status for answer in answers} == {201}
        for key, answer in zip(keys, answers, strict=True):
            await eventually(partial(mailed, new, f"checked {key}", 50), 20)
            assert await state_of(old, answer) == "done"
        await eventually(lambda: nothing_is_parked(new), 10)


async def test_a_command_of_before_is_upgraded_and_its_idempotency_key_stays_the_same_command(fleet: Fleet) -> None:
    answer = await fleet.ask(first, "POST", "/orders", "k1", order_id="o1", euros=4)
    assert answer.status == 201
    again = await fleet.ask(second, "POST", "/orders", "k1", order_id="o1", cents=400)
    async with fleet.writes(second) as new:
        await eventually(partial(mailed, new, "o1", 400), 10)
        assert await state_of(new, answer) == "done"
        assert msgspec.json.decode(again.body)["command_id"] == msgspec.json.decode(answer.body)["command_id"]
        await eventually(lambda: nothing_is_parked(new), 10)
        await eventually(partial(shown, fleet, second, "o1", 400), 10)


async def test_a_rolling_deploy_refuses_nothing_for_good_and_doubles_nothing(fleet: Fleet) -> None:
    async with fleet.writes(first) as old:
        assert (await fleet.ask(first, "POST", "/orders", order_id="a", euros=1)).status == 201
        refused = await fleet.ask(second, "POST", "/orders", order_id="b", cents=1)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"shop.Place@2" in refused.body
        async with fleet.writes(second) as new:
            sent = []
            for number in range(20):
                of = first if number % 2 else second
                body: Any = {"euros": number} if number % 2 else {"cents": number * 100}

                async def taken() -> bool:
                    answer = await fleet.ask(of, "POST", "/orders", order_id=f"o{number}", **body)  # noqa: B023
                    assert answer.status in (201, 503), answer.body
                    return answer.status == 201

                await eventually(taken, 10)
                sent.append((f"o{number}", number * 100))
            for key, amount in sent:
                await eventually(partial(mailed, new, key, amount), 20)
                await eventually(partial(shown, fleet, second, key, amount), 20)
                await eventually(partial(shown, fleet, first, key, amount), 20)
            await eventually(lambda: nothing_is_parked(new), 10)
    assert old.service.name == "shop"


async def test_a_body_that_no_build_takes_is_refused_for_good_while_a_newer_one_runs(fleet: Fleet) -> None:
    async with fleet.writes(second):
        assert (await fleet.ask(first, "POST", "/orders", order_id="a", gold=1)).status == 422
        assert (await fleet.ask(first, "POST", "/orders", order_id="a", cents=1)).status == 503
