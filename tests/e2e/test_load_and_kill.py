"""A load on real processes: the account balances and the dashboards are right, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chimera_faults.fleet import command_of, descendants, is_free
from marketplace.account import Account
from marketplace.check import compare, recount
from marketplace.load import SERVICES, load
from marketplace.seed import Seed
from tests.e2e.conftest import STOPPED_S, Chimera, child_named, is_alive, wait_until
from tests.e2e.loading import SMALL, load_all, strike

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def load_and_balance(
    chimera: Chimera, source: Seed = SMALL, *, at: int = 0, then: Callable[[], None] | None = None
) -> Account:
    account = await load_all(chimera, source, at=at, then=then, patience=90, stall=60)
    assert account.balances, "\n".join(account.lines())
    assert not account.parked
    return account


async def check(chimera: Chimera) -> None:
    """Every dashboard against a recount of the orders table."""
    sellers, days = await recount(f"sqlite:///{chimera.state / 'orders.db'}")
    expected = {f"/sellers/{seller}/sales": sales for seller, sales in sellers.items()}
    expected |= {f"/sellers/{seller}/sales?by=day": by_day for seller, by_day in days.items()}
    assert expected
    assert await compare(expected, chimera.base) == []


def held(chimera: Chimera, service: str) -> list[int]:
    """How many partitions each worker of a service works on."""
    with urlopen(f"{chimera.base}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return [
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "chimera_partitions_held" and sample.labels["service"] == service
    ]


async def test_one_process_takes_a_load_stops_and_starts_again(chimera: Chimera) -> None:
    server = chimera.up()
    account = await load_and_balance(chimera)
    await check(chimera)
    assert account.events > 0
    assert server.stop() < STOPPED_S
    assert server.output.count("\n") == 1, server.output
    chimera.up()
    await check(chimera)
    again = await load_and_balance(chimera)
    assert again.events == 0
    await check(chimera)


async def test_the_single_process_is_killed_under_load_and_started_again(chimera: Chimera) -> None:
    first = chimera.up()

    def kill() -> None:
        first.kill()
        chimera.up()

    await load_and_balance(chimera, at=150, then=kill)
    await check(chimera)
    again = await load_and_balance(chimera)
    assert again.events == 0


async def test_heads_are_killed_under_load_and_started_again(chimera: Chimera) -> None:
    server = chimera.up("--processes")
    assert len(descendants(server.pid)) == 2 * len(SERVICES)
    killed: list[int] = []

    def kill() -> None:
        for words in ("run orders --write", "run orders --read", "run analytics --write", "run gig-page --read"):
            killed.append(child_named(server.pid, words))
            os.kill(killed[-1], signal.SIGKILL)
            time.sleep(0.2)

    await load_and_balance(chimera, at=150, then=kill)
    await check(chimera)
    assert len(killed) == 4
    children = descendants(server.pid)
    assert len(children) == 2 * len(SERVICES)
    assert not set(killed) & set(children)
    assert server.stop() < STOPPED_S
    assert not [child for child in children if is_alive(child)]


async def test_children_end_by_themselves_when_the_supervisor_is_killed(chimera: Chimera) -> None:
    first = chimera.up("--processes")
    children = descendants(first.pid)
    ended: list[bool] = []

    def kill() -> None:
        first.kill()
        assert wait_until(lambda: not any(map(is_alive, children))), [command_of(each) for each in children]
        ended.append(True)
        chimera.up("--processes")

    await load_and_balance(chimera, at=150, then=kill)
    assert ended
    await check(chimera)


async def test_a_supervisor_takes_over_from_one_that_was_killed_a_moment_ago(chimera: Chimera) -> None:
    first = chimera.up("--processes")
    first.kill()
    second = chimera.up("--processes")
    await load_and_balance(chimera, source=Seed(sellers=2, gigs=4, clients=2, orders=5))
    children = descendants(second.pid)
    assert second.stop(signal.SIGINT) < STOPPED_S
    assert not [child for child in children if is_alive(child)]
    assert is_free(chimera.port)


async def test_a_view_is_rebuilt_while_the_services_serve(chimera: Chimera) -> None:
    chimera.up()
    rebuilt: list[subprocess.CompletedProcess[str]] = []

    def rebuild() -> None:
        rebuilt.append(chimera.run("rebuild", "analytics", "seller_sales"))

    await load_and_balance(chimera, at=200, then=rebuild)
    assert rebuilt[0].returncode == 0, rebuilt[0].stderr
    await check(chimera)
    assert chimera.run("rebuild", "analytics", "seller_sales_by_day").returncode == 0
    await check(chimera)
    shown = chimera.run("status")
    assert shown.returncode == 0, shown.stderr
    for name in (*SERVICES, "seller_sales", "index:gig-page", "borrow.top-clients.async"):
        assert name in shown.stdout


async def test_workers_share_a_services_partitions_and_take_over_from_one_that_is_killed_or_paused(
    chimera: Chimera,
) -> None:
    """One is gone for good, its supervisor starts another; one sleeps longer than its lease and wakes up again."""
    server = chimera.up("--processes", "--workers", "3")
    assert len(descendants(server.pid)) == 4 * len(SERVICES)
    await load_and_balance(chimera, at=100, then=lambda: strike(server, ["orders", "analytics"]))
    await check(chimera)
    spread = lambda: sorted(held(chimera, "orders")) == [2, 3, 3]  # noqa: E731
    assert await asyncio.to_thread(wait_until, spread)


async def test_each_service_runs_alone_as_a_member_of_a_fleet(chimera: Chimera) -> None:
    """Without a supervisor, with both heads in one process each; a borrower asks the owner on its own port."""
    members = {service: chimera.start("run", service) for service in SERVICES}
    bases = {service: member.wait_ready() for service, member in members.items()}
    account = await load(SMALL, bases, workers=16, patience=90, stall=60)
    assert account.balances
    sellers, _ = await recount(f"sqlite:///{chimera.state / 'orders.db'}")
    assert await compare({f"/sellers/{each}/sales": sales for each, sales in sellers.items()}, bases["analytics"]) == []
    for member in members.values():
        assert member.stop() < STOPPED_S


@pytest.mark.parametrize("more", [[], ["--processes"]], ids=["one process", "processes"])
async def test_the_marketplace_fills_itself_and_stops(chimera: Chimera, more: list[str]) -> None:
    arguments = ["--port", str(chimera.port), "--state", str(chimera.state), *more]
    server = chimera.start(*arguments, module="marketplace")
    server.wait_ready()
    assert await asyncio.to_thread(wait_until, lambda: "check:" in server.output), server.output
    assert ": balances" in server.output
    await check(chimera)
    children = descendants(server.pid)
    assert server.stop() < STOPPED_S
    assert not [child for child in children if is_alive(child)]


async def test_the_marketplace_stops_while_it_is_filled(chimera: Chimera) -> None:
    server = chimera.start("--port", str(chimera.port), "--state", str(chimera.state), module="marketplace")
    server.wait_ready()
    assert await asyncio.to_thread(wait_until, lambda: descendants(server.pid))
    children = descendants(server.pid)
    assert server.stop() < STOPPED_S
    assert not [child for child in children if is_alive(child)]
