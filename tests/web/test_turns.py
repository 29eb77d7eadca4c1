"""What one caller may ask for: nobody has more than her own share, and the table of callers is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from hypothesis import given
from hypothesis import strategies as st

from chimera import Caller, Command, Reader, Request, Service, Transaction
from chimera.core.clock import Clock
from chimera.core.timing import PerCaller
from chimera.run.engines import context_of
from chimera.run.front.gateway import Gateway
from chimera.run.settings import read_settings
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera.web.wire.turns import CallerTurns, TooMany
from tests.support import NoOwner


class Held(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


def admitted(turns: CallerTurns, who: str) -> bool:
    try:
        turns.enter(who, waits=False)
    except TooMany:
        return False
    turns.leave(who, waits=False)
    return True


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), min_size=1, max_size=80),
)
def test_nobody_has_more_than_her_rate_and_her_burst_and_whoever_keeps_to_them_is_let_in(
    rate: int, burst: int, asked: list[tuple[str, float]]
) -> None:
    clock = Held()
    turns = CallerTurns(PerCaller(rate=rate, burst=burst), clock)
    let_in: dict[str, list[float]] = {"a": [], "b": []}
    last: dict[str, float] = {}
    for who, pause_s in asked:
        clock.now_s += pause_s
        is_in = admitted(turns, who)
        assert is_in or clock.now_s - last[who] < 1 / rate or len(let_in[who]) >= burst
        last[who] = clock.now_s
        if is_in:
            let_in[who].append(clock.now_s)
    for times in let_in.values():
        for first in range(len(times)):
            for end in range(first, len(times)):
                assert end - first + 1 <= burst + rate * (times[end] - times[first]) + 1e-6


def test_whoever_came_too_often_is_told_when_to_come_again() -> None:
    clock = Held()
    turns = CallerTurns(PerCaller(rate=0.1, burst=1), clock)
    assert admitted(turns, "ann")
    with pytest.raises(TooMany) as refused:
        turns.enter("ann", waits=False)
    assert (refused.value.status, refused.value.after_s) == (429, 10)
    clock.now_s += refused.value.after_s
    assert admitted(turns, "ann")


def test_the_table_of_callers_is_bounded_and_forgets_those_who_are_silent() -> None:
    turns = CallerTurns(PerCaller(rate=0.001, burst=1, callers=100), Held())
    assert admitted(turns, "flood")
    for number in range(10_000):
        assert admitted(turns, f"caller {number}")
        assert len(turns) <= 100
    assert not admitted(turns, "caller 9999")


def test_requests_under_way_and_those_that_wait_are_bounded_apart() -> None:
    turns = CallerTurns(PerCaller(requests=3, waits=1), Held())
    turns.enter("ann", waits=True)
    with pytest.raises(TooMany, match="1 of your requests wait already"):
        turns.enter("ann", waits=True)
    for _ in range(2):
        turns.enter("ann", waits=False)
    with pytest.raises(TooMany, match="3 of your requests are under way"):
        turns.enter("ann", waits=False)
    assert admitted(turns, "bob")
    turns.leave("ann", waits=True)
    turns.enter("ann", waits=True)
    for waits in (True, False, False):
        turns.leave("ann", waits=waits)
    assert turns._under_way == {}


Began = asyncio.Queue[None]


class Put(Command, key="thing"):
    thing: str


async def who(request: Request) -> Caller | None:
    name = request.headers.get("x-name")
    return Caller(name) if name else None


def shop(hold: asyncio.Event, began: Began) -> Service:
    service = Service("shop")
    service.authenticate(who)

    @service.handle("POST /things")
    async def put(command: Put, tx: Transaction) -> None: ...

    @service.get("/held")
    async def held(read: Reader, caller: Caller) -> dict[str, str]:
        began.put_nowait(None)
        await hold.wait()
        return {"by": caller.subject}

    return service


@asynccontextmanager
async def asking(
    limits: PerCaller, *, by: PerCaller = PerCaller()
) -> AsyncIterator[tuple[AsyncClient, asyncio.Event, Began]]:
    """A site; `limits` of addresses, and `by` of callers of the service."""
    hold, began, clock = asyncio.Event(), Began(), Held()
    made = context_of(shop(hold, began), MemoryLog(), MemoryStore(), MemoryViews(), lambda name: NoOwner(), clock=clock)
    context = replace(made, per_caller=by)
    await context.prepare()
    head = ReadHead(context)
    await head.start()
    site = Site([head], limits=limits, clock=clock)
    async with AsyncClient(transport=ASGITransport(site), base_url="http://test") as client:
        yield client, hold, began
    await head.stop()


async def test_an_address_that_asks_too_often_is_429_whatever_it_asks_for() -> None:
    async with asking(PerCaller(rate=1, burst=2)) as (client, *_):
        answers = [await client.post("/things", json={"thing": f"t{n}"}) for n in range(3)]
        assert [each.status_code for each in answers] == [201, 201, 429]
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["reason"] == "too_many_requests"
        for path in ("/nowhere", "/_chimera/shop/heads", "/_chimera/shop/commands/x", "/held"):
            assert (await client.get(path)).status_code == 429
        assert (await client.get("/_chimera/shop/health/live")).status_code == 200


async def test_each_caller_of_a_service_has_a_share_of_her_own() -> None:
    async with asking(PerCaller(), by=PerCaller(rate=1, burst=2, requests=2)) as (client, hold, began):
        ann, bob = {"x-name": "ann"}, {"x-name": "bob"}
        under_way = [asyncio.ensure_future(client.get("/held", headers=ann)) for _ in range(2)]
        for _ in under_way:
            await began.get()
        assert (await client.get("/held", headers=ann)).status_code == 429
        assert (await client.post("/things", json={"thing": "t"}, headers=bob)).status_code == 201
        hold.set()
        assert [each.status_code for each in await asyncio.gather(*under_way)] == [200, 200]
        refused = await client.post("/things", json={"thing": "t"}, headers=ann)
        assert (refused.status_code, refused.json()["detail"][:27]) == (429, "more than 1 requests a second"[:27])
        assert (await client.post("/things", json={"thing": "t"})).status_code == 201


async def test_without_a_limit_nobody_is_counted() -> None:
    async with asking(PerCaller()) as (client, *_):
        answers = [await client.post("/things", json={"thing": f"t{n}"}) for n in range(300)]
        assert {each.status_code for each in answers} == {201}


async def test_the_gateway_keeps_the_same_limits(tmp_path: Path) -> None:
    (tmp_path / "chimera.toml").write_text(
        '[limits]\nrate = 1\nburst = 3\n[services.shop]\napp = "tests.web.limited:shop"\n'
    )
    settings = read_settings(tmp_path / "chimera.toml", {"CHIMERA_STATE": str(tmp_path)})
    gateway = Gateway(settings)
    try:
        async with AsyncClient(transport=ASGITransport(gateway.site()), base_url="http://test") as client:
            answers = [await client.get("/things/t") for _ in range(5)]
            assert [each.status_code for each in answers] == [503, 503, 503, 429, 429]
            assert answers[-1].headers["retry-after"]
    finally:
        await gateway.close()
