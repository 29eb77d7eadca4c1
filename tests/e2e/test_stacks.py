"""The same marketplace on four stacks, chosen by URL alone; brokers restart and workers die under load."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from marketplace.account import Account
from tests.adapters.services import IN_TURN
from tests.e2e.conftest import STOPPED_S, WATCHED, Chimera
from tests.e2e.loading import load_all, strike
from tests.e2e.stacks import STACKS, TROUBLED, WATCHED_SERVICES, Stack, compared, restart, stack, take_away

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
OnStack = Callable[[str], tuple[Stack, Chimera]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), IN_TURN]


@pytest.fixture
async def on_stack(tmp_path: Path) -> AsyncIterator[OnStack]:
    """Runs `chimera` on a stack by its name; takes away what it left on the servers."""
    used: list[tuple[Stack, Chimera]] = []

    def start(name: str) -> tuple[Stack, Chimera]:
        found = stack(name, f"t{uuid.uuid4().hex[:10]}")
        chimera = Chimera(tmp_path / "state", WATCHED, found.environment)
        used.append((found, chimera))
        return found, chimera

    yield start
    for found, chimera in used:
        chimera.end()
        await take_away(found)


async def load_and_balance(chimera: Chimera, *, at: int = 0, then: Callable[[], None] | None = None) -> Account:
    account = await load_all(chimera, at=at, then=then)
    assert account.balances, "\n".join(account.lines())
    assert not account.parked
    return account


async def check(found: Stack, chimera: Chimera, account: Account) -> None:
    checked = await compared(found, chimera, account.events)
    assert checked.orders > 0
    assert (checked.differences, checked.broken) == ([], 0)
    assert checked.events == account.events


@pytest.mark.parametrize("name", STACKS)
async def test_the_marketplace_runs_unchanged_on_every_stack(on_stack: OnStack, name: str) -> None:
    found, chimera = on_stack(name)
    server = chimera.up()
    account = await load_and_balance(chimera)
    await check(found, chimera, account)
    async with aiohttp.ClientSession() as session:
        for path in PAGES:
            async with session.get(chimera.base + path) as response:
                assert response.status == 200, f"{path}: {await response.text()}"
    assert server.stop() < STOPPED_S
    assert "Error" not in server.output
    chimera.up()
    again = await load_and_balance(chimera)
    assert again.events == 0
    await check(found, chimera, account)


@pytest.mark.parametrize("name", TROUBLED)
async def test_a_broker_restarts_in_the_middle_of_a_load_and_nothing_is_lost(on_stack: OnStack, name: str) -> None:
    found, chimera = on_stack(name)
    chimera.up()
    account = await load_and_balance(chimera, at=100, then=lambda: restart(name.partition("-")[0]))
    await check(found, chimera, account)


@pytest.mark.parametrize("name", TROUBLED)
async def test_one_of_three_workers_is_killed_and_one_sleeps_longer_than_its_lease(
    on_stack: OnStack, name: str
) -> None:
    found, chimera = on_stack(name)
    server = chimera.up("--processes", "--workers", "3")
    account = await load_and_balance(chimera, at=100, then=lambda: strike(server, WATCHED_SERVICES))
    await check(found, chimera, account)
