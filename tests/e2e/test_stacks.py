"""The same marketplace on four stacks, chosen by URL alone; brokers restart and workers die under load."""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
import pytest

from marketplace.load import SERVICES, load
from marketplace.seed import Seed
from tests.e2e.conftest import ROOT, Chimera
from tests.e2e.stacks import STACKS, TROUBLED, compared, restart, stack, strike, take_away

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


async def check(found, chimera, account):
    checked = await compared(found, chimera)
    assert checked.orders > 0
    assert (checked.differences, checked.broken) == ([], 0)
    assert checked.events == account.events


@pytest.mark.parametrize("name", STACKS)
async def test_the_marketplace_runs_unchanged_on_every_stack(on_stack, name):
    found, chimera = on_stack(name)
    server = chimera.up()
    account = await load_all(chimera)
    await check(found, chimera, account)
    async with aiohttp.ClientSession() as session:
        for path in PAGES:
            async with session.get(chimera.base + path) as response:
                assert response.status == 200, f"{path}: {await response.text()}"
    assert server.stop() < 8
    assert "Error" not in server.output
    chimera.up()
    again = await load_all(chimera)
    assert again.events == 0
    await check(found, chimera, account)


@pytest.mark.parametrize("name", TROUBLED)
async def test_a_broker_restarts_in_the_middle_of_a_load_and_nothing_is_lost(on_stack, name):
    found, chimera = on_stack(name)
    chimera.up()
    account = await load_all(chimera, 100, lambda: restart(name.partition("-")[0]))
    await check(found, chimera, account)


@pytest.mark.parametrize("name", TROUBLED)
async def test_one_of_three_workers_is_killed_and_one_sleeps_longer_than_its_lease(on_stack, name):
    found, chimera = on_stack(name)
    server = chimera.up("--processes", "--workers", "3")
    account = await load_all(chimera, 100, lambda: strike(server))
    await check(found, chimera, account)
