"""The same marketplace on four stacks, chosen by URL alone; brokers restart and workers die under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid

import aiohttp
import msgspec
import pytest

from chimera.leases import TTL_S as LEASE_S
from marketplace.check import compare, recount
from marketplace.load import SERVICES, load
from marketplace.seed import Seed
from tests.e2e.conftest import ROOT, Chimera, command_of, descendants
from tests.e2e.stacks import STACKS, restart, stack, take_away
from tests.e2e.witness.witness import Watched

SMALL = Seed(sellers=8, gigs=20, clients=20, orders=100)
WATCHED = ROOT / "tests" / "e2e" / "witness" / "chimera.toml"
PAGES = (
    "/orders/order-0001",
    "/sellers/seller-01/clients",
    "/gigs/gig-001",
    "/users/seller-01",
    "/search?q=make",
    "/_chimera/orders/status",
    "/_chimera/search/health/ready",
    "/metrics",
)
BROKERS = {"rabbitmq-mysql-mongodb-redis": "rabbitmq", "kafka-postgresql": "kafka"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture
async def on_stack(tmp_path):
    """Runs `chimera` on a stack by its name; takes away what it left on the servers."""
    used = []

    def start(name, config=WATCHED):
        found = stack(name, f"t{uuid.uuid4().hex[:10]}")
        chimera = Chimera(tmp_path / "state", config, found.environment)
        used.append((found, chimera))
        return found, chimera

    yield start
    for found, chimera in used:
        chimera.end()
        await take_away(found)


async def load_all(chimera, at=None, then=None):
    """Load everything; `then` is called once, in a thread, when so many requests were sent."""
    called = []

    def report(account):
        if then and not called and account.everything.sent >= at:
            called.append(asyncio.get_running_loop().run_in_executor(None, then))

    account = await load(SMALL, dict.fromkeys(SERVICES, chimera.base), report, workers=32, patience=90, stall=60)
    for each in called:
        await each
    assert account.balances, "\n".join(account.lines())
    assert not account.parked
    assert bool(called) == bool(then)
    return account


async def check(found, chimera):
    """Every dashboard against a recount of the orders; every order's events in order, each once."""
    sellers, days = await recount(found.store_of("orders", str(chimera.state)))
    expected = {f"/sellers/{seller}/sales": sales for seller, sales in sellers.items()}
    expected |= {f"/sellers/{seller}/sales?by=day": by_day for seller, by_day in days.items()}
    assert expected
    assert await compare(expected, chimera.base) == []


async def watched(chimera):
    """What the witness saw of every order."""
    async with aiohttp.ClientSession() as session:

        async def get(order_id):
            async with session.get(f"{chimera.base}/watched/{order_id}") as response:
                assert response.status == 200, order_id
                return msgspec.json.decode(await response.read(), type=Watched)

        orders = [request.body["order_id"] for request in SMALL if request.path == "/orders"]
        return [await get(order_id) for order_id in orders]


@pytest.mark.parametrize("name", STACKS)
async def test_the_marketplace_runs_unchanged_on_every_stack(on_stack, name):
    found, chimera = on_stack(name)
    server = chimera.up()
    account = await load_all(chimera)
    await check(found, chimera)
    orders = await watched(chimera)
    assert sum(order.broken for order in orders) == 0
    assert sum(order.events for order in orders) == account.events
    async with aiohttp.ClientSession() as session:
        for path in PAGES:
            async with session.get(chimera.base + path) as response:
                assert response.status == 200, f"{path}: {await response.text()}"
    assert server.stop() < 8
    assert "Error" not in server.output
    chimera.up()
    again = await load_all(chimera)
    assert again.events == 0
    await check(found, chimera)


@pytest.mark.parametrize("name", BROKERS)
async def test_a_broker_restarts_in_the_middle_of_a_load_and_nothing_is_lost(on_stack, name):
    found, chimera = on_stack(name)
    chimera.up()
    account = await load_all(chimera, 100, lambda: restart(BROKERS[name]))
    await check(found, chimera)
    orders = await watched(chimera)
    assert sum(order.broken for order in orders) == 0
    assert sum(order.events for order in orders) == account.events


@pytest.mark.parametrize("name", BROKERS)
async def test_one_of_three_workers_is_killed_and_one_sleeps_longer_than_its_lease(on_stack, name):
    found, chimera = on_stack(name)
    server = chimera.up("--processes", "--workers", "3")
    struck = []

    def strike():
        for service in ("orders", "analytics", "witness"):
            workers = [each for each in descendants(server.pid) if f"run {service} --write" in command_of(each)]
            assert len(workers) == 3
            os.kill(workers[0], signal.SIGKILL)
            os.kill(workers[1], signal.SIGSTOP)
            struck.append(workers[1])
        time.sleep(2 * LEASE_S)
        for paused in struck:
            os.kill(paused, signal.SIGCONT)

    account = await load_all(chimera, 100, strike)
    assert len(struck) == 3
    await check(found, chimera)
    orders = await watched(chimera)
    assert sum(order.broken for order in orders) == 0
    assert sum(order.events for order in orders) == account.events
